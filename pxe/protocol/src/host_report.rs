//! What the agent of a deployed system says of its node: facts, guests, and how far it is with
//! what the node should be.

use serde::{Deserialize, Serialize};
use xen_config::{Host, Refusals};

use crate::{GuestReport, HostEvent};

/// Bytes that the JSON of a report may have.
pub const LONGEST: usize = 8 << 20;
/// Guests that a report may have.
pub const GUESTS: usize = 1024;
/// Events that a report may have; more go into the next one, oldest first.
pub const EVENTS: usize = 256;
/// Lines that each list of a report may have (`reboot`, `left`, `notes`, refusals).
pub const LINES: usize = 1024;
/// Last lines of a console that a guest or an event may have.
pub const LAST_LINES: usize = 50;
/// Bytes that any of those lines, names and texts may have.
pub const LINE: usize = 2048;

/// Sent when something changed, and about every half minute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// Version of the agent.
    pub agent: String,
    /// Another text after every boot of the node (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// Generation of the desired state that the agent works on; 0 for none.
    pub generation: u64,
    /// The last generation of which fresh facts left no step to do; 0 for none.
    pub applied: u64,
    /// How far it is with `generation`.
    pub state: HostState,
    /// Why the node must be booted again before it is as desired; empty when it need not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reboot: Vec<String>,
    /// The steps that are left, as sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// What is not as desired and cannot be made so by a step, with what would help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the node is.
    pub host: Host,
    /// Its guests, by name.
    pub guests: Vec<GuestReport>,
    /// What happened and the provisioner may not have yet, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<HostEvent>,
}

/// How far an agent is with the desired state that it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum HostState {
    /// No step is left, or nothing is desired.
    #[default]
    Settled,
    /// It does a step.
    Applying {
        /// Which, as a sentence.
        step: String,
        /// Steps that are done.
        done: u32,
        /// Steps in all.
        of: u32,
    },
    /// It waits for something: a guest to shut down, the provisioner to be reached again.
    Waiting {
        /// The event awaited.
        what: String,
        /// So many seconds more at most.
        seconds: u32,
        /// What happens then.
        then: String,
    },
    /// The desired state cannot be on this node, and nothing of it was done.
    Refused {
        /// Every reason, with what would fit.
        reasons: Refusals,
    },
    /// A step failed.
    Failed {
        /// Which, and why.
        reason: String,
        /// It is tried again after so many seconds; not before something changes when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        again: Option<u32>,
    },
}

/// The answer to a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The provisioner has the events up to this number; they need not be sent again.
    pub events: u64,
    /// Generation of the desired state that it has for this node; 0 for none.
    pub generation: u64,
}

/// A report that is larger than one may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the report has {many} {what}, {most} is the most")]
pub struct TooMuch {
    /// Of what.
    pub what: &'static str,
    /// How many there are.
    pub many: usize,
    /// How many there may be.
    pub most: usize,
}

impl HostReport {
    /// Whether it keeps to the limits above.
    ///
    /// # Errors
    /// When it does not: the first limit that it is beyond.
    pub fn check(&self) -> Result<(), TooMuch> {
        within("guests", self.guests.len(), GUESTS)?;
        within("events", self.events.len(), EVENTS)?;
        for (what, lines) in [
            ("reasons for a reboot", &self.reboot),
            ("steps left", &self.left),
            ("notes", &self.notes),
        ] {
            within(what, lines.len(), LINES)?;
        }
        if let HostState::Refused { reasons } = &self.state {
            within("refusals", reasons.0.len(), LINES)?;
        }
        for lines in self.consoles() {
            within("last lines of a console", lines.len(), LAST_LINES)?;
        }
        let longest = self.texts().into_iter().map(str::len).max().unwrap_or_default();
        within("bytes in one line", longest, LINE)
    }

    fn consoles(&self) -> impl Iterator<Item = &Vec<String>> {
        let guests = self.guests.iter().map(|guest| &guest.last_lines);
        guests.chain(self.events.iter().map(|event| &event.last_lines))
    }

    fn texts(&self) -> Vec<&str> {
        let mut texts = match &self.state {
            HostState::Settled | HostState::Refused { .. } => Vec::new(),
            HostState::Applying { step, .. } => vec![step.as_str()],
            HostState::Waiting { what, then, .. } => vec![what.as_str(), then],
            HostState::Failed { reason, .. } => vec![reason.as_str()],
        };
        texts.extend([self.agent.as_str(), &self.boot]);
        for lines in [&self.reboot, &self.left, &self.notes].into_iter().chain(self.consoles()) {
            texts.extend(lines.iter().map(String::as_str));
        }
        for guest in &self.guests {
            texts.push(&guest.name);
            texts.extend(guest.reason.as_deref());
        }
        texts.extend(self.events.iter().map(|event| event.text.as_str()));
        texts
    }
}

