//! What the crates below this one have to say (`images` warns of a chunk that came damaged)
//! goes to the console. A subscriber of our own, because the usual one is larger than the rest
//! of the agent's text handling together.

use std::fmt::Debug;

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::console;

#[derive(Debug)]
struct ToConsole;

/// Sends warnings and errors to the console from now on.
pub(crate) fn to_console() {
    // Fails only where somebody did so before.
    let _ = tracing::subscriber::set_global_default(ToConsole);
}

impl Subscriber for ToConsole {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Message);
    }

    // Spans are not shown: one number does for all.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Message;

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            console::say(format_args!("{value:?}"));
        }
    }
}
