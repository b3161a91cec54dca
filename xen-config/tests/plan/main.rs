//! Plans of whole nodes: what a step changes is modelled, and a plan of the facts after all its
//! steps must be empty.

#![allow(clippy::unwrap_used, reason = "in what only tests call a panic is the verdict")]

mod guests;
mod model;
mod pools;
mod slices;

use model::Node;
use xen_config::{Desired, Plan, Step};

/// What `desired` asks of `node`, as sentences.
fn sentences(node: &Node, desired: &str) -> Vec<String> {
    let plan = xen_config::plan(&Desired::from_toml(desired).unwrap(), &node.host).unwrap();
    plan.sentences()
}

/// Why `desired` cannot be on `node`.
fn refused(node: &Node, desired: &str) -> String {
    let desired = Desired::from_toml(desired).unwrap();
    xen_config::plan(&desired, &node.host).unwrap_err().to_string()
}

/// Does every step on the model, and gives the plan. The plan of what came out must be empty.
fn settle(node: &mut Node, desired: &str) -> Plan {
    let desired = Desired::from_toml(desired).unwrap();
    let plan = xen_config::plan(&desired, &node.host).unwrap();
    plan.steps.iter().for_each(|step| node.apply(step, &desired));
    let again = xen_config::plan(&desired, &node.host).unwrap();
    assert_eq!(again.steps, Vec::<Step>::new(), "after {:#?}", plan.sentences());
    plan
}
