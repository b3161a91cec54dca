//! Something that happened on a node, for the provisioner's log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that happened. It is sent until the provisioner says that it has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    /// Grows by one with every event of this node's agent, from 1, over its restarts too: what
    /// comes twice counts once.
    pub number: u64,
    /// When, by the node's clock.
    pub at: Timestamp,
    /// What kind.
    pub kind: HostEventKind,
    /// In words; names the guest or link, and the reason.
    pub text: String,
    /// The last lines of a guest's console, where they tell why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)+) => {
        /// What kind of event, `noun.verb` in messages and log.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum HostEventKind {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
            /// A kind that this program does not know: the other one is younger.
            #[serde(rename = "agent.said", other)]
            Other,
        }

        impl HostEventKind {
            /// Every kind that this program knows.
            pub const ALL: &[HostEventKind] = &[$(HostEventKind::$variant,)+];

            /// Its word.
            pub const fn word(self) -> &'static str {
                match self {
                    $(HostEventKind::$variant => $word,)+
                    HostEventKind::Other => "agent.said",
                }
            }
        }
    };
}

kinds! {
    /// The node has started, and this agent with it.
    NodeBooted = "node.booted",
    /// A guest was created and runs.
    GuestStarted = "guest.started",
    /// A guest could not be made as desired; what was begun is undone.
    GuestFailed = "guest.failed",
    /// A guest is off, as desired.
    GuestStopped = "guest.stopped",
    /// A guest did not shut down in its time and was destroyed.
    GuestDestroyed = "guest.destroyed",
    /// A guest ended by itself.
    GuestDied = "guest.died",
    /// A guest that ended was started again.
    GuestRestarted = "guest.restarted",
    /// A guest stands still, as desired.
    GuestPaused = "guest.paused",
    /// A guest goes on.
    GuestUnpaused = "guest.unpaused",
    /// A guest's memory is in a file.
    GuestSaved = "guest.saved",
    /// A guest goes on from that file.
    GuestRestored = "guest.restored",
    /// A guest that runs was changed.
    GuestChanged = "guest.changed",
    /// A slice has a VF with its identity, ready for its guest.
    SliceReady = "slice.ready",
    /// A slice's VF was reset and is nobody's.
    SliceReturned = "slice.returned",
    /// A VF could not be made ready or taken back.
    SliceFailed = "slice.failed",
    /// Links, addresses or routes were changed and stay: the provisioner was reached after it.
    NetworkChanged = "network.changed",
    /// Such a change cut the node off and was taken back.
    NetworkUndone = "network.undone",
    /// The lease of the node's address ended, or a DHCP server took it back.
    AddressLost = "address.lost",
    /// A step failed; what of it was done is undone.
    StepFailed = "step.failed",
    /// Something had changed by itself and was put right.
    StateRepaired = "state.repaired",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_travels_by_its_word() {
        for kind in HostEventKind::ALL.iter().copied().chain([HostEventKind::Other]) {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{}\"", kind.word()));
            assert_eq!(serde_json::from_str::<HostEventKind>(&json).unwrap(), kind);
        }
        let unknown: HostEventKind = serde_json::from_str("\"guest.levitated\"").unwrap();
        assert_eq!(unknown, HostEventKind::Other);
    }
}
