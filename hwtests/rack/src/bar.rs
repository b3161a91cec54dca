//! One line a deployment that moves where a person watches, and a line at every change where
//! the output is a pipe or a terminal that cannot go back.

use std::{io::IsTerminal, time::Duration};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use protocol::Step;
use rack::api::Deployment;

use crate::out::line;

/// Where on the whole way each step begins, in thousandths: by how long they usually take.
const BEGINS: [(Step, u64); 10] = [
    (Step::Boot, 0),
    (Step::Inventory, 200),
    (Step::Disk, 330),
    (Step::Plan, 340),
    (Step::Write, 360),
    (Step::Verify, 620),
    (Step::Seed, 690),
    (Step::Table, 700),
    (Step::Restart, 710),
    (Step::Start, 730),
];
const END: u64 = 1000;

/// All lines.
pub(crate) struct Bars {
    /// Absent where lines are printed one after another.
    moving: Option<MultiProgress>,
}

/// One line.
pub(crate) struct Bar {
    name: String,
    moving: Option<ProgressBar>,
    /// What was printed last: step and quarter of it.
    last: Option<(Step, u64)>,
}

impl Bars {
    /// Moving ones on a terminal that can.
    pub(crate) fn new() -> Self {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let moves = std::io::stdout().is_terminal() && !dumb;
        let target = indicatif::ProgressDrawTarget::stdout();
        Bars { moving: moves.then(|| MultiProgress::with_draw_target(target)) }
    }

    /// Adds one.
    pub(crate) fn add(&self, name: &str) -> Bar {
        let moving = self.moving.as_ref().map(|all| {
            let bar = all.add(ProgressBar::new(END));
            let style = ProgressStyle::with_template(
                "  {prefix:<6} {bar:32.cyan/dim} {percent:>3}%  {msg}  {spinner:.dim}",
            );
            bar.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"),
            );
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Bar { name: name.to_owned(), moving, last: None }
    }
}

impl Bar {
    /// Shows how far a deployment is.
    pub(crate) fn show(&mut self, deployment: &Deployment) {
        let (done, total, rate) = amounts(deployment);
        let words = words(deployment.step, done, total, rate);
        if let Some(bar) = &self.moving {
            bar.set_position(position(deployment.step, done, total).max(bar.position()));
            bar.set_message(words);
            return;
        }
        let quarter = (4 * done).checked_div(total).unwrap_or(0);
        if self.last != Some((deployment.step, quarter)) {
            self.last = Some((deployment.step, quarter));
            line(format_args!("  {:<6} {words}", self.name));
        }
    }

    /// The last word on it.
    pub(crate) fn end(&mut self, well: bool, words: &str) {
        let Some(bar) = &self.moving else {
            line(format_args!("  {:<6} {words}", self.name));
            return;
        };
        if well {
            bar.set_position(END);
        }
        let style =
            ProgressStyle::with_template("  {prefix:<6} {bar:32.green/dim} {percent:>3}%  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"));
        if well {
            bar.finish_with_message(words.to_owned());
        } else {
            bar.abandon_with_message(words.to_owned());
        }
    }
}

fn amounts(deployment: &Deployment) -> (u64, u64, u64) {
    let progress = deployment.progress.as_ref();
    let progress = progress.filter(|progress| progress.step == deployment.step);
    progress.map_or((0, 0, 0), |progress| (progress.done, progress.total, progress.rate))
}

fn position(step: Step, done: u64, total: u64) -> u64 {
    let which = BEGINS.iter().position(|(other, _)| *other == step).unwrap_or(0);
    let (begin, next) = (BEGINS[which].1, BEGINS.get(which + 1).map_or(END, |next| next.1));
    let part = (next - begin) * (done >> 10);
    begin + part.checked_div(total >> 10).unwrap_or(0).min(next - begin)
}

fn words(step: Step, done: u64, total: u64, rate: u64) -> String {
    let what = match step {
        Step::Boot => "firmware boots from the network",
        Step::Inventory => "RAM system starts and takes stock",
        Step::Disk => "chooses the disk",
        Step::Plan => "compares the disk with the image",
        Step::Write => "writes",
        Step::Verify => "reads back and checks",
        Step::Table => "fits the partition table",
        Step::Seed => "writes the node's identity",
        Step::Restart => "restarts into its disk",
        Step::Start => "Debian starts",
    };
    if total == 0 || !matches!(step, Step::Write | Step::Verify) {
        return what.to_owned();
    }
    let total = HumanBytes(total);
    if done == 0 {
        return format!("{what} {total}");
    }
    let done = HumanBytes(done);
    let rate = if rate > 0 { format!(", {}/s", HumanBytes(rate)) } else { String::new() };
    format!("{what} {done} of {total}{rate}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_only_goes_forward() {
        let mut last = 0;
        for (step, _) in BEGINS {
            for done in [0, 1 << 20, 2 << 20] {
                let now = position(step, done, 2 << 20);
                assert!(now >= last, "{step} {done}");
                last = now;
            }
        }
        assert_eq!(last, END);
        assert_eq!(position(Step::Write, 0, 0), 360);
    }
}
