//! A bucket of an S3-compatible service as the place of a store's files.
//!
//! Where the service is and who asks comes from the environment, as for the usual clients:
//! `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`. The service must
//! show a written object to every later read and listing, as S3 does since 2020 and MinIO, Ceph and
//! Garage do; nothing else is asked of it, no conditional writes either. Who writes holds a lock
//! (see `bucket_lock`); bytes that travel are checked by their names in `images`.

use std::{
    future::Future,
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use anyhow::Context as _;
use bytes::{Buf as _, Bytes};
use futures::{StreamExt as _, TryStreamExt as _, executor::block_on};
use images::{
    Digest,
    buffer::Buffer,
    shelf::{Facts, Lock, Shelf, Staged},
};
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload,
    aws::AmazonS3Builder, path::Path,
};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, mpsc},
};

use crate::bucket_lock::{self, Leases, Pace};

/// Packs that are on their way to the bucket at a time: 8 MiB each.
const UPLOADS: usize = 4;
/// Pieces of an answer that wait to be read.
const AHEAD: usize = 16;

/// The files of a store, below a prefix in a bucket.
#[derive(Debug)]
pub struct Bucket {
    /// `s3://bucket/prefix`
    name: String,
    objects: Objects,
    leases: Leases,
    pace: Pace,
    uploads: Arc<Semaphore>,
}

/// The objects below a prefix, asked for from threads that may wait.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    threads: Arc<Threads>,
}

/// A runtime of its own: the library of images is sync, and is used with and without another one.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        // One that waits for its threads may not be dropped by a thread of another one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bucket {
    /// What is below `prefix` in a bucket. Nothing is asked yet.
    pub fn new(bucket: &str, prefix: &str) -> anyhow::Result<Bucket> {
        Bucket::with(AmazonS3Builder::from_env(), bucket, prefix, Pace::default())
    }

    /// The same, with the service that `builder` names.
    pub fn with(
        builder: AmazonS3Builder,
        bucket: &str,
        prefix: &str,
        pace: Pace,
    ) -> anyhow::Result<Bucket> {
        // The only provider that is built in; a second call finds it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Who writes http:// means it.
        let store = builder.with_bucket_name(bucket).with_allow_http(true).build();
        let store = store.with_context(|| format!("opening bucket {bucket}"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("bucket")
            .enable_all()
            .build()
            .context("starting threads for a bucket")?;
        let prefix = Path::parse(prefix).with_context(|| format!("understanding {prefix}"))?;
        let objects =
            Objects { store: Arc::new(store), prefix, threads: Arc::new(Threads(Some(runtime))) };
        let name = format!("s3://{bucket}/{}", objects.prefix);
        let uploads = Arc::new(Semaphore::new(UPLOADS));
        Ok(Bucket { name, objects, leases: Leases::default(), pace, uploads })
    }
}

impl Objects {
    fn path(&self, file: &str) -> Path {
        file.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Runs a future on the runtime, and waits for it here.
    pub fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        block_on(self.spawn(work)?).map_err(io::Error::other)?.map_err(as_io)
    }

    /// Runs a future on the runtime.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<tokio::task::JoinHandle<T>> {
        let runtime = self.threads.0.as_ref();
        Ok(runtime.ok_or_else(|| io::Error::other("the threads have ended"))?.spawn(work))
    }

    /// Writes an object.
    pub async fn put(self, file: String, bytes: Bytes) -> object_store::Result<()> {
        self.store.put(&self.path(&file), PutPayload::from(bytes)).await.map(|_| ())
    }

    /// Removes an object, which may be gone already.
    pub async fn delete(self, file: String) -> object_store::Result<()> {
        match self.store.delete(&self.path(&file)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            deleted => deleted,
        }
    }

    /// Every object of a folder and of those below it.
    pub async fn list(self, folder: String) -> object_store::Result<Vec<ObjectMeta>> {
        self.store.list(Some(&self.path(&folder))).try_collect().await
    }
}

impl Shelf for Bucket {
    fn place(&self) -> io::Result<String> {
        Ok(self.name.clone())
    }

    fn full_name(&self, file: &str) -> String {
        format!("{}/{file}", self.name.trim_end_matches('/'))
    }

    fn path(&self, _: &str) -> Option<std::path::PathBuf> {
        None
    }

