//! What is going on now and is kept nowhere: who listens to events, how far each deployment
//! is, which address each machine has.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
};

use protocol::Progress;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::{event::Event, mac::Mac, node::NodeId};

/// How many messages a slow listener may be behind before it reads the log again.
const BEHIND: usize = 1024;

/// Something for who listens.
#[derive(Debug, Clone)]
pub enum Message {
    /// A line of the log.
    Event(Event),
    /// How far a node is.
    Progress(NodeId, Progress),
    /// The server ends: whoever waits for something may go.
    Ending,
}

/// What a machine was seen with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The address it was given last.
    pub address: Option<Ipv4Addr>,
    /// Its SMBIOS UUID.
    pub uuid: Option<String>,
}

/// The present.
#[derive(Debug)]
pub struct Live {
    messages: broadcast::Sender<Message>,
    progress: Mutex<HashMap<Uuid, Progress>>,
    sightings: Mutex<HashMap<Mac, Sighting>>,
    questions: Mutex<HashMap<NodeId, u64>>,
}

impl Live {
    /// A present without a past.
    pub fn new() -> Live {
        Live {
            messages: broadcast::Sender::new(BEHIND),
            progress: Mutex::default(),
            sightings: Mutex::default(),
            questions: Mutex::default(),
        }
    }

    /// Tells everyone who listens.
    pub fn tell(&self, message: Message) {
        // An error says that nobody listens.
        let _ = self.messages.send(message);
    }

    /// Everything that is told from now on.
    pub fn listen(&self) -> broadcast::Receiver<Message> {
        self.messages.subscribe()
    }

    /// How far a deployment is, as its agent said last.
    pub fn progress(&self, deployment: Uuid) -> Option<Progress> {
        let all = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&deployment).cloned()
    }

    /// Keeps what an agent said; `None` when its deployment has ended.
    pub fn set_progress(&self, deployment: Uuid, progress: Option<Progress>) {
        let mut all = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Some(progress) => all.insert(deployment, progress),
            None => all.remove(&deployment),
        };
    }

    /// What the machine of `mac` was seen with.
    pub fn sighting(&self, mac: Mac) -> Sighting {
        let all = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&mac).cloned().unwrap_or_default()
    }

    /// The machine that has this address.
    pub fn machine_at(&self, address: Ipv4Addr) -> Option<Mac> {
        let all = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(_, seen)| seen.address == Some(address)).map(|(mac, _)| *mac)
    }

    /// Keeps what a machine was seen with; it must be one of a known node, or memory has no bound.
    pub fn saw(&self, mac: Mac, sighting: Sighting) {
        let mut all = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(mac, sighting);
    }

    /// Numbers a question of a node's agent that may be held: the one before is not waited for
    /// any more, because an agent asks one at a time and its connection may be gone.
    pub fn ask(&self, node: NodeId) -> u64 {
        let mut all = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all.entry(node).or_default();
        *last += 1;
        *last
    }

    /// Whether that question is the last one.
    pub fn is_last(&self, node: NodeId, question: u64) -> bool {
        let all = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&node) == Some(&question)
    }

    /// Forgets a machine.
    pub fn forget(&self, mac: Mac) {
        let mut all = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&mac);
    }
}
