//! Slices of nodes, and the partitions that subnet managers are told of.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use xen_config::{Desired, Host, slice};

use crate::host::{CONFIG, MAC, count, deployed, report, server};

const OTHER: &str = "52:54:00:77:00:02";

fn text(more: &str) -> String {
    format!("[[fabric]]\nname = \"ib0\"\npfs = [\"mlx5_0\"]\n[slice.a]\nfabric = \"ib0\"\n{more}")
}

const KEY: &str = "pkeys = [\"0x8001:full\"]\n";

/// What comes to be in a file, once it does.
fn until(path: &Path, fits: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if fits(&text) {
            return text;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{} says {text:?}", path.display());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn partitions_follow_the_desired_states_of_all_nodes() {
    let at = tempfile::tempdir().unwrap();
    let (file, log) = (at.path().join("ib0.conf"), at.path().join("log"));
    let reload = format!("reload = [\"sh\", \"-c\", \"echo x >> {}\"]\n", log.display());
    let config = format!(
        "[[fabric]]\nname = \"ib0\"\n[fabric.opensm]\nfile = \"{}\"\n{reload}",
        file.display()
    );
    let server = server(&config);
    let two = serde_json::json!({ "name": "two", "macs": [OTHER] });
    server.api("POST", "/v1/nodes", two).expect(201);
    server.set(&text(KEY), &[]).expect(200);
    let view = server.api("GET", "/v1/nodes/one/slices", Value::Null).expect(200);
    let guid = view["items"][0]["guid"].as_str().unwrap().to_owned();
    assert_eq!(view["items"][0]["state"], "announced");
    assert_eq!(view["items"][0]["pkeys"][0], "0x8001:full");
    let hex = format!("0x{}=full ;", guid.replace(':', ""));
    until(&file, |said| said.contains(&hex));
    assert!(!fs::read_to_string(&log).unwrap().is_empty());
    // Another node may not have that GUID; with one of its own it is told too.
    let theirs = text(&format!("guid = \"{guid}\"\n{KEY}"));
    let bearer = format!("Bearer {}", server.token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/toml")];
    let put = |text: &str| server.ask("PUT", "/v1/nodes/two/config", &headers, text.as_bytes());
    let refused = put(&theirs).problem(409);
    assert!(refused.contains("is that of slice a of one"), "{refused}");
    put(&text(KEY)).expect(200);
    until(&file, |said| said.contains("# a of two"));
    server.api("DELETE", CONFIG, Value::Null).expect(204);
    until(&file, |said| !said.contains(&hex) && said.contains("# a of two"));
    let events = server.api("GET", "/v1/events", Value::Null).expect(200);
    assert!(events.to_string().contains("fabric.told"), "{events}");
}

#[test]
fn a_slice_is_shown_on_its_way() {
    let server = server("");
    let agent = deployed(&server);
    server.set(&text(KEY), &[]).expect(200);
    let desired = Desired::from_toml(&text("")).unwrap();
    let wanted = slice::slices(&desired, &agent.node).remove(0);
    let view = server.api("GET", "/v1/nodes/one/slices", Value::Null).expect(200);
    let slice::Identity::InfiniBand { port, .. } = &wanted.identity else { panic!() };
    assert_eq!(view["items"][0]["guid"], port.to_string(), "as the agent will derive it");
    let pf = "0000:3b:00.0";
    let sriov = |driver: &str| {
        let json = format!(
            r#"{{"pfs": [{{"address": "{pf}", "total": 4, "count": 4, "vfs": [
            {{"number": 2, "address": "0000:3b:00.3", "driver": {driver} }}]}}]}}"#
        );
        serde_json::from_str(&json).unwrap()
    };
    let held = slice::Held {
        slice: wanted.id,
        pf: pf.parse().unwrap(),
        vf: 2,
        identity: wanted.identity.clone(),
    };
    for (driver, state) in [("null", "held"), ("\"pciback\"", "ready")] {
        let mut said = report(1, 1);
        said.host = Host { sriov: sriov(driver), held: vec![held.clone()], ..said.host };
        server.agent_says(&agent.token, &said).expect(200);
        let view = server.api("GET", "/v1/nodes/one/slices", Value::Null).expect(200);
        assert_eq!(view["items"][0]["state"], state, "{view}");
        assert_eq!(view["items"][0]["address"], "0000:3b:00.3");
    }
    let output = server.cli(&["slices", "one"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("2 of 0000:3b:00.0") && table.contains(&port.to_string()), "{table}");
    server.api("DELETE", CONFIG, Value::Null).expect(204);
    let view = server.api("GET", "/v1/nodes/one/slices", Value::Null).expect(200);
    assert_eq!(view["items"][0]["state"], "returning", "{view}");
    assert_eq!(count(&server.kinds(), "config.unset"), 1);
    assert_eq!(server.node("one")["macs"][0], MAC);
}
