//! One writing of a disk: how long, how much memory, and what billet said of it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};

use super::stolen::Ticks;

/// How often the memory of a run is looked at; the kernel keeps the peak.
const LOOK: Duration = Duration::from_millis(5);

/// What a run took.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// Seconds from its start to its end.
    pub seconds: f64,
    /// CPU seconds of it and of all that it waited for.
    pub cpu: f64,
    /// The most memory that its first process had, MiB.
    pub peak: f64,
    /// What the host gave to others meanwhile, as a share of all CPU time.
    pub stolen: f64,
    /// What it said.
    pub said: String,
}

impl Taken {
    /// Runs a command to its end, its output in `log`.
    pub fn of(mut command: Command, log: &Path) -> Result<Self> {
        let file = fs::File::create(log).context("opening a log")?;
        command.stdin(Stdio::null()).stdout(file.try_clone().context("opening a log")?);
        let (began, cpu, ticks) = (Instant::now(), cpu_of_ended()?, Ticks::now()?);
        let mut child = command.stderr(file).spawn().context("starting a run")?;
        let (status, mut peak) = (format!("/proc/{}/status", child.id()), 0.0);
        let ended = loop {
            if let Some(ended) = child.try_wait().context("waiting for a run")? {
                break ended;
            }
            peak = resident(&status).unwrap_or(peak);
            std::thread::sleep(LOOK);
        };
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_of_ended()? - cpu);
        let stolen = Ticks::now()?.stolen_since(ticks);
        let said = fs::read_to_string(log).unwrap_or_default();
        ensure!(ended.success(), "{command:?} failed ({ended}): {said}");
        Ok(Taken { seconds, cpu, peak, stolen, said })
    }

    /// The bytes that billet's plan has of a kind: `kept`, `copied`, `fetched`, `received`.
    pub fn bytes(&self, kind: &str) -> f64 {
        let words = self.said.split([' ', '(', ',', '\n']).filter(|word| *word != "bytes");
        let (mut before, mut found) = (0.0, 0.0);
        for word in words {
            match word.parse() {
                Ok(number) => before = number,
                Err(_) if word == kind => found = before,
                Err(_) => {}
            }
        }
        found
    }
}

/// CPU seconds of all children that have ended.
fn cpu_of_ended() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("asking for the time used")?;
    let times = [usage.user_time(), usage.system_time()];
    Ok(times.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum())
}

fn resident(status: &str) -> Option<f64> {
    let status = fs::read_to_string(status).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))?;
    Some(kib.trim().parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_billet_says_of_its_plan_is_read() {
        let said =
            "table\n12 bytes kept, 3 copied, 4 fetched (5 received in 1 requests), 6 zeroed\n";
        let taken = Taken { said: said.to_owned(), ..Taken::default() };
        let bytes =
            ["kept", "copied", "fetched", "received", "zeroed"].map(|kind| taken.bytes(kind));
        assert_eq!(bytes, [12.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
