//! Locks in a bucket, out of nothing but objects that everybody sees once they are written.
//!
//! Who wants a lock writes an object of its own, then lists those of the others; of two, at least
//! one sees the other. Who wants it shared withdraws before one that wants it alone; who wants it
//! alone waits for shared ones to go, and withdraws before another that wants it alone too. Each
//! waits for a random while then.
//!
//! An object is written again every `beat`. One that has not changed for `dead`, as the waiting one
//! counts, belongs to nobody and is removed; who could not write its own for `lost` changes nothing
//! any more. No clock is compared with another host's.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use nix::time::{ClockId, clock_gettime};
use object_store::ObjectMeta;
use tokio::{task::JoinHandle, time::sleep};
use uuid::Uuid;

use crate::bucket::Objects;

/// How often a lock says that it is held, and when nobody believes it any more.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two words of the holder.
    pub beat: Duration,
    /// After so long without a word the holder itself gives up: well before the others may.
    pub lost: Duration,
    /// After so long without a word the others do.
    pub dead: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Pace { beat: seconds(10), lost: seconds(60), dead: seconds(150) }
    }
}

/// When each lock that is held here was last written, since this host started: a host that slept
/// has lost its locks.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    written: Arc<Mutex<HashMap<Uuid, Duration>>>,
    /// Those that are shared, by name: who has one is given it again, or it would wait for one
    /// that wants it alone and waits for it.
    shared: Arc<Mutex<HashMap<String, Weak<Held>>>>,
}

impl Leases {
    fn note(&self, id: Uuid, at: Duration) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(id, at);
    }

    fn forget(&self, id: Uuid) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn share(&self, name: &str, held: &Arc<Held>) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.insert(name.to_owned(), Arc::downgrade(held));
    }

    fn shared(&self, name: &str) -> Option<Arc<Held>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).get(name)?.upgrade()
    }

    /// Refuses where a lock that is held here may have been taken over.
    pub fn check(&self, pace: &Pace) -> io::Result<()> {
        let leases = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        match leases.values().find(|at| now.saturating_sub(**at) > pace.lost) {
            None => Ok(()),
            Some(at) => Err(io::Error::other(format!(
                "the store's lock is lost: it could not be renewed for {} s, {} at most are \
                 allowed; nothing was changed since, and it may be tried again",
                now.saturating_sub(*at).as_secs(),
                pace.lost.as_secs()
            ))),
        }
    }
}

/// Time since the host started, sleep included.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Held {
    objects: Objects,
    leases: Leases,
    id: Uuid,
    file: String,
    beating: Option<JoinHandle<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(beating) = self.beating.take() {
            beating.abort();
        }
        // Left behind, it goes when it is taken for dead.
        if let Err(error) = self.objects.wait(self.objects.clone().delete(self.file.clone())) {
            tracing::warn!("giving back {}: {error}", self.file);
        }
        self.leases.forget(self.id);
    }
}

const ALONE: &str = "alone-";

/// Waits for the lock `name`.
pub fn lock(
    objects: &Objects,
    leases: &Leases,
    pace: Pace,
    name: &str,
    alone: bool,
) -> io::Result<Arc<Held>> {
    if !alone && let Some(held) = leases.shared(name) {
        return Ok(held);
    }
    let (folder, id) = (format!("locks/{name}"), Uuid::new_v4());
    let own = format!("{}{id}", if alone { ALONE } else { "shared-" });
    let file = format!("{folder}/{own}");
    let mut others = Others::new(objects, folder, own, pace);
    let mut said = false;
    loop {
        // Dropped without a beating heart, it only withdraws.
        let mut held = Held {
            objects: objects.clone(),
            leases: leases.clone(),
            id,
            file: file.clone(),
            beating: None,
        };
        beat(&held)?;
        held.beating = Some(keep_beating(&held, pace)?);
        loop {
            let seen = others.look()?;
            let rivals = seen.iter().filter(|name| name.starts_with(ALONE)).count();
            if rivals == 0 && (!alone || seen.is_empty()) {
                leases.check(&pace)?;
                let held = Arc::new(held);
                if !alone {
                    leases.share(name, &held);
                }
                return Ok(held);
            }
            if !said {
                tracing::info!("waiting for the store's lock, held by {}", seen.join(", "));
                said = true;
            }
            if rivals > 0 {
                break;
            }
            std::thread::sleep(pause());
        }
        drop(held);
        std::thread::sleep(pause());
    }
}

/// 0.1 to 0.6 s, by chance.
fn pause() -> Duration {
    Duration::from_millis(rand::random_range(100..600))
}

fn beat(held: &Held) -> io::Result<()> {
    let since = now();
    held.objects.wait(held.objects.clone().put(held.file.clone(), word(since)))?;
    held.leases.note(held.id, since);
    Ok(())
}

/// What a lock says: other bytes each time.
fn word(since: Duration) -> Bytes {
    Bytes::from(format!(
        "process {}, {} s after its host\n",
        std::process::id(),
        since.as_secs_f64()
    ))
}

