//! What travels between the API and its clients: the server renders these, the command
//! line parses them, and OpenAPI describes them. They hold no secrets.

use std::{collections::BTreeMap, net::Ipv4Addr};

use jiff::Timestamp;
use protocol::{DiskHints, Inventory, Progress, Restart, Step, Written};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use xen_config::Desired;

use crate::mac::Mac;

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// What there is, in order.
    pub items: Vec<T>,
    /// Give this as `after` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A physical machine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Stable identifier: the first MAC that was seen, without colons.
    pub id: String,
    /// What people call it; unique.
    pub name: String,
    /// Hardware addresses it may boot from.
    #[schema(value_type = Vec<String>)]
    pub macs: Vec<Mac>,
    /// SMBIOS UUID, once it was heard.
    pub uuid: Option<String>,
    /// `discovered`, `enrolled`, `ready`, `deploying`, `deployed`, `cleaning`, `failed`, ...
    pub state: String,
    /// With `failed`: where it was heading.
    pub heading: Option<String>,
    /// With `failed`: why.
    pub reason: Option<String>,
    /// What it waits for, when it does.
    pub wait: Option<WaitView>,
    /// The IPv4 address it was last known to have.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// The IPv4 address that is kept for it.
    #[schema(value_type = Option<String>)]
    pub reserved: Option<Ipv4Addr>,
    /// Which disk may be written.
    #[schema(value_type = Object)]
    pub disk: DiskHints,
    /// Lines of root's `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// How it goes from the RAM system into its image.
    #[schema(value_type = String)]
    pub restart: Restart,
    /// Whether its system has the kept address written down, instead of asking by DHCP.
    pub fixed: bool,
    /// Whatever its operators want to note.
    pub labels: BTreeMap<String, String>,
    /// Public SSH host key, in OpenSSH's one-line form.
    pub host_key: Option<String>,
    /// What it said of itself, last time it was in the RAM system.
    #[schema(value_type = Option<Object>)]
    pub inventory: Option<Inventory>,
    /// Its latest deployment.
    pub deployment: Option<String>,
    /// How far it is with what it should be, once that was said.
    pub config: Option<ConfigStatus>,
    /// When it was first heard of.
    #[schema(value_type = String)]
    pub created: Timestamp,
    /// When its state last changed.
    #[schema(value_type = String)]
    pub changed: Timestamp,
}

/// Why something waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitView {
    /// The event awaited, for people.
    pub what: String,
    /// Since when.
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// Until when.
    #[schema(value_type = String)]
    pub until: Timestamp,
    /// What happens then.
    pub then: String,
}

/// What an operator says of a node; absent fields stay as they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeChange {
    /// Its name: letters, digits and dashes, as a host name; required to enroll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its hardware addresses; required to enroll.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<Vec<Mac>>,
    /// The IPv4 address to keep for it.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Ipv4Addr>,
    /// Which disk may be written.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskHints>,
    /// Lines of root's `authorized_keys`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorized_keys: Option<Vec<String>>,
    /// How it goes from the RAM system into its image.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Whether its system gets the kept address written down, from the next deployment on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<bool>,
    /// Replaces all labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// How far a node is with what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigStatus {
    /// Which desired state, grows with every change.
    pub generation: u64,
    /// The last one that the node's agent has reached; 0 for none.
    pub applied: u64,
    /// `unset`, `unheard` (no agent has said a word), `pending` (its agent has an older one),
    /// `applying`, `waiting`, `retrying` (a step failed), `failed` (and nothing is tried again),
    /// `refused` or `applied`.
    pub state: String,
    /// In words: the step that is done, what is awaited, every reason.
    pub text: Option<String>,
    /// Whether the node must be booted again before it is as desired.
    pub reboot_needed: bool,
    /// Why.
    pub reboot: Vec<String>,
    /// When its agent spoke last.
    #[schema(value_type = Option<String>)]
    pub heard: Option<Timestamp>,
}

/// What a node should be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConfigView {
    /// Name of the node.
    pub node: String,
    /// Which one: the number that `ETag` has.
    pub generation: u64,
    /// When it was given.
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// By whom.
    pub by: String,
    /// `toml` or `json`.
    pub format: String,
    /// As it was given.
    pub text: String,
    /// What it says, with every default that has a value.
    #[schema(value_type = Object)]
    pub desired: Desired,
    /// How far the node is with it.
    pub status: ConfigStatus,
    /// The steps that are left, as its agent said last.
    pub left: Vec<String>,
    /// What is not as desired and cannot be made so by a step, as its agent said last.
    pub notes: Vec<String>,
    /// In the answer to a change: why it cannot be, by the facts that were reported last. It is
    /// kept, because facts change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What would be done to a node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// Name of the node.
    pub node: String,
    /// When the facts were reported that it is made from.
    #[schema(value_type = String)]
    pub facts: Timestamp,
    /// How old they are, in seconds.
    pub age: u64,
    /// The steps, in order.
    pub steps: Vec<String>,
    /// Why the node must be booted again after them; empty when it need not.
    pub reboot: Vec<String>,
    /// What no step can make as desired, with what would help.
    pub notes: Vec<String>,
}

