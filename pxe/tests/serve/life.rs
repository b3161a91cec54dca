//! The life of a node, from its first packet to its image.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use images::Store;
use protocol::{Job, Step};
use serde_json::{Value, json};

use crate::server::{Server, failed, written};

const MAC: &str = "52:54:00:77:00:01";

/// An SSH server's first words, on an address of this host that is kept for the node.
fn system_that_answers() -> u16 {
    let listener = TcpListener::bind("127.9.8.7:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    port
}

#[test]
fn a_machine_is_discovered_enrolled_deployed() {
    let server = Server::with(&format!("[deploy]\nssh_port = {}\n", system_that_answers()));
    let script = server.script(MAC);
    assert!(script.starts_with("#!ipxe\n") && script.ends_with("exit\n"), "{script}");
    let node = server.node("n525400770001");
    assert_eq!((&node["state"], &node["id"]), (&json!("discovered"), &json!("525400770001")));
    let refused =
        server.api("POST", "/v1/nodes/525400770001/deployments", json!({"image": "bare"}));
    assert!(refused.problem(409).contains("enroll it first"));

    let node = server.enroll("one", MAC);
    assert_eq!((&node["state"], &node["id"]), (&json!("ready"), &json!("525400770001")));
    assert!(node["host_key"].as_str().unwrap().starts_with("ssh-ed25519 "));
    let id = server.deploy("one");
    assert_eq!(server.node("one")["state"], "deploying");
    assert_eq!(server.node("one")["wait"]["what"], "the node to boot from the network");

    let token = server.boot_token(MAC);
    assert!(
        server.script(MAC).contains(&format!("kernel {}/boot/kernel initrd=ramdisk", server.base))
    );
    assert!(
        server.hello(&token, MAC).problem(401).contains("next boot script"),
        "the old token died"
    );
    let welcome = server.welcome(MAC);
    let Job::Deploy(job) = welcome.job else { panic!("nothing to do") };
    assert_eq!(
        (job.deployment.as_str(), job.manifest, job.grow),
        (id.as_str(), server.manifest, true)
    );
    assert_eq!((job.identity.hostname.as_str(), job.previous), ("one", None));
    assert!(job.identity.host_keys["ed25519"].starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
    let view = server.deployment(&id);
    assert_eq!((&view["state"], &view["step"]), (&json!("open"), &json!("disk")));

    server.progress(&welcome.bearer, &id, Step::Write, 42).expect(204);
    server.progress(&welcome.bearer, &id, Step::Write, 50).expect(204);
    let view = server.deployment(&id);
    assert_eq!((&view["progress"]["done"], &view["step"]), (&json!(50), &json!("write")));
    server.report(&welcome.bearer, &id, written()).expect(204);
    let view = server.until(&id, "done");
    assert_eq!(view["written"]["disk"]["name"], "vda");
    let steps: Vec<&str> =
        view["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["boot", "inventory", "disk", "write", "restart", "start"]);
    let node = server.node("one");
    assert_eq!((&node["state"], &node["wait"]), (&json!("deployed"), &Value::Null));
    assert_eq!(node["uuid"], "4c4c4544-0000-0000-0000-000000000001");
    assert!(server.script(MAC).ends_with("exit\n"));
    server.report(&welcome.bearer, &id, written()).expect(204);
    server.progress(&welcome.bearer, &id, Step::Write, 50).problem(403);

    server.deploy("one");
    let Job::Deploy(job) = server.welcome(MAC).job else { panic!("nothing to do") };
    assert_eq!(job.previous, Some(server.manifest), "what is on the disk is worth a look");
}

#[test]
fn kill_9_at_any_moment_loses_nothing() {
    let port = system_that_answers();
    let mut server = Server::with(&format!("[deploy]\nssh_port = {port}\n"));
    let key = server.enroll("one", MAC)["host_key"].clone();
    server.kill_and_restart();
    let id = server.deploy("one");
    server.kill_and_restart();
    let token = server.boot_token(MAC);
    server.kill_and_restart();
    let welcome = server.hello(&token, MAC).expect(200);
    let bearer = welcome["bearer"].as_str().unwrap();
    server.kill_and_restart();
    server.progress(bearer, &id, Step::Write, 10).expect(204);
    server.kill_and_restart();
    let view = server.deployment(&id);
    assert_eq!((&view["state"], &view["step"]), (&json!("open"), &json!("write")));
    assert_eq!(view["wait"]["what"], "the agent's next word");
    server.progress(bearer, &id, Step::Verify, 10).expect(204);
    server.report(bearer, &id, written()).expect(204);
    server.kill_and_restart();
    server.until(&id, "done");
    assert_eq!(server.node("one")["host_key"], key);
    server.kill_and_restart();
    assert_eq!(server.node("one")["state"], "deployed");
    let events = server.api("GET", "/v1/events?node=one", Value::Null).expect(200);
    let kinds: Vec<&str> =
        events["items"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    for kind in ["node.enrolled", "deployment.created", "deployment.boot", "deployment.done"] {
        assert_eq!(kinds.iter().filter(|one| **one == kind).count(), 1, "{kind} in {kinds:?}");
    }
}

#[test]
fn a_deadline_passes_and_says_what_was_awaited() {
    let mut server = Server::with("[deploy]\nboot = \"1s\"\nsilence = \"500ms\"\n");
    server.enroll("one", MAC);
    let id = server.deploy("one");
    server.kill_and_restart();
    let view = server.until(&id, "failed");
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("for the node to boot from the network"), "{reason}");
    let node = server.node("one");
    assert_eq!((&node["state"], &node["heading"]), (&json!("failed"), &json!("deployed")));
    assert_eq!(node["reason"], reason);
    // A silent agent is waited for anew, and then the deployment fails.
    let id = server.deploy("one");
    let welcome = server.welcome(MAC);
    server.progress(&welcome.bearer, &id, Step::Write, 1).expect(204);
    server.until(&id, "failed");
}

#[test]
fn a_failure_that_may_pass_is_tried_again() {
    let server = Server::with("[deploy]\nfailures = 2\nstart_check = \"none\"\n");
    server.enroll("one", MAC);
    let id = server.deploy("one");
    let bearer = server.welcome(MAC).bearer;
    server.report(&bearer, &id, failed("the network is gone", true)).expect(204);
    assert_eq!(server.deployment(&id)["state"], "open");
    let bearer = server.welcome(MAC).bearer;
    server.report(&bearer, &id, failed("the network is gone", true)).expect(204);
    assert_eq!(server.deployment(&id)["state"], "failed");
    // The next try succeeds, and the disk being written is enough here.
    let id = server.deploy("one");
    let bearer = server.welcome(MAC).bearer;
    server.report(&bearer, &id, written()).expect(204);
    assert_eq!(server.deployment(&id)["state"], "done");
}

#[test]
fn a_cancelled_deployment_sends_its_agent_away() {
    let server = Server::start();
    server.enroll("one", MAC);
    let id = server.deploy("one");
    let bearer = server.welcome(MAC).bearer;
    let path = format!("/v1/deployments/{id}");
    assert_eq!(server.api("DELETE", &path, Value::Null).expect(200)["state"], "cancelled");
    assert_eq!(server.node("one")["state"], "ready", "nothing was written yet");
    assert!(server.progress(&bearer, &id, Step::Write, 1).problem(403).contains("was cancelled"));
    server.api("DELETE", &path, Value::Null).problem(409);
    let id = server.deploy("one");
    let bearer = server.welcome(MAC).bearer;
    server.progress(&bearer, &id, Step::Write, 1).expect(204);
    server.api("DELETE", &format!("/v1/deployments/{id}"), Value::Null).expect(200);
    assert_eq!(server.node("one")["state"], "failed");
}

#[test]
fn it_ends_cleanly_when_asked_and_stays_small() {
    let mut server = Server::start();
    sleep(Duration::from_millis(500));
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let resident: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(resident < 40 * 1024, "{resident} KiB resident");
    let began = Instant::now();
    assert!(server.terminate().success());
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn an_image_stays_while_a_deployment_needs_it() {
    let mut server = Server::start();
    let store = Store::open(server.folder.path().join("data/store")).unwrap();
    server.enroll("one", MAC);
    let id = server.deploy("one");
    store.remove("bare").unwrap();
    assert_eq!(store.gc().unwrap().manifests, 0);
    server.kill_and_restart();
    assert_eq!(store.gc().unwrap().manifests, 0);
    server.api("DELETE", &format!("/v1/deployments/{id}"), Value::Null).expect(200);
    assert_eq!(store.gc().unwrap().manifests, 1);
}

#[test]
fn old_events_are_forgotten() {
    let mut server = Server::with("[events]\nkeep = \"1ms\"\n");
    server.enroll("one", MAC);
    let events = |server: &Server| {
        let list = server.api("GET", "/v1/events", Value::Null).expect(200);
        list["items"].as_array().unwrap().len()
    };
    assert!(events(&server) > 0);
    server.kill_and_restart();
    let began = Instant::now();
    while events(&server) > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "they stay");
        sleep(Duration::from_millis(50));
    }
    server.script("52:54:00:77:00:02");
    assert!(events(&server) > 0, "numbers go on after those that are gone");
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    let server = Server::start();
    for start in ["", "GET /healthz HTTP/1.1\r\nHost: a"] {
        let mut stream = TcpStream::connect(server.base.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream.write_all(start.as_bytes()).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
}
