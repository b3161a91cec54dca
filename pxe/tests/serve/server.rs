//! A server of its own for each test, with a store that holds one small image.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use images::{
    Digest, Store,
    import::{Options, import_stream},
};
use protocol::{Inventory, Progress, Step, Welcome, inventory::Cpu};
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::{
    Agent,
    http::{Request, Response},
};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `billet serve`.
pub struct Server {
    /// Everything it has.
    pub folder: TempDir,
    /// `http://127.0.0.1:<port>`
    pub base: String,
    /// The image `bare`.
    pub manifest: Digest,
    child: Child,
    agent: Agent,
    token: String,
}

/// An answer.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: ureq::http::HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The JSON, which must come with this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The detail of a problem, which this must be, with this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// The configuration of a server that keeps to itself.
pub fn configuration(folder: &std::path::Path, port: u16, more: &str) -> String {
    format!(
        "data = {:?}\naddress = \"127.0.0.1\"\n[http]\nlisten = \"127.0.0.1:{port}\"\nidle = \"2s\"\n\
         [dhcp]\nmode = \"off\"\n[tftp]\nenabled = false\n[ra]\nenabled = false\n{more}",
        folder.join("data").display().to_string()
    )
}

impl Server {
    /// A server with the usual deadlines.
    pub fn start() -> Server {
        Server::with("")
    }

    /// A server with `more` in its configuration.
    pub fn with(more: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let manifest = make_store(folder.path().join("data/store"));
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let text = configuration(folder.path(), port, more);
        let text = format!("{}{text}", database(port));
        fs::write(folder.path().join("billet.toml"), text).unwrap();
        let child = spawn(folder.path().join("billet.toml"));
        let config = Agent::config_builder().http_status_as_error(false);
        let agent = config.timeout_global(Some(PATIENCE)).build().into();
        let base = format!("http://127.0.0.1:{port}");
        let mut server = Server { folder, base, manifest, child, agent, token: String::new() };
        server.wait();
        server
    }

