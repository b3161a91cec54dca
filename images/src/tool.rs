//! The door to programs of the host: found, run, and quoted when they fail.

use std::{
    collections::VecDeque,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Lines of a failed program's output that its error repeats.
const QUOTED: usize = 12;
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
    let mut last = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.with_context(|| format!("listening to {name}"))?;
            let line = String::from_utf8_lossy(&line).into_owned();
            watch(&line);
            last.push_back(line);
            if last.len() > QUOTED {
                last.pop_front();
            }
        }
    }
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status}):\n{}", Vec::from(last).join("\n"));
    }
    Ok(())
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
}
