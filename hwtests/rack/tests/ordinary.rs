//! All of it as an ordinary user: rack, server, agent's deployment. Root plays it as `nobody`.

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use rack::{
    Artefacts, Part, Size,
    stage::{self, PATIENCE, Program, Stage, Story},
    tiny::BOOTS,
};

static PROGRAM: Program = Program::TINY;

/// The user of that name on every Linux.
const NOBODY: u32 = 65534;

#[expect(clippy::print_stderr, reason = "a test program of its own")]
fn main() -> ExitCode {
    if nix::unistd::geteuid().is_root() {
        return match as_nobody() {
            Ok(code) => code,
            Err(error) => {
                eprintln!("playing as nobody: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    stage::run(&PROGRAM, vec![Story { name: "an_ordinary_user_images_a_machine", play: images }])
}

fn images(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("ordinary", Size::mib(8))?;
    let node = stage.enrolled_for("ordinary", &tiny, None)?;
    stage.done(&stage.deploy(&node, "ordinary")?, PATIENCE)?;
    tiny.is_on(node.disk(0)?)?;
    node.console().wait_for(&format!("{BOOTS} ordinary"), PATIENCE)?;
    Ok(())
}

/// Copies this program, the two others and the RAM system to where nobody may read them.
fn as_nobody() -> Result<ExitCode> {
    let listing = env::args().any(|argument| argument == "--list");
    let folder = tempfile::tempdir().context("making a folder")?;
    let here = folder.path();
    let mut command = Command::new(here.join("ordinary"));
    copy(&env::current_exe().context("finding this program")?, &here.join("ordinary"))?;
    if !listing {
        let artefacts = Artefacts::prepare(&[Part::Ram], |what| println!("{what}"))?;
        let store = artefacts.small_store(here)?;
        copy(&artefacts.programs.billet, &here.join("billet"))?;
        copy(&artefacts.programs.agent, &here.join("billet-agent"))?;
        command.env("BILLET", here.join("billet")).env("BILLET_AGENT", here.join("billet-agent"));
        command.env("BILLET_STORE", store);
    }
    give_away(here)?;
    command.env("TMPDIR", here).env("HOME", here).args(env::args_os().skip(1));
    command.current_dir(here).uid(NOBODY).gid(NOBODY);
    let status = command.status().context("running this program as nobody")?;
    ensure!(status.code().is_some(), "{status}");
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).context("permitting")
}

fn give_away(path: &Path) -> Result<()> {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).context("giving a file away")?;
    if path.is_dir() {
        for entry in fs::read_dir(path).context("reading a folder")? {
            give_away(&entry.context("reading a folder")?.path())?;
        }
    }
    Ok(())
}