    fn read(&self, file: &str, range: Option<Range<u64>>) -> io::Result<Box<dyn Read + Send>> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(Box::new(io::empty()));
        }
        let (objects, path) = (self.objects.clone(), self.objects.path(file));
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let got = self.objects.wait(async move { objects.store.get_opts(&path, options).await })?;
        let (to, pieces) = mpsc::channel(AHEAD);
        let mut stream = got.into_stream();
        self.objects.spawn(async move {
            while let Some(piece) = stream.next().await {
                // Nobody reads on where that fails.
                if to.send(piece.map_err(as_io)).await.is_err() {
                    break;
                }
            }
        })?;
        Ok(Box::new(Answer { pieces, rest: Bytes::new() }))
    }

    fn facts(&self, file: &str) -> io::Result<Facts> {
        let (objects, path) = (self.objects.clone(), self.objects.path(file));
        let meta = self.objects.wait(async move { objects.store.head(&path).await })?;
        let told = format!("{:?} {}", meta.e_tag, meta.last_modified);
        let mut version = [0; 16];
        version.copy_from_slice(&Digest::of(told.as_bytes()).as_bytes()[..16]);
        Ok(Facts { len: meta.size, version: u128::from_le_bytes(version) })
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let listed = self.objects.wait(self.objects.clone().list(folder.to_owned()))?;
        let file = |meta: ObjectMeta| Some((meta.location.filename()?.to_owned(), meta.size));
        let mut files: Vec<_> = listed.into_iter().filter_map(file).collect();
        files.sort();
        Ok(files)
    }

    fn put(&self, file: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let put = || {
            self.leases.check(&self.pace)?;
            let bytes = Bytes::copy_from_slice(bytes);
            self.objects.wait(self.objects.clone().put(file.to_owned(), bytes))
        };
        put().with_context(|| format!("writing {}", self.full_name(file)))
    }

    /// Packs travel beside each other, and under their names at once: nothing names them yet.
    fn stage(&self, file: &str, bytes: &mut Buffer, len: usize) -> anyhow::Result<Staged> {
        let permit = block_on(self.uploads.clone().acquire_owned())?;
        let bytes = Bytes::copy_from_slice(bytes.show(len));
        let put = self.objects.clone().put(file.to_owned(), bytes);
        let upload = self.objects.spawn(async move {
            let _permit = permit;
            put.await
        })?;
        let name = self.full_name(file);
        Ok(Staged::new(move || {
            let written = block_on(upload).map_err(anyhow::Error::from);
            written.and_then(|put| Ok(put?)).with_context(|| format!("writing {name}"))
        }))
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        self.leases.check(&self.pace)?;
        self.objects.wait(self.objects.clone().delete(file.to_owned()))
    }

    fn settle(&self, _: &str) -> anyhow::Result<()> {
        // An object is as durable as it will be.
        Ok(())
    }

    fn sweep(&self) -> anyhow::Result<(u64, u64)> {
        // An object is there whole or not at all.
        Ok((0, 0))
    }

    fn lock(&self, name: &str, alone: bool) -> anyhow::Result<Lock> {
        let lock = bucket_lock::lock(&self.objects, &self.leases, self.pace, name, alone);
        Ok(Box::new(lock.with_context(|| format!("locking {}", self.full_name(name)))?))
    }
}

/// What comes of an object, piece by piece.
struct Answer {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Answer {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match block_on(self.pieces.recv()) {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let len = self.rest.len().min(to.len());
        self.rest.copy_to_slice(&mut to[..len]);
        Ok(len)
    }
}

fn as_io(error: Error) -> io::Error {
    let kind = match error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
#[path = "../tests/s3/mod.rs"]
mod s3;

#[cfg(test)]
pub mod tests {
    use images::{
        Store,
        import::{Options, import_stream},
    };

    pub use super::s3::serve;
    use super::{
        s3::{BUCKET, KEY},
        *,
    };

    /// A bucket on such a server.
    pub fn bucket(endpoint: &str, prefix: &str, pace: Pace) -> Bucket {
        let builder = AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_access_key_id(KEY[0])
            .with_secret_access_key(KEY[1]);
        Bucket::with(builder, BUCKET, prefix, pace).unwrap()
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn files_come_back_as_they_were_and_what_is_not_there_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = bucket(&serve(folder.path()), "a/b", Pace::default());
        let absent =
            |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        absent(bucket.facts("names/x").unwrap_err());
        absent(bucket.read("names/x", None).err().unwrap());
        assert_eq!(bucket.list("names").unwrap(), []);
        bucket.remove("names/x").unwrap();

        bucket.put("names/x", b"first").unwrap();
        let before = bucket.facts("names/x").unwrap();
        bucket.put("names/x", b"other").unwrap();
        let after = bucket.facts("names/x").unwrap();
        assert_eq!((before.len, after.len), (5, 5));
        assert!(before.version != after.version);
        let read = |range: Option<Range<u64>>| {
            io::read_to_string(bucket.read("names/x", range).unwrap()).unwrap()
        };
        assert_eq!(read(None), "other");
        assert_eq!(read(Some(1..3)), "th");
        assert_eq!(read(Some(3..300)), "er");
        assert_eq!(read(Some(3..3)), "");
        bucket.put("packs/ab/abc", b"pack").unwrap();
        assert_eq!(bucket.list("packs").unwrap(), [("abc".to_owned(), 4)]);
        bucket.remove("names/x").unwrap();
        absent(bucket.facts("names/x").unwrap_err());
        assert!(folder.path().join("images/a/b/packs/ab/abc").is_file());
    }

    #[test]
    fn two_importers_and_a_collection_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = serve(&folder.path().join("s3"));
        let store = |name: &str| {
            let bucket = Arc::new(bucket(&endpoint, "store", Pace::default()));
            Store::on(bucket, folder.path().join(name)).unwrap()
        };
        let stores = [store("one"), store("two"), store("three")];
        let disks = [noise(1, 12 << 20), noise(2, 3 << 20)];
        std::thread::scope(|scope| {
            for (number, disk) in disks.iter().enumerate() {
                let store = &stores[number];
                scope.spawn(move || {
                    for round in 0..2 {
                        let options = Options::new(format!("disk{number}-{round}"));
                        import_stream(store, &disk[round * 4096..], &options).unwrap();
                    }
                });
            }
            scope.spawn(|| (0..3).for_each(|_| assert!(!stores[2].gc().unwrap().no_room)));
        });
        let store = &stores[2];
        assert_eq!(store.names().unwrap().len(), 4);
        for name in store.names().unwrap() {
            let manifest = store.resolve(&name).unwrap();
            let signers = stores[usize::from(name.starts_with("disk1"))].trusted().unwrap();
            let verified = store.verify(&manifest, &signers, &|_, _| {}).unwrap();
            assert!(verified.faults.is_empty(), "{name}: {:?}", verified.faults);
        }
        // All locks were given back.
        assert_eq!(store.shelf().list("locks").unwrap(), []);
    }
}
