//! A line of the result: billet's number, the best peer's, and their ratio against its bar.

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result};
use comfy_table::{Table as Drawn, presets::NOTHING};
use serde::Serialize;

/// Which way a number is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Seconds, bytes: the ratio is `ours / best_peer`, and the best peer has the least.
    Less,
    /// Throughput: the ratio is `best_peer / ours`, and the best peer has the most.
    More,
}

/// One figure, as `target/bench.json` has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What `ours` and `best_peer` are counted in.
    pub unit: String,
    /// billet's median.
    pub ours: f64,
    /// Who was measured beside it, best first; a limit is called `limit`.
    pub peer: String,
    /// The best peer's median.
    pub best_peer: f64,
    /// Smaller is better whatever the unit is; see [`Better`].
    pub ratio: f64,
    /// The ratio that is allowed; none where the row is for information only.
    pub bar: Option<f64>,
}

impl Row {
    /// Compares billet with peers, each by its name and median.
    pub fn compare(
        name: &str,
        unit: &str,
        better: Better,
        ours: f64,
        peers: &[(&str, f64)],
    ) -> Row {
        let mut peers = peers.to_vec();
        peers.sort_by(|(_, a), (_, b)| match better {
            Better::Less => a.total_cmp(b),
            Better::More => b.total_cmp(a),
        });
        let best_peer = peers.first().map_or(f64::NAN, |(_, median)| *median);
        let ratio = match better {
            Better::Less => ours / best_peer,
            Better::More => best_peer / ours,
        };
        let described = peers.iter().enumerate().map(|(place, (peer, median))| match place {
            0 => (*peer).to_owned(),
            _ => format!("{peer} {}", round(*median)),
        });
        Row {
            name: name.to_owned(),
            unit: unit.to_owned(),
            ours,
            peer: described.collect::<Vec<_>>().join(", "),
            best_peer,
            ratio,
            bar: None,
        }
    }

    /// Compares billet with what it may use at most.
    pub fn limit(name: &str, unit: &str, ours: f64, limit: f64) -> Row {
        Row::compare(name, unit, Better::Less, ours, &[("limit", limit)]).with_bar(1.0)
    }

    /// The same, with others that are shown and do not count, and why.
    pub fn beside(mut self, why: &str, others: &[(&str, f64)]) -> Row {
        if !others.is_empty() {
            let others: Vec<_> =
                others.iter().map(|(name, median)| format!("{name} {}", round(*median))).collect();
            self.peer += &format!("; {why}: {}", others.join(", "));
        }
        self
    }

    /// The same, failing the benchmark when its ratio is over `bar`.
    pub fn with_bar(self, bar: f64) -> Row {
        Row { bar: Some(bar), ..self }
    }

    /// Whether it has no bar or is not over it. What is no number (billet lost everything) is.
    pub fn within_bar(&self) -> bool {
        self.bar.is_none_or(|bar| self.ratio <= bar)
    }
}

/// All rows.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Appends rows, with this behind their names.
    pub fn add(&mut self, rows: Vec<Row>, suffix: &str) {
        self.rows.extend(rows.into_iter().map(|row| Row { name: row.name + suffix, ..row }));
    }

    /// Whether every row is within its bar.
    pub fn within_bars(&self) -> bool {
        self.rows.iter().all(Row::within_bar)
    }

    /// Writes the rows as a JSON list.
    pub fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.rows).context("rendering the result")?;
        fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut drawn = Drawn::new();
        drawn.load_style(NOTHING);
        drawn.set_header(["figure", "unit", "billet", "best peer", "", "ratio", "bar", ""]);
        for row in &self.rows {
            drawn.add_row([
                row.name.clone(),
                row.unit.clone(),
                round(row.ours),
                round(row.best_peer),
                row.peer.clone(),
                format!("{:.2}", row.ratio),
                row.bar.map_or("-".to_owned(), |bar| format!("{bar:.2}")),
                (if row.within_bar() { "" } else { "OVER" }).to_owned(),
            ]);
        }
        drawn.fmt(f)
    }
}

/// Three digits are what such a measurement is good for.
fn round(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_smaller_when_billet_is_better() {
        let slow = Row::compare("boot", "s", Better::Less, 18.0, &[("hand", 20.0)]).with_bar(0.9);
        assert!(slow.within_bar() && slow.ratio == 0.9);
        let peers = [("hpa", 31.0), ("dnsmasq", 90.0)];
        let fast = Row::compare("tftp", "MB/s", Better::More, 100.0, &peers).with_bar(1.0);
        assert!(fast.within_bar() && fast.ratio == 0.9);
        assert_eq!((fast.best_peer, fast.peer.as_str()), (90.0, "dnsmasq, hpa 31.0"));
    }

    #[test]
    fn a_row_without_numbers_is_over_its_bar() {
        let lost = Row::compare("tftp", "MB/s", Better::More, 0.0, &[("hpa", 0.0)]);
        assert!(lost.within_bar());
        assert!(!lost.with_bar(1.0).within_bar());
    }

    #[test]
    fn a_missing_bar_is_null() {
        let row = Row::compare("x", "s", Better::Less, 1.0, &[("y", 2.0)]);
        let json = serde_json::to_value(row).unwrap();
        assert!(json["bar"].is_null());
        assert_eq!(json["ratio"], 0.5);
    }
}
