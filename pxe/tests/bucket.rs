//! A store in a bucket, by the operator's command line and by `billet serve`, on a real server of
//! buckets.
#![allow(clippy::unwrap_used, reason = "in what only tests call a panic is the verdict")]

mod s3;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use ureq::Agent;

const STORE: &str = "s3://images/rack/one";

/// A bucket, and a host with a folder of its own.
struct Site {
    folder: TempDir,
    endpoint: String,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = s3::serve(&folder.path().join("s3"));
        Site { folder, endpoint }
    }

    fn billet(&self, store: &str, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_billet"));
        command.args(words).env("BILLET_STORE", store).env("TERM", "dumb");
        command.env("BILLET_DATA", self.folder.path().join("data"));
        for (name, value) in self.variables() {
            command.env(name, value);
        }
        command
    }

    fn variables(&self) -> [(&str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", s3::KEY[0]),
            ("AWS_SECRET_ACCESS_KEY", s3::KEY[1]),
        ]
    }

    fn json(&self, store: &str, words: &[&str]) -> Value {
        let output = self.billet(store, words).arg("--json").assert().success();
        serde_json::from_slice(&output.get_output().stdout).unwrap()
    }

    fn import(&self, store: &str, name: &str, disk: Vec<u8>) -> Value {
        let mut command = self.billet(store, &["image", "import", "--name", name, "--json", "-"]);
        let output = command.write_stdin(disk).assert().success();
        serde_json::from_slice(&output.get_output().stdout).unwrap()
    }

    fn export(&self, store: &str, name: &str) -> Vec<u8> {
        let to = self.folder.path().join("exported.raw");
        let _ = fs::remove_file(&to);
        self.billet(store, &["image", "export", name, "--to"]).arg(&to).assert().success();
        fs::read(to).unwrap()
    }
}

/// Noise with a run of zeros in it.
fn disk(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u8
    };
    let mut disk: Vec<u8> = (0..20 << 20).map(|_| next()).collect();
    disk[5 << 20..6 << 20].fill(0);
    disk
}

