//! The GUID partition table of an image, and how it is fitted to a disk (UEFI 2.10, chapter 5).
//!
//! The table is read through the crate `gpt` and its headers are rendered by it. The entries
//! are kept as they are, byte by byte: their numbers are what boot loaders and `root=` lines
//! speak of, and `gpt`'s own `write` renumbers them. Fitting to a disk moves the backup to
//! the real end, may grow the partition that ends last, and gives the first and the last
//! bytes of the disk; who writes them decides when.

use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::{
    disk::LogicalBlockSize,
    header::{Header, HeaderError},
};

use crate::manifest::Partition;

const MIB: u64 = 1 << 20;
/// Bytes of one entry; other sizes are allowed by UEFI and made by nobody.
const ENTRY: u64 = 128;
/// More entries than any tool makes.
const MOST_ENTRIES: u32 = 1024;
/// Where the four records of a boot sector begin, and how long one is.
const RECORDS: (usize, usize) = (446, 16);

/// Why a table cannot be read or fitted.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The bytes cannot be read.
    #[error("reading the partition table")]
    Read(#[source] io::Error),
    /// It is damaged.
    #[error("partition table is damaged")]
    Damaged(#[source] HeaderError),
    /// It says what cannot be.
    #[error("partition table says {what}, {accepted} is accepted")]
    Value {
        /// The field and its value.
        what: String,
        /// What would have been accepted.
        accepted: String,
    },
    /// The disk is too small.
    #[error("partition table needs a disk of {needed} bytes, this one has {size}")]
    TooSmall {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        size: u64,
    },
}

/// A partition table as an image has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    sector: u64,
    boot_sector: Vec<u8>,
    header: Header,
    entries: Vec<u8>,
    used: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    number: u32,
    first: u64,
    last: u64,
    kind: String,
    name: String,
}

/// A table for one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The disk's first bytes: boot sector, primary header, entries.
    pub head: Vec<u8>,
    /// The disk's last bytes: entries, backup header.
    pub tail: Vec<u8>,
    /// Where those begin.
    pub tail_offset: u64,
    /// The partitions, by number, with the last one's new size.
    pub partitions: Vec<Partition>,
}

impl Table {
    /// The table at the beginning of `disk`, or `None` where there is none.
    pub fn read(
        disk: &mut (impl Read + Seek),
        sector_size: u32,
    ) -> Result<Option<Self>, TableError> {
        let size = lb_size(sector_size)?;
        let sector = size.as_u64();
        let header = match gpt::header::read_header_from_arbitrary_device(disk, size) {
            Ok(header) => header,
            Err(HeaderError::InvalidGptSignature) => return Ok(None),
            Err(HeaderError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(None);
            }
            Err(error) => return Err(TableError::Damaged(error)),
        };
        // Before anything is read on the header's word: `gpt` asserts the size of an entry.
        check_header(&header, sector)?;
        let used = gpt::partition::file_read_partitions(disk, &header, size)
            .map_err(|error| TableError::Damaged(HeaderError::Io(error)))?;
        let mut boot_sector = vec![0; sector as usize];
        let mut entries = vec![0; (u64::from(header.num_parts) * ENTRY) as usize];
        let mut read = |offset, bytes: &mut [u8]| {
            disk.seek(SeekFrom::Start(offset))?;
            disk.read_exact(bytes)
        };
        read(0, &mut boot_sector).map_err(TableError::Read)?;
        read(header.part_start * sector, &mut entries).map_err(TableError::Read)?;
        let used = used.into_iter().filter(|(_, partition)| partition.is_used());
        let used: Vec<_> = used.map(|(number, partition)| Entry::new(number, partition)).collect();
        check_entries(&used, &header)?;
        Ok(Some(Table { sector, boot_sector, header, entries, used }))
    }

    /// The partitions, by number.
    pub fn partitions(&self) -> Vec<Partition> {
        self.used.iter().map(|entry| entry.partition(self.sector)).collect()
    }

    /// How many bytes at a disk's beginning are table: boot sector, header, entries.
    pub fn head_size(&self) -> u64 {
        (self.header.part_start + self.entry_sectors()) * self.sector
    }

    /// How many bytes at a disk's end are table: entries, header.
    pub fn tail_size(&self) -> u64 {
        (self.entry_sectors() + 1) * self.sector
    }

    fn entry_sectors(&self) -> u64 {
        (self.entries.len() as u64).div_ceil(self.sector)
    }

    /// The table for a disk of `size` bytes. With `grow`, the partition that ends last takes
    /// what room there is behind it, up to a whole MiB of the disk.
    pub fn fit(&self, size: u64, grow: bool) -> Result<Fitted, TableError> {
        let sectors = size / self.sector;
        let last_used = self.used.iter().map(|entry| entry.last).max().unwrap_or(0);
        let needed_sectors =
            (last_used + 1).max(self.header.first_usable + 1) + self.entry_sectors() + 1;
        if sectors < needed_sectors {
            return Err(TableError::TooSmall { needed: needed_sectors * self.sector, size });
        }
        let mut fitted = self.clone();
        fitted.header.current_lba = 1;
        fitted.header.backup_lba = sectors - 1;
        fitted.header.last_usable = sectors - 1 - self.entry_sectors() - 1;
        if grow {
            fitted.grow();
        }
        fitted.protect(sectors);
        let (head, tail) = fitted.render().map_err(TableError::Damaged)?;
        let tail_offset = (fitted.header.last_usable + 1) * self.sector;
        Ok(Fitted { head, tail, tail_offset, partitions: fitted.partitions() })
    }

