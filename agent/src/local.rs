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
    name::Name,
    pack::Source,
    previous::Previous,
    write::{self, Options},
};
use protocol::{Step, path};

use crate::{
    console,
    deployment::{fault_of, step_of, threads},
    fault::Fault,
    image::{self, AWAY, Image, TRUSTED},
    listings::Listings,
    packs::Packs,
    patience::Patience,
    progress::Teller,
    server::Server,
};

/// Ways to say which image.
const ACCEPTED: &str =
    "`/the/store#name`, `http://10.0.0.1:8080/images/name` and `http://10.0.0.1:8080#<digest>`";
/// Where an image is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In a store's folder, by name or beginning of its digest.
    Store(PathBuf, String),
    /// At a provisioner, by digest or by what it calls the image now.
    Server(String, String),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_url = text.starts_with("http://");
        let door = is_url.then(|| text.rsplit_once(&format!("{}/", path::IMAGES))).flatten();
        let (place, name) = text
            .rsplit_once('#')
            .or(door)
            .filter(|(place, name)| !place.is_empty() && !name.is_empty())
            .ok_or_else(|| format!("`{text}` names no image; {ACCEPTED} are accepted"))?;
        if !is_url {
            return Ok(Origin::Store(place.into(), name.to_owned()));
        }
        // It becomes a part of a URL.
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !name.bytes().all(fits) {
            return Err(format!("`{name}` cannot name an image; {ACCEPTED} are accepted"));
        }
        Ok(Origin::Server(place.to_owned(), name.to_owned()))
    }
}

/// What the verb was told.
#[derive(Debug, clap::Args)]
pub(crate) struct Write {
    /// Image to write: `/the/store#name`, `http://10.0.0.1:8080/images/name`, or for ever the same one:
    /// `http://10.0.0.1:8080#<digest>`
    #[arg(long, value_name = "IMAGE")]
    image: Origin,
    /// Disk to write to, or a file that plays one
    #[arg(long, value_name = "DISK")]
    to: PathBuf,
    /// Image that was written to this disk before: tells where to look for what can be copied
    #[arg(long, value_name = "IMAGE")]
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
        Origin::Server(base, name) => {
            let (server, digest) = at_server(base, name)?;
            let trusted = asked.trusted.as_deref().unwrap_or(Path::new(TRUSTED));
            let image = Image::fetch(&server, &digest, trusted, asked.unsigned)?;
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
        Origin::Server(base, name) => {
            let (server, digest) = at_server(base, name)?;
            image::previous(Arc::new(Listings::of(&server, digest)))
        }
    }
}

/// A provisioner, and the manifest that it means by a name. Which one it is, is said: the next time it may be
/// another.
fn at_server(base: &str, name: &str) -> Result<(Server, Digest), Fault> {
    let server = Server::at(base).map_err(|error| Fault::stays(Step::Plan, error))?;
    if let Ok(digest) = name.parse() {
        return Ok((server, digest));
    }
    let path = format!("{}/{name}", path::IMAGES);
    let mut patience = Patience::new(&path, AWAY);
    let found: Result<Name, _> = Server::insist(&mut patience, || server.get(&path, None)?.json());
    match found {
        Ok(Name { manifest, .. }) => {
            console::say(format_args!("image {name} is {manifest}"));
            Ok((server, manifest))
        }
        Err(error) if error.may_pass() => Err(Fault::passes(Step::Plan, error)),
        Err(error) => Err(Fault::stays(Step::Plan, error)),
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
        let digest = Digest::of(b"x").to_string();
        for name in [&digest, "bare", "bare-13.1"] {
            let at = |base: &str| Ok(Origin::Server(base.to_owned(), name.to_owned()));
            assert_eq!(format!("http://10.0.0.1:8080#{name}").parse(), at("http://10.0.0.1:8080"));
            assert_eq!(format!("http://10.0.0.1/images/{name}").parse(), at("http://10.0.0.1"));
            assert_eq!(format!("http://[::1]/a/images/{name}").parse(), at("http://[::1]/a"));
        }
        let wrong = [
            "",
            "bare",
            "#bare",
            "/srv#",
            "/srv/images/bare",
            "http://10.0.0.1",
            "http://10.0.0.1/bare",
            "http://10.0.0.1/images/",
            "http://10.0.0.1/images/a/b",
            "http://10.0.0.1#a?b",
            "http://10.0.0.1#",
        ];
        for text in wrong {
            let why = text.parse::<Origin>().unwrap_err();
            assert!(why.contains(ACCEPTED), "{text}: {why}");
        }
    }
}
