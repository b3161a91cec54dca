//! The operator's command line on a store of its own: what it prints, refuses and exits with.
#![allow(clippy::unwrap_used, reason = "in what only tests call a panic is the verdict")]

use std::{fs, path::Path, process::Stdio};

use assert_cmd::Command;
use serde_json::Value;

fn billet(store: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_billet"));
    command.args(words).env("BILLET_STORE", store).env("TERM", "dumb");
    command
}

fn json(command: &mut Command) -> Value {
    let output = command.assert().success().get_output().stdout.clone();
    serde_json::from_slice(&output).unwrap()
}

/// It exits with `code` and has `wanted` in what it says.
fn says(command: &mut Command, code: i32, wanted: &str) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(wanted), "`{wanted}` is not in: {said}");
}

/// A disk of 1 MiB with some bytes that are not zero.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    for (n, byte) in disk[200_000..400_000].iter_mut().enumerate() {
        *byte = ((n * n) >> 7) as u8;
    }
    disk
}

#[test]
fn an_image_is_imported_listed_verified_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, disk()).unwrap();
    let from_file = json(billet(&store, &["image", "import", "--name", "one", "--json"]).arg(&raw));
    let from_pipe = json(
        billet(&store, &["image", "import", "--name", "two", "--json", "-"]).write_stdin(disk()),
    );
    assert_eq!(from_file["manifest"], from_pipe["manifest"]);
    assert_eq!(from_pipe["new_chunks"], 0, "{from_pipe}");
    let list = json(&mut billet(&store, &["image", "ls", "--json"]));
    assert_eq!(list.as_array().unwrap().len(), 2, "{list}");
    says(&mut billet(&store, &["image", "ls"]), 0, "NAME");
    billet(&store, &["image", "verify", "one"]).assert().success();
    says(&mut billet(&store, &["image", "show", "one"]), 0, "1048576");
    billet(&store, &["image", "rm", "one"]).assert().success();
    says(&mut billet(&store, &["image", "gc"]), 0, "0 B freed: 0 packs, 0 manifests");
    let collected = json(&mut billet(&store, &["image", "gc", "--grace", "0s", "--json"]));
    assert_eq!(collected["freed"], 0, "{collected}");
    says(&mut billet(&store, &["image", "gc", "--grace", "soon"]), 2, "24h");
    billet(&store, &["image", "verify", "two"]).assert().success();
    billet(&store, &["image", "show", "one"]).assert().code(1);
}

#[test]
fn an_image_may_be_made_for_slow_links() {
    let folder = tempfile::tempdir().unwrap();
    // Words, in no order: Huffman codes and a long search for matches save the most of such.
    let mut seed = 1_u32;
    let words: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        [&b"rack "[..], b"node ", b"image", b"bridge ", b"slice "][(seed >> 16) as usize % 5]
    })
    .take(1 << 18)
    .flatten()
    .copied()
    .take(1 << 20)
    .collect();
    let packed = |compression: &str| {
        let store = folder.path().join(compression);
        let import = ["image", "import", "--name", "one", "--json", "--compression"];
        let said =
            json(billet(&store, &import).args([compression, "-"]).write_stdin(words.clone()));
        billet(&store, &["image", "verify", "one"]).assert().success();
        (said["manifest"].clone(), said["new_bytes"].as_u64().unwrap())
    };
    let (fast, small) = (packed("fast"), packed("small"));
    assert!(fast.0 == small.0 && small.1 < fast.1, "{fast:?} {small:?}");
    let import = ["image", "import", "--name", "two", "--compression", "19", "-"];
    says(&mut billet(&folder.path().join("fast"), &import), 2, "fast and small are");
}

/// 768 MiB that do not shrink and no part of which comes again, then 1.5 GiB of zeros.
fn pour(mut to: impl std::io::Write) {
    let (mut state, mut bytes) = (4711_u64, vec![0; 1 << 20]);
    for _ in 0..768 {
        for word in bytes.as_chunks_mut::<8>().0 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *word = (state ^ (state >> 29)).to_le_bytes();
        }
        to.write_all(&bytes).unwrap();
    }
    bytes.fill(0);
    (0..1536).for_each(|_| to.write_all(&bytes).unwrap());
}

#[test]
fn an_import_from_a_pipe_needs_little_memory_however_much_comes() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_billet"));
    command.args(["image", "import", "--name", "long", "-", "--store"]).arg(folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    let pouring = std::thread::spawn(move || pour(stdin));
    let (status, mut peak) = (format!("/proc/{}/status", child.id()), 0);
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
        peak = kib.map_or(peak, |kib| kib.trim().parse().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    pouring.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(peak > 0 && peak < 96 << 10, "{peak} KiB");
}

#[test]
fn two_images_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let old: Vec<u8> =
        disk().repeat(3).iter().zip(0_u32..).map(|(a, n)| a ^ (n >> 12) as u8).collect();
    let mut changed = old.clone();
    changed[900_000..900_010].fill(7);
    for (name, disk) in [("old", old), ("new", changed)] {
        let words = ["image", "import", "--name", name, "-"];
        billet(&store, &words).write_stdin(disk).assert().success();
    }
    let diff = json(&mut billet(&store, &["image", "diff", "old", "new", "--json"]));
    let new = diff["new"]["packed"].as_u64().unwrap();
    assert!(new > 0 && diff["in_place"].as_u64() > Some(0), "{diff}");
    let list = json(&mut billet(&store, &["image", "ls", "--json"]));
    assert_eq!(list[0]["name"], "new");
    assert_eq!(list[0]["own"].as_u64(), Some(new), "{list}");
    assert_eq!(list[0]["shared"], diff["common"]["packed"], "{list}");
    says(&mut billet(&store, &["image", "diff", "old", "new"]), 0, "only in new");
    says(&mut billet(&store, &["image", "diff", "old", "newer"]), 1, "there are new, old");
    says(&mut billet(&store, &["image", "ls"]), 0, "SHARED");
}

