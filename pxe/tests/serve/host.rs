//! A node with a system that has an agent: what the operator says of it, and what its agent says.

use std::process::{Command, Output};

use jiff::Timestamp;
use protocol::{
    AgentIdentity, GuestReport, GuestState, HostEvent, HostEventKind, HostReport, Job, Step,
};
use serde_json::Value;
use xen_config::{Host, Topology, Xen, list, pool};

use crate::server::{Answer, Server, written};

/// The node.
pub const MAC: &str = "52:54:00:77:00:01";
/// What it should be.
pub const CONFIG: &str = "/v1/nodes/one/config";
/// Not much.
pub const PLAIN: &str = "[service]\ncpus = 1\n";

/// A server on which a disk that was written is all that a deployment needs.
pub fn server(more: &str) -> Server {
    let server = Server::with(&format!("[deploy]\nstart_check = \"none\"\n{more}"));
    server.enroll("one", MAC);
    server
}

/// Deploys the node and gives back who the agent of its new system is.
pub fn deployed(server: &Server) -> AgentIdentity {
    let id = server.deploy("one");
    let welcome = server.welcome(MAC);
    server.progress(&welcome.bearer, &id, Step::Write, 42).expect(204);
    server.report(&welcome.bearer, &id, written()).expect(204);
    identity(welcome.job)
}

/// Who that is, by the job.
pub fn identity(job: Job) -> AgentIdentity {
    let Job::Deploy(job) = job else { panic!("nothing to do") };
    job.identity.agent.unwrap()
}

impl Server {
    /// What the operator says that node one should be.
    pub fn set(&self, text: &str, more: &[(&str, &str)]) -> Answer {
        let bearer = format!("Bearer {}", self.token());
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(more);
        if !more.iter().any(|(name, _)| *name == "content-type") {
            headers.push(("content-type", "application/toml"));
        }
        self.ask("PUT", CONFIG, &headers, text.as_bytes())
    }

    /// What the agent gets when it has `held`.
    pub fn agent_asks(&self, token: &str, held: u64) -> Answer {
        let bearer = format!("Bearer {token}");
        let path = format!("/v1/agent/config?generation={held}");
        self.ask("GET", &path, &[("authorization", &bearer)], b"")
    }

    /// What the agent says.
    pub fn agent_says(&self, token: &str, report: &HostReport) -> Answer {
        let bearer = format!("Bearer {token}");
        let body = serde_json::to_vec(report).unwrap();
        self.ask("POST", "/v1/agent/status", &[("authorization", &bearer)], &body)
    }

    /// The kinds of the node's events.
    pub fn kinds(&self) -> Vec<String> {
        let events = self.api("GET", "/v1/events?node=one", Value::Null).expect(200);
        let items = events["items"].as_array().unwrap().clone();
        items.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// `billet node`.
    pub fn cli(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_billet"));
        command.args(["node"]).args(words).args(["--server", &self.base]);
        command.env("BILLET_TOKEN", self.token()).env("TERM", "dumb").output().unwrap()
    }
}

/// How many there are of a kind.
pub fn count(kinds: &[String], kind: &str) -> usize {
    kinds.iter().filter(|one| *one == kind).count()
}

/// A report without news.
pub fn report(generation: u64, applied: u64) -> HostReport {
    HostReport {
        agent: "0.1.0".to_owned(),
        boot: "b".to_owned(),
        generation,
        applied,
        host: Host { node: "525400770001".to_owned(), ..Host::default() },
        ..HostReport::default()
    }
}

/// That a guest died.
pub fn event(number: u64, text: &str) -> HostEvent {
    let (at, kind, text) = (Timestamp::now(), HostEventKind::GuestDied, text.to_owned());
    HostEvent { number, at, kind, text, last_lines: vec!["Kernel \u{1b}[31mpanic".to_owned()] }
}

/// A guest that runs.
pub fn guest(name: &str, ours: bool) -> GuestReport {
    GuestReport {
        name: name.to_owned(),
        ours,
        state: GuestState::Running,
        since: Some(Timestamp::now()),
        reason: None,
        last_lines: Vec::new(),
        domain: Some(3),
        vcpus: 1,
        memory: "64MiB".parse().unwrap(),
        usage: Default::default(),
    }
}

/// A node of four CPUs and 2 GiB that runs Xen and no guest, as captured.
pub fn host() -> Host {
    let list = "Name ID Mem VCPUs State Time(s) UUID Reason-Code Security Label Cpupool\n\
        Domain-0 0 512 1 r----- 9.2 00000000-0000-0000-0000-000000000000 - - Pool-0\n";
    let vcpus = "Name ID VCPU CPU State Time(s) Affinity (Hard / Soft)\n\
        Domain-0 0 0 0 r-- 9.2 0 / all\n";
    let pools = include_str!("../../../xen-config/tests/captures/xl-cpupool-list.txt");
    let cpus = include_str!("../../../xen-config/tests/captures/xl-cpupool-list-c.txt");
    let info = include_str!("../../../xen-config/tests/captures/xl-info-n.txt");
    let line = info.lines().find_map(|line| line.strip_prefix("xen_commandline        : "));
    let xen = Xen {
        version: "4.17.7".to_owned(),
        command_line: line.unwrap().to_owned(),
        topology: Topology::parse(info),
        pools: pool::parse(pools, cpus).unwrap(),
        domains: list::parse(list, vcpus, "[]").unwrap(),
        ..Xen::default()
    };
    Host { node: "525400770001".to_owned(), xen: Some(xen), ..Host::default() }
}
