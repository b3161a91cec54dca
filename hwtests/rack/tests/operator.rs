//! What an operator types, from a blank machine to a finished one: `billet` is asked on its command
//! line, into pipes, on a dumb terminal and on a live one, while a real machine is imaged; and
//! `billet-agent` writes an image by its name, without all the rest.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, ExitCode, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use rack::{
    Size,
    stage::{self, PATIENCE, Program, Stage, Story},
    tiny::BOOTS,
    tool,
};
use serde_json::Value;

static PROGRAM: Program = Program::TINY;

fn main() -> ExitCode {
    let stories = vec![
        Story { name: "a_machine_is_imaged_from_the_command_line", play: by_hand },
        Story { name: "what_cannot_be_is_refused_by_the_command_line", play: refusals },
        Story { name: "an_image_is_written_by_its_name", play: by_name },
    ];
    stage::run(&PROGRAM, stories)
}

/// How a terminal's program begins what is no text.
const ESCAPE: u8 = 0x1b;
const NODE: &str = "r1n1";

/// `billet` as its operator runs it.
struct Line {
    billet: PathBuf,
    server: String,
    token: String,
}

impl Line {
    fn new(stage: &Stage) -> Result<Self> {
        let server = stage.server();
        let billet = stage.artefacts().programs.billet.clone();
        Ok(Line { billet, server: server.base(), token: server.token()? })
    }

    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("BILLET_SERVER", &self.server).env("BILLET_TOKEN", &self.token)
    }

    fn output(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.billet);
        self.environment(command.args(words)).output().context("running billet")
    }

    /// What it printed, when it ended well.
    fn says(&self, words: &[&str]) -> Result<String> {
        let output = self.output(words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "billet {words:?}: {} {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let said = self.says(words)?;
        serde_json::from_str(&said).with_context(|| format!("billet {words:?} printed {said}"))
    }

    /// The same on a terminal of this kind, which `script` (util-linux) makes.
    fn on_terminal(&self, kind: &str, words: &[&str]) -> Result<Output> {
        let line = format!("'{}' {}", self.billet.display(), words.join(" "));
        let mut command = Command::new(tool::program("script", "bsdutils")?);
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", kind);
        self.environment(command.stdin(Stdio::null())).output().context("running script")
    }
}

fn by_hand(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("tiny", Size::mib(24))?;
    let size = Size(tiny.size + (8 << 20));
    let disk = rack::DiskSpec::new(size, rack::Bus::Virtio).slow(Size::mib(12));
    let spec = rack::NodeSpec::new(NODE, rack::Firmware::Bios).with_disks(vec![disk]);
    let machine = stage.rack().add(spec)?;
    machine.boot_first(rack::BootFirst::Net);
    let line = Line::new(stage)?;

    let followed = stage.folder().join("followed");
    let mut follow = Command::new(&line.billet);
    line.environment(follow.args(["events", "--follow", "--json"]));
    let mut follow = follow
        .stdout(File::create(&followed).context("making a file")?)
        .stderr(Stdio::null())
        .spawn()
        .context("running billet events")?;

    line.says(&["node", "enroll", NODE, "--mac", machine.mac(), "--label", "row=7"])?;
    let list = line.says(&["node", "ls"])?;
    ensure!(list.contains("NAME") && list.contains(machine.mac()), "node ls: {list}");
    let nodes = line.json(&["node", "ls", "--json"])?;
    ensure!(nodes[0]["labels"]["row"] == "7", "node ls --json: {nodes}");

    // Into a pipe: plain lines, a step each, and the verdict as exit status.
    machine.power_on()?;
    let piped = line.output(&["node", "deploy", NODE, "--image", "tiny", "--wait"])?;
    is_plain(&piped, &["write", "done after"])?;
    ensure!(piped.status.success(), "node deploy --wait: {}", piped.status);
    machine.console().wait_for(&format!("{BOOTS} tiny"), PATIENCE)?;
    tiny.is_on(machine.disk(0)?)?;

    // Somebody who comes late is told all the same.
    let watched = line.says(&["node", "watch", NODE])?;
    for step in ["boot", "write", "done"] {
        ensure!(watched.contains(step), "no {step} in the time line:\n{watched}");
    }
    let shown = line.says(&["node", "show", NODE])?;
    ensure!(shown.contains(machine.mac()) && shown.contains("deployed"), "node show: {shown}");

    // On terminals, the machine's power pressed again meanwhile.
    for (kind, live) in [("dumb", false), ("xterm", true)] {
        line.says(&["node", "deploy", NODE, "--image", "tiny"])?;
        machine.cut();
        machine.power_on()?;
        let said = line.on_terminal(kind, &["node", "watch", NODE])?;
        ensure!(said.status.success(), "node watch on {kind}: {}", said.status);
        if live {
            ensure!(said.stdout.contains(&ESCAPE), "nothing moves on a live terminal");
        } else {
            is_plain(&said, &["write", "done after"])?;
        }
    }

    let told = line.json(&["events", "--node", NODE, "--json"])?;
    let told = told.as_array().context("events are a list")?;
    let kinds: Vec<&str> = told.iter().filter_map(|event| event["kind"].as_str()).collect();
    for kind in ["node.enrolled", "deployment.created", "deployment.done"] {
        ensure!(kinds.contains(&kind), "no {kind} among {kinds:?}");
    }
    let since = told[1]["id"].to_string();
    let rest = line.json(&["events", "--node", NODE, "--json", "--since", &since])?;
    ensure!(rest.as_array().map(Vec::len) == Some(told.len() - 2), "--since {since}: {rest}");
    follow.kill().context("ending a child")?;
    follow.wait().context("ending a child")?;
    let heard = std::fs::read_to_string(&followed).context("reading what was followed")?;
    let heard: Vec<Value> =
        heard.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for event in told {
        ensure!(
            heard.iter().any(|it| it["id"] == event["id"]),
            "not heard of while it was: {event}"
        );
    }

    machine.cut();
    line.says(&["node", "rm", NODE])?;
    let none = line.json(&["node", "ls", "--json"])?;
    ensure!(none.as_array().is_some_and(Vec::is_empty), "it was to be forgotten: {none}");
    Ok(())
}

