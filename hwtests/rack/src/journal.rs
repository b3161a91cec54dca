//! What a machine did to a disk, in order: QEMU's `blklogwrites` keeps it in the format of dm-log-writes (Linux,
//! Documentation/admin-guide/device-mapper/log-writes.rst and drivers/md/dm-log-writes.c).
//!
//! A killed QEMU loses nothing that its guest has written. With the journal a power cut can be played that does: of
//! what was not flushed, any sector may be missing.

use std::{fs, ops::Range, path::Path};

use anyhow::{Context, Result, ensure};

/// Bytes of a sector, also of one of the journal.
pub const SECTOR: usize = 512;
/// `WRITE_LOG_MAGIC` and `WRITE_LOG_VERSION`.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// `LOG_*_FLAG` of an entry.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// Everything that happened to a disk in one power cycle.
pub struct Journal {
    log: Vec<u8>,
    effects: Vec<Effect>,
}

enum Effect {
    /// All that came before is on the medium.
    Flush,
    /// `data` of the log at byte `offset`; `durable` at once.
    Write { offset: usize, data: Range<usize>, durable: bool },
    /// Reads back zero.
    Discard { offset: usize, len: usize },
}

impl Journal {
    /// Reads a journal to the end that its superblock tells.
    ///
    /// # Errors
    /// When it is none, or shorter than it says.
    pub fn read(path: &Path) -> Result<Self> {
        let log = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Journal::parse(log).with_context(|| format!("understanding {}", path.display()))
    }

    fn parse(log: Vec<u8>) -> Result<Self> {
        let (magic, version) = (number(&log, 0)?, number(&log, 8)?);
        ensure!(
            (magic, version) == (MAGIC, VERSION),
            "magic {magic:#x} and version {version}, {MAGIC:#x} and {VERSION} are accepted"
        );
        let (mut effects, mut at) = (Vec::new(), SECTOR);
        for _ in 0..number(&log, 16)? {
            let [sector, sectors, flags] = [0, 8, 16].map(|field| number(&log, at + field));
            let (offset, len) = (sector? as usize * SECTOR, sectors? as usize * SECTOR);
            let flags = flags?;
            at += SECTOR;
            // A flush comes before the data that it is asked with.
            if flags & FLUSH != 0 {
                effects.push(Effect::Flush);
            }
            if flags & DISCARD != 0 {
                effects.push(Effect::Discard { offset, len });
            } else if len > 0 {
                let data = at..at + len;
                ensure!(data.end <= log.len(), "the journal ends within an entry");
                at = data.end;
                effects.push(Effect::Write { offset, data, durable: flags & FUA != 0 });
            }
        }
        Ok(Journal { log, effects })
    }

    /// How many effects it has.
    pub fn len(&self) -> usize {
        self.effects.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }

    /// What a disk that held `before` holds when the power fails before effect `cut`: all that was flushed until
    /// then, and of the rest the sectors for which `kept` says so.
    pub fn until(&self, before: &[u8], cut: usize, mut kept: impl FnMut() -> bool) -> Vec<u8> {
        let mut disk = before.to_vec();
        let done = &self.effects[..cut.min(self.len())];
        let flushed = done.iter().rposition(|effect| matches!(effect, Effect::Flush)).unwrap_or(0);
        for (number, effect) in done.iter().enumerate() {
            let (offset, len, data, durable) = match effect {
                Effect::Flush => continue,
                Effect::Write { offset, data, durable } => {
                    (*offset, data.len(), Some(&self.log[data.clone()]), *durable)
                }
                Effect::Discard { offset, len } => (*offset, *len, None, false),
            };
            for from in (0..len).step_by(SECTOR) {
                if !(durable || number < flushed || kept()) {
                    continue;
                }
                let sector = &mut disk[offset + from..offset + from + SECTOR];
                match data {
                    Some(data) => sector.copy_from_slice(&data[from..from + SECTOR]),
                    None => sector.fill(0),
                }
            }
        }
        disk
    }
}

fn number(log: &[u8], at: usize) -> Result<u64> {
    let bytes = log.get(at..at + 8).context("the journal ends within a number")?;
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sector: u64, sectors: u64, flags: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            [sector, sectors, flags, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(SECTOR, 0);
        bytes
    }

    fn journal() -> Journal {
        let mut log = [MAGIC, VERSION, 5].map(u64::to_le_bytes).concat();
        log.resize(SECTOR, 0);
        log.extend([entry(0, 2, 0), vec![1; 2 * SECTOR], entry(0, 0, FLUSH)].concat());
        log.extend([entry(1, 1, 0), vec![2; SECTOR], entry(3, 1, FUA), vec![3; SECTOR]].concat());
        log.extend(entry(0, 1, DISCARD));
        Journal::parse(log).unwrap()
    }

    #[test]
    fn what_was_flushed_is_there_and_of_the_rest_what_was_kept() {
        let journal = journal();
        let sectors = |cut, kept| {
            let disk = journal.until(&[9; 4 * SECTOR], cut, || kept);
            [0, 1, 2, 3].map(|sector| disk[sector * SECTOR])
        };
        assert_eq!(journal.len(), 5);
        assert_eq!(sectors(0, true), [9, 9, 9, 9]);
        assert_eq!((sectors(1, false), sectors(1, true)), ([9, 9, 9, 9], [1, 1, 9, 9]));
        assert_eq!(sectors(2, false), [1, 1, 9, 9]);
        assert_eq!((sectors(3, false), sectors(3, true)), ([1, 1, 9, 9], [1, 2, 9, 9]));
        assert_eq!(sectors(4, false), [1, 1, 9, 3]);
        assert_eq!(sectors(5, true), [0, 2, 9, 3]);
    }

    #[test]
    fn what_is_no_journal_is_an_error() {
        assert!(Journal::parse(Vec::new()).is_err());
        assert!(Journal::parse(vec![0; SECTOR]).is_err());
        let mut log = [MAGIC, VERSION, 1].map(u64::to_le_bytes).concat();
        log.resize(SECTOR, 0);
        log.extend(entry(0, 8, 0));
        assert!(Journal::parse(log).is_err());
    }
}