fn packs(folder: &Path) -> usize {
    let parts = fs::read_dir(folder.join("packs")).unwrap();
    parts.map(|part| fs::read_dir(part.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn an_image_goes_into_a_bucket_comes_out_and_goes() {
    let site = Site::new();
    assert_eq!(site.json(STORE, &["image", "ls"]), serde_json::json!([]));
    let first = site.import(STORE, "first", disk(1));
    assert_eq!(site.import(STORE, "again", disk(1))["new_chunks"], 0);
    let mut changed = disk(1);
    changed[9 << 20..10 << 20].reverse();
    site.import(STORE, "second", changed.clone());
    let list = site.json(STORE, &["image", "ls"]);
    assert_eq!(list.as_array().unwrap().len(), 3, "{list}");
    let verified = site.json(STORE, &["image", "verify", "first"]);
    assert_eq!(verified["faults"].as_array().map_or(0, Vec::len), 0, "{verified}");
    assert!(site.export(STORE, "first") == disk(1));
    assert!(site.export(STORE, "second") == changed);

    // Below the prefix, and nothing secret; that is in the host's own folder.
    let there = site.folder.path().join("s3/images/rack/one");
    assert!(packs(&there) > 2 && !there.join("keys").exists());
    let own = site.folder.path().join("data/buckets/images/rack/one");
    assert!(own.join("keys/billet.key").is_file() && !own.join("packs").exists());

    // Damaged, it is named.
    let manifest = first["manifest"].as_str().unwrap();
    let minisig = there.join(format!("manifests/{manifest}.minisig"));
    let signature = fs::read_to_string(&minisig).unwrap();
    fs::write(&minisig, signature.replace('R', "S")).unwrap();
    site.billet(STORE, &["image", "verify", "first"]).assert().failure();
    fs::write(&minisig, signature).unwrap();

    // Gone with its names, but for what the other image has of it.
    let before = packs(&there);
    for name in ["first", "again"] {
        site.billet(STORE, &["image", "rm", name]).assert().success();
    }
    let collected = site.json(STORE, &["image", "gc", "--grace", "0s", "--live-below", "100"]);
    assert_eq!(collected["manifests"], 1, "{collected}");
    assert!(collected["repacked"].as_u64() > Some(0), "{collected}");
    let again = site.json(STORE, &["image", "gc", "--grace", "0s"]);
    assert_eq!(again["damaged"], 0, "{again}");
    assert!(packs(&there) <= before, "{again}");
    assert!(site.export(STORE, "second") == changed);
    site.billet(STORE, &["image", "show", "first"]).assert().code(1);
}

#[test]
fn stores_are_mirrored_into_a_bucket_and_out_of_it() {
    let site = Site::new();
    let folder = site.folder.path().join("folder").display().to_string();
    let other = site.folder.path().join("other").display().to_string();
    site.import(&folder, "image", disk(3));
    let there = site.json(&folder, &["image", "mirror", "--to", STORE]);
    assert!(there["packs"].as_u64() > Some(1) && there["new_images"] == 1, "{there}");
    let again = site.json(&folder, &["image", "mirror", "--to", STORE]);
    assert_eq!((&again["packs"], &again["new_images"]), (&0.into(), &0.into()), "{again}");
    let back = site.json(STORE, &["image", "mirror", "--to", &other]);
    assert_eq!(back["packs"], there["packs"], "{back}");
    assert!(site.export(&other, "image") == disk(3));
    site.billet(STORE, &["image", "mirror", "--to", STORE]).assert().failure();
}

#[test]
fn what_cannot_be_a_bucket_and_who_may_not_ask_are_told() {
    let site = Site::new();
    let said = |command: &mut Command| {
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = said(&mut site.billet("s3://", &["image", "ls"]));
    assert!(code == Some(1) && text.contains("s3://bucket/prefix"), "{text}");
    let mut stranger = site.billet(STORE, &["image", "ls"]);
    let (code, text) = said(stranger.env("AWS_SECRET_ACCESS_KEY", "guessed"));
    assert!(code == Some(2) && text.contains("s3://images/rack/one"), "{text}");
}

/// `billet serve`, ended with its owner.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_gives_what_is_in_a_bucket() {
    let site = Site::new();
    let manifest = site.import(STORE, "image", disk(5))["manifest"].as_str().unwrap().to_owned();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = site.folder.path().join("billet.toml");
    let text = format!(
        "data = {:?}\nstore = {STORE:?}\naddress = \"127.0.0.1\"\n[http]\n\
         listen = \"127.0.0.1:{port}\"\n[dhcp]\nmode = \"off\"\n[tftp]\nenabled = false\n[ra]\n\
         enabled = false\n",
        site.folder.path().join("data").display().to_string()
    );
    fs::write(&config, text).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_billet"));
    command.args(["serve", "--config"]).arg(&config).envs(site.variables());
    let _serving = Serving(command.stdin(Stdio::null()).spawn().unwrap());

    let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
    let base = format!("http://127.0.0.1:{port}");
    let get = |path: &str, header: (&str, &str)| {
        let answer = agent.get(format!("{base}{path}")).header(header.0, header.1).call()?;
        let status = answer.status().as_u16();
        let etag = answer.headers().get("etag").map(|etag| etag.to_str().unwrap().to_owned());
        let body = answer.into_body().with_config().limit(64 << 20).read_to_vec()?;
        Ok::<_, ureq::Error>((status, body, etag.unwrap_or_default()))
    };
    let plain = ("accept", "*/*");
    while get("/healthz", plain).is_err() {
        sleep(Duration::from_millis(50));
    }
    let there = site.folder.path().join("s3/images/rack/one");
    let kept = |file: &str| fs::read(there.join(file)).unwrap();
    let path = format!("/v1/manifests/{manifest}");
    for (door, file) in [("", ""), ("/minisig", ".minisig"), ("/index", ".index")] {
        let (status, body, etag) = get(&format!("{path}{door}"), plain).unwrap();
        assert!(status == 200 && body == kept(&format!("manifests/{manifest}{file}")), "{door}");
        let unchanged = get(&format!("{path}{door}"), ("if-none-match", &etag)).unwrap();
        assert_eq!(unchanged.0, 304, "{door}");
    }
    let part = fs::read_dir(there.join("packs")).unwrap().next().unwrap().unwrap().path();
    let pack = fs::read_dir(&part).unwrap().next().unwrap().unwrap().path();
    let (name, bytes) = (pack.file_name().unwrap().to_str().unwrap(), fs::read(&pack).unwrap());
    let door = format!("/v1/packs/{name}");
    let (status, body, _) = get(&door, plain).unwrap();
    assert!(status == 200 && body == bytes, "{status} {}", body.len());
    let (status, body, _) = get(&door, ("range", "bytes=1000-299999")).unwrap();
    assert!(status == 206 && body == bytes[1000..300_000], "{status}");
    let absent = format!("/v1/packs/{}", "0".repeat(64));
    assert_eq!(get(&absent, plain).unwrap().0, 404);
}
