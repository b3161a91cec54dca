//! `billet image mirror`: one store into another.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use images::{keys::Role, name::Unresolved};
use serde_json::json;

use super::{bar::Bars, client::Refused, image::StoreArgs, text};

#[derive(Debug, Args)]
pub(super) struct Mirror {
    #[command(flatten)]
    store: StoreArgs,
    /// The store that is to have the images, a folder or `s3://bucket/prefix`; made when it is not
    /// there.
    #[arg(long, value_name = "FOLDER|s3://BUCKET")]
    to: PathBuf,
    /// Names of images; every one without any. A name that the other store gave to another image
    /// is given to this one.
    images: Vec<String>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Mirror) -> anyhow::Result<()> {
    let (from, to) = (args.store.open()?, args.store.create_other(&args.to)?);
    let bars = Bars::new();
    let (mut bar, begun) = (bars.add("mirror"), Instant::now());
    let mut copied = 0;
    let mirrored = images::mirror::mirror(&from, &to, &args.images, &mut |name, done, total| {
        copied = done.max(copied);
        let rate = (copied as f64 / begun.elapsed().as_secs_f64().max(0.001)) as u64;
        bar.bytes(name, done, total, rate);
    });
    bar.end(if mirrored.is_ok() { "copied" } else { "not copied" });
    let mirrored = mirrored.map_err(|error| match error.downcast_ref::<Unresolved>() {
        Some(unknown) => Refused(unknown.to_string()).into(),
        None => error,
    })?;
    let unknown = to.keys()?.into_iter().filter(|key| key.role == Role::Unknown);
    let unknown: Vec<String> = unknown.map(|key| key.id.to_string()).collect();
    if args.json {
        let mut value = serde_json::to_value(mirrored)?;
        value["unknown_keys"] = json!(unknown);
        return text::json(&value);
    }
    text::line(&format!(
        "{} images, {} of them new there; {} copied in {} packs",
        mirrored.images,
        mirrored.new_images,
        text::bytes(mirrored.bytes),
        mirrored.packs
    ))?;
    if unknown.is_empty() {
        return Ok(());
    }
    text::line(&format!(
        "{} does not believe the keys {}; `billet image key trust` makes it",
        args.to.display(),
        unknown.join(", ")
    ))
}
