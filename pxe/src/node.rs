//! A physical machine: who it is and what state it is in. Pure.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr};

use jiff::Timestamp;
use protocol::{DiskHints, Restart};
use serde::{Deserialize, Serialize};

use crate::{
    api::NodeChange,
    deployment::{Deployment, Ending},
    event::Note,
    mac::{Mac, NotAMac},
    refusal::Refusal,
};

/// The first MAC that was seen of a node, written without colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub Mac);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for NodeId {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        text.parse().map(NodeId)
    }
}

/// Where a node is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It was heard of, and nothing more.
    Discovered,
    /// An operator vouched for it.
    Enrolled,
    /// It may be used.
    Ready,
    /// An image is being written to it.
    Deploying,
    /// It runs an image.
    Deployed,
    /// What was on it is being removed.
    Cleaning,
    /// Its hardware is being tested.
    Qualifying,
    /// It runs the rescue system.
    Rescue,
    /// It is out of service.
    Retired,
    /// It did not get where it was heading.
    Failed {
        /// The state it was to reach.
        heading: String,
        /// Why it did not.
        reason: String,
    },
}

impl State {
    /// Its word in API, CLI and database.
    pub fn word(&self) -> &'static str {
        match self {
            State::Discovered => "discovered",
            State::Enrolled => "enrolled",
            State::Ready => "ready",
            State::Deploying => "deploying",
            State::Deployed => "deployed",
            State::Cleaning => "cleaning",
            State::Qualifying => "qualifying",
            State::Rescue => "rescue",
            State::Retired => "retired",
            State::Failed { .. } => "failed",
        }
    }

    /// The state of this word, with the heading and reason that only `failed` has.
    pub fn from_words(
        word: &str,
        heading: Option<String>,
        reason: Option<String>,
    ) -> Option<State> {
        Some(match word {
            "discovered" => State::Discovered,
            "enrolled" => State::Enrolled,
            "ready" => State::Ready,
            "deploying" => State::Deploying,
            "deployed" => State::Deployed,
            "cleaning" => State::Cleaning,
            "qualifying" => State::Qualifying,
            "rescue" => State::Rescue,
            "retired" => State::Retired,
            "failed" => State::Failed { heading: heading?, reason: reason? },
            _ => return None,
        })
    }
}

/// A node, as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Who.
    #[serde(skip, default = "nobody")]
    pub id: NodeId,
    /// What people call it.
    #[serde(skip)]
    pub name: String,
    /// Where it is in its life.
    #[serde(skip, default = "discovered")]
    pub state: State,
    /// The IPv4 address that is kept for it.
    #[serde(skip)]
    pub reserved: Option<Ipv4Addr>,
    /// Its SSH host key, private form.
    #[serde(skip)]
    pub host_key: String,
    /// How often its row was written.
    #[serde(skip)]
    pub version: i64,
    /// Hardware addresses it may boot from.
    pub macs: Vec<Mac>,
    /// SMBIOS UUID, once it was heard.
    pub uuid: Option<String>,
    /// The address its agent spoke from, last time.
    pub address: Option<Ipv4Addr>,
    /// Which disk may be written.
    pub disk: DiskHints,
    /// Lines of root's `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// How it goes from the RAM system into its image.
    pub restart: Restart,
    /// Whether its system has the address that is kept for it written down, instead of asking by DHCP.
    #[serde(default)]
    pub fixed: bool,
    /// Whatever its operators want to note.
    pub labels: BTreeMap<String, String>,
    /// When it was first heard of.
    pub created: Timestamp,
    /// When its state last changed.
    pub changed: Timestamp,
}

/// Stands in while a row is read.
pub fn nobody() -> NodeId {
    NodeId(Mac([0; 6]))
}

fn discovered() -> State {
    State::Discovered
}

impl Node {
    /// A machine that was just heard of.
    pub fn discovered(mac: Mac, host_key: String, now: Timestamp) -> Node {
        let id = NodeId(mac);
        Node {
            id,
            name: format!("n{id}"),
            state: State::Discovered,
            reserved: None,
            host_key,
            version: 0,
            macs: vec![mac],
            uuid: None,
            address: None,
            disk: DiskHints::default(),
            authorized_keys: Vec::new(),
            restart: Restart::default(),
            fixed: false,
            labels: BTreeMap::new(),
            created: now,
            changed: now,
        }
    }

    /// An operator vouches for it: it is enrolled and, as nothing else is asked of it, ready.
    pub fn enroll(&mut self, now: Timestamp) -> Result<Vec<Note>, Refusal> {
        if self.state != State::Discovered {
            let (name, state) = (&self.name, self.state.word());
            return Err(Refusal::Conflict(format!(
                "node {name} is {state} already; a discovered or unknown one can be enrolled"
            )));
        }
        self.go(State::Ready, now);
        let name = &self.name;
        Ok(vec![
            Note::new("node.enrolled", format!("{name} is enrolled")),
            Note::new("node.ready", format!("{name} is ready")),
        ])
    }

