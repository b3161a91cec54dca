//! `billet-agent write` stays within its memory, whatever an image has on it.

#![allow(clippy::unwrap_used, reason = "in what only tests call a panic is the verdict")]

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::Path,
    process::Command,
};

use images::{
    Store,
    import::{Options, import_stream},
};
use nix::sys::resource::{UsageWho, getrusage};

/// What a writing may take, in KiB.
const MOST: i64 = 96 << 10;
const BLOCK: usize = 4096;
/// Chunks of an image, each of a block, with a block of zeros behind it: more than twice the extents that are in
/// memory at the same time, and as many moves as chunks.
const CHUNKS: u64 = 290_000;

/// A disk of such chunks behind so many blocks of zeros, as it is read.
struct Comb {
    chunk: u64,
    zeros: usize,
    block: Vec<u8>,
    at: usize,
}

impl Comb {
    fn new(zeros: usize) -> impl Read {
        let comb = Comb { chunk: 0, zeros, block: Vec::new(), at: 0 };
        BufReader::with_capacity(1 << 20, comb)
    }
}

impl Read for Comb {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            if self.chunk == CHUNKS {
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

fn write(arguments: &[&str], disk: &Path) -> String {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_billet-agent"));
    let done = agent.arg("write").args(arguments).arg("--to").arg(disk).output().unwrap();
    let text = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert!(done.status.success(), "{text}");
    text
}

fn is(disk: &Path, mut wanted: impl Read) {
    let mut found = BufReader::with_capacity(1 << 20, File::open(disk).unwrap());
    let (mut ours, mut theirs) = (vec![0; 2 * BLOCK], vec![0; 2 * BLOCK]);
    for at in 0..CHUNKS {
        found.read_exact(&mut ours).unwrap();
        wanted.read_exact(&mut theirs).unwrap();
        assert!(ours == theirs, "chunk {at} is another");
    }
}

/// Alone in its program: the peak is that of all processes that were waited for.
#[test]
fn a_writing_takes_no_more_memory_for_more_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let store = Store::create(place("store")).unwrap();
    for (name, zeros) in [("old", 0), ("new", 2)] {
        import_stream(&store, Comb::new(zeros), &Options::new(name)).unwrap();
    }
    let image = |name: &str| format!("{}#{name}", place("store").display());
    let (old, new, disk) = (image("old"), image("new"), place("disk"));
    let size = (CHUNKS + 1) * 2 * BLOCK as u64;
    File::create(&disk).unwrap().set_len(size).unwrap();
    write(&["--image", &old], &disk);
    is(&disk, Comb::new(0));
    let told = write(&["--image", &new, "--previous", &old], &disk);
    is(&disk, Comb::new(2));
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    assert!(peak <= MOST, "{peak} KiB at most, {MOST} are allowed: {told}");
    assert!(!told.contains(" 0 copied"), "{told}");
    fs::remove_file(&disk).unwrap();
    println!("{peak} KiB at most: {told}");
}
