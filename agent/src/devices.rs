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

    /// Loads a driver that no device asks for, where the RAM system has it.
    pub(crate) fn load(&mut self, module: &str) -> Result<()> {
        self.modules.load(module)
    }

    /// Loads drivers until no new device shows up, and then until nothing is `missing`, or
    /// `limit` has passed. Returns what is still missing then. A device that never falls silent
    /// (a flapping link) does not hold it up for longer either.
    pub(crate) fn settle(
        &mut self,
        limit: Duration,
        missing: impl Fn() -> Option<String>,
    ) -> Option<String> {
        let patience = Patience::new("devices", limit);
        let mut said = false;
        loop {
            while self.modules.load_for(Path::new("/sys/devices")) || self.events.wait(QUIET) {
                if patience.is_over() {
                    break;
                }
            }
            let lacking = missing()?;
            if patience.is_over() {
                return Some(lacking);
            }
            if !said {
                patience.say(&format!("{lacking} may still be starting"));
                said = true;
            }
            self.events.wait(patience.left());
        }
    }
}