/// The guests of a node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GuestsView {
    /// Name of the node.
    pub node: String,
    /// When its agent spoke last.
    #[schema(value_type = Option<String>)]
    pub heard: Option<Timestamp>,
    /// By name: those it reported, and those that it should have and has not reported.
    pub items: Vec<GuestView>,
}

/// A guest.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GuestView {
    /// Its name.
    pub name: String,
    /// Whether the node's desired state names it.
    pub desired: bool,
    /// `awaited` (not reported yet), `starting`, `running`, `paused`, `saved`, `stopping`,
    /// `stopped`, `died` or `failed`.
    pub state: String,
    /// Since when, by the node's clock.
    #[schema(value_type = Option<String>)]
    pub since: Option<Timestamp>,
    /// Why, where that needs a reason.
    pub reason: Option<String>,
    /// The last lines of its console, once it has died.
    pub last_lines: Vec<String>,
    /// Number of its domain while it has one.
    pub domain: Option<u32>,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// CPU time in milliseconds since it was started.
    pub cpu_ms: u64,
    /// Bytes that its NICs received since then.
    pub received: u64,
    /// Bytes that its NICs sent.
    pub sent: u64,
    /// Bytes read of its disks.
    pub read: u64,
    /// Bytes written to its disks.
    pub written: u64,
}

/// The slices of a node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SlicesView {
    /// Name of the node.
    pub node: String,
    /// When its agent said so.
    #[schema(value_type = Option<String>)]
    pub heard: Option<Timestamp>,
    /// Those that are desired, then those that are still to be given back.
    pub items: Vec<SliceView>,
}

/// A slice of a fabric.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SliceView {
    /// `web/0`, the first one of guest web, or `vm1`.
    pub slice: String,
    /// Its fabric; nothing when it is desired no longer.
    pub fabric: Option<String>,
    /// `announced` before it has a VF, `held` while that is made ready, `ready`, `given` to a
    /// domain, and `returning` when it is desired no longer.
    pub state: String,
    /// GUID of its port: what partition keys are given to.
    pub guid: Option<String>,
    /// GUID of its node.
    pub node_guid: Option<String>,
    /// Its hardware address, on Ethernet.
    pub mac: Option<String>,
    /// Its partitions.
    pub pkeys: Vec<String>,
    /// Its VF's physical function.
    pub pf: Option<String>,
    /// Number of its VF there.
    pub vf: Option<u32>,
    /// Where its VF sits.
    pub address: Option<String>,
}

/// A request to write an image to a node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// Name or digest (or the start of one that fits only one image).
    pub image: String,
    /// Instead of the node's own hints, for this time.
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskHints>,
    /// Instead of the node's own way, for this time.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Whether the last partition is grown to the disk's end; yes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grow: Option<bool>,
    /// Whether an image without a signature may be written; no when absent.
    #[serde(default)]
    pub unsigned: bool,
}

/// One run of writing an image to a node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeploymentView {
    /// Its identifier.
    pub id: String,
    /// Name of its node.
    pub node: String,
    /// Name of its image, as asked for.
    pub image: String,
    /// BLAKE3 of the image's manifest.
    pub manifest: String,
    /// `open`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// The step it is in, or ended in.
    #[schema(value_type = String)]
    pub step: Step,
    /// Every step it has entered, in order.
    pub steps: Vec<StepView>,
    /// What it waits for, when it does.
    pub wait: Option<WaitView>,
    /// How far the step is; live, not kept over a restart of the server.
    #[schema(value_type = Option<Object>)]
    pub progress: Option<Progress>,
    /// With `failed`: why.
    pub reason: Option<String>,
    /// What was done to the disk, once it was.
    #[schema(value_type = Option<Object>)]
    pub written: Option<Written>,
    /// When it was asked for.
    #[schema(value_type = String)]
    pub created: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>)]
    pub ended: Option<Timestamp>,
}

/// A step that a deployment has entered.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// Which.
    #[schema(value_type = String)]
    pub step: Step,
    /// When it began, the first time.
    #[schema(value_type = String)]
    pub begun: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>)]
    pub ended: Option<Timestamp>,
    /// Bytes done of it.
    pub done: u64,
    /// Bytes in all of it; 0 where it has none.
    pub total: u64,
}

/// An image that can be deployed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// Its name in the store.
    pub name: String,
    /// BLAKE3 of its manifest.
    pub manifest: String,
    /// Length of its disk in bytes.
    pub size: u64,
    /// Bytes that its chunks take in packs.
    pub packed: u64,
    /// When the name was given.
    pub created: String,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Grows with every event.
    pub id: i64,
    /// When.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Name of the node it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The deployment it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// What kind, as `noun.verb`: `node.discovered`, `deployment.step`, ...
    pub kind: String,
    /// In words.
    pub text: String,
}

/// A live progress message, on the event stream only.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProgressView {
    /// Name of the node.
    pub node: String,
    /// How far it is.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub progress: Progress,
}

/// RFC 9457 problem details.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`, or a name for this kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status, in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, and what would have been accepted.
    pub detail: String,
}
