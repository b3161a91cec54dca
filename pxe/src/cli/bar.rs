//! Progress for people: a live bar on a terminal, and on a pipe or a dumb terminal a plain
//! line now and then.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text;

/// Several bars, one below the other.
pub(super) struct Bars {
    live: Option<MultiProgress>,
}

/// One bar, or its plain lines.
pub(super) struct Bar {
    name: String,
    live: Option<ProgressBar>,
    said: String,
    next: Instant,
}

/// Between two plain lines about the same thing.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

impl Bars {
    /// Live only where somebody looks at a terminal that can.
    pub(super) fn new() -> Self {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let live = std::io::stderr().is_terminal() && !dumb;
        Bars {
            live: live
                .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8))),
        }
    }

    /// A bar called `name`.
    pub(super) fn add(&self, name: &str) -> Bar {
        let live = self.live.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Bar { name: name.to_owned(), live, said: String::new(), next: Instant::now() }
    }
}

impl Bar {
    /// `step` has `done` of `total` bytes behind it, at `rate` bytes per second.
    pub(super) fn bytes(&mut self, step: &str, done: u64, total: u64, rate: u64) {
        let at = if rate == 0 { String::new() } else { format!("{}/s", text::bytes(rate)) };
        if let Some(bar) = &self.live {
            let form =
                "{prefix:<12} {msg:<10} [{bar:28}] {binary_bytes:>10}/{binary_total_bytes:<10} ";
            if let Ok(style) = ProgressStyle::with_template(&format!("{form}{at}")) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(step.to_owned());
            return;
        }
        let line = format!("{step} {} of {} {at}", text::bytes(done), text::bytes(total));
        self.plain(step, line.trim_end());
    }

    /// `step` goes on without numbers; `note` says what it is about.
    pub(super) fn note(&mut self, step: &str, note: &str) {
        if let Some(bar) = &self.live {
            if let Ok(style) = ProgressStyle::with_template("{prefix:<12} {msg} {spinner}") {
                bar.set_style(style);
            }
            let message =
                if note.is_empty() { step.to_owned() } else { format!("{step:<10} {note}") };
            bar.set_message(message);
            return;
        }
        self.plain(step, format!("{step} {note}").trim_end());
    }

    /// It is over; `text` stays.
    pub(super) fn end(&mut self, text: &str) {
        match &self.live {
            Some(bar) => {
                if let Ok(style) = ProgressStyle::with_template("{prefix:<12} {msg}") {
                    bar.set_style(style);
                }
                bar.finish_with_message(text.to_owned());
            }
            None => {
                self.said.clear();
                self.plain("", text);
            }
        }
    }

    fn plain(&mut self, step: &str, line: &str) {
        let new_step = self.said != step || self.said.is_empty();
        if new_step || Instant::now() >= self.next {
            step.clone_into(&mut self.said);
            self.next = Instant::now() + PLAIN_EVERY;
            // Progress must never stop the work that it speaks of.
            let _ = text::error_line(&format!("{}: {line}", self.name));
        }
    }
}
