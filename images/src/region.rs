//! A part of a disk that reads, writes and seeks like a file of fixed length: what makes a file
//! system in a partition need not know of sectors.

use std::io;

use crate::Disk;

/// A part of a disk; see [`Disk::region`].
#[derive(Debug)]
pub struct Region<'a> {
    disk: &'a Disk,
    start: u64,
    len: u64,
    position: u64,
}

impl<'a> Region<'a> {
    pub(crate) fn new(disk: &'a Disk, start: u64, len: u64) -> Self {
        Region { disk, start, len, position: 0 }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    fn room(&self, wanted: usize) -> usize {
        self.len.saturating_sub(self.position).min(wanted as u64) as usize
    }
}

impl io::Read for Region<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let room = self.room(bytes.len());
        let read = self.disk.read_some(&mut bytes[..room], self.start + self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl io::Write for Region<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (room, offset) = (self.room(bytes.len()), self.start + self.position);
        if room > 0 {
            self.disk.write_through_cache(&bytes[..room], offset)?;
        }
        self.position += room as u64;
        Ok(room)
    }

    /// Nothing is held back here; [`Disk::flush`] is what makes it durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for Region<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let target = match to {
            io::SeekFrom::Start(offset) => Some(offset),
            io::SeekFrom::End(by) => self.len.checked_add_signed(by),
            io::SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn a_region_is_a_file_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192).unwrap();
        let disk = Disk::open(file.path()).unwrap();
        let mut region = disk.region(1000, 10);
        assert_eq!(region.write(b"0123456789abc").unwrap(), 10);
        assert_eq!(region.write(b"x").unwrap(), 0);
        region.seek(SeekFrom::End(-2)).unwrap();
        let mut text = String::new();
        region.read_to_string(&mut text).unwrap();
        assert_eq!(text, "89");
        assert!(region.seek(SeekFrom::Current(-11)).is_err());
    }
}
