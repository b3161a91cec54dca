//! All chunks of a store, by name: what an import need not pack again, and what a single
//! chunk is read by.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
};

use crate::{
    Digest, Store,
    index::Location,
    manifest::MAX_CHUNK,
    pack::{Decoder, Source},
};

impl Store {
    /// Where every chunk of every image is. Packs that are gone are left out, and so are images
    /// that cannot be read: neither may spoil a new one.
    pub fn locations(&self) -> anyhow::Result<HashMap<Digest, Location>> {
        let mut locations = HashMap::new();
        let packs: HashSet<Digest> = self.packs()?.into_iter().collect();
        for name in self.manifests()? {
            let read = || anyhow::Ok((self.manifest(&name)?, self.index(&name)?));
            let (manifest, index) = match read() {
                Ok(both) => both,
                Err(error) => {
                    tracing::warn!("leaving out image {name}: {error:#}");
                    continue;
                }
            };
            for ((_, _, chunk), location) in manifest.chunks().zip(index.locations()) {
                if packs.contains(&location.pack) {
                    locations.entry(chunk).or_insert(location);
                }
            }
        }
        Ok(locations)
    }

    /// One chunk, checked by its name.
    pub fn chunk(&self, name: &Digest, at: &Location) -> io::Result<Vec<u8>> {
        let (mut frame, mut chunk) = (vec![0; at.len as usize], vec![0; MAX_CHUNK as usize]);
        self.read(&at.pack, at.range())?.read_exact(&mut frame)?;
        let size = Decoder::new()?.decode_any(&frame, &mut chunk)?;
        chunk.truncate(size);
        match Digest::of(&chunk) {
            got if got == *name => Ok(chunk),
            got => Err(io::Error::other(format!(
                "pack {} has chunk {got} where {name} should be",
                at.pack
            ))),
        }
    }
}
