//! The door to a provisioner's API.

use std::{fs, io::Read, time::Duration};

use anyhow::{Context, anyhow};
use serde::{Serialize, de::DeserializeOwned};
use ureq::{Agent, Body, http::Response};

use super::ServerArgs;
use crate::api::{Page, Problem};

/// What was asked for cannot be had, and asking again alike will not help: exit status 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// A provisioner, as one of its users.
pub(super) struct Client {
    agent: Agent,
    base: String,
    bearer: String,
}

impl Client {
    /// Finds the token and prepares to talk; nothing is sent yet.
    pub(super) fn new(args: &ServerArgs) -> anyhow::Result<Self> {
        if !args.server.starts_with("http://") {
            let refusal = format!("--server {} is not served; http://HOST:PORT is", args.server);
            return Err(Refused(refusal).into());
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .build()
            .into();
        let base = args.server.trim_end_matches('/').to_owned();
        Ok(Client { agent, base, bearer: format!("Bearer {}", token(args)?) })
    }

    /// `GET path`.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.agent.get(self.url(path)).header("authorization", &self.bearer);
        self.answer(request.call())
    }

    /// Every item of a list, page after page.
    pub(super) fn all<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let page: Page<T> = self.get(&format!("{path}{join}limit=200{after}"))?;
            items.extend(page.items);
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(items),
            }
        }
    }

    /// `POST path` with a body; a retry of the same call has the same effect once.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let request = self
            .agent
            .post(self.url(path))
            .header("authorization", &self.bearer)
            .header("idempotency-key", uuid::Uuid::new_v4().to_string());
        self.answer(request.send_json(body))
    }

    /// `PATCH path` with a body.
    pub(super) fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let request = self.agent.patch(self.url(path)).header("authorization", &self.bearer);
        self.answer(request.send_json(body))
    }

    /// `PUT path` with a text of this kind, over this generation of what is there, if named.
    pub(super) fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: &str,
        over: Option<u64>,
        text: String,
    ) -> anyhow::Result<T> {
        let mut request = self
            .agent
            .put(self.url(path))
            .header("authorization", &self.bearer)
            .header("content-type", kind);
        if let Some(generation) = over {
            request = request.header("if-match", format!("\"{generation}\""));
        }
        self.answer(request.send(text))
    }

    /// `DELETE path`.
    pub(super) fn delete(&self, path: &str) -> anyhow::Result<()> {
        let request = self.agent.delete(self.url(path)).header("authorization", &self.bearer);
        let response = request.call().with_context(|| self.asking())?;
        self.succeeded(response).map(drop)
    }

    /// The event stream from after event `since`, for ever.
    pub(super) fn stream(&self, query: &str) -> anyhow::Result<impl Read + use<>> {
        let request = self
            .agent
            .get(self.url(&format!("/v1/events?{query}")))
            .header("authorization", &self.bearer)
            .header("accept", "text/event-stream");
        let response = request.call().with_context(|| self.asking())?;
        Ok(self.succeeded(response)?.into_body().into_reader())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn asking(&self) -> String {
        format!("asking the provisioner at {} (is `billet serve` running there?)", self.base)
    }

    fn answer<T: DeserializeOwned>(
        &self,
        response: Result<Response<Body>, ureq::Error>,
    ) -> anyhow::Result<T> {
        let mut response = self.succeeded(response.with_context(|| self.asking())?)?;
        // Lists are paged and inventories are small; more than this is no answer of ours.
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string();
        let text = text.context("reading the provisioner's answer")?;
        serde_json::from_str(&text).context("reading the provisioner's answer")
    }

    fn succeeded(&self, mut response: Response<Body>) -> anyhow::Result<Response<Body>> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let detail = match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => problem.detail,
            Err(_) => format!("the provisioner at {} answered {status}", self.base),
        };
        if status.is_client_error() {
            return Err(Refused(detail).into());
        }
        Err(anyhow!(detail))
    }
}

fn token(args: &ServerArgs) -> anyhow::Result<String> {
    if let Some(token) = &args.token {
        return Ok(token.trim().to_owned());
    }
    let named = args.token_file.clone();
    let file = named.unwrap_or_else(|| crate::config::default_data().join("admin.token"));
    match fs::read_to_string(&file) {
        Ok(token) => Ok(token.trim().to_owned()),
        Err(error) => Err(Refused(format!(
            "no token: {} says {error}; give --token, BILLET_TOKEN or --token-file with the file that \
             `billet serve` named at its first start",
            file.display()
        ))
        .into()),
    }
}
