//! `tftp-1`, `tftp-100`: a boot program of 1 MiB at block size 1428, to one machine and to a
//! hundred at once. Beside them, without a bar, atftpd and windows of 16 blocks, which the
//! two peers of the figure never grant.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{
    load::{self, Ask, Lost},
    ours, peers,
    rounds::{Contender, interleave},
    row::{Better, Row},
    say,
    wire::{SERVE_ADDRESS, Wire},
};

/// A run takes a second, and the least thing beside it shows.
const ROUNDS: usize = 11;
/// The file: a name that billet gives, and what Ethernet leaves for a block with options.
const FILE: &str = "ipxe.efi";
const SIZE: usize = 1 << 20;
const BLOCK_SIZE: u16 = 1428;
const WINDOW: u16 = 16;
/// One client reads it this often in a run: a single time is over in some milliseconds.
const TURNS: usize = 40;
const PORT: u16 = 69;

/// `tftp-1`
pub fn one(folder: &Path) -> Result<Vec<Row>> {
    measure(folder, "tftp-1", |ask, expected| load::in_turn(ask, expected, TURNS))
}

/// `tftp-100`
pub fn hundred(folder: &Path) -> Result<Vec<Row>> {
    measure(folder, "tftp-100", |ask, expected| load::at_once(ask, expected, 100))
}

/// What a server at the wire's other end is started with, for the folder with `boot/`.
type Start = fn(&Wire, &Path) -> Result<Command>;

const BILLET: (&str, Start) = ("billet", ours::command);
const TFTPD_HPA: (&str, Start) =
    ("tftpd-hpa", |wire, folder| peers::tftpd_hpa(wire, &ours::boot_folder(folder)));
const DNSMASQ: (&str, Start) =
    ("dnsmasq", |wire, folder| peers::dnsmasq_tftp(wire, &ours::boot_folder(folder)));
const ATFTPD: (&str, Start) =
    ("atftpd", |wire, folder| peers::atftpd(wire, &ours::boot_folder(folder)));

struct Bench<'a> {
    wire: Wire,
    folder: &'a Path,
    expected: Vec<u8>,
    load: Load,
}

type Load = fn(Ask<'_>, &[u8]) -> Result<f64, Lost>;

fn measure(folder: &Path, name: &str, load: Load) -> Result<Vec<Row>> {
    let folder = &folder.join(name);
    fs::create_dir_all(ours::boot_folder(folder)).context("making a boot folder")?;
    let expected = program();
    fs::write(ours::boot_folder(folder).join(FILE), &expected).context("writing the program")?;
    let bench = Bench { wire: Wire::lay(folder)?, folder, expected, load };
    let windows = format!("{name}-window{WINDOW}");
    Ok(vec![
        bench.compare(name, 1, &[BILLET, TFTPD_HPA, DNSMASQ])?.with_bar(1.0),
        bench.compare(&windows, WINDOW, &[BILLET, ATFTPD])?,
    ])
}

impl Bench<'_> {
    /// The first of `servers` against the others.
    fn compare(&self, name: &str, window: u16, servers: &[(&'static str, Start)]) -> Result<Row> {
        let contender = |&(server, start): &(&'static str, Start)| {
            Contender::new(server, move || self.run(server, start, window))
        };
        let mut contenders: Vec<_> = servers.iter().map(contender).collect();
        let medians = interleave(ROUNDS, &mut contenders)?;
        let names = servers.iter().map(|(name, _)| *name);
        let peers: Vec<_> = names.zip(medians.iter().copied()).skip(1).collect();
        Ok(Row::compare(name, "MB/s", Better::More, medians[0], &peers))
    }

    fn run(&self, name: &str, start: Start, window: u16) -> Result<f64> {
        let command = start(&self.wire, self.folder)?;
        let log = self.folder.join(format!("{name}.log"));
        let _server = self.wire.serve(name, command, &log, PORT)?;
        let ask = Ask { server: SERVE_ADDRESS, file: FILE, block_size: BLOCK_SIZE, window };
        match (self.load)(ask, &self.expected) {
            // billet may lose nothing; a peer that does so is merely no rival in that round.
            Err(lost) if name != BILLET.0 => {
                say(&format!("  {name}: {lost}"));
                Ok(0.0)
            }
            result => Ok(result?),
        }
    }
}

/// Bytes of which no two blocks are alike (a linear congruential generator's high bytes).
fn program() -> Vec<u8> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(2), next).map(|state| (state >> 24) as u8).take(SIZE).collect()
}
