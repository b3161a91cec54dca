//! What an operator says that a node should be.

use std::process::Output;

use protocol::{HostReport, Job};
use serde_json::{Value, json};

use crate::host::{CONFIG, MAC, PLAIN, count, deployed, guest, host, report, server};

#[test]
fn a_desired_state_is_set_shown_and_unset() {
    let server = server("");
    assert!(server.api("GET", CONFIG, Value::Null).problem(404).contains("no desired state"));
    let set = server.set(PLAIN, &[]);
    let view = set.expect(200);
    assert_eq!((set.header("etag"), &view["generation"]), ("\"1\"", &json!(1)));
    assert_eq!((&view["text"], &view["format"]), (&json!(PLAIN), &json!("toml")));
    assert_eq!(view["desired"]["service"]["cpus"], 1);
    assert_eq!(view["by"], "the admin at 127.0.0.1");
    assert_eq!(view["status"]["state"], "unheard");
    assert_eq!(server.set(PLAIN, &[]).expect(200)["generation"], 1, "nothing has changed");
    let shown = server.api("GET", CONFIG, Value::Null);
    assert_eq!((shown.header("etag"), &shown.expect(200)["text"]), ("\"1\"", &json!(PLAIN)));
    let json = [("content-type", "application/json")];
    let view = server.set("{\"service\": {\"cpus\": 2}}", &json).expect(200);
    assert_eq!((&view["generation"], &view["desired"]["service"]["cpus"]), (&json!(2), &json!(2)));
    let node = server.node("one");
    assert_eq!(node["config"]["generation"], 2);
    assert_eq!(node["wait"], Value::Null, "nothing runs there that could apply it");
    server.api("DELETE", CONFIG, Value::Null).expect(204);
    server.api("GET", CONFIG, Value::Null).problem(404);
    assert_eq!(server.node("one")["config"]["state"], "unset");
    assert_eq!(server.set(PLAIN, &[]).expect(200)["generation"], 4, "numbers go on");
    let kinds = server.kinds();
    assert_eq!((count(&kinds, "config.changed"), count(&kinds, "config.unset")), (3, 1));
}

#[test]
fn two_operators_do_not_overwrite_each_other() {
    let server = server("");
    assert!(server.set(PLAIN, &[("if-match", "\"1\"")]).problem(412).contains("without If-Match"));
    server.set(PLAIN, &[("if-none-match", "*")]).expect(200);
    assert!(server.set("", &[("if-none-match", "*")]).problem(412).contains("generation 1 now"));
    server.set("", &[("if-match", "\"1\"")]).expect(200);
    let late = server.set(PLAIN, &[("if-match", "\"1\"")]).problem(412);
    assert!(late.contains("generation 2 now, set by the admin at 127.0.0.1"), "{late}");
    let late = server.api_with(("if-match", "\"1\""), "DELETE", CONFIG, Value::Null);
    late.problem(412);
    server.api_with(("if-match", "\"2\""), "DELETE", CONFIG, Value::Null).expect(204);
    server.set(PLAIN, &[("if-none-match", "*")]).expect(200);
}

