//! One change of a guest, done.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use xen_config::{
    Name,
    guest_step::{Change, GuestStep},
    link::LinkName,
    link_step::LinkStep,
    list::{self, Domain, Ending},
    nic::{Mac, Vlan},
    vlan::PortVlans,
};

use super::folder::Folder;
use crate::{
    console,
    sys::{link::Door, xl::Xl},
};

/// Where xenstore keeps dom0's ends of guests' NICs.
pub(crate) const VIFS: &str = "/local/domain/0/backend/vif";
/// How the file of a saved guest ends.
pub(crate) const SAVED: &str = ".saved";
/// How it ends while it is being written.
const UNFINISHED: &str = ".saving";
/// Guests' memory is written and read at disk speed.
const LONG: Duration = Duration::from_secs(1800);
/// Making a guest waits for hotplug scripts.
const MAKING: Duration = Duration::from_secs(300);
/// Where xenconsoled writes what guests print.
const CONSOLES: &str = "/var/log/xen/console";
/// So much of a console is told when its guest has died.
const TAIL: u64 = 8 << 10;
const LINES: usize = 20;

/// Guests, to be changed.
#[derive(Debug)]
pub(crate) struct Guests {
    xl: Xl,
    folder: Folder,
    /// When each guest was asked to shut down.
    asked: BTreeMap<Name, Instant>,
}

/// What a change had to do beyond what was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// Nothing.
    AsPlanned,
    /// The guest did not shut down in its time.
    Destroyed,
}

/// What became of a guest whose memory was being saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// It did not stand still, or is in its file.
    WasAwake,
    /// It stood still and goes on.
    GoesOn,
    /// It stood still and nothing makes it go on.
    Destroyed,
}

impl Guests {
    /// Those of this node; what is saved of them is in `folder`.
    pub(crate) fn new(folder: &Folder) -> Self {
        Guests { xl: Xl::at(Path::new("/")), folder: folder.clone(), asked: BTreeMap::new() }
    }

    /// Does `step`.
    ///
    /// # Errors
    /// What xl said; a guest that could not be made is gone again.
    pub(crate) fn apply(&mut self, step: &GuestStep) -> Result<Came> {
        let guest = step.guest.as_str();
        let xl = &self.xl;
        match &step.change {
            Change::Create { config } => self.make(&step.guest, config, None)?,
            Change::Restore { config } => {
                let saved = self.folder.path(&format!("{guest}{SAVED}"));
                self.make(&step.guest, config, Some(&saved.display().to_string()))?;
            }
            Change::Save => self.save(&step.guest)?,
            Change::Forget => self.folder.remove(&format!("{guest}{SAVED}"))?,
            Change::Unpause => drop(xl.tell(&["xl", "unpause", guest])?),
            Change::Pause => drop(xl.tell(&["xl", "pause", guest])?),
            Change::Shutdown { seconds } => return self.shut_down(&step.guest, *seconds),
            Change::Clear { .. } => drop(xl.tell(&["xl", "destroy", guest])?),
            Change::Weight { weight, cap } => {
                let (weight, cap) = (weight.to_string(), cap.to_string());
                xl.tell(&["xl", "sched-credit2", "-d", guest, "-w", &weight, "-c", &cap])?;
            }
            Change::Memory { size } => {
                xl.tell(&["xl", "mem-set", guest, &format!("{}m", size.mib())])?;
            }
            Change::Vcpus { count } => {
                xl.tell(&["xl", "vcpu-set", guest, &count.to_string()])?;
            }
            _ => self.device(guest, &step.change)?,
        }
        Ok(Came::AsPlanned)
    }

    fn device(&self, guest: &str, change: &Change) -> Result<()> {
        let xl = &self.xl;
        match change {
            Change::PlugNic { words, .. } => {
                let mut argv = vec!["xl", "network-attach", guest];
                argv.extend(words.iter().map(String::as_str));
                xl.tell(&argv)?;
            }
            Change::PullNic { number } => {
                xl.tell(&["xl", "network-detach", guest, &number.to_string()])?;
            }
            Change::Rate { number, rate } => {
                let key = format!("{VIFS}/{}/{number}/rate", self.number(guest)?);
                match rate {
                    Some(rate) => xl.tell(&["xenstore-write", &key, &rate.share()])?,
                    // netback takes a key that is gone for no limit.
                    None => xl.tell(&["xenstore-rm", &key])?,
                };
            }
            Change::Vlan { mac, vlan } => self.vlan(guest, mac, *vlan)?,
            Change::PlugDisk { disk } => drop(xl.tell(&["xl", "block-attach", guest, disk])?),
            Change::PullDisk { device } => {
                xl.tell(&["xl", "block-detach", guest, device])?;
            }
            Change::Assign { device } => self.assign(device.as_str())?,
            Change::PlugPci { device } => {
                xl.tell(&["xl", "pci-attach", guest, device.as_str()])?;
            }
            Change::PullPci { device } => {
                xl.tell(&["xl", "pci-detach", guest, device.as_str()])?;
            }
            other => bail!("{other:?} is no change of a device"),
        }
        Ok(())
    }

