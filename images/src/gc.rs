//! Garbage collection: what no name and no hold needs leaves the store, and packs that are mostly
//! dead are repacked.
//!
//! 1. Alone in the store (importers wait): manifests, packs and unfinished files that nobody needs
//!    are removed. That comes first, because a full store has no room for anything else.
//! 2. Beside importers: live chunks of packs with a low live share are copied into new packs.
//! 3. Alone again, and briefly: location indexes are rewritten, each in one piece, for the images
//!    that are live by then; packs that no index names any more stay for a grace (see `retired`).
//!
//! After each of them, and wherever it is broken off, every chunk that an index names is in the
//! pack that it names: packs are complete before an index names them, and marked before the last
//! index forgets them. What a broken-off collection wrote for nothing, the next one removes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    Digest, Index, Store,
    index::Location,
    repack::{Live, Moved, Plan},
    retired::Retired,
    scratch::SCRATCH,
    shelf,
    store::file_names,
};

/// How garbage is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long a pack that was replaced stays, for who fetched an index before.
    pub grace: Duration,
    /// A pack is repacked when less than this share of its bytes is live, in percent; 0 repacks
    /// nothing.
    pub live_percent: u8,
}

impl Default for Options {
    /// A day: the slowest writing of a disk takes hours. Half: every byte that is copied frees at
    /// least one, and a store is never more than twice as large as its live chunks.
    fn default() -> Self {
        Options { grace: Duration::from_secs(24 * 3600), live_percent: 50 }
    }
}

/// What a collection removed, and what it could not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Manifests without a name.
    pub manifests: u64,
    /// Packs without a live chunk.
    pub packs: u64,
    /// Files that a crash left unfinished.
    pub unfinished: u64,
    /// Bytes that became free.
    pub freed: u64,
    /// Packs that repacking wrote.
    pub repacked: u64,
    /// Their bytes.
    pub repacked_bytes: u64,
    /// Packs that were replaced and stay for their grace.
    pub retired: u64,
    /// Their bytes.
    pub retired_bytes: u64,
    /// Bytes of dead chunks in packs that have live ones.
    pub dead: u64,
    /// Chunks that could not be repacked because their bytes are not what they should be.
    pub damaged: u64,
    /// Whether the store had no room to repack in.
    pub no_room: bool,
}

/// Live images with their indexes.
type Indexes = BTreeMap<Digest, Index>;

impl Store {
    /// Removes what neither a name nor a hold needs, and repacks, as most want it.
    pub fn gc(&self) -> anyhow::Result<Collected> {
        self.gc_with(&Options::default())
    }

    /// Removes what neither a name nor a hold needs, and repacks.
    pub fn gc_with(&self, options: &Options) -> anyhow::Result<Collected> {
        let _one = self.lock_collection()?;
        let mut collected = self.sweep(options, &Moved::default())?;
        let plan = self.plan_repacking(options)?;
        if plan == Plan::default() {
            return Ok(collected);
        }
        let moved = {
            let _lock = self.lock_shared()?;
            self.repack(plan)?
        };
        let swept = self.sweep(options, &moved)?;
        collected = Collected {
            manifests: collected.manifests + swept.manifests,
            packs: collected.packs + swept.packs,
            unfinished: collected.unfinished + swept.unfinished,
            freed: collected.freed + swept.freed,
            repacked: moved.packs,
            repacked_bytes: moved.bytes,
            damaged: moved.damaged,
            no_room: moved.no_room,
            ..swept
        };
        Ok(collected)
    }

    fn plan_repacking(&self, options: &Options) -> anyhow::Result<Plan> {
        let _lock = self.lock_shared()?;
        let mut live: Vec<Live> = Vec::new();
        for (manifest, index) in self.live_indexes()? {
            live.extend(self.chunk_names(&manifest)?.into_iter().zip(index.locations()));
        }
        let sizes: HashMap<Digest, u64> = self.pack_sizes()?.into_iter().collect();
        Ok(Plan::new(&live, &sizes, options.live_percent))
    }

