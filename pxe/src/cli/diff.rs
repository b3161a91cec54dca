//! `billet image diff`: what two images have in common.

use clap::Args;
use images::diff::Part;
use serde_json::json;

use super::{
    image::{self, StoreArgs},
    text,
};

#[derive(Debug, Args)]
pub(super) struct Diff {
    #[command(flatten)]
    store: StoreArgs,
    /// What a disk holds: name, digest, or the start of a digest.
    first: String,
    /// What it is to hold.
    second: String,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Diff) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let (first, second) = (image::find(&store, &args.first)?, image::find(&store, &args.second)?);
    let diff = store.diff(&first, &second)?;
    if args.json {
        let mut value = serde_json::to_value(diff)?;
        value["first"] = json!(first);
        value["second"] = json!(second);
        return text::json(&value);
    }
    let row = |what: String, part: Part| {
        vec![what, part.chunks.to_string(), text::bytes(part.bytes), text::bytes(part.packed)]
    };
    let rows = vec![
        row("in common".to_owned(), diff.common),
        row(format!("only in {}", args.first), diff.gone),
        row(format!("only in {}", args.second), diff.new),
    ];
    text::table(&["", "chunks", "bytes", "packed"], rows, "")?;
    text::line(&format!(
        "{} over {}: {} in place, {} elsewhere on the disk, {} to fetch",
        args.second,
        args.first,
        text::bytes(diff.in_place),
        text::bytes(diff.elsewhere),
        text::bytes(diff.new.packed)
    ))
}
