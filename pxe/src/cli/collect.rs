//! `billet image gc`: what no image needs leaves the store, and what is mostly dead is repacked.

use std::time::Duration;

use clap::Args;
use images::gc::{Collected, Options};
use jiff::SignedDuration;

use super::{image::StoreArgs, text};

#[derive(Debug, Args)]
pub(super) struct Gc {
    #[command(flatten)]
    store: StoreArgs,
    /// How long packs that were replaced stay, for who reads by an index of before: `24h`, `0s`.
    #[arg(long, default_value = "24h", value_parser = duration, value_name = "TIME")]
    grace: Duration,
    /// Repack packs of which less than this share is live; 0 repacks none.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    #[arg(value_name = "PERCENT")]
    live_below: u8,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok();
    let parsed = parsed.and_then(|duration| Duration::try_from(duration).ok());
    parsed.ok_or_else(|| "a time like 30m, 24h or 0s is accepted".to_owned())
}

pub(super) fn run(args: &Gc) -> anyhow::Result<()> {
    let options = Options { grace: args.grace, live_percent: args.live_below };
    let collected = args.store.open()?.gc_with(&options)?;
    if args.json {
        return text::json(&collected);
    }
    tell(&collected).iter().try_for_each(|line| text::line(line))
}

/// What was freed, and what of the rest is worth knowing.
fn tell(collected: &Collected) -> Vec<String> {
    let Collected { packs, manifests, unfinished, .. } = collected;
    let bytes = text::bytes;
    let mut lines = vec![format!(
        "{} freed: {packs} packs, {manifests} manifests, {unfinished} unfinished files",
        bytes(collected.freed)
    )];
    if collected.repacked > 0 {
        let (packs, size) = (collected.repacked, bytes(collected.repacked_bytes));
        lines.push(format!("{size} of live chunks moved into {packs} new packs"));
    }
    if collected.retired > 0 {
        let (packs, size) = (collected.retired, bytes(collected.retired_bytes));
        lines.push(format!(
            "{size} in {packs} replaced packs go when their grace is over and those who hold \
             images now are done"
        ));
    }
    if collected.dead > 0 {
        lines
            .push(format!("{} of dead chunks stay in packs with live ones", bytes(collected.dead)));
    }
    if collected.damaged > 0 {
        lines.push(format!(
            "{} damaged chunks stay where they are; `billet image verify` names them",
            collected.damaged
        ));
    }
    if collected.no_room {
        lines.push("nothing was repacked: the store has no room for the new packs".to_owned());
    }
    lines
}