    /// Rewrites indexes as chunks have moved, and removes what nothing needs.
    fn sweep(&self, options: &Options, moved: &Moved) -> anyhow::Result<Collected> {
        let _lock = self.lock_alone()?;
        // An index that cannot be read ends it here, before anything is lost.
        let mut live = self.live_indexes()?;
        let mut collected = Collected::default();
        self.remove_manifests(&live, &mut collected)?;
        self.rewrite_indexes(&mut live, moved)?;
        self.remove_packs(options, &live, &mut collected)?;
        let (files, bytes) = self.shelf().sweep()?;
        collected.unfinished += files;
        collected.freed += bytes;
        for name in file_names(self.root())?.iter().filter(|name| name.starts_with(SCRATCH)) {
            let path = self.root().join(name);
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
            collected.unfinished += 1;
        }
        Ok(collected)
    }

    /// Everything that a name or a hold needs.
    fn live_indexes(&self) -> anyhow::Result<Indexes> {
        let mut live: BTreeSet<Digest> = self.holds()?.into_iter().map(|(_, held)| held).collect();
        for name in self.names()? {
            live.extend(self.name(&name)?.map(|found| found.manifest));
        }
        live.into_iter().map(|manifest| Ok((manifest, self.index(&manifest)?))).collect()
    }

    /// Names of a manifest's chunks, in its order.
    fn chunk_names(&self, manifest: &Digest) -> anyhow::Result<Vec<Digest>> {
        Ok(self.manifest(manifest)?.chunks().map(|(_, _, name)| name).collect())
    }

    fn remove_manifests(&self, live: &Indexes, collected: &mut Collected) -> anyhow::Result<()> {
        for manifest in self.manifests()? {
            if !live.contains_key(&manifest) {
                // The manifest first: an index or signature alone is nothing.
                for file in [shelf::manifest, shelf::index, shelf::minisig] {
                    collected.freed += self.take_away(&file(&manifest))?;
                }
                collected.manifests += 1;
            }
        }
        self.shelf().settle("manifests")
    }

    fn rewrite_indexes(&self, live: &mut Indexes, moved: &Moved) -> anyhow::Result<()> {
        if moved.places.is_empty() {
            return Ok(());
        }
        let mut changed = Indexes::new();
        for (manifest, before) in &*live {
            let after = moved.index(&self.chunk_names(manifest)?, before);
            changed.extend(after.map(|after| (*manifest, after)));
        }
        let before: BTreeSet<Digest> = named(live);
        live.extend(changed.iter().map(|(manifest, index)| (*manifest, index.clone())));
        let holders = self.holds()?.into_iter().map(|(holder, _)| holder);
        let mark = Retired::new(now(), holders);
        for pack in before.difference(&named(live)) {
            self.retire(pack, &mark)?;
        }
        for (manifest, index) in changed {
            self.shelf().put(&shelf::index(&manifest), &index.render())?;
        }
        Ok(())
    }

    fn remove_packs(
        &self,
        options: &Options,
        live: &Indexes,
        collected: &mut Collected,
    ) -> anyhow::Result<()> {
        let places = live.values().flat_map(Index::locations).collect::<BTreeSet<Location>>();
        let mut needed: HashMap<Digest, u64> = HashMap::new();
        for at in places {
            *needed.entry(at.pack).or_default() += u64::from(at.len);
        }
        let holders = self.holds()?.into_iter().map(|(holder, _)| holder).collect();
        let (mut waiting, mut touched) = (BTreeSet::new(), BTreeSet::new());
        for (pack, size) in self.pack_sizes()? {
            if let Some(live) = needed.get(&pack) {
                collected.dead += size.saturating_sub(*live);
                continue;
            }
            let mark = self.retired(&pack, now())?;
            if mark.is_some_and(|mark| !mark.is_over(now(), options.grace, &holders)) {
                waiting.insert(pack);
                collected.retired += 1;
                collected.retired_bytes += size;
            } else {
                let file = shelf::pack(&pack);
                collected.freed += self.take_away(&file)?;
                touched.extend(file.rsplit_once('/').map(|(folder, _)| folder.to_owned()));
                collected.packs += 1;
            }
        }
        touched.iter().try_for_each(|folder| self.shelf().settle(folder))?;
        self.forget_retired(|pack| waiting.contains(pack))
    }
}

/// All packs that indexes name.
fn named(indexes: &Indexes) -> BTreeSet<Digest> {
    indexes.values().flat_map(|index| index.packs().iter().copied()).collect()
}

fn now() -> u64 {
    UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}