    /// Makes a guest, paused, of its file and perhaps its saved memory.
    fn make(&self, guest: &Name, config: &str, saved: Option<&str>) -> Result<()> {
        let file = format!("{guest}.cfg");
        self.folder.write_bytes(&file, config.as_bytes())?;
        let path = self.folder.path(&file).display().to_string();
        let made = match saved {
            Some(saved) => self.xl.tell_within(&["xl", "restore", "-p", "-e", &path, saved], LONG),
            None => self.xl.tell_within(&["xl", "create", "-p", "-e", &path], MAKING),
        };
        if let Err(error) = made {
            // xl takes back what it began, but not when it was killed.
            if self.exists(guest)? {
                self.xl.tell(&["xl", "destroy", guest.as_str()])?;
            }
            return Err(error.into());
        }
        self.folder.remove(&file)
    }

    /// xl ends the domain once its memory is whole in the file.
    fn save(&self, guest: &Name) -> Result<()> {
        let unfinished = format!("{guest}{UNFINISHED}");
        let path = self.folder.path(&unfinished).display().to_string();
        let saved = self.xl.tell_within(&["xl", "save", guest.as_str(), &path], LONG);
        if let Err(error) = saved {
            self.folder.remove(&unfinished)?;
            let woken = match self.domain(guest)? {
                Some(domain) => self.wake(guest, &domain)?,
                None => Woken::WasAwake,
            };
            return Err(match woken {
                Woken::Destroyed => anyhow!("{error}; it could not go on and was destroyed"),
                Woken::WasAwake | Woken::GoesOn => error.into(),
            });
        }
        fs::File::open(&path)
            .and_then(|file| file.sync_all())
            .context("flushing what was saved")?;
        self.folder.rename(&unfinished, &format!("{guest}{SAVED}"))
    }

    /// An earlier agent died while it saved: whether that is whole shows in the domain. What became of
    /// the guest if it is not.
    pub(crate) fn saved_half(&self, guest: &Name) -> Result<Woken> {
        let unfinished = format!("{guest}{UNFINISHED}");
        self.settled("save", guest);
        match self.domain(guest)? {
            None if self.folder.path(&unfinished).exists() => {
                self.folder.rename(&unfinished, &format!("{guest}{SAVED}"))?;
                Ok(Woken::WasAwake)
            }
            None => Ok(Woken::WasAwake),
            Some(domain) => {
                self.folder.remove(&unfinished)?;
                self.wake(guest, &domain)
            }
        }
    }

    /// Lets a guest go on whose xl died while it saved it: nobody else does. Before Xen 4.20 nobody can.
    fn wake(&self, guest: &Name, domain: &Domain) -> Result<Woken> {
        if domain.ended != Some(Ending::Suspend) {
            return Ok(Woken::WasAwake);
        }
        if let Err(error) = self.xl.tell(&["xl", "resume", guest.as_str()]) {
            console::say(format_args!("{error}: {guest} is destroyed"));
            self.xl.tell(&["xl", "destroy", guest.as_str()])?;
            return Ok(Woken::Destroyed);
        }
        Ok(Woken::GoesOn)
    }

    /// An earlier agent died while it made a guest, which has not run yet.
    pub(crate) fn made_half(&self, guest: &Name) -> Result<bool> {
        self.settled("create", guest);
        let there = self.exists(guest)?;
        if there {
            self.xl.tell(&["xl", "destroy", guest.as_str()])?;
        }
        Ok(there)
    }