    fn grow(&mut self) {
        let end = (self.header.last_usable + 1) * self.sector / MIB * MIB;
        let Some(entry) = self.used.iter_mut().max_by_key(|entry| entry.last) else {
            return;
        };
        entry.last = entry.last.max((end / self.sector).saturating_sub(1));
        // The last LBA stands at byte 40 of an entry.
        let at = (u64::from(entry.number - 1) * ENTRY) as usize + 40;
        self.entries[at..at + 8].copy_from_slice(&entry.last.to_le_bytes());
    }

    /// Makes the boot sector protect a disk of so many sectors. Boot code, disk signature and
    /// foreign records (a hybrid boot sector) stay.
    fn protect(&mut self, sectors: u64) {
        let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
        let (start, len) = RECORDS;
        let records = &mut self.boot_sector[start..start + 4 * len];
        match records.chunks_exact_mut(len).find(|record| record[4] == 0xee) {
            Some(record) => record[12..16].copy_from_slice(&size.to_le_bytes()),
            None => {
                let record = gpt::mbr::PartRecord::new_protective(Some(size)).to_bytes();
                records.fill(0);
                records[..len].copy_from_slice(&record);
            }
        }
        self.boot_sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn render(&self) -> Result<(Vec<u8>, Vec<u8>), HeaderError> {
        let size = lb_size(self.sector as u32).unwrap_or(gpt::disk::DEFAULT_SECTOR_SIZE);
        let mut head = Window::new(0, self.head_size());
        head.place(0, &self.boot_sector)?;
        head.place(self.header.part_start * self.sector, &self.entries)?;
        self.header.clone().write_primary(&mut head, size)?;
        let mut backup = self.header.clone();
        (backup.current_lba, backup.backup_lba) = (self.header.backup_lba, 1);
        backup.part_start = self.header.last_usable + 1;
        let mut tail = Window::new(backup.part_start * self.sector, self.tail_size());
        tail.place(backup.part_start * self.sector, &self.entries)?;
        backup.write_backup(&mut tail, size)?;
        Ok((head.bytes, tail.bytes))
    }
}

impl Entry {
    fn new(number: u32, partition: gpt::partition::Partition) -> Self {
        let kind = partition.part_type_guid.guid.hyphenated().to_string().to_uppercase();
        let (first, last) = (partition.first_lba, partition.last_lba);
        Entry { number, first, last, kind, name: partition.name }
    }

    fn partition(&self, sector: u64) -> Partition {
        Partition {
            number: self.number,
            start: self.first * sector,
            size: (self.last + 1 - self.first) * sector,
            kind: self.kind.clone(),
            name: self.name.clone(),
        }
    }
}

fn lb_size(sector_size: u32) -> Result<LogicalBlockSize, TableError> {
    LogicalBlockSize::try_from(u64::from(sector_size))
        .map_err(|_| value(format!("sectors of {sector_size} bytes"), "512 or 4096"))
}

fn value(what: impl Into<String>, accepted: impl Into<String>) -> TableError {
    TableError::Value { what: what.into(), accepted: accepted.into() }
}

fn check_header(header: &Header, sector: u64) -> Result<(), TableError> {
    let refuse =
        |field: &str, got: u64, accepted: String| Err(value(format!("{field} {got}"), accepted));
    if header.header_size_le != 92 {
        return refuse("header size", header.header_size_le.into(), "92".to_owned());
    }
    if u64::from(header.part_size) != ENTRY {
        return refuse("entry size", header.part_size.into(), ENTRY.to_string());
    }
    if header.num_parts == 0 || header.num_parts > MOST_ENTRIES {
        return refuse("entries", header.num_parts.into(), format!("1 to {MOST_ENTRIES}"));
    }
    if header.current_lba != 1 {
        return refuse("its own sector", header.current_lba, "1".to_owned());
    }
    let sectors = (u64::from(header.num_parts) * ENTRY).div_ceil(sector);
    let most = MIB / sector - sectors;
    if header.part_start < 2 || header.part_start > most {
        return refuse("entries at sector", header.part_start, format!("2 to {most}"));
    }
    let (first, least) = (header.first_usable, header.part_start + sectors);
    if first < least || first > header.last_usable || header.last_usable > u64::MAX / sector / 2 {
        let what = format!("usable sectors {first} to {}", header.last_usable);
        return Err(value(what, format!("a range from {least} on")));
    }
    Ok(())
}

fn check_entries(used: &[Entry], header: &Header) -> Result<(), TableError> {
    let mut by_place: Vec<_> = used.iter().collect();
    by_place.sort_by_key(|entry| entry.first);
    let mut free = header.first_usable;
    for Entry { number, first, last, .. } in by_place {
        if *first < free || last < first || *last > header.last_usable {
            let what = format!("partition {number} from sector {first} to {last}");
            return Err(value(what, format!("a range within {free} to {}", header.last_usable)));
        }
        free = last + 1;
    }
    Ok(())
}

/// A piece of a disk in memory, under the offsets that it has there.
#[derive(Debug)]
struct Window {
    base: u64,
    bytes: Vec<u8>,
    position: u64,
}

impl Window {
    fn new(base: u64, len: u64) -> Self {
        Window { base, bytes: vec![0; len as usize], position: 0 }
    }

    fn place(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.write_all(bytes)
    }

    fn here(&mut self) -> &mut [u8] {
        let start = self.position.saturating_sub(self.base).min(self.bytes.len() as u64);
        &mut self.bytes[start as usize..]
    }
}

impl Read for Window {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = (&*self.here()).read(bytes)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Write for Window {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.here().write(bytes)?;
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => (self.base + self.bytes.len() as u64).checked_add_signed(by),
        };
        let end = self.base + self.bytes.len() as u64;
        self.position = target
            .filter(|target| (self.base..=end).contains(target))
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
