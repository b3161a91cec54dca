//! Who may do what: foreign, spent, stale and missing tokens.

use protocol::Step;
use serde_json::{Value, json};

use crate::server::{Server, written};

const MAC: &str = "52:54:00:77:00:01";
const OTHER: &str = "52:54:00:77:00:02";

#[test]
fn the_api_is_the_admins() {
    let server = Server::start();
    for path in ["/v1/nodes", "/v1/images", "/v1/deployments", "/v1/events"] {
        let answer = server.ask("GET", path, &[], b"");
        assert!(answer.problem(401).contains("Authorization: Bearer"));
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        let foreign = server.ask("GET", path, &[("authorization", "Bearer nonsense")], b"");
        foreign.problem(401);
        server.ask("GET", path, &[("authorization", "Basic nonsense")], b"").problem(401);
        server.api("GET", path, Value::Null).expect(200);
    }
    let mode = std::fs::metadata(server.folder.path().join("data/admin.token")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
}

#[test]
fn a_boot_token_is_good_once_and_for_its_node() {
    let server = Server::start();
    server.enroll("one", MAC);
    let body = json!({"name": "two", "macs": [OTHER]});
    server.api("POST", "/v1/nodes", body).expect(201);
    let id = server.deploy("one");
    server.hello("nonsense", MAC).problem(401);
    server.hello("", MAC).problem(401);
    let token = server.boot_token(MAC);
    assert!(server.hello(&token, OTHER).problem(403).contains("another node"));
    server.hello(&token, "no mac").problem(403);
    // The answer was lost on its way: it may be asked for again, and the first bearer dies.
    let lost = server.hello(&token, MAC).expect(200)["bearer"].clone();
    let bearer = server.hello(&token, MAC).expect(200)["bearer"].clone();
    let (lost, bearer) = (lost.as_str().unwrap(), bearer.as_str().unwrap());
    server.progress(lost, &id, Step::Plan, 1).problem(401);
    server.progress(bearer, &id, Step::Plan, 1).expect(204);
    assert!(server.hello(&token, MAC).problem(401).contains("spent"));
}

#[test]
fn a_bearer_token_is_good_for_its_deployment() {
    let server = Server::start();
    server.enroll("one", MAC);
    let body = json!({"name": "two", "macs": [OTHER]});
    server.api("POST", "/v1/nodes", body).expect(201);
    let (one, two) = (server.deploy("one"), server.deploy("two"));
    let bearer = server.welcome(MAC).bearer;
    server.progress(&bearer, &two, Step::Write, 1).problem(403);
    server.report(&bearer, &two, written()).problem(403);
    server.progress(server.token(), &one, Step::Write, 1).problem(401);
    server.report("", &one, written()).problem(401);
    server.ask("POST", "/v1/agent/progress", &[], b"{}").problem(401);
    let answer =
        server.ask("GET", "/v1/nodes", &[("authorization", &format!("Bearer {bearer}"))], b"");
    answer.problem(401);
    server.progress(&bearer, &one, Step::Boot, 1).problem(422);
}

#[test]
fn nothing_secret_is_shown() {
    let server = Server::start();
    server.enroll("one", MAC);
    let id = server.deploy("one");
    let token = server.boot_token(MAC);
    let bearer = server.hello(&token, MAC).expect(200)["bearer"].as_str().unwrap().to_owned();
    for path in
        ["/v1/nodes/one".to_owned(), format!("/v1/deployments/{id}"), "/v1/events".to_owned()]
    {
        let text = server.api("GET", &path, Value::Null).text();
        for secret in [token.as_str(), &bearer, "PRIVATE KEY", server.token()] {
            assert!(!text.contains(secret), "{path} shows a secret");
        }
    }
    if std::env::var_os("BILLET_TEST_POSTGRES").is_some() {
        return; // Its rows are in another process's files.
    }
    let database = std::fs::read(server.folder.path().join("data/billet.db-wal")).unwrap();
    for secret in [token.as_str(), &bearer, server.token()] {
        let found = database.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "the database holds a token in plain");
    }
}