    /// Waits until the xl that an earlier agent left behind has ended.
    fn settled(&self, verb: &str, guest: &Name) {
        let begun = Instant::now();
        while begun.elapsed() < MAKING && is_at_work(verb, guest.as_str()) {
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Asks all of these to shut down, so that they do it at the same time.
    pub(crate) fn ask_to_shut_down<'a>(&mut self, guests: impl Iterator<Item = &'a Name>) {
        for guest in guests {
            // A guest that does not listen is destroyed at its deadline.
            let _ = self.xl.tell(&["xl", "shutdown", "-F", guest.as_str()]);
            self.asked.insert(guest.clone(), Instant::now());
        }
    }

    fn shut_down(&mut self, guest: &Name, seconds: u32) -> Result<Came> {
        if !self.asked.contains_key(guest) {
            self.ask_to_shut_down([guest].into_iter());
        }
        let asked = self.asked.remove(guest).unwrap_or_else(Instant::now);
        let patience = Duration::from_secs(seconds.into());
        loop {
            match self.domain(guest)?.map(|domain| domain.state) {
                None => return Ok(Came::AsPlanned),
                Some(state) if state.is_up() && asked.elapsed() < patience => {}
                Some(state) => {
                    self.xl.tell(&["xl", "destroy", guest.as_str()])?;
                    return Ok(if state.is_up() { Came::Destroyed } else { Came::AsPlanned });
                }
            }
            thread::sleep(Duration::from_millis(250));
        }
    }

    /// Takes a PCI function from its driver. Without an IOMMU that fails and yet leaves the
    /// function with pciback, so it is given back.
    fn assign(&self, device: &str) -> Result<()> {
        let listed = self.xl.tell(&["xl", "pci-assignable-list"])?;
        if listed.lines().any(|line| line.trim() == device) {
            return Ok(());
        }
        if let Err(error) = self.xl.tell(&["xl", "pci-assignable-add", device]) {
            let _ = self.xl.tell(&["xl", "pci-assignable-remove", "-r", device]);
            return Err(error.into());
        }
        Ok(())
    }

    /// The NIC's port in its bridge carries this VLAN untagged, and no other.
    fn vlan(&self, guest: &str, mac: &Mac, vlan: Vlan) -> Result<()> {
        let list = self.xl.tell(&["xl", "network-list", guest])?;
        let nic = list.lines().find(|line| line.contains(&mac.to_string()));
        let number = nic.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let number = number.with_context(|| format!("finding NIC {mac} of {guest}"))?;
        let link = port(self.number(guest)?, number)?;
        let mut door = Door::open()?;
        let links = door.probe()?;
        let port = links.links.get(&link).with_context(|| format!("finding the link {link}"))?;
        let had = port.vlans.clone().unwrap_or_default();
        match had.change_to(&PortVlans::access(vlan.number())) {
            Some(change) => door.apply(&[LinkStep::Vlans { link, host: false, change }]),
            None => Ok(()),
        }
    }

    /// The number of its domain.
    fn number(&self, guest: &str) -> Result<u32> {
        let text = self.xl.tell(&["xl", "domid", guest])?;
        text.trim().parse().with_context(|| format!("reading the number of {guest}: {text:?}"))
    }

    fn exists(&self, guest: &Name) -> Result<bool> {
        Ok(self.domain(guest)?.is_some())
    }

    /// Its domain, and what that is doing.
    fn domain(&self, guest: &Name) -> Result<Option<Domain>> {
        let list = self.xl.tell(&["xl", "list", "-v", "-c"])?;
        let domains = list::parse(&list, "", "")?;
        Ok(domains.into_iter().find(|domain| domain.name == guest.as_str()))
    }
}

/// dom0's end of a NIC.
pub(crate) fn port(domain: u32, number: u32) -> Result<LinkName> {
    Ok(format!("vif{domain}.{number}").parse()?)
}

/// Whether some xl still does `verb` for a guest.
fn is_at_work(verb: &str, guest: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let config = format!("/{guest}.cfg");
    lines.into_iter().any(|line| {
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split('\0').collect();
        let [program, did, ..] = words[..] else { return false };
        let about = words.iter().any(|word| *word == guest || word.ends_with(&config));
        program.ends_with("xl") && (did == verb || did == "restore" && verb == "create") && about
    })
}

/// The last lines that a guest printed.
pub(crate) fn last_lines(guest: &str) -> Vec<String> {
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(format!("{CONSOLES}/guest-{guest}.log"))?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(end.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = tail().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let plain = |line: &str| line.chars().filter(|letter| !letter.is_control()).collect::<String>();
    let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].to_vec()
}
