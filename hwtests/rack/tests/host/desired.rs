//! What the node should be, from chapter to chapter.

use rack::guest;

/// What may differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    /// Of the service domain, beside its CPUs and memory.
    pub(crate) service: &'a str,
    /// Of the guest `pv`, which has 160 MiB unless this says how much.
    pub(crate) pv: &'a str,
    /// Of its NIC, and of its disks.
    pub(crate) devices: &'a str,
    /// Of the guest `pvh`.
    pub(crate) pvh: &'a str,
    /// More guests.
    pub(crate) more: &'a str,
    /// Another network than the usual one; `CARD` is the machine's card, `SPARE` its other one.
    pub(crate) network: &'a str,
}

pub(crate) const USUAL: Shape<'_> =
    Shape { service: "", pv: "", devices: "", pvh: "", more: "", network: "" };

const NETWORK: &str = "[[network.bond]]\nname = \"bond0\"\nports = [\"CARD\", \"SPARE\"]\n\
                       [[network.bridge]]\nname = \"br0\"\nvlan_filtering = true\n\
                       ports = [\"bond0\"]\n\
                       [[network.vlan]]\nname = \"br0.10\"\nlink = \"br0\"\nid = 10\n\
                       addresses = [\"10.9.0.1/24\"]\n";

impl Shape<'_> {
    /// As TOML, on a node with these two cards.
    pub(crate) fn text(&self, card: &str, spare: &str) -> String {
        let Shape { service, pv, devices, pvh, more, network } = self;
        let network = if network.is_empty() { NETWORK } else { network };
        let network = network.replace("CARD", card).replace("SPARE", spare);
        format!(
            "[service]\ncpus = 2\nmemory = \"768MiB\"\ndedicate = \"pool\"\n{service}\n\
             [network]\nmanagement = \"{card}\"\n{network}{}{devices}\n{}{more}",
            usual_guest("pv", "10.9.0.2", &format!("max_vcpus = 2\n{pv}"), "plug=yes"),
            usual_guest("pvh", "10.9.0.3", pvh, ""),
        )
    }
}

fn usual_guest(kind: &str, address: &str, more: &str, words: &str) -> String {
    let memory = if more.contains("\nmemory") { "" } else { "memory = \"160MiB\"\n" };
    format!(
        "[[guest]]\nname = \"{kind}\"\ntype = \"{kind}\"\n{memory}max_memory = \"160MiB\"\n{more}\n\
         {}[[guest.nic]]\nbridge = \"br0\"\nvlan = 10\n",
        boot(&format!("gip={address}/24 {words}"))
    )
}

/// What the rack's small guest boots, with these words on its kernel's line.
pub(crate) fn boot(words: &str) -> String {
    let (kernel, ramdisk) = (guest::KERNEL, guest::RAMDISK);
    format!(
        "boot.kernel = {{ path = \"{kernel}\", ramdisk = \"{ramdisk}\", \
         line = \"console=hvc0 {words}\" }}\n"
    )
}
