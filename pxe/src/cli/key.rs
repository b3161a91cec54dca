//! `billet image key` and `billet image sign`: who vouches for images, and whom nodes believe.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use images::keys::{KeyRefused, Role};
use serde_json::json;

use super::{client::Refused, image::StoreArgs, text};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List keys: which signs, which are believed, which are revoked, and what each signed.
    Ls(Plain),
    /// Make a key that signs from now on; what the one before signed is still believed.
    New(Plain),
    /// Believe a public key in minisign's format.
    Trust(Trust),
    /// Believe a key no more, whoever has it among the believed.
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(super) struct Plain {
    #[command(flatten)]
    store: StoreArgs,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Trust {
    #[command(flatten)]
    store: StoreArgs,
    /// The key: a `.pub` file.
    file: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    store: StoreArgs,
    /// The key's name, as `key ls` shows it, or at least 4 of its first digits.
    key: String,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    #[command(flatten)]
    store: StoreArgs,
    /// Names or digests of images.
    #[arg(required_unless_present = "all")]
    images: Vec<String>,
    /// Sign every image that has a name.
    #[arg(long, conflicts_with = "images")]
    all: bool,
    /// Sign images that have no signature too.
    #[arg(long)]
    unsigned: bool,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// What has to follow, so that nodes know.
const REBUILD: &str = "nodes know once `billet image build ram` has made a new RAM system";

pub(super) fn run(verb: &Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Ls(args) => ls(args),
        Verb::New(args) => new(args),
        Verb::Trust(args) => trust(args),
        Verb::Revoke(args) => revoke(args),
    }
    .map_err(refused)
}

fn refused(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<KeyRefused>() {
        Some(why) => Refused(why.to_string()).into(),
        None => error,
    }
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Signs => "signs",
        Role::Trusted => "trusted",
        Role::Revoked => "revoked",
        Role::Unknown => "unknown",
    }
}

fn ls(args: &Plain) -> anyhow::Result<()> {
    let keys = args.store.open()?.keys()?;
    if args.json {
        let list = keys.iter().map(
            |key| json!({"id": key.id.to_string(), "role": word(key.role), "images": key.images}),
        );
        return text::json(&list.collect::<Vec<_>>());
    }
    let row = |key: &images::keys::Key| {
        vec![key.id.to_string(), word(key.role).to_owned(), key.images.join(", ")]
    };
    text::table(&["key", "role", "signed"], keys.iter().map(row).collect(), "no keys")
}

fn new(args: &Plain) -> anyhow::Result<()> {
    let (new, before) = args.store.open()?.new_key()?;
    if args.json {
        return text::json(&json!({"key": new.to_string(), "before": before.to_string()}));
    }
    text::line(&format!("key {new} signs from now on, {before} is still believed; {REBUILD}"))
}

fn trust(args: &Trust) -> anyhow::Result<()> {
    let key = args.store.open()?.trust(&args.file)?;
    if args.json {
        return text::json(&json!({"key": key.to_string(), "role": word(Role::Trusted)}));
    }
    text::line(&format!("key {key} is believed; {REBUILD}"))
}

fn revoke(args: &Revoke) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let key = store.revoke(&args.key)?;
    let keys = store.keys()?;
    let signed = keys.into_iter().find(|found| found.id == key).map(|found| found.images);
    let signed = signed.unwrap_or_default();
    if args.json {
        let role = word(Role::Revoked);
        return text::json(&json!({"key": key.to_string(), "role": role, "images": signed}));
    }
    text::line(&format!("key {key} is not believed any more; {REBUILD}"))?;
    if signed.is_empty() {
        return Ok(());
    }
    let names = signed.join(" ");
    text::line(&format!(
        "it signed images that are refused now; `billet image sign {names}` signs them again"
    ))
}

pub(super) fn sign(args: &Sign) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let images = if args.all { store.names()? } else { args.images.clone() };
    let mut signed = Vec::new();
    for image in images {
        super::image::find(&store, &image)?;
        let (manifest, key) = store.sign(&image, args.unsigned).map_err(refused)?;
        if !args.json {
            text::line(&format!("{image} is signed by {key}"))?;
        }
        signed.push(json!({"image": image, "manifest": manifest, "key": key.to_string()}));
    }
    if args.json { text::json(&signed) } else { Ok(()) }
}
