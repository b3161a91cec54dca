//! What the agent is in the middle of, on disk before it begins.
//!
//! Most steps may be done again, and the plan of fresh facts says whether they must be. Only a
//! guest that is half made, half restored or half saved needs more, and that is told here.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use xen_config::{
    Name, Step,
    guest_step::{Change, GuestStep},
};

use super::folder::Folder;

const FILE: &str = "journal";

/// The journal.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    folder: Folder,
    boot: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// The boot of the node that it happened in: a later one has no guests of this one.
    boot: String,
    step: Step,
}

/// A guest that an earlier agent left half done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Half {
    /// Half made; it has not run yet.
    Made(Name),
    /// Half saved: its file is whole if and only if its domain is gone.
    Saved(Name),
}

impl Journal {
    /// The journal in `folder`, for the boot `boot` of this node.
    pub(crate) fn at(folder: &Folder, boot: &str) -> Self {
        Journal { folder: folder.clone(), boot: boot.to_owned() }
    }

    /// Writes down that `step` begins.
    pub(crate) fn begin(&self, step: &Step) -> Result<()> {
        self.folder.write(FILE, &Entry { boot: self.boot.clone(), step: step.clone() })
    }

    /// Writes down that it ended.
    pub(crate) fn end(&self) -> Result<()> {
        self.folder.remove(FILE)
    }

    /// What an earlier agent was in the middle of. A node that was booted since lost its guests,
    /// but not what was being saved.
    pub(crate) fn half(&self) -> Result<Option<Half>> {
        let Some(entry) = self.folder.read::<Entry>(FILE)? else { return Ok(None) };
        let Step::Guest(GuestStep { guest, change }) = entry.step else { return Ok(None) };
        Ok(match change {
            Change::Create { .. } | Change::Restore { .. } if entry.boot == self.boot => {
                Some(Half::Made(guest))
            }
            // When the power failed nobody knows whether the file is whole.
            Change::Save if entry.boot == self.boot => Some(Half::Saved(guest)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_boot_counts() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::at(at.path()).unwrap();
        let journal = Journal::at(&folder, "one");
        assert_eq!(journal.half().unwrap(), None);
        let guest: Name = "web".parse().unwrap();
        let step = |change| Step::Guest(GuestStep { guest: guest.clone(), change });
        journal.begin(&step(Change::Create { config: String::new() })).unwrap();
        assert_eq!(journal.half().unwrap(), Some(Half::Made(guest.clone())));
        assert_eq!(Journal::at(&folder, "two").half().unwrap(), None);
        journal.begin(&step(Change::Save)).unwrap();
        assert_eq!(journal.half().unwrap(), Some(Half::Saved(guest.clone())));
        journal.begin(&step(Change::Pause)).unwrap();
        assert_eq!(journal.half().unwrap(), None);
        journal.end().unwrap();
        assert_eq!(folder.names(), [""; 0]);
    }
}
