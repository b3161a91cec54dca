//! A node: a virtual machine whose disks, firmware variables and cable outlive its power cycles.

use std::{
    fs::{self, File},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{
    cable::Cable,
    child::Child,
    console::Console,
    fallen::{self, Watch},
    machine::{self, Parts},
    qmp::{Event, Qmp},
    spec::{BootFirst, Firmware, Kernel, NodeSpec},
};

/// A machine of the rack.
pub struct Node {
    mac: String,
    uuid: String,
    folder: PathBuf,
    disks: Vec<PathBuf>,
    cable: Cable,
    console: Console,
    state: Mutex<State>,
}

struct State {
    spec: NodeSpec,
    running: Option<Running>,
    plugged: bool,
}

struct Running {
    /// Dropped before the emulator is.
    _watch: Watch,
    qemu: Child,
    qmp: Qmp,
}

impl Node {
    /// Makes the `number`-th machine, switched off, with empty disks, in `folder`.
    pub(crate) fn new(
        number: usize,
        spec: NodeSpec,
        folder: PathBuf,
        cable: Cable,
        start: Instant,
    ) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let console = Console::new(&spec.name, start, &folder.join("console.log"))?;
        let mut disks = Vec::new();
        for (index, disk) in spec.disks.iter().enumerate() {
            let path = folder.join(format!("disk{index}.raw"));
            let file = File::create(&path).and_then(|file| file.set_len(disk.size.0));
            file.with_context(|| format!("making {}", path.display()))?;
            disks.push(path);
        }
        if spec.firmware != Firmware::Bios {
            let template = machine::variables_template()?;
            fs::copy(template, folder.join("variables.fd")).context("copying the variables")?;
        }
        let [high, low] = (number as u16).to_be_bytes();
        Ok(Node {
            mac: format!("52:54:00:77:{high:02x}:{low:02x}"),
            uuid: format!("b111e700-0000-4000-8000-52540077{number:04x}"),
            folder,
            disks,
            cable,
            console,
            state: Mutex::new(State { spec, running: None, plugged: true }),
        })
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.state().spec.name.clone()
    }

    /// The hardware address of its network card, lower case with colons.
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// Its SMBIOS UUID.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// What it is made of.
    pub fn spec(&self) -> NodeSpec {
        self.state().spec.clone()
    }

    /// The folder with its disks, variables and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file behind its `number`-th disk.
    pub fn disk(&self, number: usize) -> Result<&Path> {
        let disk = self.disks.get(number);
        let count = self.disks.len();
        let path = disk.with_context(|| format!("disk {number} asked, the node has {count}"))?;
        Ok(path)
    }

    /// Its serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Whether it is switched on.
    pub fn is_on(&self) -> bool {
        self.state().is_on()
    }

    /// Switches it on.
    pub fn power_on(&self) -> Result<()> {
        let mut state = self.state();
        if state.is_on() {
            return Ok(());
        }
        state.running = None;
        let running = self.start(&state.spec).with_context(|| {
            format!("switching {} on (see {})", state.spec.name, self.qemu_log().display())
        })?;
        if !state.plugged {
            set_link(&running.qmp, &state.spec, false)?;
        }
        state.running = Some(running);
        Ok(())
    }

    fn start(&self, spec: &NodeSpec) -> Result<Running> {
        let (serial, serial_end) = UnixStream::pair().context("making a socket pair")?;
        let (qmp, qmp_end) = UnixStream::pair().context("making a socket pair")?;
        let plug = self.cable.plug()?;
        for journal in spec.disks.iter().filter_map(|disk| disk.journal.as_ref()) {
            File::create(journal).with_context(|| format!("making {}", journal.display()))?;
        }
        let parts = Parts {
            mac: &self.mac,
            uuid: &self.uuid,
            disks: &self.disks,
            variables: &self.folder.join("variables.fd"),
            netdev: &plug.netdev,
            serial: serial_end.as_raw_fd(),
            qmp: qmp_end.as_raw_fd(),
        };
        let command = machine::command(spec, &parts)?;
        let mut inherited: Vec<OwnedFd> = vec![serial_end.into(), qmp_end.into()];
        inherited.extend(plug.fd);
        self.console.attach(serial)?;
        let qemu = Child::start(&spec.name, command, &self.qemu_log(), inherited)?;
        let qmp = Qmp::connect(qmp).with_context(|| {
            let said = fs::read_to_string(self.qemu_log()).unwrap_or_default();
            format!("speaking to QEMU, which said: {}", said.trim())
        })?;
        let watch = Watch::over(&spec.name, qemu.pid(), self.qemu_log());
        Ok(Running { _watch: watch, qemu, qmp })
    }

    /// Cuts its power: what its disks were told is there, what was on the way is lost.
    pub fn cut(&self) {
        drop(self.state().running.take());
    }

    /// Presses the power button and waits until the system has switched the machine off.
    ///
    /// # Errors
    /// When it has not within `patience`; it is still on then.
    pub fn power_off(&self, patience: Duration) -> Result<()> {
        self.command("system_powerdown")?;
        self.wait_off(patience)
    }

    /// Waits until the machine is off.
    pub fn wait_off(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        while self.is_on() {
            fallen::check()?;
            if Instant::now() > until {
                let (name, tail) = (self.name(), self.console.tail());
                bail!("waited {patience:?} for {name} to switch off; its console says:\n{tail}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        fallen::check()
    }

    /// Presses the reset button.
    pub fn reset(&self) -> Result<()> {
        self.command("system_reset")
    }

    /// Pulls the network cable, of several cards that share it the first one's end; it stays out over power cycles.
    pub fn unplug(&self) -> Result<()> {
        self.link(false)
    }

    /// Puts the network cable back.
    pub fn plug(&self) -> Result<()> {
        self.link(true)
    }

    fn link(&self, up: bool) -> Result<()> {
        let mut state = self.state();
        state.plugged = up;
        match &state.running {
            Some(running) => set_link(&running.qmp, &state.spec, up),
            None => Ok(()),
        }
    }

    /// What its firmware tries first from the next power-on.
    pub fn boot_first(&self, first: BootFirst) {
        self.state().spec.boot_first = first;
    }

    /// What is loaded from the next start on, whatever its firmware finds.
    pub fn load(&self, kernel: Kernel) {
        self.state().spec.kernel = Some(kernel);
    }

    /// Where what happens to its first disk is kept, of each power cycle anew, from the next power-on.
    pub fn journal(&self, path: Option<&Path>) {
        if let Some(disk) = self.state().spec.disks.first_mut() {
            disk.journal = path.map(Path::to_owned);
        }
    }

    /// Which sector of its first disk cannot be written, from the next power-on.
    pub fn unwritable(&self, sector: Option<u64>) {
        if let Some(disk) = self.state().spec.disks.first_mut() {
            disk.unwritable = sector;
        }
    }

    /// Whether its firmware switches an IOMMU on, from the next power-on.
    pub fn iommu(&self, on: bool) {
        self.state().spec.iommu = on;
    }

    /// Writes what its screen shows to `path`, as a portable pixmap.
    pub fn screendump(&self, path: &Path) -> Result<()> {
        let state = self.state();
        let running = state.running.as_ref().context("the machine is off")?;
        running.qmp.execute("screendump", &json!({ "filename": path }))?;
        Ok(())
    }

    /// What QEMU told of this power cycle: resets, power-offs.
    pub fn events(&self) -> Vec<Event> {
        self.state().running.as_ref().map(|running| running.qmp.events()).unwrap_or_default()
    }

    /// Process id of its QEMU, when it is on.
    pub fn pid(&self) -> Option<u32> {
        self.state().running.as_ref().map(|running| running.qemu.pid())
    }

    fn command(&self, command: &str) -> Result<()> {
        let state = self.state();
        let name = &state.spec.name;
        let running = state.running.as_ref().with_context(|| format!("{name} is off"))?;
        running.qmp.execute(command, &json!({}))?;
        Ok(())
    }

    fn qemu_log(&self) -> PathBuf {
        self.folder.join("qemu.log")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_on(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| running.qemu.ended().is_none())
    }
}

fn set_link(qmp: &Qmp, spec: &NodeSpec, up: bool) -> Result<()> {
    let cable = machine::first_cable(spec);
    qmp.execute("set_link", &json!({ "name": cable, "up": up })).map(drop)
}
