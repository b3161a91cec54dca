//! What the agent of a deployed system asks and tells.

use std::{
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use protocol::{GuestState, Heard, HostReport, HostState, NodeConfig};
use serde_json::{Value, json};
use xen_config::{Refusal, Refusals};

use crate::{
    host::{CONFIG, MAC, PLAIN, count, deployed, event, guest, identity, report, server},
    server::written,
};

const GUEST: &str =
    "[[guest]]\nname = \"web\"\nmemory = \"64MiB\"\nboot.kernel = { path = \"/srv/k\" }\n";

#[test]
fn the_agent_gets_what_its_node_should_be_and_says_when_it_is() {
    let mut server = server("");
    let agent = deployed(&server);
    assert_eq!((&agent.server, agent.node.as_str()), (&server.base, "525400770001"));
    server.set(PLAIN, &[]).expect(200);
    let view = server.node("one");
    let wait = view["wait"]["what"].as_str().unwrap();
    assert!(wait.contains("apply generation 1 (not heard yet)"), "{wait}");
    let config: NodeConfig =
        serde_json::from_value(server.agent_asks(&agent.token, 0).expect(200)).unwrap();
    assert_eq!((config.generation, config.desired.unwrap().service.cpus), (1, Some(1)));
    let step = HostState::Applying { step: "pin vCPU 0".into(), done: 1, of: 4 };
    let applying = HostReport { state: step, ..report(1, 0) };
    server.agent_says(&agent.token, &applying).expect(200);
    let status = server.node("one")["config"].clone();
    assert_eq!((&status["state"], &status["applied"]), (&json!("applying"), &json!(0)));
    assert_eq!(status["text"], "pin vCPU 0 (1 of 4 steps done)");
    let reboot = vec!["Xen was booted without dom0_vcpus_pin".to_owned()];
    let applied = HostReport { reboot, guests: vec![guest("web", false)], ..report(1, 1) };
    let heard: Heard =
        serde_json::from_value(server.agent_says(&agent.token, &applied).expect(200)).unwrap();
    assert_eq!(heard, Heard { events: 0, generation: 1 });
    server.kill_and_restart();
    let node = server.node("one");
    assert_eq!((&node["config"]["state"], &node["wait"]), (&json!("applied"), &Value::Null));
    assert_eq!(node["config"]["reboot_needed"], true);
    server.agent_says(&agent.token, &applied).expect(200);
    let kinds = server.kinds();
    for kind in ["agent.heard", "config.applied", "node.reboot_needed"] {
        assert_eq!(count(&kinds, kind), 1, "{kind} in {kinds:?}");
    }
    server.api("DELETE", CONFIG, Value::Null).expect(204);
    let config = server.agent_asks(&agent.token, 1).expect(200);
    assert_eq!(config, json!({"generation": 2, "desired": null}));
}

#[test]
fn a_question_is_held_until_there_is_an_answer() {
    let server = server("");
    let agent = deployed(&server);
    server.set(PLAIN, &[]).expect(200);
    let began = Instant::now();
    let config = std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.agent_asks(&agent.token, 1));
        sleep(Duration::from_millis(500));
        server.set("", &[]).expect(200);
        asked.join().unwrap()
    });
    assert_eq!(config.expect(200)["generation"], 2);
    assert!((500..4000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[test]
fn a_held_question_does_not_hold_the_end() {
    let mut server = server("");
    let agent = deployed(&server);
    let url = format!("{}/v1/agent/config?generation=0", server.base);
    let held = spawn(move || {
        let bearer = format!("Bearer {}", agent.token);
        ureq::get(url).header("authorization", bearer).call().unwrap().status()
    });
    sleep(Duration::from_millis(500));
    let began = Instant::now();
    assert!(server.terminate().success());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(held.join().unwrap(), 204);
}

#[test]
fn events_and_guests_of_a_node_are_seen() {
    let server = server("");
    let agent = deployed(&server);
    server.set(&format!("{GUEST}{}", GUEST.replace("web", "db")), &[]).expect(200);
    let mut said = report(1, 1);
    said.guests = vec![guest("web", true), guest("other", false)];
    said.guests[0].state = GuestState::Died;
    said.guests[0].reason = Some("crashed".to_owned());
    said.guests[0].last_lines = vec!["\u{1b}[2Jpanic".to_owned()];
    said.events = vec![event(1, "web crashed"), event(2, "web crashed again")];
    let heard = server.agent_says(&agent.token, &said).expect(200);
    assert_eq!(heard, json!({"events": 2, "generation": 1}));
    said.events.push(event(3, "and again"));
    server.agent_says(&agent.token, &said).expect(200);
    let events = server.api("GET", "/v1/events?node=one", Value::Null).expect(200);
    let items = events["items"].as_array().unwrap().clone();
    let died: Vec<&Value> = items.iter().filter(|it| it["kind"] == "guest.died").collect();
    assert_eq!(died.len(), 3, "{events:#}");
    assert_eq!(died[0]["text"], "web crashed; its last lines: Kernel \\u{1b}[31mpanic");
    let guests = server.api("GET", "/v1/nodes/one/guests", Value::Null).expect(200);
    let items = guests["items"].as_array().unwrap();
    let rows: Vec<(&str, &str, bool)> = items
        .iter()
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap();
            (text("name"), text("state"), it["desired"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(rows, [("db", "awaited", true), ("other", "running", false), ("web", "died", true)]);
    assert_eq!(items[2]["last_lines"][0], "\\u{1b}[2Jpanic");
    assert_eq!((&items[1]["memory"], &items[1]["domain"]), (&json!(64 << 20), &json!(3)));
}

#[test]
fn a_refusal_ends_the_wait_and_says_what_would_fit() {
    let server = server("");
    let agent = deployed(&server);
    server.set(PLAIN, &[]).expect(200);
    let reasons = Refusals(vec![Refusal::Other("2 CPUs are there".to_owned())]);
    let refused = HostReport { state: HostState::Refused { reasons }, ..report(1, 0) };
    server.agent_says(&agent.token, &refused).expect(200);
    let node = server.node("one");
    assert_eq!((&node["config"]["state"], &node["wait"]), (&json!("refused"), &Value::Null));
    assert_eq!(node["config"]["text"], "2 CPUs are there");
    assert_eq!(count(&server.kinds(), "config.refused"), 1);
}

#[test]
fn an_agent_that_does_not_answer_is_told_once() {
    let mut server = server("apply = \"1s\"\nsilence = \"500ms\"\n");
    server.set(PLAIN, &[]).expect(200);
    deployed(&server);
    assert!(server.node("one")["wait"]["then"].as_str().unwrap().contains("overdue"));
    server.kill_and_restart();
    let began = Instant::now();
    while count(&server.kinds(), "config.overdue") == 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "it is not told");
        sleep(Duration::from_millis(100));
    }
    server.kill_and_restart();
    sleep(Duration::from_millis(1500));
    assert_eq!(count(&server.kinds(), "config.overdue"), 1);
    assert_eq!(server.node("one")["wait"], Value::Null);
}

#[test]
fn a_token_is_good_for_its_node_and_its_deployment() {
    let server = server("");
    let old = deployed(&server);
    server.set(PLAIN, &[]).expect(200);
    for foreign in ["", "nonsense", server.token()] {
        server.agent_asks(foreign, 0).problem(401);
        server.agent_says(foreign, &report(1, 1)).problem(401);
    }
    server.ask("GET", "/v1/agent/config", &[], b"").problem(401);
    let bearer = format!("Bearer {}", old.token);
    server.ask("GET", "/v1/nodes", &[("authorization", &bearer)], b"").problem(401);
    server.ask("POST", "/v1/agent/progress", &[("authorization", &bearer)], b"{}").problem(422);
    server.agent_says(&old.token, &report(1, 1)).expect(200);
    // While the next deployment has not written anything, the system that runs is still heard.
    let id = server.deploy("one");
    let welcome = server.welcome(MAC);
    server.agent_asks(&old.token, 0).expect(200);
    server.agent_asks(&welcome.bearer, 0).problem(401);
    server.api("DELETE", &format!("/v1/deployments/{id}"), Value::Null).expect(200);
    server.agent_asks(&old.token, 0).expect(200);
    // The first word of the new system ends the old one, and so does its written disk.
    let id = server.deploy("one");
    let welcome = server.welcome(MAC);
    let new = identity(welcome.job);
    assert_ne!(new.token, old.token);
    server.agent_asks(&new.token, 0).expect(200);
    assert!(server.agent_asks(&old.token, 0).problem(401).contains("deployed again"));
    assert_eq!(server.node("one")["config"]["applied"], 0, "the new system has done nothing yet");
    server.report(&welcome.bearer, &id, written()).expect(204);
    server.agent_asks(&new.token, 0).expect(200);
    let newest = deployed(&server);
    server.agent_asks(&new.token, 0).problem(401);
    for path in ["/v1/nodes/one", CONFIG, "/v1/events", "/v1/nodes/one/guests"] {
        let text = server.api("GET", path, Value::Null).text();
        assert!(!text.contains(&newest.token), "{path} shows the token");
    }
    server.api("DELETE", "/v1/nodes/one", Value::Null).expect(204);
    server.agent_asks(&newest.token, 0).problem(401);
}

#[test]
fn nonsense_from_an_agent_is_refused() {
    let server = server("");
    let agent = deployed(&server);
    let bearer = format!("Bearer {}", agent.token);
    let post =
        |body: &[u8]| server.ask("POST", "/v1/agent/status", &[("authorization", &bearer)], body);
    post(b"{").problem(400);
    post(b"{}").problem(422);
    post(&vec![b' '; (8 << 20) + 1]).problem(413);
    let many = HostReport { events: vec![event(1, "x"); 257], ..report(0, 0) };
    assert!(server.agent_says(&agent.token, &many).problem(422).contains("257 events, 256 is"));
    let long = HostReport { events: vec![event(1, &"x".repeat(2049))], ..report(0, 0) };
    assert!(server.agent_says(&agent.token, &long).problem(422).contains("2048 is the most"));
    let headers = [("authorization", bearer.as_str())];
    for query in ["?generation=-1", "?generation=x", "?since=1"] {
        server.ask("GET", &format!("/v1/agent/config{query}"), &headers, b"").problem(400);
    }
    assert_eq!(count(&server.kinds(), "guest.died"), 0);
    let huge = HostReport { events: vec![event(u64::MAX, "x")], ..report(u64::MAX, u64::MAX) };
    server.agent_says(&agent.token, &huge).expect(200);
    server.node("one");
}
