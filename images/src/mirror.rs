//! One store into another: images with what the other one lacks of them, and nothing twice.
//!
//! Packs travel whole, checked by their names. What arrives stays useful whatever breaks off:
//! packs first, then a manifest with signature and index, then its name. An image whose chunks
//! the other store has in packs of its own gets an index there that names those; so two stores
//! that were repacked differently stay small. Nothing is signed again.

use std::{
    collections::{HashMap, HashSet},
    io::Read as _,
};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::{
    Digest, Index, Store,
    buffer::{ALIGNMENT, Buffer},
    index::Location,
    name::Unresolved,
    pack::LONGEST,
    shelf,
};

/// What a mirroring did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Mirrored {
    /// Images that were looked at.
    pub images: u64,
    /// Of them, those that the other store lacked or had another of under the name.
    pub new_images: u64,
    /// Packs that were copied.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Copies the images `names` of `from`, every one when there are none, to `to`. `progress` is told
/// an image's name, the bytes of its missing packs that have been copied, and how many there are.
pub fn mirror(
    from: &Store,
    to: &Store,
    names: &[String],
    progress: &mut dyn FnMut(&str, u64, u64),
) -> anyhow::Result<Mirrored> {
    ensure!(from.shelf().place()? != to.shelf().place()?, "a store is no mirror of itself");
    // Nothing that is needed goes on either side.
    let _locks = (from.lock_shared()?, to.lock_shared()?);
    let names = if names.is_empty() { from.names()? } else { names.to_vec() };
    let mut mirrored = Mirrored::default();
    let mut has = to.locations()?;
    let there = to.pack_sizes()?.into_iter().collect();
    for name in &names {
        let manifest = match from.name(name)? {
            Some(found) => found.manifest,
            None => {
                let names = from.names()?;
                return Err(Unresolved::Unknown { typed: name.clone(), names }.into());
            }
        };
        let copying = Copying { from, to, name, there: &there, mirrored: &mut mirrored };
        copying
            .image(&manifest, &mut has, progress)
            .with_context(|| format!("mirroring image {name}"))?;
    }
    Ok(mirrored)
}

/// An image on its way.
struct Copying<'a> {
    from: &'a Store,
    to: &'a Store,
    name: &'a str,
    /// Packs that the other store had before.
    there: &'a HashSet<(Digest, u64)>,
    mirrored: &'a mut Mirrored,
}

impl Copying<'_> {
    fn image(
        mut self,
        digest: &Digest,
        has: &mut HashMap<Digest, Location>,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> anyhow::Result<()> {
        self.mirrored.images += 1;
        let manifest = self.from.manifest(digest)?;
        let index = self.from.index(digest)?;
        index.check(&manifest)?;
        let chunks: Vec<Digest> = manifest.chunks().map(|(_, _, name)| name).collect();
        let mut missing: Vec<Digest> = Vec::new();
        for (chunk, at) in chunks.iter().zip(index.locations()) {
            if !has.contains_key(chunk) && !missing.contains(&at.pack) {
                missing.push(at.pack);
            }
        }
        let size = |pack: &Digest| Ok(self.from.shelf().facts(&shelf::pack(pack))?.len);
        let sizes = missing.iter().map(size).collect::<std::io::Result<Vec<u64>>>();
        let total = sizes.context("looking at packs")?.iter().sum();
        let mut done = 0;
        for pack in &missing {
            progress(self.name, done, total);
            done += self.pack(pack)?;
        }
        progress(self.name, done, total);
        // What the other store has already is where it is there.
        let places = chunks.iter().zip(index.locations());
        let places: Vec<Location> =
            places.map(|(chunk, at)| *has.entry(*chunk).or_insert(at)).collect();
        self.publish(digest, &Index::new(places))
    }

    /// Copies a pack, checked by its name.
    fn pack(&mut self, name: &Digest) -> anyhow::Result<u64> {
        let context = || format!("reading pack {name}");
        let facts = self.from.shelf().facts(&shelf::pack(name));
        let len = facts.with_context(context)?.len;
        ensure!(len <= 4 * LONGEST as u64, "pack {name} has {len} bytes, more than any pack");
        // A mirroring that was broken off has left it.
        if self.there.contains(&(*name, len)) {
            return Ok(len);
        }
        let len = len as usize;
        let mut buffer = Buffer::new(len.next_multiple_of(ALIGNMENT));
        let mut pack = self.from.open_pack(name).with_context(context)?;
        pack.read_exact(buffer.show(len)).with_context(context)?;
        let got = Digest::of(buffer.show(len));
        ensure!(got == *name, "pack {name} is damaged: its bytes have the name {got}");
        let new = self.to.stage_pack(&mut buffer, len)?;
        self.to.publish_packs(vec![new])?;
        self.mirrored.packs += 1;
        self.mirrored.bytes += len as u64;
        Ok(len as u64)
    }

    fn publish(self, digest: &Digest, index: &Index) -> anyhow::Result<()> {
        let Copying { from, to, name, mirrored, .. } = self;
        let new = !to.has_manifest(digest)?;
        if new {
            to.shelf().put(&shelf::index(digest), &index.render())?;
        }
        // Signed again on one side, it is so on the other.
        if let Some(text) = from.minisig(digest)?
            && to.minisig(digest)?.as_ref() != Some(&text)
        {
            to.shelf().put(&shelf::minisig(digest), text.as_bytes())?;
        }
        if new {
            to.shelf().put(&shelf::manifest(digest), &from.manifest_bytes(digest)?)?;
        }
        if to.name(name)?.is_none_or(|named| named.manifest != *digest) {
            to.set_name(name, digest)?;
            mirrored.new_images += 1;
        }
        Ok(())
    }
}
