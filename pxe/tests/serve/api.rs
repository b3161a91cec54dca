//! The API as its clients meet it: lists, repeats, streams, refusals.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use protocol::Step;
use serde_json::{Value, json};

use crate::server::{Server, configuration};

const MAC: &str = "52:54:00:77:00:01";

#[test]
fn lists_come_in_pages() {
    let server = Server::start();
    for n in 0..5 {
        let body = json!({"name": format!("n{n}"), "macs": [format!("52:54:00:77:01:0{n}")]});
        server.api("POST", "/v1/nodes", body).expect(201);
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/nodes?limit=2&after={after}");
        let page = server.api("GET", &path, Value::Null).expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|node| node["name"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!(names, ["n0", "n1", "n2", "n3", "n4"]);
    let first: Vec<String> = (0..3).map(|n| server.deploy(&format!("n{n}"))).collect();
    let page = server.api("GET", "/v1/deployments?limit=2", Value::Null).expect(200);
    assert_eq!(
        (&page["items"][0]["id"], &page["items"][1]["id"]),
        (&json!(first[2]), &json!(first[1]))
    );
    let path = format!("/v1/deployments?limit=2&after={}", page["next"].as_str().unwrap());
    let page = server.api("GET", &path, Value::Null).expect(200);
    assert_eq!((&page["items"][0]["id"], &page["next"]), (&json!(first[0]), &Value::Null));
    let mine = server.api("GET", "/v1/deployments?node=n1", Value::Null).expect(200);
    assert_eq!(mine["items"].as_array().unwrap().len(), 1);
    let events = server.api("GET", "/v1/events?limit=3", Value::Null).expect(200);
    let since = events["next"].as_str().unwrap();
    let more = server.api("GET", &format!("/v1/events?since={since}"), Value::Null).expect(200);
    assert_eq!(more["items"][0]["id"], events["items"][2]["id"].as_i64().unwrap() + 1);
    // As a command line asks for the page behind the first.
    let path = format!("/v1/events?since=0&limit=3&after={since}");
    let page = server.api("GET", &path, Value::Null).expect(200);
    assert_eq!(page["items"][0], more["items"][0]);
    let kinds = |kind: &str| {
        let events = server.api("GET", &format!("/v1/events?kind={kind}"), Value::Null);
        let events = events.expect(200)["items"].clone();
        let kinds = events.as_array().unwrap().iter().map(|event| event["kind"].clone());
        kinds.collect::<Vec<_>>()
    };
    assert_eq!(kinds("node.enrolled"), vec!["node.enrolled"; 5]);
    let all = kinds("node");
    assert!(all.len() >= 5 && all.iter().all(|kind| kind.as_str().unwrap().starts_with("node.")));
    assert_eq!(kinds("deployment.created"), vec!["deployment.created"; 3]);
    assert!(kinds("nod").is_empty());
    let images = server.api("GET", "/v1/images", Value::Null).expect(200);
    assert_eq!(images["items"][0]["name"], "bare");
    assert_eq!(images["items"][0]["manifest"], server.manifest.to_string());
    for path in [
        "/v1/nodes?limit=0",
        "/v1/nodes?limit=1001",
        "/v1/nodes?limt=1",
        "/v1/events?limit=x",
        "/v1/events?kind=%25",
    ] {
        server.api("GET", path, Value::Null).problem(400);
    }
}

#[test]
fn a_repeated_request_gets_its_first_answer() {
    let mut server = Server::start();
    let body = json!({"name": "one", "macs": [MAC]});
    let key = ("idempotency-key", "k1");
    let first = server.api_with(key, "POST", "/v1/nodes", body.clone()).expect(201);
    server.kill_and_restart();
    assert_eq!(server.api_with(key, "POST", "/v1/nodes", body.clone()).expect(201), first);
    assert!(server.api("POST", "/v1/nodes", body).status == 409, "without the key it is another");
    let other = json!({"name": "two", "macs": ["52:54:00:77:00:02"]});
    let problem = server.api_with(key, "POST", "/v1/nodes", other).problem(422);
    assert!(problem.contains("another request"), "{problem}");
    let path = "/v1/nodes/one/deployments";
    let key = ("idempotency-key", "k2");
    let first = server.api_with(key, "POST", path, json!({"image": "bare"})).expect(201);
    let again = server.api_with(key, "POST", path, json!({"image": "bare"})).expect(201);
    assert_eq!(first["id"], again["id"]);
    server.api_with(("idempotency-key", ""), "POST", path, json!({"image": "bare"})).problem(400);
}

#[test]
fn refusals_say_what_would_be_accepted() {
    let server = Server::start();
    server.enroll("one", MAC);
    let enroll = |body: Value| server.api("POST", "/v1/nodes", body);
    assert!(enroll(json!({"macs": [MAC]})).problem(422).contains("`name`"));
    assert!(enroll(json!({"name": "x"})).problem(422).contains("`macs`"));
    assert!(enroll(json!({"name": "x", "macs": []})).problem(422).contains("`macs`"));
    assert!(
        enroll(json!({"name": "X_", "macs": ["52:54:00:77:00:02"]})).problem(422).contains("a-z")
    );
    assert!(
        enroll(json!({"name": "x", "macs": ["zz"]})).problem(422).contains("52:54:00:77:00:01")
    );
    assert!(enroll(json!({"name": "x", "macs": [MAC]})).problem(409).contains("node one"));
    let two = "52:54:00:77:00:02";
    assert!(enroll(json!({"name": "one", "macs": [two]})).problem(409).contains("is taken"));
    let kept = json!({"name": "two", "macs": [two], "reserved": "127.9.8.7"});
    assert!(enroll(kept).problem(409).contains("is kept for node one"));
    let fixed = json!({"name": "two", "macs": [two], "fixed": true});
    assert!(enroll(fixed).problem(422).contains("`reserved`"));
    let nowhere = json!({"name": "two", "macs": [two], "fixed": true, "reserved": "192.0.2.1"});
    assert!(enroll(nowhere).problem(422).contains("[[dhcp.subnets]]"));
    assert!(enroll(json!({"name": "two", "macs": [two], "nme": 1})).problem(422).contains("`nme`"));
    let deploy = |node: &str, body: Value| {
        server.api("POST", &format!("/v1/nodes/{node}/deployments"), body)
    };
    assert!(deploy("none", json!({"image": "bare"})).problem(404).contains("no node `none`"));
    assert!(deploy("one", json!({"image": "bar"})).problem(422).contains("there are bare"));
    assert!(deploy("one", json!({})).problem(422).contains("image"));
    server.deploy("one");
    assert!(deploy("one", json!({"image": "bare"})).problem(409).contains("open"));
    assert!(
        server.api("DELETE", "/v1/nodes/one", Value::Null).problem(409).contains("cancel it first")
    );
    server.api("GET", "/v1/deployments/nonsense", Value::Null).problem(404);
    server.api("GET", "/v1/nothing", Value::Null).problem(404);
    server.api("PUT", "/v1/nodes", json!({})).problem(405);
    let post = |body: &[u8]| server.ask("POST", "/v1/agent/hello", &[], body);
    post(b"{").problem(400);
    post(b"{}").problem(422);
    post(&[0xff; 20]).problem(400);
    post(&vec![b' '; 5 << 20]).problem(413);
}

#[test]
fn a_machine_with_two_ports_becomes_one_node() {
    let server = Server::start();
    server.script(MAC);
    server.script("52:54:00:77:00:02");
    let count =
        || server.api("GET", "/v1/nodes", Value::Null).json()["items"].as_array().unwrap().len();
    assert_eq!(count(), 2);
    let body = json!({"name": "one", "macs": [MAC, "52:54:00:77:00:02"]});
    server.api("POST", "/v1/nodes", body).expect(201);
    assert_eq!(count(), 1);
    assert_eq!(server.node("52:54:00:77:00:02")["name"], "one");
}

#[test]
fn a_node_is_changed_and_forgotten() {
    let server = Server::start();
    server.enroll("one", MAC);
    let change = json!({"name": "uno", "labels": {"rack": "r1"}, "restart": "kexec",
        "disk": {"serial": "S1"}, "macs": [MAC, "52:54:00:77:00:09"]});
    let node = server.api("PATCH", "/v1/nodes/one", change).expect(200);
    assert_eq!((&node["labels"]["rack"], &node["restart"]), (&json!("r1"), &json!("kexec")));
    assert_eq!(node["reserved"], "127.9.8.7", "what is absent stays");
    assert_eq!(server.node("52:54:00:77:00:09")["name"], "uno");
    assert_eq!(server.node("525400770001")["disk"]["serial"], "S1");
    server.api("GET", "/v1/nodes/one", Value::Null).problem(404);
    server.api("PATCH", "/v1/nodes/uno", json!({"name": "-"})).problem(422);
    server.api("DELETE", "/v1/nodes/uno", Value::Null).expect(204);
    server.api("GET", "/v1/nodes/uno", Value::Null).problem(404);
    server.enroll("one", MAC);
}

#[test]
fn what_is_described_is_open_api() {
    let server = Server::start();
    let document = server.ask("GET", "/openapi.json", &[], b"").expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in [
        "/v1/nodes",
        "/v1/nodes/{node}/deployments",
        "/v1/nodes/{node}/config",
        "/v1/nodes/{node}/guests",
        "/v1/deployments/{id}",
        "/v1/events",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let printed = Command::new(env!("CARGO_BIN_EXE_billet")).arg("openapi").output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&printed.stdout).unwrap(), document);
    server.enroll("one", MAC);
    let metrics = server.ask("GET", "/metrics", &[], b"");
    let text = metrics.text();
    assert!(text.contains("billet_nodes{state=\"ready\"} 1"), "{text}");
    assert!(
        text.contains("billet_http_requests_total{door=\"/v1/nodes\",status=\"201\"} 1"),
        "{text}"
    );
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(server.ask("GET", "/healthz", &[], b"").text(), "ok\n");
}

/// Reads an event stream up to the blank line after `wanted`.
fn stream(server: &Server, headers: &str, wanted: &str, meanwhile: impl FnOnce()) -> String {
    let address = server.base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let token = server.token();
    write!(
        stream,
        "GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Accept: text/event-stream\r\n{headers}\r\n"
    )
    .unwrap();
    let (mut text, mut meanwhile) = (String::new(), Some(meanwhile));
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        text.push_str(&line);
        text.push('\n');
        if line.is_empty()
            && text.contains("text/event-stream")
            && let Some(act) = meanwhile.take()
        {
            act();
        }
        if text.contains(wanted) && line.is_empty() {
            break;
        }
    }
    text
}

