//! What the server and the store refuse; no machine is needed.

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount, umount};
use rack::{
    Size, Tiny,
    api::{Api, Refusal},
    rack::ADDRESS,
    stage::{self, Program, Stage, Story},
};
use serde_json::{Value, json};

static PROGRAM: Program = Program::TINY;

fn main() -> ExitCode {
    let stories = vec![
        Story { name: "tftp_serves_boot_programs_only", play: tftp },
        Story { name: "a_chunk_name_that_is_not_one", play: chunk_name },
        Story { name: "a_foreign_token", play: foreign_token },
        Story { name: "a_full_store", play: full_store },
    ];
    stage::run(&PROGRAM, stories)
}

fn tftp(_: &Stage) -> Result<()> {
    let first = ask_tftp("ipxe.efi")?;
    ensure!(first[..2] == [0, 3], "ipxe.efi is served: {first:?}");
    let paths = [
        "../billet.toml",
        "../../etc/passwd",
        "/etc/passwd",
        "boot/../../keys/billet.key",
        "..\\..\\keys\\billet.key",
        "ipxe.efi/../../keys/billet.key",
        "",
        ".",
        "..",
        "keys/billet.key",
    ];
    for path in paths {
        let answer = ask_tftp(path)?;
        ensure!(answer[..2] == [0, 5], "`{path}` is refused with an error: {answer:?}");
    }
    Ok(())
}

/// Asks for a file and gives the first packet of the answer.
fn ask_tftp(path: &str) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind((ADDRESS, 0)).context("binding a socket")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = vec![0, 1];
    request.extend(path.bytes());
    request.extend(b"\0octet\0");
    socket.send_to(&request, (ADDRESS, 69)).context("asking for a file")?;
    let mut answer = vec![0; 2048];
    let (length, from) = socket.recv_from(&mut answer)?;
    answer.truncate(length);
    // Ends the transfer.
    socket.send_to(&[0, 5, 0, 0, 0], from)?;
    Ok(answer)
}

fn status(api: &Api, path: &str) -> Result<u16> {
    match api.bytes(path) {
        Ok(_) => Ok(200),
        Err(error) => match error.downcast::<Refusal>() {
            Ok(refusal) => Ok(refusal.status),
            Err(error) => Err(error),
        },
    }
}

fn chunk_name(stage: &Stage) -> Result<()> {
    let api = stage.api();
    let zeros = "0".repeat(64);
    for kind in ["chunks", "packs", "manifests"] {
        for name in ["..", "%2e%2e%2fkeys%2fbillet.key", "abc", &"g".repeat(64), &"0".repeat(63)] {
            let got = status(&api, &format!("/v1/{kind}/{name}"))?;
            ensure!((400..500).contains(&got), "/v1/{kind}/{name} is answered with {got}");
        }
        let got = status(&api, &format!("/v1/{kind}/{zeros}"))?;
        ensure!(got == 404, "an unknown name in {kind} is answered with {got}");
    }
    Ok(())
}

fn foreign_token(stage: &Stage) -> Result<()> {
    let api = stage.api();
    for token in ["", "wrong", "Bearer", &"0".repeat(64)] {
        let foreign = api.with_token(token);
        for path in ["/v1/nodes", "/v1/deployments", "/v1/events", "/v1/images"] {
            let got = status(&foreign, path)?;
            ensure!(got == 401, "{path} with token `{token}` is answered with {got}");
        }
    }
    ensure!(status(&api, "/v1/nodes")? == 200, "the right token is accepted");
    let hello = json!({
        "token": "0123456789abcdef0123456789abcdef",
        "mac": "52:54:00:77:00:01",
        "agent": "0.1.0",
        "inventory": {},
    });
    match api.post::<Value>("/v1/agent/hello", &hello) {
        Ok(welcome) => bail!("a foreign boot token bought {welcome}"),
        Err(error) => {
            let refusal = error.downcast::<Refusal>().context("the agent's door")?;
            ensure!(matches!(refusal.status, 401 | 403 | 409), "{refusal}");
        }
    }
    Ok(())
}

/// What was in a store stays whole when an import does not fit any more.
fn full_store(stage: &Stage) -> Result<()> {
    let folder = stage.folder().join("full");
    fs::create_dir(&folder).context("making a folder")?;
    let size = Some("size=24m");
    mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), size)
        .context("mounting a small file system")?;
    let done = fill(stage, &folder);
    umount(&folder).context("unmounting")?;
    done
}

fn fill(stage: &Stage, folder: &Path) -> Result<()> {
    let small = Tiny::make(stage.folder(), "fits", Size::mib(4))?;
    let large = Tiny::make(stage.folder(), "does-not-fit", Size::mib(48))?;
    stage.artefacts().import(folder, "fits", None, &small.path)?;
    let output = Command::new(&stage.artefacts().programs.billet)
        .args(["image", "import", "--name", "does-not-fit", "--store"])
        .args([folder, &large.path])
        .stdin(Stdio::null())
        .output()
        .context("running billet")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "48 MiB were imported into 24");
    ensure!(said.contains("full"), "the reason is given: {said}");
    let folder = folder.to_str().context("a path")?;
    stage.billet(&["image", "verify", "--store", folder, "fits"])?;
    ensure!(
        stage.billet(&["image", "verify", "--store", folder, "does-not-fit"]).is_err(),
        "half an image has no name"
    );
    stage.billet(&["image", "gc", "--store", folder])?;
    let more = Tiny::make(stage.folder(), "fits-too", Size::mib(4))?;
    stage.artefacts().import(folder.as_ref(), "fits-too", None, &more.path)?;
    Ok(())
}
