//! The door to programs of the host: found, run, and quoted when they fail.

use std::{
    collections::VecDeque,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Last lines of a failed program's output that its error repeats.
const QUOTED: usize = 12;
/// Complaints before those that it repeats: the cause comes first, and much may come after it.
const COMPLAINTS: usize = 4;
/// Where an ordinary user's `PATH` does not look.
const ADMIN_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// A program and the Debian package it comes in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// Its file name.
    pub(crate) program: &'static str,
    /// Its package.
    pub(crate) package: &'static str,
}

/// Refuses to start when any of `tools` is missing, and says what installs them.
pub(crate) fn need(tools: &[Tool]) -> Result<()> {
    let path = search_path();
    let present =
        |tool: &Tool| path.split(':').any(|dir| Path::new(dir).join(tool.program).exists());
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !present(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = |field: fn(&Tool) -> &'static str| {
        missing.iter().map(|tool| field(tool)).collect::<Vec<_>>().join(" ")
    };
    bail!(
        "missing {}; `sudo apt-get install {}` installs it",
        list(|tool| tool.program),
        list(|tool| tool.package)
    )
}

fn search_path() -> String {
    format!("{}:{ADMIN_PATH}", env::var("PATH").unwrap_or_default())
}

/// A command that finds administrators' programs and speaks English.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path()).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs `command` to its end; `watch` sees each line of its standard error as it comes.
pub(crate) fn run(command: &mut Command, watch: &mut dyn FnMut(&str)) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let mut said = Said::default();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.with_context(|| format!("listening to {name}"))?;
            let line = String::from_utf8_lossy(&line).into_owned();
            watch(&line);
            said.hear(line);
        }
    }
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status}):\n{}", said.text());
    }
    Ok(())
}

/// What a program said, as far as its failure needs it.
#[derive(Default)]
struct Said {
    complaints: Vec<String>,
    last: VecDeque<String>,
}

impl Said {
    fn hear(&mut self, line: String) {
        self.last.push_back(line);
        if self.last.len() > QUOTED
            && let Some(line) = self.last.pop_front()
            && self.complaints.len() < COMPLAINTS
            && is_complaint(&line)
        {
            self.complaints.push(line);
        }
    }

    fn text(self) -> String {
        let Said { mut complaints, last } = self;
        if !complaints.is_empty() {
            complaints.push("...".to_owned());
        }
        complaints.extend(last);
        complaints.join("\n")
    }
}

/// Whether a line begins as complaints do: `E: ` and `W: ` of apt and mmdebstrap, `tar: ` of a program.
fn is_complaint(line: &str) -> bool {
    line.split_once(": ").is_some_and(|(who, _)| match who {
        "E" | "W" => true,
        _ => !who.is_empty() && who.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
    })
}

/// Runs `command` and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stderr(Stdio::piped()).output().with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}):\n{}", output.status, said.trim_end());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let there = Tool { program: "sh", package: "dash" };
        let missing = Tool { program: "no-such-program", package: "no-such-package" };
        let error = need(&[there, missing]).unwrap_err().to_string();
        assert_eq!(
            error,
            "missing no-such-program; `sudo apt-get install no-such-package` installs it"
        );
        need(&[there]).unwrap();
    }

    #[test]
    fn a_failure_quotes_the_last_words() {
        let mut seen = Vec::new();
        let mut failing = command("sh");
        failing.args(["-c", "echo one >&2; echo two >&2; exit 3"]);
        let error = run(&mut failing, &mut |line| seen.push(line.to_owned())).unwrap_err();
        assert_eq!(seen, ["one", "two"]);
        assert!(error.to_string().ends_with("one\ntwo"), "{error}");
    }

    #[test]
    fn a_failure_quotes_what_was_complained_of_first() {
        let script =
            "echo Get:1 http://mirror/ file >&2; echo 'tar: ./a: file changed as we read it' >&2
                      for n in $(seq 40); do echo I: step $n >&2; done; exit 1";
        let error = run(command("sh").args(["-c", script]), &mut |_| {}).unwrap_err().to_string();
        let said: Vec<&str> = error.lines().skip(1).collect();
        assert_eq!(said[..3], ["tar: ./a: file changed as we read it", "...", "I: step 29"]);
        assert_eq!(said.len(), 2 + QUOTED);
    }
}