#[test]
fn events_are_followed_and_resumed() {
    let server = Server::start();
    server.enroll("one", MAC);
    let mut id = String::new();
    let text = stream(&server, "", "event: progress", || {
        id = server.deploy("one");
        let bearer = server.welcome(MAC).bearer;
        server.progress(&bearer, &id, Step::Write, 33).expect(204);
    });
    assert!(!text.contains("node.enrolled"), "a stream begins with what comes:\n{text}");
    for part in [
        "event: event",
        "\"kind\":\"deployment.created\"",
        "\"kind\":\"deployment.step\"",
        "\"done\":33",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let again = stream(&server, "Last-Event-ID: 1\r\n", "deployment.step", || {});
    assert!(!again.contains("node.enrolled\"") && again.contains("node.ready"), "{again}");
    let ids: Vec<i64> =
        again.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1) && ids[0] == 2, "{ids:?}");
}

#[test]
fn a_wrong_configuration_is_told_once_and_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("billet.toml");
    std::fs::write(&file, configuration(folder.path(), 1, "[deploy]\nbot = \"1m\"\n")).unwrap();
    let run =
        Command::new(env!("CARGO_BIN_EXE_billet")).arg("serve").arg("--config").arg(&file).output();
    let run = run.unwrap();
    assert_eq!(run.status.code(), Some(2));
    let text = String::from_utf8_lossy(&run.stderr);
    assert!(text.contains("line 13: there is no key `bot`; `boot` is the nearest"), "{text}");
}