#[test]
fn an_image_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let words = ["image", "import", "--name", "one", "-"];
    billet(&store, &words).write_stdin(disk()).assert().success();
    let (raw, qcow2) = (folder.path().join("out.raw"), folder.path().join("out.qcow2"));
    let mut export = billet(&store, &["image", "export", "one", "--json", "--to"]);
    let said = json(export.arg(&raw));
    assert_eq!((&said["format"], &said["size"]), (&"raw".into(), &(1 << 20).into()), "{said}");
    assert!(fs::read(&raw).unwrap() == disk());
    says(billet(&store, &["image", "export", "one", "--to"]).arg(&qcow2), 0, "as qcow2");
    says(billet(&store, &["image", "export", "one", "--to"]).arg(&raw), 1, "is there already");
    let mut import = billet(&store, &["image", "import", "--name", "two", "--json"]);
    assert_eq!(json(import.arg(&qcow2))["new_chunks"], 0);
    says(
        &mut billet(&store, &["image", "export", "one", "--to", "x", "--format", "vmdk"]),
        2,
        "qcow2",
    );
}

#[test]
fn keys_are_made_revoked_and_images_signed_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let words = ["image", "import", "--name", "one", "-"];
    billet(&store, &words).write_stdin(disk()).assert().success();
    let made = json(&mut billet(&store, &["image", "key", "new", "--json"]));
    let (new, old) = (made["key"].as_str().unwrap(), made["before"].as_str().unwrap());
    says(&mut billet(&store, &["image", "key", "revoke", new]), 1, "makes another one first");
    says(&mut billet(&store, &["image", "key", "revoke", old]), 0, "billet image sign one");
    says(&mut billet(&store, &["image", "verify", "one"]), 1, "which was revoked");
    says(&mut billet(&store, &["image", "sign", "--all"]), 0, new);
    billet(&store, &["image", "verify", "one"]).assert().success();
    let keys = json(&mut billet(&store, &["image", "key", "ls", "--json"]));
    let role = |id: &str| {
        keys.as_array().unwrap().iter().find(|key| key["id"] == id).unwrap()["role"].clone()
    };
    assert_eq!((role(new), role(old)), ("signs".into(), "revoked".into()));
    says(&mut billet(&store, &["image", "key", "trust", "/nowhere"]), 2, "/nowhere");
}

#[test]
fn a_store_is_mirrored_once() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = (folder.path().join("store"), folder.path().join("other"));
    let words = ["image", "import", "--name", "one", "-"];
    billet(&store, &words).write_stdin(disk()).assert().success();
    let mirrored = json(billet(&store, &["image", "mirror", "--json", "--to"]).arg(&other));
    assert_eq!((&mirrored["new_images"], &mirrored["packs"]), (&1.into(), &1.into()));
    says(
        billet(&store, &["image", "mirror", "one", "--to"]).arg(&other),
        0,
        "0 B copied in 0 packs",
    );
    says(billet(&store, &["image", "mirror", "two", "--to"]).arg(&other), 1, "there are one");
    let key = store.join("keys/billet.pub");
    billet(&other, &["image", "key", "trust"]).arg(key).assert().success();
    billet(&other, &["image", "verify", "one"]).assert().success();
}

#[test]
fn a_corrupt_pack_is_named_and_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    billet(&store, &["image", "import", "--name", "one", "-"])
        .write_stdin(disk())
        .assert()
        .success();
    let shelf = fs::read_dir(store.join("packs")).unwrap().next().unwrap().unwrap().path();
    let pack = fs::read_dir(shelf).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let name = pack.file_name().unwrap().to_string_lossy().into_owned();
    says(&mut billet(&store, &["image", "verify", "one"]), 1, &name);
}

#[test]
fn refusals_exit_with_1_and_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let ls = ["node", "ls", "--server", "http://127.0.0.1:9", "--token-file", "/nowhere/token"];
    says(&mut billet(&store, &ls), 1, "no token");
    let https = ["node", "ls", "--server", "https://127.0.0.1:9", "--token", "t"];
    says(&mut billet(&store, &https), 1, "http://HOST:PORT");
    let away = ["node", "ls", "--server", "http://127.0.0.1:9", "--token", "t"];
    says(&mut billet(&store, &away), 2, "is `billet serve` running there?");
    says(&mut billet(&store, &["image", "build", "nosuch"]), 1, "bare");
}

/// bash reads what is printed and completes a verb by it; the other shells get theirs.
#[test]
fn shells_complete_what_is_typed() {
    let store = Path::new("/nowhere");
    let script = billet(store, &["completions", "bash"]).output().unwrap().stdout;
    let typed = "source /dev/stdin; COMP_WORDS=(billet node en); COMP_CWORD=2; \
                 _billet billet en node; echo \"${COMPREPLY[@]}\"";
    let said = Command::new("bash").args(["-c", typed]).write_stdin(script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "enroll", "{said:?}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        says(&mut billet(store, &["completions", shell]), 0, "enroll");
    }
    says(&mut billet(store, &["completions", "tcsh"]), 2, "zsh");
}
