//! What this machine allows at best, measured right after each run, for the bytes of that run.

use anyhow::Result;

use super::{
    engine_load::{Load, Machine},
    engine_run::Taken,
};

/// What a run may have to wait for.
pub const PARTS: [&str; 4] = ["disk reads", "disk writes", "network", "decompression"];

/// Seconds.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Of each of [`PARTS`], if nothing else happened.
    pub parts: [f64; PARTS.len()],
    /// Of what is read and what is written at once, and nothing else: a disk behind one queue does both one after
    /// the other.
    pub disk: f64,
    /// Of all of them at once, none waiting for another: there is one disk to read and to write, and
    /// what receives and what decompresses share the cores.
    pub together: f64,
}

impl Limit {
    /// Measures what a run of billet moved.
    pub fn measure(machine: &mut Machine<'_>, run: &Taken) -> Result<Self> {
        let bytes = |kind| run.bytes(kind) as u64;
        let written = bytes("copied") + bytes("fetched");
        // What is written is read back.
        let read = bytes("kept") + bytes("copied") + written;
        let (receive, decompress) = (bytes("received"), bytes("fetched"));
        let all = Load { read, write: written, receive, decompress };
        let parts = [
            Load { read, ..Load::default() },
            Load { write: written, ..Load::default() },
            Load { receive, ..Load::default() },
            Load { decompress, ..Load::default() },
        ];
        let mut seconds = [0.0; PARTS.len()];
        for (seconds, part) in seconds.iter_mut().zip(parts) {
            *seconds = machine.seconds(part)?;
        }
        let disk = machine.seconds(Load { read, write: written, ..Load::default() })?;
        Ok(Limit { parts: seconds, disk, together: machine.seconds(all)? })
    }

    /// The part that takes longest.
    pub fn longest(&self) -> f64 {
        self.parts.iter().copied().fold(0.0, f64::max)
    }
}