fn within(what: &'static str, many: usize, most: usize) -> Result<(), TooMuch> {
    if many > most { Err(TooMuch { what, many, most }) } else { Ok(()) }
}

/// As much of `line` as a report may have of it.
pub fn shorten(line: &str) -> &str {
    let mut end = line.len().min(LINE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::{collection::vec, option, prelude::*};
    use xen_config::{Refusal, Size};

    use super::*;
    use crate::{GuestState, HostEventKind, guest::GuestUsage};

    fn state() -> impl Strategy<Value = HostState> {
        prop_oneof![
            Just(HostState::Settled),
            (".{0,40}", any::<u32>(), any::<u32>())
                .prop_map(|(step, done, of)| HostState::Applying { step, done, of }),
            (".{0,40}", any::<u32>(), ".{0,40}")
                .prop_map(|(what, seconds, then)| HostState::Waiting { what, seconds, then }),
            vec(".{0,40}", 0..3).prop_map(|reasons| {
                let reasons = reasons.into_iter().map(Refusal::Other).collect();
                HostState::Refused { reasons: Refusals(reasons) }
            }),
            (".{0,40}", option::of(any::<u32>()))
                .prop_map(|(reason, again)| HostState::Failed { reason, again }),
        ]
    }

    fn guest() -> impl Strategy<Value = GuestReport> {
        let moment = (0..4_102_444_800_000_i64)
            .prop_map(|milliseconds| Timestamp::from_millisecond(milliseconds).unwrap());
        let plain = (".{1,40}", any::<bool>(), option::of(moment), option::of(".{0,80}"));
        let sizes = (vec(".{0,80}", 0..3), option::of(any::<u32>()), 0..512_u32, any::<[u64; 5]>());
        (plain, sizes).prop_map(
            |((name, ours, since, reason), (last_lines, domain, vcpus, used))| {
                let [cpu_ms, received, sent, read, written] = used;
                GuestReport {
                    name,
                    ours,
                    state: GuestState::Died,
                    since,
                    reason,
                    last_lines,
                    domain,
                    vcpus,
                    memory: "512MiB".parse::<Size>().unwrap(),
                    usage: GuestUsage { cpu_ms, received, sent, read, written },
                }
            },
        )
    }

    fn event(number: u64) -> HostEvent {
        HostEvent {
            number,
            at: Timestamp::UNIX_EPOCH,
            kind: HostEventKind::GuestDied,
            text: "web crashed".to_owned(),
            last_lines: vec!["Kernel panic".to_owned()],
        }
    }

    proptest! {
        #[test]
        fn json_and_back(
            state in state(),
            guests in vec(guest(), 0..4),
            numbers in vec(any::<u64>(), 0..3),
            lines in vec(".{0,80}", 0..3),
            (generation, applied) in any::<(u64, u64)>(),
        ) {
            let report = HostReport {
                agent: "0.1.0".to_owned(),
                boot: "b".to_owned(),
                generation,
                applied,
                state,
                reboot: lines.clone(),
                left: lines.clone(),
                notes: lines,
                host: Host { node: "525400770001".to_owned(), ..Host::default() },
                guests,
                events: numbers.into_iter().map(event).collect(),
            };
            prop_assert_eq!(report.check(), Ok(()));
            let json = serde_json::to_string(&report).unwrap();
            prop_assert_eq!(serde_json::from_str::<HostReport>(&json).unwrap(), report);
        }

        #[test]
        fn a_shortened_line_fits(line in "\\PC{0,3000}") {
            let short = shorten(&line);
            prop_assert!(short.len() <= LINE && line.starts_with(short));
            prop_assert!(line.len() <= LINE || short.len() > LINE - 4);
        }
    }

    #[test]
    fn what_is_too_much_is_named() {
        let mut report = HostReport { events: vec![event(1); EVENTS + 1], ..HostReport::default() };
        assert_eq!(
            report.check().unwrap_err().to_string(),
            "the report has 257 events, 256 is the most"
        );
        report.events.truncate(1);
        assert_eq!(report.check(), Ok(()));
        report.events[0].text = "x".repeat(LINE + 1);
        assert_eq!(report.check().unwrap_err().what, "bytes in one line");
        report.events[0].text.clear();
        report.events[0].last_lines = vec![String::new(); LAST_LINES + 1];
        assert_eq!(report.check().unwrap_err().what, "last lines of a console");
    }
}
