//! What lasts from one run of a figure to the next.

use std::{cell::RefCell, collections::BTreeSet, path::PathBuf};

/// A peer that took this many times as long as the best one is not the best one in another run either.
const HOPELESS: f64 = 3.0;

/// One sitting: all figures, perhaps several times over.
#[derive(Debug, Default)]
pub struct Sitting {
    /// Where configurations, logs and state of the runs are.
    pub folder: PathBuf,
    without: Vec<String>,
    hopeless: RefCell<BTreeSet<(&'static str, &'static str)>>,
}

impl Sitting {
    /// One whose scratch folder is this, and whose engine is measured `without` some peers, each named by the first
    /// word of its name.
    pub fn at(folder: PathBuf, without: &[String]) -> Self {
        Sitting { folder, without: without.to_vec(), hopeless: RefCell::default() }
    }

    /// Whether this peer is measured at all.
    pub fn asks(&self, peer: &'static str) -> bool {
        let name = peer.split(' ').next().unwrap_or(peer);
        !self.without.iter().any(|without| without == name)
    }

    /// Whether this peer of a figure may be the best one, for all that earlier runs told.
    pub fn has_hope(&self, figure: &'static str, peer: &'static str) -> bool {
        self.asks(peer) && !self.hopeless.borrow().contains(&(figure, peer))
    }

    /// What a run told of the peers, the less the better.
    pub fn told(&self, figure: &'static str, peers: &[(&'static str, f64)]) {
        let best = peers.iter().map(|(_, median)| *median).fold(f64::INFINITY, f64::min);
        let slow = peers.iter().filter(|(_, median)| *median > HOPELESS * best);
        self.hopeless.borrow_mut().extend(slow.map(|(peer, _)| (figure, *peer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_far_from_the_best_is_measured_once() {
        let sitting = Sitting::default();
        assert!(sitting.has_hope("engine-used", "casync"));
        sitting.told("engine-used", &[("dd", 4.0), ("rsync", 11.9), ("casync", 40.0)]);
        assert!(sitting.has_hope("engine-used", "rsync"));
        assert!(!sitting.has_hope("engine-used", "casync"));
        assert!(sitting.has_hope("engine-whole", "casync"));
    }

    #[test]
    fn a_peer_that_is_not_asked_is_not_measured() {
        let sitting = Sitting::at(PathBuf::new(), &["partclone".to_owned()]);
        assert!(!sitting.asks("partclone (root only)"));
        assert!(sitting.asks("casync") && sitting.has_hope("engine-whole", "casync"));
    }
}
