//! The images that can be deployed: the door from async code to the store of images.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use images::{
    Digest, Store,
    name::{Name, Unresolved},
    shelf,
};
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::{api::ImageView, place::Place, provisioner::Undone, refusal::Refusal};

/// A store of images, read here and written by `billet image`.
#[derive(Debug, Clone)]
pub struct Library(Store);

/// What a node needs before any image: the RAM system.
const RAM_SYSTEM: [&str; 2] = ["kernel", "ramdisk"];

impl Library {
    /// The store at a place, made when it is not there.
    pub fn open(place: &Place, data: &Path) -> anyhow::Result<Library> {
        Ok(Library(place.create(data).context("opening the store of images")?))
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.0
    }

    /// The folder of boot programs, kernel and RAM disk.
    pub fn boot_folder(&self) -> PathBuf {
        self.0.boot_folder()
    }

    /// What a server without it cannot do, and the command that makes it.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let (boot, root) = (self.boot_folder(), self.0.root());
        let store = self.0.shelf().place().unwrap_or_else(|_| root.display().to_string());
        let absent: Vec<_> = RAM_SYSTEM.iter().filter(|file| !boot.join(file).is_file()).collect();
        if !absent.is_empty() {
            missing.push(format!(
                "no RAM system in {}: billet image build ram --store {store}",
                boot.display()
            ));
        }
        if self.0.names().is_ok_and(|names| names.is_empty()) {
            missing.push(format!("no image: billet image build bare --store {store}"));
        }
        missing
    }

    /// The manifest that `typed` means, when a node could be deployed with it now.
    pub async fn deployable(&self, typed: &str, unsigned: bool) -> Result<Digest, Undone> {
        let (library, typed) = (self.clone(), typed.to_owned());
        blocking(move || {
            let boot = library.boot_folder();
            if let Some(file) = RAM_SYSTEM.iter().find(|file| !boot.join(file).is_file()) {
                let text = format!("the RAM system has no {file}: billet image build ram makes it");
                return Err(Refusal::Conflict(text).into());
            }
            let manifest = library.0.resolve(&typed).map_err(|error| match error {
                Unresolved::Store(error) => Undone::Broken(error),
                named => Refusal::Invalid(named.to_string()).into(),
            })?;
            let signed = library.0.shelf().facts(&shelf::minisig(&manifest));
            if !unsigned && signed.is_err() {
                let text = format!("image {typed} is not signed; `unsigned: true` accepts that");
                return Err(Refusal::Invalid(text).into());
            }
            Ok(manifest)
        })
        .await
    }

    /// Keeps an image for a deployment, whatever becomes of its name.
    pub async fn hold(&self, deployment: Uuid, manifest: Digest) -> Result<(), Undone> {
        let store = self.0.clone();
        blocking(move || Ok(store.hold(&deployment.to_string(), &manifest)?)).await
    }

    /// Ends what [`Library::hold`] began.
    pub async fn release(&self, deployment: Uuid) -> Result<(), Undone> {
        let store = self.0.clone();
        blocking(move || Ok(store.release(&deployment.to_string())?)).await
    }

    /// Every deployment that an image is kept for.
    pub async fn held(&self) -> Result<Vec<Uuid>, Undone> {
        let store = self.0.clone();
        let holds = blocking(move || Ok(store.holds()?)).await?;
        Ok(holds.iter().filter_map(|(holder, _)| holder.parse().ok()).collect())
    }

    /// What an image's name stands for.
    pub async fn name(&self, name: String) -> Result<Option<Name>, Undone> {
        let store = self.0.clone();
        blocking(move || Ok(store.name(&name)?)).await
    }

    /// Every named image.
    pub async fn images(&self) -> Result<Vec<ImageView>, Undone> {
        let store = self.0.clone();
        let images = blocking(move || Ok(store.images().context("listing the images")?)).await?;
        let view = |image: images::name::Image| ImageView {
            name: image.name,
            manifest: image.manifest.to_string(),
            size: image.size,
            packed: image.packed,
            created: i64::try_from(image.created)
                .ok()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .unwrap_or_default()
                .to_string(),
        };
        Ok(images.into_iter().map(view).collect())
    }

    /// The plain bytes of a chunk, for who has no index; every manifest is searched for it.
    pub async fn chunk(&self, name: Digest) -> Result<Option<Vec<u8>>, Undone> {
        let store = self.0.clone();
        blocking(move || Ok(find_chunk(&store, name)?)).await
    }
}

/// A whole catalogue of large stores would not fit a small server's memory: one manifest after
/// the other is looked through.
fn find_chunk(store: &Store, wanted: Digest) -> anyhow::Result<Option<Vec<u8>>> {
    for name in store.manifests()? {
        let manifest = store.manifest(&name)?;
        if let Some(n) = manifest.chunks().position(|(_, _, name)| name == wanted)
            && let Some(location) = store.index(&name)?.get(n)
        {
            return Ok(Some(store.chunk(&wanted, &location).context("reading a chunk")?));
        }
    }
    Ok(None)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Undone> + Send + 'static,
) -> Result<T, Undone> {
    spawn_blocking(work).await.context("reading the store of images")?
}
