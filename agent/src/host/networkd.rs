//! systemd-networkd, which brought the node up by its card, and is to leave that alone once it is a port of ours:
//! it would ask for an address on it again whenever the cable comes back.

use std::{fs, io, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use xen_config::{
    link::{LinkKind, LinkName, Links},
    network::Network,
};

/// Before the file of the node's identity, which is `10-billet.network`: the first one that matches counts.
const FILE: &str = "systemd/network/05-billet-ports.network";
/// Beside it while networkd has not started again since it was changed: another try, or another agent, makes up for it.
const MARK: &str = "systemd/network/05-billet-ports.restart";
/// It is there where systemd is process 1 (sd_booted(3)).
const BOOTED: &str = "systemd/system";
const UNIT: &str = "systemd-networkd.service";

/// Has it leave alone the cards that are ports of what `network` names. `run` is `/run`: the next boot begins
/// without.
///
/// # Errors
/// When that cannot be written down, or it does not start again.
pub(crate) fn leave_alone(network: &Network, links: &Links, run: &Path) -> Result<()> {
    if !run.join(BOOTED).is_dir() {
        return Ok(());
    }
    let mark = run.join(MARK);
    write(&ports(network, links), &run.join(FILE), &mark)?;
    if !mark.exists() {
        return Ok(());
    }
    // What it has set up stays meanwhile (KeepConfiguration=).
    let mut restart = Command::new("systemctl");
    let output = restart.args(["try-restart", UNIT]).output().context("starting systemctl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "starting {UNIT} again: {}", said.trim());
    fs::remove_file(&mark).with_context(|| format!("removing {}", mark.display()))
}

/// The cards among the ports; networkd has no file for what the agent makes.
fn ports<'a>(network: &'a Network, links: &Links) -> Vec<&'a LinkName> {
    let of_bridges = network.bridge.iter().flat_map(|bridge| &bridge.ports).map(|port| &port.name);
    let of_bonds = network.bond.iter().flat_map(|bond| &bond.ports);
    let is_card = |name: &&LinkName| {
        let link = links.get(name).filter(|link| link.master.is_some());
        link.is_some_and(|link| matches!(link.kind, LinkKind::Other(_)))
    };
    // In a file of networkd's these letters make a pattern of a name.
    let is_plain =
        |name: &&LinkName| !name.as_str().contains(|letter| "*?[]!\\\"'".contains(letter));
    let named = of_bridges.chain(of_bonds);
    let mut ports: Vec<_> = named.filter(is_card).filter(is_plain).collect();
    ports.sort_unstable();
    ports
}

/// Makes `mark` before the file becomes another one.
fn write(ports: &[&LinkName], path: &Path, mark: &Path) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let names: Vec<&str> = ports.iter().map(|name| name.as_str()).collect();
    let wanted = (!names.is_empty())
        .then(|| format!("[Match]\nName={}\n\n[Link]\nUnmanaged=yes\n", names.join(" ")));
    let there = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        there => Some(there.with_context(writing)?),
    };
    if there == wanted {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(writing)?;
    }
    fs::write(mark, "").with_context(|| format!("writing {}", mark.display()))?;
    let written = match wanted {
        Some(text) => fs::write(path, text),
        None => fs::remove_file(path),
    };
    written.with_context(writing)
}

#[cfg(test)]
mod tests {
    use xen_config::link::{BondKind, BondMode, Link};

    use super::*;

    fn link(kind: LinkKind, master: Option<&str>) -> Link {
        Link {
            index: 1,
            mac: None,
            permanent: None,
            mtu: 1500,
            up: true,
            carrier: true,
            master: master.map(|name| name.parse().unwrap()),
            kind,
            vlans: None,
            addresses: Vec::new(),
        }
    }

    fn links() -> Links {
        let card = || LinkKind::Other(String::new());
        let bond = LinkKind::Bond(BondKind { mode: BondMode::ActiveBackup, miimon: 100 });
        let links = [
            ("eth0", link(card(), Some("bond0"))),
            ("eth1", link(card(), Some("bond0"))),
            ("eth2", link(card(), None)),
            ("eth3", link(card(), Some("virbr0"))),
            ("bond0", link(bond, Some("br0"))),
        ];
        let links = links.map(|(name, link)| (name.parse().unwrap(), link));
        Links { links: links.into_iter().collect(), ..Links::default() }
    }

    const NETWORK: &str = "[[bond]]\nname = \"bond0\"\nports = [\"eth1\", \"eth0\", \"eth2\"]\n\
                           [[bridge]]\nname = \"br0\"\nports = [\"bond0\"]\n";

    #[test]
    fn only_cards_that_are_ports_of_ours_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mark) = (folder.path().join("network/05"), folder.path().join("network/mark"));
        let network: Network = toml::from_str(NETWORK).unwrap();
        let changes = |network: &Network| {
            write(&ports(network, &links()), &path, &mark).unwrap();
            fs::remove_file(&mark).is_ok()
        };
        assert!(changes(&network));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "[Match]\nName=eth0 eth1\n\n[Link]\nUnmanaged=yes\n");
        assert!(!changes(&network));
        assert!(changes(&Network::default()));
        assert!(!path.exists());
        assert!(!changes(&Network::default()));
    }

    #[test]
    fn nothing_is_written_where_systemd_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let network: Network = toml::from_str(NETWORK).unwrap();
        leave_alone(&network, &links(), folder.path()).unwrap();
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }
}
