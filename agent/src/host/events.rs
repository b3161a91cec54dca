//! What happened on the node, kept until the provisioner has it.

use anyhow::Result;
use jiff::Timestamp;
use protocol::{
    HostEvent, HostEventKind,
    host_report::{EVENTS, LAST_LINES, shorten},
};
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::console;

const FILE: &str = "events.json";
/// So many are kept while the provisioner is away; then the oldest go.
const MOST: usize = 2000;

/// Events in the order of their numbers.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    folder: Folder,
    kept: Kept,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    /// Number of the last one.
    last: u64,
    events: Vec<HostEvent>,
}

impl Events {
    /// Those in `folder`.
    pub(crate) fn at(folder: &Folder) -> Result<Self> {
        Ok(Events { folder: folder.clone(), kept: folder.read(FILE)?.unwrap_or_default() })
    }

    /// Notes one, and says it.
    pub(crate) fn note(
        &mut self,
        kind: HostEventKind,
        text: &str,
        last_lines: Vec<String>,
    ) -> Result<()> {
        console::say(text);
        let text = shorten(text).to_owned();
        let skipped = last_lines.len().saturating_sub(LAST_LINES);
        let lines = last_lines.iter().skip(skipped).map(|line| shorten(line).to_owned()).collect();
        self.kept.last += 1;
        let (number, at) = (self.kept.last, Timestamp::now());
        self.kept.events.push(HostEvent { number, at, kind, text, last_lines: lines });
        let spare = self.kept.events.len().saturating_sub(MOST);
        self.kept.events.drain(..spare);
        self.folder.write(FILE, &self.kept)
    }

    /// The oldest that fit into one report.
    pub(crate) fn pending(&self) -> Vec<HostEvent> {
        self.kept.events.iter().take(EVENTS).cloned().collect()
    }

    /// The provisioner has those up to `number`.
    pub(crate) fn heard(&mut self, number: u64) -> Result<()> {
        let had = self.kept.events.len();
        self.kept.events.retain(|event| event.number > number);
        // A provisioner that knows more than we do has seen an earlier disk of this node.
        let behind = number > self.kept.last;
        self.kept.last = self.kept.last.max(number);
        let same = had == self.kept.events.len() && !behind;
        if same { Ok(()) } else { self.folder.write(FILE, &self.kept) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_after_a_restart() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::at(at.path()).unwrap();
        let mut events = Events::at(&folder).unwrap();
        for text in ["one", "two"] {
            events.note(HostEventKind::GuestStarted, text, vec!["x".into(); 60]).unwrap();
        }
        events.heard(1).unwrap();
        let mut events = Events::at(&folder).unwrap();
        events.note(HostEventKind::GuestDied, "three", Vec::new()).unwrap();
        let numbers: Vec<u64> = events.pending().iter().map(|event| event.number).collect();
        assert_eq!(numbers, [2, 3]);
        assert_eq!(events.pending()[0].last_lines.len(), LAST_LINES);
        events.heard(9).unwrap();
        assert_eq!(events.pending(), []);
    }
}