fn keep_beating(held: &Held, pace: Pace) -> io::Result<JoinHandle<()>> {
    let (objects, leases) = (held.objects.clone(), held.leases.clone());
    let (id, file) = (held.id, held.file.clone());
    let mut last = now();
    held.objects.spawn(async move {
        loop {
            sleep(pace.beat).await;
            let since = now();
            // It may be somebody else's by now.
            if since.saturating_sub(last) > pace.lost {
                break;
            }
            match objects.clone().put(file.clone(), word(since)).await {
                Ok(()) => {
                    last = since;
                    leases.note(id, since);
                }
                Err(error) => tracing::warn!("renewing {file}: {error}"),
            }
        }
    })
}

/// The locks of others, and since when they look as they do.
struct Others {
    objects: Objects,
    folder: String,
    own: String,
    pace: Pace,
    seen: HashMap<String, (String, Instant)>,
}

impl Others {
    fn new(objects: &Objects, folder: String, own: String, pace: Pace) -> Self {
        Others { objects: objects.clone(), folder, own, pace, seen: HashMap::new() }
    }

    /// Names of those that are alive.
    fn look(&mut self) -> io::Result<Vec<String>> {
        let listed = self.objects.wait(self.objects.clone().list(self.folder.clone()))?;
        let name = |meta: &ObjectMeta| meta.location.filename().map(str::to_owned);
        let mut alive = Vec::new();
        for (name, meta) in listed.iter().filter_map(|meta| Some((name(meta)?, meta))) {
            if name == self.own {
                continue;
            }
            let looks = format!("{:?} {} {}", meta.e_tag, meta.last_modified, meta.size);
            let seen =
                self.seen.entry(name.clone()).or_insert_with(|| (looks.clone(), Instant::now()));
            if seen.0 != looks {
                *seen = (looks, Instant::now());
            }
            if seen.1.elapsed() < self.pace.dead {
                alive.push(name);
                continue;
            }
            tracing::warn!(
                "{name} has not been renewed for {} s: its holder is gone",
                self.pace.dead.as_secs()
            );
            let file = format!("{}/{name}", self.folder);
            self.objects.wait(self.objects.clone().delete(file))?;
            self.seen.remove(&name);
        }
        Ok(alive)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering};

    use images::shelf::Shelf as _;

    use super::*;
    use crate::bucket::tests::{bucket, serve};

    fn quick() -> Pace {
        let millis = Duration::from_millis;
        Pace { beat: millis(200), lost: millis(1000), dead: millis(2500) }
    }

    #[test]
    fn one_alone_or_many_shared_never_both() {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = serve(folder.path());
        // How many hold it: shared ones count 1, one alone 100.
        let (holders, most) = (AtomicI32::new(0), AtomicI32::new(0));
        std::thread::scope(|scope| {
            for number in 0..6 {
                let (endpoint, holders, most) = (&endpoint, &holders, &most);
                scope.spawn(move || {
                    let bucket = bucket(endpoint, "", Pace::default());
                    let alone = number < 2;
                    let weight = if alone { 100 } else { 1 };
                    for _ in 0..3 {
                        let lock = bucket.lock("lock", alone).unwrap();
                        let now = holders.fetch_add(weight, Ordering::SeqCst) + weight;
                        assert!(now <= 100, "{now}");
                        assert!(!alone || now == 100, "{now}");
                        most.fetch_max(now % 100, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(50));
                        holders.fetch_sub(weight, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(most.into_inner() > 1, "nobody shared it");
    }

    #[test]
    fn who_shares_it_may_share_it_again_while_another_waits_to_have_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = serve(folder.path());
        let (one, other) =
            (bucket(&endpoint, "", Pace::default()), bucket(&endpoint, "", Pace::default()));
        let first = one.lock("lock", false).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| other.lock("lock", true).map(drop));
            while !one.list("locks").unwrap().iter().any(|(name, _)| name.starts_with(ALONE)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let second = one.lock("lock", false).unwrap();
            drop(first);
            assert!(!waiting.is_finished());
            drop(second);
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn what_a_killed_process_held_is_free_after_a_while_and_a_living_one_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = bucket(&serve(folder.path()), "store", quick());
        bucket.put("locks/lock/alone-dead", b"of a process that was killed").unwrap();
        let began = Instant::now();
        let held = bucket.lock("lock", false).unwrap();
        assert!(began.elapsed() > quick().dead, "{:?}", began.elapsed());
        // For longer than the dead are waited for.
        std::thread::sleep(quick().dead + quick().lost);
        bucket.put("names/x", b"still ours").unwrap();
        drop(held);
        assert_eq!(bucket.list("locks").unwrap(), []);
    }

    #[test]
    fn who_could_not_renew_its_lock_changes_nothing_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("images");
        let bucket = bucket(&serve(folder.path()), "store", quick());
        let held = bucket.lock("lock", true).unwrap();
        // A file where the folder of the objects should be: every writing of the lock fails.
        let locks = root.join("store/locks");
        std::fs::rename(&locks, root.join("away")).unwrap();
        std::fs::write(&locks, "").unwrap();
        std::thread::sleep(quick().lost + quick().beat * 2);
        let refused = bucket.put("names/x", b"not ours").unwrap_err();
        assert!(format!("{refused:#}").contains("lock is lost"), "{refused:#}");
        assert!(bucket.remove("names/x").is_err());
        assert!(!root.join("store/names/x").exists());
        drop(held);
        bucket.put("names/x", b"without a lock").unwrap();
    }
}
