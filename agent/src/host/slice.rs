//! Slices: what each has, on disk before its VF is touched, and their steps.
//!
//! `slices.json` is the truth about GUIDs and MACs: drivers forget them when they are loaded
//! again, and a step that was broken off leaves an older one behind. A slice that is in there
//! and not desired goes back from wherever it was.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xen_config::{
    fabric::LinkLayer,
    link_step::LinkStep,
    pci::PciAddress,
    slice::{Held, SliceId},
    slice_step::{Binder, SliceStep, VfChange, VfPlace},
    sriov::{Pf, Way},
};

use super::{folder::Folder, sriov};
use crate::{
    sys::{
        link,
        sriov::{Door, Vendor},
        vf::Vfs,
        xl::Xl,
    },
    sysfs::Sysfs,
};

const FILE: &str = "slices.json";
/// A link comes up within some seconds, or has no cable.
const CARRIER: Duration = Duration::from_secs(10);
/// Past owners that are remembered.
const MOST: usize = 1000;

/// All slices.
pub(crate) struct Slices {
    folder: Folder,
    memory: Memory,
    root: PathBuf,
    links: Option<Vfs>,
}

/// What is on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// VFs that slices have, with the moment since when.
    held: Vec<Owner>,
    /// VFs that slices had, oldest first.
    past: Vec<Owner>,
}

/// One owner of a VF.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Owner {
    #[serde(flatten)]
    held: Held,
    since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

impl std::fmt::Debug for Slices {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.memory.fmt(out)
    }
}

impl Memory {
    /// What is in `folder`.
    pub(crate) fn read(folder: &Folder) -> Result<Memory> {
        Ok(folder.read(FILE)?.unwrap_or_default())
    }

    /// As the plan wants to know it.
    pub(crate) fn held(&self) -> Vec<Held> {
        self.held.iter().map(|owner| owner.held.clone()).collect()
    }

    fn hold(&mut self, held: &Held, now: Timestamp) {
        self.free(&held.slice, now);
        self.held.push(Owner { held: held.clone(), since: now, until: None });
    }

    fn free(&mut self, slice: &SliceId, now: Timestamp) {
        let at = self.held.iter().position(|owner| owner.held.slice == *slice);
        if let Some(owner) = at.map(|at| self.held.remove(at)) {
            self.past.push(Owner { until: Some(now), ..owner });
            let spare = self.past.len().saturating_sub(MOST);
            self.past.drain(..spare);
        }
    }
}

impl Slices {
    /// Those in `folder`, of the devices in the tree at `root`.
    pub(crate) fn at(folder: &Folder, root: &Path) -> Result<Self> {
        let memory = Memory::read(folder)?;
        Ok(Slices { folder: folder.clone(), memory, root: root.to_owned(), links: None })
    }

    /// Does `step`; each may be done again.
    ///
    /// # Errors
    /// What the kernel or xl said.
    pub(crate) fn apply(&mut self, step: &SliceStep) -> Result<()> {
        let door = Door::at(Sysfs::at(&self.root));
        match step {
            SliceStep::Ipoib => load("ib_ipoib"),
            SliceStep::Up { link, .. } => {
                let link = link.parse().with_context(|| format!("reading the name {link}"))?;
                link::Door::open()?.apply(&[LinkStep::Up { link }])
            }
            SliceStep::Autoprobe { pf } => door.autoprobe_off(pf),
            SliceStep::Count { pf, count } => door.count(pf, *count),
            SliceStep::Hold { held } => {
                self.memory.hold(held, Timestamp::now());
                self.folder.write(FILE, &self.memory)
            }
            SliceStep::Free { slice, .. } => {
                self.memory.free(slice, Timestamp::now());
                self.folder.write(FILE, &self.memory)
            }
            SliceStep::Vf { at, change, .. } => self.change(&door, at, change),
        }
    }

