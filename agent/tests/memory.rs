//! `billet-agent write` stays within its memory, whatever an image has on it.

#![allow(clippy::unwrap_used, reason = "in what only tests call a panic is the verdict")]

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use images::{
    Store,
    import::{Options, import_stream},
};

/// What a writing may take, in KiB.
const MOST: u64 = 96 << 10;
const BLOCK: usize = 4096;

/// A disk of so many chunks, each a block with a block of zeros behind it; before them are so many
/// blocks of zeros. As it is read.
struct Comb {
    chunks: u64,
    chunk: u64,
    zeros: usize,
    block: Vec<u8>,
    at: usize,
}

impl Comb {
    fn read(chunks: u64, zeros: usize) -> impl Read {
        let comb = Comb { chunks, chunk: 0, zeros, block: Vec::new(), at: 0 };
        BufReader::with_capacity(1 << 20, comb)
    }
}

impl Read for Comb {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            if self.chunk == self.chunks {
                return Ok(0);
            }
            let zeros = std::mem::take(&mut self.zeros) * BLOCK;
            self.block = vec![0; zeros + 2 * BLOCK];
            let chunk = &mut self.block[zeros..zeros + BLOCK];
            chunk.fill(0x11);
            chunk[..8].copy_from_slice(&self.chunk.to_be_bytes());
            (self.chunk, self.at) = (self.chunk + 1, 0);
        }
        let read = (&self.block[self.at..]).read(bytes)?;
        self.at += read;
        Ok(read)
    }
}

/// Does it, and returns what was said and the most memory it took, in KiB. The kernel's mark is read while the
/// process lives: what `wait4` tells of it begins with what this program had when it was started.
fn write(arguments: &[&str], disk: &Path) -> (String, u64) {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_billet-agent"));
    agent.arg("write").args(arguments).arg("--to").arg(disk);
    let mut agent = agent.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", agent.id());
    let mut peak = 0;
    while agent.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let mark = mark.and_then(|mark| mark.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(mark.unwrap_or_default());
        thread::sleep(Duration::from_millis(10));
    }
    let done = agent.wait_with_output().unwrap();
    let text = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert!(done.status.success() && peak > 0, "{text}");
    (text, peak)
}

fn is(disk: &Path, chunks: u64, mut wanted: impl Read) {
    let mut found = BufReader::with_capacity(1 << 20, File::open(disk).unwrap());
    let (mut ours, mut theirs) = (vec![0; 2 * BLOCK], vec![0; 2 * BLOCK]);
    for at in 0..chunks {
        found.read_exact(&mut ours).unwrap();
        wanted.read_exact(&mut theirs).unwrap();
        assert!(ours == theirs, "chunk {at} is another");
    }
}

/// Writes an image, and then another that has the same chunks elsewhere. The most that either took, in KiB.
fn peak(chunks: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let store = Store::create(place("store")).unwrap();
    for (name, zeros) in [("old", 0), ("new", 2)] {
        import_stream(&store, Comb::read(chunks, zeros), &Options::new(name)).unwrap();
    }
    let image = |name: &str| format!("{}#{name}", place("store").display());
    let (old, new, disk) = (image("old"), image("new"), place("disk"));
    let size = (chunks + 1) * 2 * BLOCK as u64;
    File::create(&disk).unwrap().set_len(size).unwrap();
    let (_, first) = write(&["--image", &old], &disk);
    is(&disk, chunks, Comb::read(chunks, 0));
    let (told, second) = write(&["--image", &new, "--previous", &old], &disk);
    is(&disk, chunks, Comb::read(chunks, 2));
    assert!(!told.contains(" 0 copied"), "{told}");
    first.max(second)
}

/// In two parts.
#[test]
fn a_writing_stays_within_its_memory() {
    let peak = peak(140_000);
    assert!(peak <= MOST, "{peak} KiB, {MOST} are allowed");
}

/// One that fills a part, and one that fills more than four.
#[test]
#[ignore = "takes minutes: make torture"]
fn torture_more_chunks_take_no_more_memory() {
    let (one, four) = (peak(130_000), peak(540_000));
    assert!(
        four <= MOST && four <= one + one / 8,
        "{four} KiB, {one} with a quarter of the chunks"
    );
}
