//! A client of the provisioner's API, as any program outside would write it: of each answer
//! it reads what the rack, the demo and the tests look at.

use std::{
    fmt,
    io::{BufRead, BufReader},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use protocol::{DiskHints, Inventory, Progress, Step, Written};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use ureq::{Agent, Body, http::Response};

use crate::fallen;

/// The API of one server, with a token.
#[derive(Clone)]
pub struct Api {
    agent: Agent,
    base: String,
    bearer: String,
}

/// An answer that says no: an HTTP status and its problem details.
#[derive(Debug, thiserror::Error)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, and what would have been accepted.
    pub detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.detail)
    }
}

/// A node.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeView {
    /// Stable identifier.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// `discovered`, `ready`, `deploying`, ...
    pub state: String,
    /// With `failed`: why.
    pub reason: Option<String>,
    /// The address it was last known to have.
    pub address: Option<std::net::Ipv4Addr>,
    /// Public SSH host key.
    pub host_key: Option<String>,
    /// What it said of itself.
    pub inventory: Option<Inventory>,
    /// Hardware addresses.
    pub macs: Vec<String>,
    /// SMBIOS UUID.
    pub uuid: Option<String>,
}

/// One run of writing an image to a node.
#[derive(Debug, Clone, Deserialize)]
pub struct Deployment {
    /// Its identifier.
    pub id: String,
    /// Name of its node.
    pub node: String,
    /// `open`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// The step it is in, or ended in.
    pub step: Step,
    /// How far the step is.
    pub progress: Option<Progress>,
    /// With `failed`: why.
    pub reason: Option<String>,
    /// What was done to the disk, once it was.
    pub written: Option<Written>,
}

/// Something that happened.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// Grows with every event.
    pub id: i64,
    /// When, RFC 3339.
    pub at: String,
    /// The node it concerns.
    pub node: Option<String>,
    /// The deployment it concerns.
    pub deployment: Option<String>,
    /// `node.discovered`, `deployment.step`, ...
    pub kind: String,
    /// In words.
    pub text: String,
}

/// What enrolls a node.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Enroll {
    /// Its name.
    pub name: String,
    /// Its hardware addresses.
    pub macs: Vec<String>,
    /// Lines of root's `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// Which disk may be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskHints>,
    /// The address to keep for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<std::net::Ipv4Addr>,
    /// Whether its system gets that address written down.
    pub fixed: bool,
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

impl Api {
    /// The API at `base` (`http://10.77.0.1:8080`) for whoever holds `token`.
    pub fn new(base: &str, token: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Api { agent: config.into(), base: base.to_owned(), bearer: format!("Bearer {token}") }
    }