    /// `kill -9`, and a new start.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.folder.path().join("billet.toml"));
        self.wait();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self) {
        let began = Instant::now();
        while !self
            .agent
            .get(format!("{}/healthz", self.base))
            .call()
            .is_ok_and(|a| a.status() == 200)
        {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("billet serve ended: {status}");
            }
            assert!(began.elapsed() < PATIENCE, "billet serve does not answer");
            sleep(Duration::from_millis(20));
        }
        let token = fs::read_to_string(self.folder.path().join("data/admin.token")).unwrap();
        self.token = token.trim().to_owned();
    }

    /// Any request; the headers are as given.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = match body.is_empty() && matches!(method, "GET" | "HEAD" | "DELETE") {
            true => self.agent.run(request.body(()).unwrap()),
            false => self.agent.run(request.body(body).unwrap()),
        };
        read(response.unwrap())
    }

    /// A request of the operator.
    pub fn api(&self, method: &str, path: &str, body: Value) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.ask(method, path, &[("authorization", &bearer)], &body)
    }

    /// A request of the operator, with one more header.
    pub fn api_with(&self, header: (&str, &str), method: &str, path: &str, body: Value) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.ask(method, path, &[("authorization", &bearer), header], &body)
    }

    /// The operator's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Enrolls a node.
    pub fn enroll(&self, name: &str, mac: &str) -> Value {
        let body = json!({"name": name, "macs": [mac], "reserved": "127.9.8.7"});
        self.api("POST", "/v1/nodes", body).expect(201)
    }

    /// Opens a deployment of `bare` and returns its identifier.
    pub fn deploy(&self, node: &str) -> String {
        let path = format!("/v1/nodes/{node}/deployments");
        let view = self.api("POST", &path, json!({"image": "bare"})).expect(201);
        view["id"].as_str().unwrap().to_owned()
    }

    /// What the API says of a deployment.
    pub fn deployment(&self, id: &str) -> Value {
        self.api("GET", &format!("/v1/deployments/{id}"), Value::Null).expect(200)
    }

    /// What the API says of a node.
    pub fn node(&self, name: &str) -> Value {
        self.api("GET", &format!("/v1/nodes/{name}"), Value::Null).expect(200)
    }

    /// What a node's firmware gets.
    pub fn script(&self, mac: &str) -> String {
        let answer = self.ask("GET", &format!("/boot/{mac}"), &[], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// Boots a node: fetches its script and gives back the token in it.
    pub fn boot_token(&self, mac: &str) -> String {
        let script = self.script(mac);
        let boot = protocol::BootLine::parse(&script);
        boot.token.unwrap_or_else(|| panic!("no token in:\n{script}"))
    }

    /// A hello, whatever comes of it.
    pub fn hello(&self, token: &str, mac: &str) -> Answer {
        let cpu = Cpu { model: "one".into(), sockets: 1, cores: 4, threads: 4 };
        let mut inventory = Inventory { cpu, memory: 2 << 30, ..Inventory::default() };
        inventory.firmware.uuid = Some("4c4c4544-0000-0000-0000-000000000001".into());
        let hello = json!({"token": token, "mac": mac, "agent": "0", "inventory": inventory});
        self.ask("POST", "/v1/agent/hello", &[], hello.to_string().as_bytes())
    }

    /// Boots a node up to its welcome.
    pub fn welcome(&self, mac: &str) -> Welcome {
        let token = self.boot_token(mac);
        serde_json::from_value(self.hello(&token, mac).expect(200)).unwrap()
    }

    /// Progress, whatever comes of it.
    pub fn progress(&self, bearer: &str, deployment: &str, step: Step, done: u64) -> Answer {
        let deployment = deployment.to_owned();
        let message =
            Progress { deployment, step, done, total: 100, rate: 7, uptime_ms: 1, note: None };
        let bearer = format!("Bearer {bearer}");
        let body = serde_json::to_vec(&message).unwrap();
        self.ask("POST", "/v1/agent/progress", &[("authorization", &bearer)], &body)
    }

    /// A report, whatever comes of it.
    pub fn report(&self, bearer: &str, deployment: &str, outcome: Value) -> Answer {
        let body = json!({"deployment": deployment, "outcome": outcome}).to_string();
        let bearer = format!("Bearer {bearer}");
        self.ask("POST", "/v1/agent/report", &[("authorization", &bearer)], body.as_bytes())
    }

    /// Waits until a deployment is in this state.
    pub fn until(&self, id: &str, state: &str) -> Value {
        let began = Instant::now();
        loop {
            let view = self.deployment(id);
            if view["state"] == state {
                return view;
            }
            assert!(began.elapsed() < PATIENCE, "not {state}: {view:#}");
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// That a disk was written.
pub fn written() -> Value {
    json!({"outcome": "written", "kept": 1, "fetched": 2, "received": 3, "zeroed": 4,
        "took_ms": [["write", 5]],
        "disk": {"name": "vda", "size": 1, "sector_size": 512, "bus": "virtio", "model": null,
            "serial": null, "wwn": null, "rotational": false, "removable": false,
            "read_only": false}})
}

/// That a disk was not written.
pub fn failed(reason: &str, retry: bool) -> Value {
    json!({"outcome": "failed", "step": "write", "reason": reason, "retry": retry})
}

/// SQLite, unless `BILLET_TEST_POSTGRES` has the URL of a PostgreSQL server
/// (`postgres://user@127.0.0.1:5432`) in which each test may create a database.
fn database(port: u16) -> String {
    let Ok(server) = std::env::var("BILLET_TEST_POSTGRES") else { return String::new() };
    let name = format!("billet_{}_{port}", std::process::id());
    let made = Command::new("psql")
        .arg(format!("{server}/postgres"))
        .arg("-qc")
        .arg(format!("CREATE DATABASE {name}"))
        .status()
        .unwrap();
    assert!(made.success(), "creating database {name}");
    format!("database = \"{server}/{name}\"\n")
}

fn spawn(config: PathBuf) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_billet"));
    command.arg("serve").arg("--config").arg(config).stdin(Stdio::null());
    command.env_remove("NOTIFY_SOCKET").spawn().unwrap()
}

fn read(mut response: Response<ureq::Body>) -> Answer {
    let mut body = Vec::new();
    response.body_mut().as_reader().read_to_end(&mut body).unwrap();
    Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
}

fn make_store(folder: PathBuf) -> Digest {
    let store = Store::create(&folder).unwrap();
    for file in ["kernel", "ramdisk"] {
        fs::write(store.boot_folder().join(file), file).unwrap();
    }
    let disk: Vec<u8> =
        (0..600_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let disk = &disk[..4096 * 512];
    import_stream(&store, disk, &Options::new("bare")).unwrap().manifest
}
