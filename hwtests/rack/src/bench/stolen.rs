//! What a hypervisor gave to others while something was measured: a run of which much was stolen says how
//! busy the neighbours are.
//!
//! Times are counted in ticks of 10 ms (`/proc/stat`, proc_pid_stat(5): `steal`), so that of a run
//! of a second less than a hundredth is not seen.

use std::fs;

use anyhow::{Context, Result};

use super::{engine_run::Taken, say};

/// Of all CPU time; a run of which more was stolen is made again.
const MOST: f64 = 0.02;
/// How often, before it counts as it is.
const AGAIN: usize = 3;

/// Ticks of all CPUs up to now.
#[derive(Debug, Clone, Copy)]
pub struct Ticks {
    stolen: u64,
    all: u64,
}

impl Ticks {
    /// Those of this machine.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        Ticks::parse(&text).context("reading /proc/stat: no times of all CPUs in it")
    }

    /// `cpu user nice system idle iowait irq softirq steal …`; guests' time is in user's already.
    fn parse(text: &str) -> Option<Self> {
        let times = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let times: Vec<u64> =
            times.split_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
        Some(Ticks { stolen: *times.get(7)?, all: times.iter().sum() })
    }

    /// The share that was stolen since, from 0 to 1.
    pub fn stolen_since(self, before: Ticks) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// A run of which little was stolen, whoever runs; after some attempts, as it is.
pub fn undisturbed(mut run: impl FnMut() -> Result<Taken>) -> Result<Taken> {
    for _ in 0..AGAIN {
        let taken = run()?;
        if taken.stolen <= MOST {
            return Ok(taken);
        }
        let (percent, seconds) = (taken.stolen * 100.0, taken.seconds);
        say(&format!(
            "  the host took {percent:.0} % of the processors in {seconds:.2} s: once more"
        ));
    }
    run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_all_cpus_is_counted() {
        let before = Ticks::parse("cpu  100 0 50 300 5 0 5 20 7 0\ncpu0 1 2 3\n").unwrap();
        let after = Ticks::parse("cpu  150 0 60 330 5 0 5 30 9 0\n").unwrap();
        assert_eq!(after.stolen_since(before), 0.1);
        assert_eq!(before.stolen_since(before), 0.0);
        assert!(Ticks::parse("cpu  1 2 3\n").is_none());
    }

    #[test]
    fn a_disturbed_run_is_made_again_and_not_for_ever() {
        let mut shares = [0.5, 0.01].into_iter();
        let mut run = || Ok(Taken { stolen: shares.next().unwrap_or(0.9), ..Taken::default() });
        assert_eq!(undisturbed(&mut run).unwrap().stolen, 0.01);
        assert_eq!(undisturbed(&mut run).unwrap().stolen, 0.9);
    }
}