#[test]
fn what_is_no_desired_state_is_refused_by_its_line() {
    let server = server("");
    let refused = server.set("[service]\n\ncpu = 1\n", &[]).problem(422);
    assert!(refused.contains("line 3") && refused.contains("`cpus` is the nearest"), "{refused}");
    let json = [("content-type", "application/json")];
    assert!(server.set("{\"gest\": []}", &json).problem(422).contains("`guest` is the nearest"));
    let text = [("content-type", "text/plain")];
    assert!(server.set(PLAIN, &text).problem(415).contains("application/toml"));
    assert!(server.set(&"#".repeat((1 << 20) + 1), &[]).problem(413).contains("1048576"));
    let bearer = format!("Bearer {}", server.token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/toml")];
    server.ask("PUT", CONFIG, &headers, &[0xff]).problem(422);
    server.ask("PUT", "/v1/nodes/two/config", &headers, b"").problem(404);
    server.ask("PUT", CONFIG, &headers[1..], b"").problem(401);
    server.api("GET", CONFIG, Value::Null).problem(404);
}

#[test]
fn a_dry_run_is_a_plan_and_changes_nothing() {
    let server = server("");
    let dry = |text: &str| {
        let bearer = format!("Bearer {}", server.token());
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/toml")];
        server.ask("PUT", &format!("{CONFIG}?dry_run=true"), &headers, text.as_bytes())
    };
    assert!(dry(PLAIN).problem(409).contains("can be set all the same"));
    let agent = deployed(&server);
    server.agent_says(&agent.token, &HostReport { host: host(), ..report(0, 0) }).expect(200);
    let plan = dry(PLAIN).expect(200);
    let steps: Vec<&str> =
        plan["steps"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
    assert!(steps.iter().any(|step| step.contains("guests")), "{steps:?}");
    assert!(plan["age"].as_u64().unwrap() < 60 && plan["facts"].is_string(), "{plan:#}");
    let reboot = plan["reboot"][0].as_str().unwrap();
    assert!(reboot.contains("dom0_mem=512M"), "the usual memory is another one: {reboot}");
    assert_eq!(dry("[service]\ncpus = 1\nmemory = \"512MiB\"").expect(200)["reboot"], json!([]));
    let refused = dry("[service]\ncpus = 64").problem(422);
    assert!(refused.contains("the machine has 4: at most 3"), "{refused}");
    assert!(refused.contains("by its facts of "), "{refused}");
    server.api("GET", CONFIG, Value::Null).problem(404);
    // Set in earnest it is kept, because facts change; the answer warns.
    let view = server.set("[service]\ncpus = 64", &[]).expect(200);
    assert!(view["warnings"][0].as_str().unwrap().contains("at most 3"), "{view:#}");
}

#[test]
fn xen_starts_as_the_node_should_be() {
    let server = server("");
    let fragment = || {
        server.deploy("one");
        let Job::Deploy(job) = server.welcome(MAC).job else { panic!("nothing to do") };
        let deployment = format!("/v1/deployments/{}", job.deployment);
        server.api("DELETE", &deployment, Value::Null).expect(200);
        job.identity.xen
    };
    assert_eq!(fragment(), None, "nobody said anything");
    server.set("[service]\nmemory = \"512MiB\"\n[xen]\nextra = [\"loglvl=all\"]", &[]).expect(200);
    let text = fragment().unwrap();
    assert!(text.contains("dom0_mem=512M,max:512M") && text.contains("loglvl=all"), "{text}");
    server.set("[service]\ncpus = 64", &[]).expect(200);
    assert_eq!(fragment(), None, "the image starts, and its agent says why not");
}

#[test]
fn the_command_line_sets_waits_and_shows() {
    let server = server("");
    let file = server.folder.path().join("dom0.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, PLAIN).unwrap();
    let said = |output: &Output| {
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
    };
    let run = |words: &[&str], code: i32, wanted: &str| {
        let output = server.cli(words);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(wanted), "`{wanted}` is not in what {words:?} says: {said}");
        said
    };
    run(&["config", "one", "show"], 1, "billet node config one set FILE");
    run(&["config", "one", "set", path], 0, "generation 1 says: no agent has said a word yet");
    run(&["config", "one", "set", path, "--wait"], 1, "no agent has said a word yet");
    run(&["config", "one", "plan"], 1, "nothing is known of one to plan with");
    let agent = deployed(&server);
    server.agent_says(&agent.token, &HostReport { host: host(), ..report(0, 0) }).expect(200);
    run(&["config", "one", "plan"], 0, "  1. ");
    run(&["config", "one", "set", path, "--dry-run", "--json"], 0, "\"steps\": [");
    let shown = run(&["config", "one", "show"], 0, "# billet: pending: its agent has generation 0");
    assert!(shown.starts_with("# billet: generation 1 of one, set by the admin at "), "{shown}");
    // What was shown is set again over the same generation only.
    std::fs::write(&file, format!("{shown}[xen]\nsmt = false\n")).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| run(&["config", "one", "set", path, "--wait"], 0, "applied"));
        let config = server.agent_asks(&agent.token, 1).expect(200);
        assert_eq!(config["generation"], 2);
        let applied = HostReport { host: host(), ..report(2, 2) };
        server.agent_says(&agent.token, &applied).expect(200);
        waits.join().unwrap();
    });
    run(&["config", "one", "set", path], 1, "generation 2 now, set by the admin");
    let shown = server.api("GET", CONFIG, Value::Null).expect(200);
    assert_eq!(shown["text"], format!("{PLAIN}[xen]\nsmt = false\n"));
    run(&["show", "one"], 0, "generation 2: applied");
    run(&["guests", "one"], 0, "no guests on one");
    let with_guest = HostReport { guests: vec![guest("web", true)], ..report(2, 2) };
    server.agent_says(&agent.token, &with_guest).expect(200);
    run(&["guests", "one"], 0, "web");
    run(&["guests", "one", "--json"], 0, "\"memory\": 67108864");
    std::fs::write(&file, "[servce]\n").unwrap();
    run(&["config", "one", "set", path], 1, "`service` is the nearest");
    run(&["config", "one", "unset"], 0, "");
    run(&["config", "one", "show"], 1, "no desired state");
}
