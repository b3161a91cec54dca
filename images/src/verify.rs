//! Is an image whole? Its signature, its index, and every chunk: read, decompressed, named.

use std::{
    collections::BTreeMap,
    io::Read as _,
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::Context;

use crate::{
    Digest, Manifest, Store, Trusted,
    index::{IndexError, Location},
    pack::{BadChunk, Decoder, LONGEST},
    signature::{KeyId, Untrusted},
};

/// What was looked at, and what is wrong.
#[derive(Debug)]
pub struct Verified {
    /// Who signed it, when that is known and trusted.
    pub signer: Option<KeyId>,
    /// Chunks that were looked at, each once.
    pub chunks: u64,
    /// Bytes of them, decompressed.
    pub bytes: u64,
    /// Everything that is wrong, in the order of the packs; empty where nothing is.
    pub faults: Vec<Fault>,
}

/// Something wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nobody who is trusted vouches for it.
    #[error("manifest {manifest}: {why}")]
    Signature {
        /// The manifest.
        manifest: Digest,
        /// What is wrong with its signature.
        why: Untrusted,
    },
    /// It has no signature.
    #[error("manifest {manifest}: it is not signed")]
    Unsigned {
        /// The manifest.
        manifest: Digest,
    },
    /// Its index is of something else.
    #[error("manifest {manifest}: {why}")]
    Index {
        /// The manifest.
        manifest: Digest,
        /// What is wrong with the index.
        why: IndexError,
    },
    /// A pack cannot be read.
    #[error("pack {pack} cannot be read: {why}")]
    Pack {
        /// The pack.
        pack: Digest,
        /// The kernel's reason.
        why: std::io::Error,
    },
    /// A chunk in a pack is not what its name says.
    #[error("pack {pack}: chunk {chunk} at offset {offset} is bad: {}", reason(why))]
    Chunk {
        /// The pack.
        pack: Digest,
        /// The chunk.
        chunk: Digest,
        /// Where it should be in the pack.
        offset: u32,
        /// What is wrong with it; `None` where the pack ends before it does.
        why: Option<BadChunk>,
    },
}

fn reason(why: &Option<BadChunk>) -> String {
    why.as_ref().map_or_else(|| "the pack ends before it does".to_owned(), BadChunk::to_string)
}

/// A chunk with where it is and how long.
type Entry = (u32, u32, Digest, u32);

impl Store {
    /// Looks at all of an image. `progress` is told the chunks done and how many there are.
    pub fn verify(
        &self,
        name: &Digest,
        trusted: &Trusted,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> anyhow::Result<Verified> {
        let bytes = self.manifest_bytes(name)?;
        let manifest =
            Manifest::parse(&bytes).with_context(|| format!("parsing manifest {name}"))?;
        let mut verified = Verified { signer: None, chunks: 0, bytes: 0, faults: Vec::new() };
        match self.minisig(name)? {
            Some(text) => match trusted.verify(&bytes, &text) {
                Ok(signer) => verified.signer = Some(signer),
                Err(why) => verified.faults.push(Fault::Signature { manifest: *name, why }),
            },
            None => verified.faults.push(Fault::Unsigned { manifest: *name }),
        }
        let index = self.index(name)?;
        if let Err(why) = index.check(&manifest) {
            verified.faults.push(Fault::Index { manifest: *name, why });
            return Ok(verified);
        }
        let packs = by_pack(&manifest, index.locations());
        let all = || packs.iter().flat_map(|(_, entries)| entries);
        verified.chunks = all().count() as u64;
        verified.bytes = all().map(|entry| u64::from(entry.3)).sum();
        verified.faults.extend(self.verify_packs(&packs, verified.chunks, progress)?);
        Ok(verified)
    }

    fn verify_packs(
        &self,
        packs: &[(Digest, Vec<Entry>)],
        total: u64,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> anyhow::Result<Vec<Fault>> {
        let (next, done) = (AtomicUsize::new(0), Mutex::new((0, Vec::new())));
        let work = || {
            let mut decoder = Decoder::new().context("starting zstd")?;
            while let Some((pack, entries)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let faults = self.verify_pack(&mut decoder, pack, entries);
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.0 += entries.len() as u64;
                done.1.extend(faults.into_iter().map(|fault| (*pack, fault)));
                progress(done.0, total);
            }
            anyhow::Ok(())
        };
        let threads =
            thread::available_parallelism().map_or(1, NonZero::get).min(packs.len().max(1));
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("a verifying thread panicked")),
            })
        })?;
        let (_, mut faults) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        faults.sort_by_key(|(pack, _)| *pack);
        Ok(faults.into_iter().map(|(_, fault)| fault).collect())
    }

    fn verify_pack(&self, decoder: &mut Decoder, pack: &Digest, entries: &[Entry]) -> Vec<Fault> {
        let read = || {
            let (pack, mut bytes) = (self.open_pack(pack)?, Vec::new());
            // Never more than a pack can have, whatever stands there.
            pack.take(4 * LONGEST as u64).read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        };
        let bytes = match read() {
            Ok(bytes) => bytes,
            Err(why) => return vec![Fault::Pack { pack: *pack, why }],
        };
        let mut chunk = Vec::new();
        let mut faults = Vec::new();
        for (offset, len, name, size) in entries {
            chunk.resize(*size as usize, 0);
            let frame = bytes.get(*offset as usize..).and_then(|rest| rest.get(..*len as usize));
            let result = match frame {
                Some(frame) => decoder.decode(frame, name, &mut chunk).map_err(Some),
                None => Err(None),
            };
            let (pack, chunk, offset) = (*pack, *name, *offset);
            faults.extend(result.err().map(|why| Fault::Chunk { pack, chunk, offset, why }));
        }
        faults
    }
}

/// Every chunk once, by pack and place.
fn by_pack(
    manifest: &Manifest,
    locations: impl Iterator<Item = Location>,
) -> Vec<(Digest, Vec<Entry>)> {
    let mut packs: BTreeMap<Digest, Vec<Entry>> = BTreeMap::new();
    for ((_, size, name), at) in manifest.chunks().zip(locations) {
        packs.entry(at.pack).or_default().push((at.offset, at.len, name, size));
    }
    for entries in packs.values_mut() {
        entries.sort_unstable();
        entries.dedup();
    }
    packs.into_iter().collect()
}