    /// Takes over what an operator says of it.
    pub fn change(&mut self, change: NodeChange) -> Result<(), Refusal> {
        if let Some(name) = change.name {
            check_name(&name)?;
            self.name = name;
        }
        if let Some(mut macs) = change.macs {
            macs.dedup();
            if macs.is_empty() {
                return Err(Refusal::Invalid("`macs` is empty; a node has at least one".into()));
            }
            self.macs = macs;
        }
        if let Some(keys) = change.authorized_keys {
            self.authorized_keys = check_keys(keys)?;
        }
        self.reserved = change.reserved.or(self.reserved);
        self.disk = change.disk.unwrap_or_else(|| std::mem::take(&mut self.disk));
        self.restart = change.restart.unwrap_or(self.restart);
        self.fixed = change.fixed.unwrap_or(self.fixed);
        self.labels = change.labels.unwrap_or_else(|| std::mem::take(&mut self.labels));
        Ok(())
    }

    /// Whether an image may be written to it now.
    pub fn may_deploy(&self) -> Result<(), Refusal> {
        let Node { name, state, .. } = self;
        match state {
            State::Enrolled | State::Ready | State::Deployed | State::Failed { .. } => Ok(()),
            State::Discovered => Err(Refusal::Conflict(format!(
                "node {name} is only discovered; enroll it first: billet node enroll {} NAME",
                self.id.0
            ))),
            State::Deploying => Err(Refusal::Conflict(format!(
                "node {name} has a deployment open; cancel it or wait for its end"
            ))),
            _ => Err(Refusal::Conflict(format!(
                "node {name} is {}; a ready, deployed or failed one can be deployed",
                state.word()
            ))),
        }
    }

    /// Takes the state that its deployment gives it.
    pub fn follow(&mut self, deployment: &Deployment, now: Timestamp) -> Option<Note> {
        let name = self.name.clone();
        let (state, note) = match deployment.ended.as_ref().map(|ended| &ended.ending) {
            None => (State::Deploying, None),
            Some(Ending::Done) => {
                let text = format!("{name} runs {}", deployment.image);
                (State::Deployed, Some(Note::new("node.deployed", text)))
            }
            Some(Ending::Cancelled) if !deployment.touched() => (deployment.before.clone(), None),
            Some(Ending::Cancelled) => {
                let step = deployment.step;
                (failed(format!("cancelled in step {step}: the disk holds no whole image")), None)
            }
            Some(Ending::Failed(reason)) => {
                let note = Note::new("node.failed", format!("{name} failed: {reason}"));
                (failed(reason.clone()), Some(note))
            }
        };
        self.go(state, now);
        note
    }

    fn go(&mut self, state: State, now: Timestamp) {
        if self.state != state {
            self.state = state;
            self.changed = now;
        }
    }
}

fn failed(reason: String) -> State {
    State::Failed { heading: State::Deployed.word().to_owned(), reason }
}

/// Refuses what cannot be a host name. Twelve hex digits are left to identifiers.
fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let dashed = name.starts_with('-') || name.ends_with('-');
    let sized = (1..=63).contains(&name.len());
    if sized && !dashed && name.bytes().all(fits) && name.parse::<Mac>().is_err() {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "`{}` cannot name a node: 1 to 63 of a-z, 0-9 and `-` can, without `-` at either end, \
         and twelve hex digits cannot",
        name.escape_debug().take(80).collect::<String>()
    )))
}

/// Refuses lines that no `authorized_keys` file may have.
fn check_keys(keys: Vec<String>) -> Result<Vec<String>, Refusal> {
    let trimmed: Vec<String> = keys.iter().map(|key| key.trim().to_owned()).collect();
    for key in &trimmed {
        if key.contains(['\n', '\r', '\0']) || ssh_key::PublicKey::from_openssh(key).is_err() {
            let start: String = key.escape_debug().take(40).collect();
            return Err(Refusal::Invalid(format!(
                "`{start}` is no SSH public key; a line like `ssh-ed25519 AAAA... name` is"
            )));
        }
    }
    Ok(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node::discovered(Mac([2, 0, 0, 0, 0, 1]), String::new(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_discovered_node_must_be_enrolled_before_it_is_deployed() {
        let mut node = node();
        assert!(matches!(node.may_deploy(), Err(Refusal::Conflict(_))));
        node.enroll(Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(node.state, State::Ready);
        assert_eq!(node.may_deploy(), Ok(()));
        assert!(node.enroll(Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn names_are_host_names() {
        for name in ["a", "node-1", "n525400770001", &"x".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "a b", "525400770001", &"x".repeat(64), "ä"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn keys_are_public_keys() {
        let line = crate::identity::public_line(&crate::identity::new_host_key().unwrap()).unwrap();
        assert!(check_keys(vec![format!("{line} me@here\n")]).is_ok());
        assert!(check_keys(vec!["ssh-ed25519 nonsense".into()]).is_err());
        assert!(check_keys(vec![format!("{line}\nfoo")]).is_err());
    }

    #[test]
    fn absent_fields_stay() {
        let mut node = node();
        let address = Some(Ipv4Addr::new(10, 0, 0, 9));
        node.change(NodeChange { reserved: address, ..NodeChange::default() }).unwrap();
        let name = Some("one".to_owned());
        node.change(NodeChange { name, ..NodeChange::default() }).unwrap();
        assert_eq!((node.name.as_str(), node.reserved), ("one", address));
    }
}
