//! Packs that were replaced by others and stay for a while.
//!
//! Who fetched a location index before it was rewritten still asks for the packs that it names.
//! So such a pack stays in its place, and a mark beside it says since when and which holds there
//! were; it goes when the grace is over and all of these have been released. A mark is written
//! before the first index changes: a crash leaves a mark too many, never a pack too few.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Digest, Store};

const FOLDER: &str = "retired";

fn file(pack: &Digest) -> String {
    format!("{FOLDER}/{pack}")
}

/// Why a pack that no index names is still there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retired {
    /// When the last index that names it was rewritten, seconds since 1970.
    pub(crate) since: u64,
    /// Who held an image then.
    pub(crate) holders: BTreeSet<String>,
}

impl Retired {
    /// Retired at the moment `now`, while `holders` hold something.
    pub(crate) fn new(now: u64, holders: impl IntoIterator<Item = String>) -> Self {
        Retired { since: now, holders: holders.into_iter().collect() }
    }

    /// Whether nobody may ask for the pack any more.
    pub(crate) fn is_over(&self, now: u64, grace: Duration, holders: &BTreeSet<String>) -> bool {
        let old = now.saturating_sub(self.since) >= grace.as_secs();
        old && self.holders.is_disjoint(holders)
    }
}

impl Store {
    /// Marks a pack, in place of the mark that it may have.
    pub(crate) fn retire(&self, pack: &Digest, mark: &Retired) -> anyhow::Result<()> {
        self.shelf().put(&file(pack), &serde_json::to_vec(mark)?)
    }

    /// The mark of a pack; one that cannot be read counts as made at this moment.
    pub(crate) fn retired(&self, pack: &Digest, now: u64) -> anyhow::Result<Option<Retired>> {
        let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
        let mark = self.find(&file(pack))?.map(read);
        Ok(mark.map(|mark| mark.unwrap_or_else(|_| Retired::new(now, []))))
    }

    /// Removes the marks of packs for which `keep` is false.
    pub(crate) fn forget_retired(&self, keep: impl Fn(&Digest) -> bool) -> anyhow::Result<()> {
        let marks = self.list(FOLDER)?.into_iter().filter_map(|(name, _)| name.parse().ok());
        for pack in marks.filter(|pack| !keep(pack)) {
            self.take_away(&file(&pack))?;
        }
        self.shelf().settle(FOLDER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retired_pack_waits_for_its_grace_and_for_the_holders_of_then() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mark = Retired::new(1000, ["a".to_owned(), "b".to_owned()]);
        let hour = Duration::from_secs(3600);
        assert!(!mark.is_over(4599, hour, &names(&[])));
        assert!(mark.is_over(4600, hour, &names(&[])));
        assert!(mark.is_over(4600, hour, &names(&["c"])));
        assert!(!mark.is_over(9999, hour, &names(&["b", "c"])));
        // A clock that went back frees nothing early.
        assert!(!mark.is_over(10, hour, &names(&[])));
        assert!(mark.is_over(10, Duration::ZERO, &names(&[])));
    }

    #[test]
    fn an_unreadable_mark_is_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path()).unwrap();
        let pack = Digest::of(b"pack");
        assert_eq!(store.retired(&pack, 7).unwrap(), None);
        let mark = Retired::new(5, ["x".to_owned()]);
        store.retire(&pack, &mark).unwrap();
        assert_eq!(store.retired(&pack, 7).unwrap(), Some(mark));
        store.shelf().put(&file(&pack), b"{").unwrap();
        assert_eq!(store.retired(&pack, 7).unwrap(), Some(Retired::new(7, [])));
        store.forget_retired(|_| true).unwrap();
        assert!(store.retired(&pack, 7).unwrap().is_some());
        store.forget_retired(|_| false).unwrap();
        assert!(store.retired(&pack, 7).unwrap().is_none());
    }
}
