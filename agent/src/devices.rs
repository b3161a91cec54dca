//! The machine's devices, from first light to all drivers loaded.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{modules::Modules, patience::Patience, uevent::Uevents};

/// Devices that scan for more of themselves (controllers, buses) are done when nothing was
/// heard for this long: loading a driver waits for its first scan, the rest comes at once.
const QUIET: Duration = Duration::from_millis(100);

/// The devices and the drivers that serve them.
#[derive(Debug)]
pub(crate) struct Devices {
    events: Uevents,
    modules: Modules,
}

impl Devices {
    /// Subscribes to events before anything is loaded.
    pub(crate) fn open(modules: Modules) -> Result<Self> {
        let events = Uevents::open().context("subscribing to device events")?;
        Ok(Devices { events, modules })
    }

    /// Loads drivers until no new device shows up, and then until nothing is `missing`, or
    /// `limit` has passed. Returns what is still missing then.
    pub(crate) fn settle(
        &mut self,
        limit: Duration,
        missing: impl Fn() -> Option<String>,
    ) -> Option<String> {
        let mut patience: Option<Patience> = None;
        loop {
            while self.modules.load_for(Path::new("/sys/devices")) || self.events.wait(QUIET) {}
            let lacking = missing()?;
            let patience = patience.get_or_insert_with(|| {
                let patience = Patience::new(lacking.clone(), limit);
                patience.say("it may still be starting");
                patience
            });
            if patience.is_over() {
                return Some(lacking);
            }
            self.events.wait(patience.left());
        }
    }
}
