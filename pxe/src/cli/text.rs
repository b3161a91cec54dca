//! How things are shown to people: tables, sizes, moments. Output goes through here so that
//! a closed pipe ends a listing quietly.

use std::io::{self, Write};

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use jiff::{SignedDuration, Timestamp};

use crate::api::WaitView;

/// Prints a line; a reader that has gone away is no error.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(gone) if gone.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("writing to standard output"),
    }
}

/// Prints a value as JSON.
pub(super) fn json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints rows under a heading, or what to do when there are none.
pub(super) fn table(heading: &[&str], rows: Vec<Vec<String>>, none: &str) -> anyhow::Result<()> {
    if rows.is_empty() {
        return line(none);
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heading.iter().map(|word| word.to_uppercase()))
        .add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    line(&lines.join("\n"))
}

/// `1.5 GiB`
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// `3m 20s ago`
pub(super) fn ago(then: Timestamp) -> String {
    format!("{} ago", span(Timestamp::now().duration_since(then)))
}

/// `1h 5m`, `12s`: the two largest units.
pub(super) fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// What something waits for, since when, until when, and what then.
pub(super) fn wait(wait: &WaitView) -> String {
    let now = Timestamp::now();
    format!(
        "waiting for {} since {}, at most {} more, then {}",
        wait.what,
        span(now.duration_since(wait.since)),
        span(wait.until.duration_since(now)),
        wait.then
    )
}

/// The first twelve digits of a digest or identifier.
pub(super) fn short(name: &str) -> &str {
    name.get(..12).unwrap_or(name)
}

/// Prints a line beside the output proper.
pub(super) fn error_line(text: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{text}")
}