/// Nothing but lines of text, with each of `wanted` in them.
fn is_plain(output: &Output, wanted: &[&str]) -> Result<()> {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&all).replace("\r\n", "\n");
    let strange = text.chars().find(|it| it.is_control() && *it != '\n');
    ensure!(strange.is_none(), "{strange:?} is among the lines:\n{text}");
    for wanted in wanted {
        ensure!(text.contains(wanted), "no `{wanted}` in:\n{text}");
    }
    Ok(())
}

/// The imager without all the rest.
fn by_name(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("alone", Size::mib(8))?;
    let base = stage.server().base();
    let disk = stage.folder().join("alone.disk");
    let file = File::create(&disk).context("making a file")?;
    file.set_len(tiny.size + (4 << 20)).context("making a file")?;
    let keys = stage.store().join("keys");
    let write = |image: &str, more: &[&str]| -> Result<(Option<i32>, String)> {
        let mut agent = Command::new(&stage.artefacts().programs.agent);
        agent.args(["write", "--image", image, "--to"]).arg(&disk).args(more);
        let output = agent.arg("--trusted").arg(&keys).output().context("running billet-agent")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };

    let (code, said) = write(&format!("{base}/images/absent"), &[])?;
    ensure!(code == Some(1) && said.contains("no image absent"), "{code:?}: {said}");
    tiny.blocks_on(&disk).and_then(|blocks| match blocks {
        0 => Ok(()),
        _ => anyhow::bail!("{blocks} blocks of an image that is not there"),
    })?;

    let alone = format!("{base}/images/alone");
    let (code, said) = write(&alone, &["--grow"])?;
    ensure!(code == Some(0) && said.contains("image alone is "), "{code:?}: {said}");
    tiny.is_on(&disk)?;
    // What is there already is not fetched.
    let (code, said) = write(&alone, &["--grow", "--dry-run", "--previous", &alone])?;
    ensure!(code == Some(0) && said.contains(" 0 fetched"), "{code:?}: {said}");
    Ok(())
}

fn refusals(stage: &Stage) -> Result<()> {
    let line = Line::new(stage)?;
    let told = |words: &[&str], wanted: &str| -> Result<()> {
        let output = line.output(words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "billet {words:?}: {} {said}", output.status);
        ensure!(said.contains(wanted), "billet {words:?} does not say `{wanted}`: {said}");
        Ok(())
    };
    line.says(&["node", "enroll", "idle", "--mac", "52:54:00:77:99:01"])?;
    told(&["node", "deploy", "idle", "--image", "absent"], "absent")?;
    told(&["node", "watch", "idle"], "billet node deploy idle --image NAME")?;
    told(&["node", "enroll", "other", "--mac", "52:54:00:77:99:01"], "idle")?;
    told(&["node", "show", "nobody"], "nobody")?;
    line.says(&["node", "rm", "idle"]).map(drop)
}
