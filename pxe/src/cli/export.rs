//! `billet image export`: an image as a file that other programs read.

use std::{path::PathBuf, sync::Mutex, time::Instant};

use clap::Args;
use images::format::Format;
use serde_json::json;

use super::{
    bar::Bars,
    image::{self, StoreArgs},
    text,
};

#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    store: StoreArgs,
    /// Name, digest, or the start of a digest that fits only one image.
    image: String,
    /// The new file.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// raw or qcow2; what the file's name ends with when nothing is said, else raw.
    #[arg(long, value_parser = format)]
    format: Option<Format>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

fn format(text: &str) -> Result<Format, String> {
    match text.parse() {
        Ok(format @ (Format::Raw | Format::Qcow2)) => Ok(format),
        _ => Err("raw and qcow2 are accepted".to_owned()),
    }
}

pub(super) fn run(args: &Export) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let manifest = image::find(&store, &args.image)?;
    let format = args.format.unwrap_or_else(|| match args.to.extension() {
        Some(end) if end == "qcow2" => Format::Qcow2,
        _ => Format::Raw,
    });
    let bars = Bars::new();
    let bar = Mutex::new((bars.add(&args.image), Instant::now()));
    let progress = |done: u64, total: u64| image::moved(&bar, "writing", done, total);
    let exported = images::export::export(&store, &manifest, &args.to, format, &progress);
    if let Ok((bar, _)) = bar.into_inner().as_mut() {
        bar.end(if exported.is_ok() { "written" } else { "not written" });
    }
    let exported = exported.map_err(image::refused)?;
    if args.json {
        return text::json(&json!({
            "manifest": manifest,
            "file": args.to,
            "format": format.name(),
            "size": exported.size,
            "written": exported.written,
        }));
    }
    text::line(&format!(
        "{} is {} as {format}: a disk of {}, {} of it not zero",
        args.to.display(),
        args.image,
        text::bytes(exported.size),
        text::bytes(exported.written)
    ))
}
