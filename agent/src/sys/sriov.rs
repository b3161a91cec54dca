//! The door to SR-IOV in sysfs: counts, drivers, resets, and identities where a driver takes them
//! from files. Attributes are written and never made.

use std::{
    fs::OpenOptions,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use xen_config::{
    guid::Guid,
    pci::PciAddress,
    slice_step::{Binder, VfPlace},
    sriov::Policy,
};

use crate::sysfs::Sysfs;

/// VFs answer about a second after the count was written; firmware that is busy takes longer.
const APPEARING: Duration = Duration::from_secs(30);

/// The tree.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    sysfs: Sysfs,
}

impl Door {
    /// That of `sysfs`.
    pub(crate) fn at(sysfs: Sysfs) -> Self {
        Door { sysfs }
    }

    /// Keeps drivers off new VFs.
    pub(crate) fn autoprobe_off(&self, pf: &PciAddress) -> Result<()> {
        self.write(&device(pf, "sriov_drivers_autoprobe"), "0")
    }

    /// Cuts `pf` into `count` VFs, and waits until all of them answer.
    ///
    /// # Errors
    /// EBUSY for another number while there are some, ERANGE above the firmware's.
    pub(crate) fn count(&self, pf: &PciAddress, count: u32) -> Result<()> {
        self.write(&device(pf, "sriov_numvfs"), &count.to_string())?;
        let begun = Instant::now();
        let answers = |vf: u32| {
            let vendor = self.sysfs.text(device(pf, &format!("virtfn{vf}/vendor")));
            vendor.is_some_and(|vendor| vendor != "0xffff")
        };
        while !(0..count).all(answers) {
            if begun.elapsed() > APPEARING {
                bail!("{pf} was cut into {count} VFs, and not all answer after {APPEARING:?}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Where a VF sits.
    pub(crate) fn address(&self, at: &VfPlace) -> Result<PciAddress> {
        let name = self.sysfs.link(device(&at.pf, &format!("virtfn{}", at.vf)));
        let name = name.with_context(|| format!("finding {at}"))?;
        name.parse().with_context(|| format!("reading the address of {at}"))
    }

    /// The driver that has the function.
    pub(crate) fn driver(&self, function: &PciAddress) -> Option<String> {
        self.sysfs.link(device(function, "driver"))
    }

    /// Whether the kernel has this driver.
    pub(crate) fn knows(&self, driver: Binder) -> bool {
        self.sysfs.path(format!("sys/bus/pci/drivers/{driver}")).is_dir()
    }

    /// Which driver alone may have the function; any for `None`.
    pub(crate) fn only(&self, function: &PciAddress, driver: Option<Binder>) -> Result<()> {
        // A newline alone means any (drivers/pci/pci-sysfs.c).
        let name = driver.map_or("\n", |driver| driver.name());
        self.write(&device(function, "driver_override"), name)
    }

    /// Takes the function from its driver.
    pub(crate) fn unbind(&self, function: &PciAddress) -> Result<()> {
        self.write(&device(function, "driver/unbind"), function.as_str())
    }

    /// Gives the function to a driver.
    pub(crate) fn bind(&self, function: &PciAddress, driver: Binder) -> Result<()> {
        self.write(&format!("sys/bus/pci/drivers/{driver}/bind"), function.as_str())
    }

    /// Resets the function alone.
    pub(crate) fn reset(&self, function: &PciAddress) -> Result<()> {
        self.write(&device(function, "reset"), "1")
    }

    /// Vendor's driver of mlx5: an attribute of a VF.
    pub(crate) fn vendor(&self, at: &VfPlace, attribute: Vendor) -> Result<()> {
        let (name, value) = match attribute {
            Vendor::Node(guid) => ("node", guid.to_string()),
            Vendor::Port(guid) => ("port", guid.to_string()),
            Vendor::Policy(policy) => ("policy", policy.name().to_owned()),
        };
        self.write(&device(&at.pf, &format!("sriov/{}/{name}", at.vf)), &value)
    }

    /// mlx4: the alias GUID of a VF's port, at the place that the VF sees as its first.
    pub(crate) fn mlx4_guid(
        &self,
        hca: &str,
        port: u32,
        vf: &PciAddress,
        guid: Guid,
    ) -> Result<()> {
        let index: u32 = self
            .sysfs
            .value(format!("{}/{vf}/ports/{port}/gid_idx/0", iov(hca)))
            .with_context(|| format!("finding the place of {vf} among the GUIDs of {hca}"))?;
        self.write(&format!("{}/ports/{port}/admin_guids/{index}", iov(hca)), &guid.hex())
    }

    /// mlx4: which place of the port's table a VF sees at `at`.
    pub(crate) fn mlx4_pkey(
        &self,
        hca: &str,
        port: u32,
        vf: &PciAddress,
        at: u32,
        place: Option<u32>,
    ) -> Result<()> {
        let value = place.map_or("none".to_owned(), |place| place.to_string());
        self.write(&format!("{}/{vf}/ports/{port}/pkey_idx/{at}", iov(hca)), &value)
    }

    fn write(&self, path: &str, value: &str) -> Result<()> {
        let place = self.sysfs.path(path);
        let written = OpenOptions::new().write(true).truncate(true).open(&place);
        // One write: the kernel takes each as a whole word.
        let written = written.and_then(|mut file| file.write_all(value.as_bytes()));
        written.with_context(|| format!("writing {:?} to {}", value.trim(), place.display()))
    }
}

/// An attribute of a VF that the vendor's driver has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Vendor {
    /// GUID of its node.
    Node(Guid),
    /// GUID of its port.
    Port(Guid),
    /// Whether its port is up.
    Policy(Policy),
}

fn device(function: &PciAddress, attribute: &str) -> String {
    format!("sys/bus/pci/devices/{function}/{attribute}")
}

fn iov(hca: &str) -> String {
    format!("sys/class/infiniband/{hca}/iov")
}