    /// Who `slice` is, in words for people.
    pub(crate) fn identity(&self, slice: &SliceId) -> String {
        let owner = self.memory.held.iter().find(|owner| owner.held.slice == *slice);
        owner.map(|owner| owner.held.identity.to_string()).unwrap_or_default()
    }

    fn change(&mut self, door: &Door, at: &VfPlace, change: &VfChange) -> Result<()> {
        let vf = door.address(at)?;
        match change {
            VfChange::Unbind { driver } if driver == Binder::Pciback.name() => give_back(door, &vf),
            VfChange::Unbind { .. } => match door.driver(&vf) {
                Some(_) => door.unbind(&vf),
                None => Ok(()),
            },
            VfChange::Reset => door.reset(&vf),
            VfChange::Override { driver } => door.only(&vf, *driver),
            VfChange::Bind { driver: Binder::Pciback } => take(door, &vf),
            VfChange::Bind { driver: Binder::VfioPci } => bind_vfio(door, &vf),
            _ => self.identify(door, at, &vf, change),
        }
    }

    /// igb limits a VF only while its own link is up, which it is not for some seconds after it was
    /// switched on or the card was cut.
    fn await_carrier(&self, link: &str) {
        let (sysfs, begun) = (Sysfs::at(&self.root), Instant::now());
        let carrier = || sysfs.flag(format!("sys/class/net/{link}/carrier"));
        while !carrier() && begun.elapsed() < CARRIER {
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A change of who a VF is, the way that its driver has for it.
    fn identify(
        &mut self,
        door: &Door,
        at: &VfPlace,
        vf: &PciAddress,
        change: &VfChange,
    ) -> Result<()> {
        let pf = sriov::function(&Sysfs::at(&self.root), &at.pf);
        let pf = pf.with_context(|| format!("finding the physical function {}", at.pf))?;
        match (pf.way, change) {
            (Some(Way::Vendor), VfChange::NodeGuid { guid }) => {
                door.vendor(at, Vendor::Node(*guid))
            }
            (Some(Way::Vendor), VfChange::PortGuid { guid }) => {
                door.vendor(at, Vendor::Port(*guid))
            }
            (Some(Way::Vendor), VfChange::Policy { policy }) => {
                door.vendor(at, Vendor::Policy(*policy))
            }
            (Some(Way::Mlx4), VfChange::PortGuid { guid }) => {
                let (hca, port) = hca(&pf)?;
                door.mlx4_guid(hca, port, vf, *guid)
            }
            (Some(Way::Mlx4), VfChange::Pkey { at, place }) => {
                let (hca, port) = hca(&pf)?;
                door.mlx4_pkey(hca, port, vf, *at, *place)
            }
            (Some(Way::Netlink), change) => {
                let wanted = match change {
                    VfChange::NodeGuid { .. } | VfChange::PortGuid { .. } => LinkLayer::InfiniBand,
                    _ => pf.link().unwrap_or_default(),
                };
                let link = pf.links.iter().find(|link| link.link == wanted);
                let link = link.with_context(|| {
                    format!("finding a link of {} for {}", at.pf, wanted.name())
                })?;
                if matches!(change, VfChange::Rate { .. }) {
                    self.await_carrier(&link.name);
                }
                let door = match &mut self.links {
                    Some(door) => door,
                    none => none.insert(Vfs::open()?),
                };
                door.apply(&link.name, &[(at.vf, change.clone())])
            }
            (way, change) => bail!("{change:?} is nothing that {} does by {way:?}", at.pf),
        }
    }
}

fn hca(pf: &Pf) -> Result<(&str, u32)> {
    let device = pf.device.as_ref().zip(pf.port());
    let (device, port) = device.with_context(|| format!("finding a port of {}", pf.address))?;
    Ok((&device.name, port.port))
}

fn load(module: &str) -> Result<()> {
    Xl::at(Path::new("/")).tell(&["modprobe", module])?;
    Ok(())
}

/// Gives a VF to Xen's driver. Without an IOMMU that fails and yet leaves the function with it,
/// so it is given back.
fn take(door: &Door, vf: &PciAddress) -> Result<()> {
    let xl = Xl::at(Path::new("/"));
    if !door.knows(Binder::Pciback) {
        load("xen-pciback")?;
    }
    if let Err(error) = xl.tell(&["xl", "pci-assignable-add", vf.as_str()]) {
        let undone = give_back(door, vf).and_then(|()| door.only(vf, None));
        let error = anyhow::Error::from(error);
        return Err(match undone {
            Ok(()) => error.context(format!("giving {vf} to pciback (is the IOMMU on?)")),
            Err(left) => error.context(format!("giving {vf} to pciback, and back: {left:#}")),
        });
    }
    Ok(())
}

/// Takes a VF from Xen's driver; no other gets it.
fn give_back(door: &Door, vf: &PciAddress) -> Result<()> {
    let xl = Xl::at(Path::new("/"));
    let removed = xl.tell(&["xl", "pci-assignable-remove", vf.as_str()]);
    // What xl does not list (half an add) is unbound by hand.
    match door.driver(vf) {
        Some(driver) if driver == Binder::Pciback.name() => door.unbind(vf),
        Some(_) => Ok(removed.map(drop)?),
        None => Ok(()),
    }
}

fn bind_vfio(door: &Door, vf: &PciAddress) -> Result<()> {
    if !door.knows(Binder::VfioPci) {
        load("vfio-pci")?;
    }
    match door.driver(vf) {
        Some(driver) if driver == Binder::VfioPci.name() => Ok(()),
        _ => door.bind(vf, Binder::VfioPci),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use xen_config::{Desired, slice::slices};

    use super::*;

    const TEXT: &str =
        "[[fabric]]\nname = \"ib0\"\npfs = [\"mlx5_0\"]\n[slice.a]\nfabric = \"ib0\"\n";

    fn held(node: &str) -> Held {
        let desired = Desired::from_toml(TEXT).unwrap();
        let slice = slices(&desired, node).remove(0);
        let pf: PciAddress = "3b:00.0".parse().unwrap();
        Held { slice: slice.id, pf, vf: 1, identity: slice.identity }
    }

    #[test]
    fn owners_are_remembered_over_restarts() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::at(at.path()).unwrap();
        let mut slices = Slices::at(&folder, Path::new("/")).unwrap();
        let (one, other) = (held("one"), held("two"));
        slices.apply(&SliceStep::Hold { held: one.clone() }).unwrap();
        slices.apply(&SliceStep::Hold { held: other.clone() }).unwrap();
        let mut slices = Slices::at(&folder, Path::new("/")).unwrap();
        assert_eq!(slices.memory.held(), std::slice::from_ref(&other));
        assert_eq!(slices.memory.past[0].held, one);
        assert!(slices.memory.past[0].until.is_some());
        let at = VfPlace { pf: other.pf, vf: other.vf };
        let free = SliceStep::Free { slice: other.slice, at };
        slices.apply(&free).unwrap();
        slices.apply(&free).unwrap();
        let memory = Memory::read(&folder).unwrap();
        assert_eq!((memory.held().len(), memory.past.len()), (0, 2));
    }

    /// A tree of files, **written from documentation** of the two drivers: no such card was at
    /// hand. What is shown is which file gets which bytes.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let at = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = at.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        at
    }

    fn change(at: &Path, change: VfChange) -> Result<()> {
        let folder = Folder::at(&at.join("memory")).unwrap();
        let place = VfPlace { pf: "3b:00.0".parse().unwrap(), vf: 1 };
        let (slice, at_vf) = (held("n").slice, place);
        let mut slices = Slices::at(&folder, at).unwrap();
        slices.apply(&SliceStep::Vf { slice, at: at_vf, change })
    }

    const PF: &str = "sys/bus/pci/devices/0000:3b:00.0";
    const VF: &str = "sys/bus/pci/devices/0000:3b:00.3";

    fn common(at: &Path) {
        symlink("../0000:3b:00.3", at.join(PF).join("virtfn1")).unwrap();
    }

    #[test]
    fn a_vendors_files_get_words() {
        let at = tree(&[
            (&format!("{PF}/sriov_totalvfs"), "8"),
            (&format!("{PF}/infiniband/mlx5_0/x"), ""),
            ("sys/class/infiniband/mlx5_0/ports/1/link_layer", "InfiniBand\n"),
            (&format!("{PF}/sriov/1/node"), "00:00:00:00:00:00:00:00\n"),
            (&format!("{PF}/sriov/1/port"), "00:00:00:00:00:00:00:00\n"),
            (&format!("{PF}/sriov/1/policy"), "Down\n"),
            (&format!("{VF}/driver_override"), "(null)\n"),
            (&format!("{VF}/reset"), ""),
        ]);
        common(at.path());
        let guid = "02:11:22:33:44:55:66:77".parse().unwrap();
        for change_of in [
            VfChange::NodeGuid { guid },
            VfChange::PortGuid { guid },
            VfChange::Policy { policy: xen_config::sriov::Policy::Follow },
            VfChange::Override { driver: Some(Binder::Pciback) },
            VfChange::Reset,
        ] {
            change(at.path(), change_of).unwrap();
        }
        let read = |path: &str| fs::read_to_string(at.path().join(path)).unwrap();
        for (path, text) in [
            (format!("{PF}/sriov/1/node"), "02:11:22:33:44:55:66:77"),
            (format!("{PF}/sriov/1/port"), "02:11:22:33:44:55:66:77"),
            (format!("{PF}/sriov/1/policy"), "Follow"),
            (format!("{VF}/driver_override"), "pciback"),
            (format!("{VF}/reset"), "1"),
        ] {
            assert_eq!(read(&path), text, "{path}");
        }
        change(at.path(), VfChange::Override { driver: None }).unwrap();
        assert_eq!(read(&format!("{VF}/driver_override")), "\n");
        // No file is ever made.
        let mac = "02:00:00:00:00:01".parse().unwrap();
        assert!(change(at.path(), VfChange::Mac { mac }).is_err());
    }

    #[test]
    fn mlx4_has_places() {
        let iov = "sys/class/infiniband/mlx4_0/iov";
        let at = tree(&[
            (&format!("{PF}/sriov_totalvfs"), "8"),
            (&format!("{PF}/infiniband/mlx4_0/x"), ""),
            ("sys/class/infiniband/mlx4_0/ports/1/link_layer", "InfiniBand\n"),
            (&format!("{iov}/0000:3b:00.3/ports/1/gid_idx/0"), "2\n"),
            (&format!("{iov}/0000:3b:00.3/ports/1/pkey_idx/0"), "0\n"),
            (&format!("{iov}/0000:3b:00.3/ports/1/pkey_idx/1"), "none\n"),
            (&format!("{iov}/ports/1/admin_guids/2"), "0\n"),
        ]);
        common(at.path());
        let guid = "02:11:22:33:44:55:66:77".parse().unwrap();
        change(at.path(), VfChange::PortGuid { guid }).unwrap();
        change(at.path(), VfChange::Pkey { at: 0, place: Some(3) }).unwrap();
        change(at.path(), VfChange::Pkey { at: 1, place: None }).unwrap();
        let read = |path: &str| fs::read_to_string(at.path().join(iov).join(path)).unwrap();
        assert_eq!(read("ports/1/admin_guids/2"), "0x0211223344556677");
        assert_eq!(read("0000:3b:00.3/ports/1/pkey_idx/0"), "3");
        assert_eq!(read("0000:3b:00.3/ports/1/pkey_idx/1"), "none");
        assert!(change(at.path(), VfChange::NodeGuid { guid }).is_err());
    }
}
