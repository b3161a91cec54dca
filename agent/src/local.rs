//! `billet-agent write`: an image written by hand, from a store's folder or from a provisioner,
//! to a disk or a file, without identity and without a restart.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use anyhow::Result;
use images::{
    Digest, Disk, Store,
    listed::Stored,
    pack::Source,
    previous::Previous,
    write::{self, Options},
};
use protocol::Step;

use crate::{
    console,
    deployment::{fault_of, step_of, threads},
    fault::Fault,
    image::{self, Image, TRUSTED},
    listings::Listings,
    packs::Packs,
    progress::Teller,
    server::Server,
};

/// Where an image is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In a store's folder, by name or beginning of its digest.
    Store(PathBuf, String),
    /// At a provisioner, by digest.
    Server(String, Digest),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = "`/the/store#name` and `http://10.0.0.1:8080#<digest>` are";
        let (place, name) = text
            .rsplit_once('#')
            .filter(|(place, name)| !place.is_empty() && !name.is_empty())
            .ok_or_else(|| format!("`{text}` names no image, {accepted}"))?;
        if place.starts_with("http://") {
            let digest = name.parse().map_err(|error| format!("{error}; {accepted}"))?;
            return Ok(Origin::Server(place.to_owned(), digest));
        }
        Ok(Origin::Store(place.into(), name.to_owned()))
    }
}

/// What the verb was told.
#[derive(Debug, clap::Args)]
pub(crate) struct Write {
    /// Image to write: `/the/store#name` or `http://10.0.0.1:8080#<digest>`
    #[arg(long, value_name = "PLACE#NAME")]
    image: Origin,
    /// Disk to write to, or a file that plays one
    #[arg(long, value_name = "DISK")]
    to: PathBuf,
    /// Image that was written to this disk before: tells where to look for what can be copied
    #[arg(long, value_name = "PLACE#NAME")]
    previous: Option<Origin>,
    /// Say what would be kept, copied, fetched and zeroed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Grow the last partition to the disk's end
    #[arg(long)]
    grow: bool,
    /// CPUs to keep busy, 1 to 8 [default: those that there are, fewer where memory is scarce]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    threads: Option<u8>,
    /// Take an image without a signature
    #[arg(long)]
    unsigned: bool,
    /// Folder of public keys to believe [default: the store's own, or /etc/billet/trusted]
    #[arg(long, value_name = "DIR")]
    trusted: Option<PathBuf>,
}

/// Writes, or says what would be written.
pub(crate) fn write(asked: &Write) -> Result<(), Fault> {
    let teller = Teller::start(None, "by hand");
    teller.begin(Step::Plan, 0, None);
    match &asked.image {
        Origin::Store(folder, name) => {
            let stays = |error: anyhow::Error| Fault::stays(Step::Plan, error);
            let (stored, signature) = stored(folder, name).map_err(stays)?;
            let own = stored.store.root().join("keys");
            let trusted = asked.trusted.as_deref().unwrap_or(&own);
            let (listed, name) = (Arc::new(stored.clone()), &stored.manifest);
            let image = Image::open(listed, name, signature.as_deref(), trusted, asked.unsigned)?;
            write_from(&image, &stored.store, asked, &teller)
        }
        Origin::Server(base, digest) => {
            let server = Server::at(base).map_err(|error| Fault::stays(Step::Plan, error))?;
            let trusted = asked.trusted.as_deref().unwrap_or(Path::new(TRUSTED));
            let image = Image::fetch(&server, digest, trusted, asked.unsigned)?;
            write_from(&image, &Packs::of(&server), asked, &teller)
        }
    }
}

/// An image of a store's folder, and its signature.
fn stored(folder: &Path, name: &str) -> Result<(Stored, Option<String>)> {
    let store = Store::open(folder)?;
    let manifest = store.resolve(name)?;
    let signature = store.minisig(&manifest)?;
    Ok((Stored { store, manifest }, signature))
}

/// What was on the disk before, by its manifest alone.
fn previous(origin: &Origin) -> Result<Previous<'static>, Fault> {
    match origin {
        Origin::Store(folder, name) => {
            let stored = stored(folder, name);
            let (stored, _) = stored.map_err(|error| Fault::stays(Step::Plan, error))?;
            image::previous(Arc::new(stored))
        }
        Origin::Server(base, digest) => {
            let server = Server::at(base).map_err(|error| Fault::stays(Step::Plan, error))?;
            image::previous(Arc::new(Listings::of(&server, *digest)))
        }
    }
}

fn write_from(
    image: &Image,
    source: &dyn Source,
    asked: &Write,
    teller: &Teller,
) -> Result<(), Fault> {
    let open = if asked.dry_run { Disk::open_read_only(&asked.to) } else { Disk::open(&asked.to) };
    let disk = open.map_err(|refusal| Fault::stays(Step::Disk, refusal))?;
    let progress = |now: write::Progress| teller.reach(step_of(now.phase), now.done, now.total);
    let previous = asked.previous.as_ref().map(previous).transpose()?;
    let options = Options {
        grow: asked.grow,
        threads: asked.threads.map_or_else(threads, usize::from),
        progress: &progress,
        previous: previous.as_ref(),
        ..Options::default()
    };
    let plan = if asked.dry_run {
        write::plan(&image.image, &disk, source, &options)
    } else {
        write::write(&image.image, &disk, source, &options).map(|written| written.plan)
    };
    let plan = plan.map_err(|error| fault_of(error, teller.step().unwrap_or(Step::Write)))?;
    teller.end();
    console::say(plan);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_place_and_name() {
        let store = Origin::Store("/srv/a#b".into(), "bare".to_owned());
        assert_eq!("/srv/a#b#bare".parse(), Ok(store));
        let digest = Digest::of(b"x");
        let server = Origin::Server("http://10.0.0.1:8080".to_owned(), digest);
        assert_eq!(format!("http://10.0.0.1:8080#{digest}").parse(), Ok(server));
        for text in ["", "bare", "#bare", "/srv#", "http://10.0.0.1#bare"] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
