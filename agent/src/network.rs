//! From interfaces that are down to one that reaches the provisioner.

use std::{thread, time::Duration};

use anyhow::{Context, Result, bail};
use protocol::BootLine;
use xen_config::{
    cidr::Cidr,
    link::{LinkName, Route},
    link_step::LinkStep,
};

use crate::{
    console,
    dhcp::{self, Lease},
    patience::Patience,
    sys::link::Door,
    sysfs::Sysfs,
};

/// A switch that runs spanning tree keeps a fresh port silent for 30 s.
const CARRIER: Duration = Duration::from_secs(60);
const DHCP: Duration = Duration::from_secs(120);
/// `RTPROT_STATIC` (linux/rtnetlink.h).
const STATIC: u8 = 4;

/// An interface with hardware behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Kernel name.
    pub(crate) name: String,
    /// Hardware address, lower case with colons.
    pub(crate) mac: String,
}

/// The interfaces that the boot line means: the one it names, else all with hardware.
pub(crate) fn candidates(sysfs: &Sysfs, boot: &BootLine) -> Vec<Interface> {
    let interface = |name: String| {
        let folder = format!("sys/class/net/{name}");
        sysfs.path(format!("{folder}/device")).exists().then_some(())?;
        let mac = sysfs.text(format!("{folder}/address"))?;
        boot.mac.as_ref().is_none_or(|boot| *boot == mac).then_some(Interface { name, mac })
    };
    sysfs.list("sys/class/net").into_iter().filter_map(interface).collect()
}

/// Takes up the loopback and the boot interface, and gives that an address.
pub(crate) fn bring_up(sysfs: &Sysfs, boot: &BootLine) -> Result<Interface> {
    let candidates = candidates(sysfs, boot);
    let names = candidates.iter().map(|interface| interface.name.as_str()).chain(["lo"]);
    let up = |name: &str| anyhow::Ok(LinkStep::Up { link: name.parse()? });
    let mut door = Door::open()?;
    door.probe()?;
    door.apply(&names.map(up).collect::<Result<Vec<_>>>()?)?;
    let interface = wait_for_carrier(sysfs, &candidates)?;
    let lease = match boot.ip {
        Some((ip, mask)) => Lease { ip, prefix: dhcp::prefix_of(mask), gateway: boot.gateway },
        None => ask_dhcp(&interface)?,
    };
    configure(&mut door, &interface.name.parse()?, &lease)?;
    console::say(format_args!("{} has {}/{}", interface.name, lease.ip, lease.prefix));
    Ok(interface)
}

fn configure(door: &mut Door, link: &LinkName, lease: &Lease) -> Result<()> {
    let net = Cidr { ip: lease.ip.into(), prefix: lease.prefix };
    door.apply(&[LinkStep::AddAddress { link: link.clone(), net }])?;
    let default = |via| Route {
        to: Cidr::everywhere(false),
        via: Some(via),
        dev: link.clone(),
        metric: 0,
        source: None,
        protocol: STATIC,
    };
    if let Some(gateway) = lease.gateway
        && let Err(error) = door.apply(&[LinkStep::AddRoute { route: default(gateway.into()) }])
    {
        // The provisioner is most often on this very segment: go on without.
        console::say(format_args!("{error:#}"));
    }
    Ok(())
}

fn ask_dhcp(interface: &Interface) -> Result<Lease> {
    let mac = mac_bytes(&interface.mac)
        .with_context(|| format!("{} has no Ethernet address", interface.name))?;
    let mut patience = Patience::new(format!("an address for {}", interface.name), DHCP);
    dhcp::acquire(&interface.name, mac, &mut patience)
        .with_context(|| format!("asking DHCP on {}", interface.name))
}

fn mac_bytes(mac: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn wait_for_carrier(sysfs: &Sysfs, candidates: &[Interface]) -> Result<Interface> {
    let names: Vec<&str> = candidates.iter().map(|interface| interface.name.as_str()).collect();
    let names = names.join(", ");
    if names.is_empty() {
        bail!("no network interface to boot from");
    }
    let patience = Patience::new(format!("a carrier on {names}"), CARRIER);
    let mut said = false;
    while !patience.is_over() {
        let carries = |one: &&Interface| sysfs.flag(format!("sys/class/net/{}/carrier", one.name));
        if let Some(interface) = candidates.iter().find(carries) {
            return Ok(interface.clone());
        }
        // Most links are there within a second; only then is it worth a line.
        if !said && patience.left() + Duration::from_secs(1) < CARRIER {
            patience.say("is the cable in?");
            said = true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("no carrier on {names} within {} s", CARRIER.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_six_bytes() {
        assert_eq!(mac_bytes("52:54:00:77:00:0a"), Some([0x52, 0x54, 0, 0x77, 0, 10]));
        for text in ["", "52:54", "52:54:00:77:00:zz", "80:00:00:48:fe:80:00:01"] {
            assert_eq!(mac_bytes(text), None, "{text}");
        }
    }
}
