//! Patience: how long something is waited for, said aloud, and how often it is tried again.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    thread,
    time::{Duration, Instant},
};

use crate::console;

/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(15);

/// One wait: for what, until when, and how often it was tried.
#[derive(Debug)]
pub(crate) struct Patience {
    what: String,
    began: Instant,
    limit: Duration,
    tries: u32,
}

impl Patience {
    /// Waits for `what` (a noun: "an answer of the server"), at most `limit`.
    pub(crate) fn new(what: impl Into<String>, limit: Duration) -> Self {
        Patience { what: what.into(), began: Instant::now(), limit, tries: 0 }
    }

    /// What is left of the time.
    pub(crate) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.began.elapsed())
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Says what is waited for, why it is not there yet, and until when.
    pub(crate) fn say(&self, why: &str) {
        let left = self.left().as_secs();
        console::say(format_args!("waiting for {} ({why}), {left} s more at most", self.what));
    }

    /// Sleeps before the next try: twice as long each time up to 15 s, a random half of it so
    /// that a rack that lost its switch does not come back in step. False when time is up.
    pub(crate) fn pause(&mut self, why: &str) -> bool {
        if self.is_over() {
            return false;
        }
        self.say(why);
        let pause = pause_after(self.tries).min(self.left());
        self.tries += 1;
        thread::sleep(pause);
        true
    }

    /// Starts anew: there was a success.
    pub(crate) fn renew(&mut self) {
        self.began = Instant::now();
        self.tries = 0;
    }
}

fn pause_after(tries: u32) -> Duration {
    let full = Duration::from_millis(500).saturating_mul(1 << tries.min(10)).min(LONGEST);
    // The keys of a `RandomState` are the cheapest randomness the standard library has.
    let dice = RandomState::new().build_hasher().finish() % 1000;
    full / 2 + (full / 2).mul_f64(dice as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        for tries in 0..40 {
            let pause = pause_after(tries);
            assert!(pause >= Duration::from_millis(250) && pause <= LONGEST, "{tries}: {pause:?}");
        }
        assert!(pause_after(8) > pause_after(0));
    }

    #[test]
    fn gives_up_at_the_deadline() {
        let mut patience = Patience::new("nothing", Duration::from_millis(20));
        assert!(patience.pause("a test"));
        assert!(!patience.pause("a test"));
    }
}
