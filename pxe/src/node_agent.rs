//! The agent of a deployed system: what it said last, and what of that is news. Pure.

use images::Digest;
use jiff::{SignedDuration, Timestamp};
use protocol::{GuestReport, HostEvent, HostReport, HostState};
use serde::{Deserialize, Serialize};
use xen_config::Host;

use crate::{event::Note, node::NodeId, shape::Shape};

/// An event that is told so much later than it happened has its own moment in its text.
const LATE: SignedDuration = SignedDuration::from_secs(60);

/// The agent of a node, as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAgent {
    /// Whose.
    pub node: NodeId,
    /// Hash of the token of a system that is being deployed.
    pub next: Option<Digest>,
    /// The number of its last event that is in the log.
    pub events: u64,
    /// What it said last, and when.
    pub heard: Option<Heard>,
}

/// What an agent said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When.
    #[serde(skip)]
    pub at: Timestamp,
    /// Its report; facts, guests and events are kept beside it and empty here.
    pub said: HostReport,
    /// Why its generation is not reached, as the log has it: an agent that tries a step again and
    /// again fails with the same words.
    pub told: Option<String>,
}

impl NodeAgent {
    /// The last generation that it said it has reached.
    pub fn applied(&self) -> u64 {
        self.heard.as_ref().map_or(0, |heard| heard.said.applied)
    }

    /// Takes in a report of `name`'s agent: the agent as it is then, what is news, and the
    /// report's facts and guests.
    pub fn hear(
        &self,
        name: &str,
        report: HostReport,
        shape: Option<&Shape>,
        now: Timestamp,
    ) -> (NodeAgent, Vec<Note>, Facts) {
        let mut said = printable_report(report);
        let host = std::mem::take(&mut said.host);
        let guests = std::mem::take(&mut said.guests);
        let mut events = std::mem::take(&mut said.events);
        events.retain(|event| event.number > self.events);
        events.sort_by_key(|event| event.number);
        events.dedup_by_key(|event| event.number);
        let last = events.last().map_or(self.events, |event| event.number);
        let mut notes: Vec<Note> =
            events.iter().map(|event| Note::new(event.kind.word(), told(event, now))).collect();
        notes.extend(self.news(name, &said, shape));
        let told = self.trouble(&said, &mut notes, name);
        let heard = Some(Heard { at: now, said, told });
        (NodeAgent { events: last, heard, ..self.clone() }, notes, Facts { host, guests })
    }

    /// What `said` says that was not so before.
    fn news(&self, name: &str, said: &HostReport, shape: Option<&Shape>) -> Vec<Note> {
        let before = self.heard.as_ref().map(|heard| &heard.said);
        let mut notes = Vec::new();
        let mut note = |kind, text: String| notes.push(Note::new(kind, format!("{name} {text}")));
        if before.is_none() {
            note("agent.heard", format!("has an agent that answers, version {}", said.agent));
        }
        let wanted = shape.is_some_and(|shape| shape.generation == said.applied);
        if wanted && before.is_none_or(|before| before.applied != said.applied) {
            note("config.applied", format!("is as desired by generation {}", said.applied));
        }
        let same = before.is_some_and(|before| before.reboot == said.reboot);
        if !said.reboot.is_empty() && !same {
            note("node.reboot_needed", format!("must be booted again: {}", said.reboot.join("; ")));
        }
        notes
    }

    /// Why the generation of `said` is not reached, noted when that was not told yet.
    fn trouble(&self, said: &HostReport, notes: &mut Vec<Note>, name: &str) -> Option<String> {
        let generation = said.generation;
        let before = self.heard.as_ref().filter(|before| before.said.generation == generation);
        let told = before.and_then(|before| before.told.clone());
        let (kind, text) = match &said.state {
            HostState::Settled => return None,
            HostState::Applying { .. } | HostState::Waiting { .. } => return told,
            HostState::Refused { reasons } => {
                let reasons = printable(&reasons.to_string());
                (
                    "config.refused",
                    format!("{name} cannot be as generation {generation}: {reasons}"),
                )
            }
            HostState::Failed { reason, .. } => {
                ("config.failed", format!("{name} is not as generation {generation} yet: {reason}"))
            }
        };
        if told.as_ref() != Some(&text) {
            notes.push(Note::new(kind, &text));
        }
        Some(text)
    }
}

/// What a report says of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The machine.
    pub host: Host,
    /// Its guests.
    pub guests: Vec<GuestReport>,
}

/// An event as a line of the log.
fn told(event: &HostEvent, now: Timestamp) -> String {
    let mut text = event.text.clone();
    if now.duration_since(event.at).abs() > LATE {
        text.push_str(&format!(" (at {:.0} by the node's clock)", event.at));
    }
    if !event.last_lines.is_empty() {
        text.push_str(&format!("; its last lines: {}", event.last_lines.join(" | ")));
    }
    text
}

