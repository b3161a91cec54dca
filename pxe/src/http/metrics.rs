//! What is counted, for Prometheus.

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Context, problem::Fault};
use crate::provisioner::Undone;

type Labels = Vec<(&'static str, String)>;

/// Counters that live as long as the process.
#[derive(Debug, Default, Clone)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    bytes: Counter,
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, door: &str, status: u16) {
        let labels = vec![("door", door.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
    }

    /// Bytes of a file are sent.
    pub fn sent(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }
}

/// The counters, and how many nodes there are of each state.
pub async fn scrape(State(shared): Context) -> Result<Response, Fault> {
    let counts = shared.provisioner.store.count_nodes().await.map_err(Undone::from)?;
    let open = shared.provisioner.store.open_deployments().await.map_err(Undone::from)?;
    let nodes = Family::<Labels, Gauge>::default();
    for (state, count) in counts {
        nodes.get_or_create(&vec![("state", state)]).set(count);
    }
    let steps = Family::<Labels, Gauge>::default();
    for deployment in open {
        steps.get_or_create(&vec![("step", deployment.step.to_string())]).inc();
    }
    let mut registry = Registry::with_prefix("billet");
    let metrics = &shared.metrics;
    registry.register("http_requests", "Requests answered", metrics.requests.clone());
    registry.register("http_file_bytes", "Bytes of files sent", metrics.bytes.clone());
    registry.register("nodes", "Nodes by state", nodes);
    registry.register("deployments_open", "Open deployments by step", steps);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Undone::Broken(error.into()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response())
}