    /// The same server, with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Api { bearer: format!("Bearer {token}"), ..self.clone() }
    }

    /// `GET path`, as JSON.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let url = format!("{}{path}", self.base);
        let call = self.agent.get(&url).header("authorization", &self.bearer).call();
        json(call.with_context(|| format!("asking for {path}"))?)
    }

    /// `GET path`, as it comes.
    pub fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let url = format!("{}{path}", self.base);
        let call = self.agent.get(&url).header("authorization", &self.bearer).call();
        let mut response = accepted(call.with_context(|| format!("asking for {path}"))?)?;
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec();
        body.with_context(|| format!("reading {path}"))
    }

    /// `POST path` with a JSON body.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let url = format!("{}{path}", self.base);
        let call = self.agent.post(&url).header("authorization", &self.bearer).send_json(body);
        json(call.with_context(|| format!("posting to {path}"))?)
    }

    /// `PUT path` with a text of this media type.
    pub fn put<T: DeserializeOwned>(&self, path: &str, kind: &str, text: &str) -> Result<T> {
        let url = format!("{}{path}", self.base);
        let call = self.agent.put(&url).header("authorization", &self.bearer);
        let call = call.header("content-type", kind).send(text);
        json(call.with_context(|| format!("putting {path}"))?)
    }

    /// Says what a dom0 should be, as TOML; tells the generation.
    pub fn configure(&self, node: &str, desired: &str) -> Result<u64> {
        let path = format!("/v1/nodes/{node}/config");
        let view: Value = self.put(&path, "application/toml", desired)?;
        view["generation"].as_u64().with_context(|| format!("no generation in {view}"))
    }

    /// How far a dom0 is with what it should be.
    pub fn config(&self, node: &str) -> Result<Value> {
        let mut node: Value = self.get(&format!("/v1/nodes/{node}"))?;
        Ok(node["config"].take())
    }

    /// Waits until the dom0 says `wanted` (`applied`, `refused`, `retrying`) of a generation.
    ///
    /// # Errors
    /// When `patience` ends first.
    pub fn configured(
        &self,
        node: &str,
        generation: u64,
        wanted: &str,
        patience: Duration,
    ) -> Result<Value> {
        let began = Instant::now();
        loop {
            let config = self.config(node)?;
            if config["generation"] == generation && config["state"] == wanted {
                return Ok(config);
            }
            ensure!(began.elapsed() < patience, "{node} is not {wanted} but {config}");
            fallen::check()?;
            sleep(Duration::from_millis(500));
        }
    }

    /// Enrolls a node.
    pub fn enroll(&self, node: &Enroll) -> Result<NodeView> {
        self.post("/v1/nodes", node)
    }

    /// Every node.
    pub fn nodes(&self) -> Result<Vec<NodeView>> {
        self.all("/v1/nodes?limit=200")
    }

    /// One node, by name or identifier.
    pub fn node(&self, name: &str) -> Result<NodeView> {
        self.get(&format!("/v1/nodes/{name}"))
    }

    /// Begins a deployment.
    pub fn deploy(&self, node: &str, request: &Value) -> Result<Deployment> {
        self.post(&format!("/v1/nodes/{node}/deployments"), request)
    }

    /// One deployment.
    pub fn deployment(&self, id: &str) -> Result<Deployment> {
        self.get(&format!("/v1/deployments/{id}"))
    }

    /// Every event after `since`.
    pub fn events(&self, since: i64) -> Result<Vec<Event>> {
        self.all(&format!("/v1/events?since={since}&limit=200"))
    }

    fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let page: Page<T> = self.get(&format!("{path}{after}"))?;
            items.extend(page.items);
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(items),
            }
        }
    }

    /// Looks at a deployment until `enough` of it, or its end. A server that is away for a
    /// moment (it may be killed and started meanwhile) is asked again.
    ///
    /// # Errors
    /// When `patience` ends first.
    pub fn wait(
        &self,
        id: &str,
        patience: Duration,
        enough: impl Fn(&Deployment) -> bool,
    ) -> Result<Deployment> {
        let began = Instant::now();
        loop {
            let last = match self.deployment(id) {
                Ok(seen) if enough(&seen) || seen.state != "open" => return Ok(seen),
                Err(error) if error.is::<Refusal>() => return Err(error),
                last => last,
            };
            if began.elapsed() > patience {
                bail!("waited {patience:?} for deployment {id}, which last was {last:?}");
            }
            fallen::check()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until `enough` of a node.
    pub fn wait_node(
        &self,
        name: &str,
        patience: Duration,
        enough: impl Fn(&NodeView) -> bool,
    ) -> Result<NodeView> {
        let began = Instant::now();
        loop {
            let last = self.node(name);
            match last {
                Ok(node) if enough(&node) => return Ok(node),
                last if began.elapsed() > patience => {
                    bail!("waited {patience:?} for node {name}, which last was {last:?}");
                }
                _ => {
                    fallen::check()?;
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }

    /// Hands each live message (`event` or `progress`, and its JSON) to `hear` until it
    /// returns false or the server goes away.
    pub fn follow(&self, since: i64, mut hear: impl FnMut(&str, Value) -> bool) -> Result<()> {
        let url = format!("{}/v1/events?since={since}", self.base);
        let request = self.agent.get(&url).config().timeout_global(None).build();
        let request = request.header("authorization", &self.bearer);
        let response = request.header("accept", "text/event-stream").call();
        let response = accepted(response.context("opening the event stream")?)?;
        let mut kind = String::new();
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.context("reading the event stream")?;
            if let Some(name) = line.strip_prefix("event:") {
                name.trim().clone_into(&mut kind);
            } else if let Some(data) = line.strip_prefix("data:") {
                let data = serde_json::from_str(data.trim()).context("reading an event")?;
                if !hear(&kind, data) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn accepted(mut response: Response<Body>) -> Result<Response<Body>> {
    let status = response.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(response);
    }
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let problem: Option<Value> = serde_json::from_str(&text).ok();
    let detail = problem.and_then(|problem| Some(problem["detail"].as_str()?.to_owned()));
    Err(Refusal { status, detail: detail.unwrap_or(text) }.into())
}

fn json<T: DeserializeOwned>(response: Response<Body>) -> Result<T> {
    let text = accepted(response)?.body_mut().with_config().limit(64 << 20).read_to_string();
    let text = text.context("reading the server's answer")?;
    serde_json::from_str(&text).with_context(|| format!("understanding the answer {text}"))
}