/// A report whose texts can be shown on a terminal: a guest's console says whatever its owner
/// wants, escape sequences too.
fn printable_report(mut report: HostReport) -> HostReport {
    let lists = [&mut report.reboot, &mut report.left, &mut report.notes];
    let of_guests = report.guests.iter_mut().map(|guest| &mut guest.last_lines);
    let of_events = report.events.iter_mut().map(|event| &mut event.last_lines);
    for line in lists.into_iter().chain(of_guests).chain(of_events).flatten() {
        *line = printable(line);
    }
    report.agent = printable(&report.agent);
    report.boot = printable(&report.boot);
    for guest in &mut report.guests {
        guest.name = printable(&guest.name);
        guest.reason = guest.reason.as_deref().map(printable);
    }
    for event in &mut report.events {
        event.text = printable(&event.text);
    }
    match &mut report.state {
        HostState::Settled | HostState::Refused { .. } => {}
        HostState::Applying { step, .. } => *step = printable(step),
        HostState::Waiting { what, then, .. } => {
            *what = printable(what);
            *then = printable(then);
        }
        HostState::Failed { reason, .. } => *reason = printable(reason),
    }
    report
}

/// `text` with its control characters spelt out.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use protocol::HostEventKind;
    use xen_config::{Refusal, Refusals};

    use super::*;
    use crate::{
        mac::Mac,
        shape::{Format, Given},
    };

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn agent() -> NodeAgent {
        let node = NodeId(Mac([2, 0, 0, 0, 0, 1]));
        NodeAgent { node, next: None, events: 0, heard: None }
    }

    fn shape(generation: u64) -> Shape {
        let given = Some(Given { format: Format::Toml, text: String::new() });
        Shape { generation, given, since: NOW, by: "me".into(), until: None }
    }

    fn event(number: u64, text: &str) -> HostEvent {
        let (kind, text) = (HostEventKind::GuestDied, text.to_owned());
        HostEvent { number, at: NOW, kind, text, last_lines: Vec::new() }
    }

    fn kinds(notes: &[Note]) -> Vec<&'static str> {
        notes.iter().map(|note| note.kind).collect()
    }

    #[test]
    fn what_is_told_twice_is_news_once() {
        let report = HostReport {
            generation: 2,
            applied: 2,
            reboot: vec!["dom0_mem".to_owned()],
            events: vec![event(2, "b"), event(1, "a"), event(2, "b")],
            ..HostReport::default()
        };
        let (after, notes, _) = agent().hear("one", report.clone(), Some(&shape(2)), NOW);
        assert_eq!(
            kinds(&notes),
            ["guest.died", "guest.died", "agent.heard", "config.applied", "node.reboot_needed"]
        );
        assert_eq!((notes[0].text.as_str(), notes[1].text.as_str()), ("a", "b"));
        assert_eq!((after.events, after.applied()), (2, 2));
        let (again, notes, _) = after.hear("one", report, Some(&shape(2)), NOW);
        assert_eq!((notes, &again), (Vec::new(), &after));
    }

    #[test]
    fn a_refusal_is_news_for_every_generation() {
        let refused = |generation| HostReport {
            generation,
            state: HostState::Refused { reasons: Refusals(vec![Refusal::NoXen]) },
            ..HostReport::default()
        };
        let (after, notes, _) = agent().hear("one", refused(1), Some(&shape(1)), NOW);
        assert_eq!(kinds(&notes), ["agent.heard", "config.refused"]);
        let (after, notes, _) = after.hear("one", refused(1), Some(&shape(1)), NOW);
        assert_eq!(kinds(&notes), [""; 0]);
        let (_, notes, _) = after.hear("one", refused(2), Some(&shape(2)), NOW);
        assert_eq!(kinds(&notes), ["config.refused"]);
    }

    #[test]
    fn a_step_that_fails_again_is_told_once() {
        let says = |state| HostReport { generation: 1, state, ..HostReport::default() };
        let failed = |again| {
            says(HostState::Failed { reason: "no such disk".to_owned(), again: Some(again) })
        };
        let applying = says(HostState::Applying { step: "start web".into(), done: 0, of: 1 });
        let settled = says(HostState::Settled);
        let mut agent = agent();
        let mut failures = Vec::new();
        let reports = [failed(30), applying, failed(60), settled, failed(30)];
        for report in reports {
            let (after, notes, _) = agent.hear("one", report, None, NOW);
            failures.push(count(&notes, "config.failed"));
            agent = after;
        }
        assert_eq!(failures, [1, 0, 0, 0, 1]);
    }

    fn count(notes: &[Note], kind: &str) -> usize {
        notes.iter().filter(|note| note.kind == kind).count()
    }

    #[test]
    fn nothing_that_a_guest_says_moves_a_cursor() {
        let mut died = event(1, "web\u{1b}[2J died");
        died.last_lines = vec!["\u{9b}31m panic\r".to_owned()];
        let report = HostReport { events: vec![died], ..HostReport::default() };
        let (_, notes, _) = agent().hear("one", report, None, NOW);
        assert_eq!(notes[0].text, "web\\u{1b}[2J died; its last lines: \\u{9b}31m panic\\r");
    }
}
