//! The seed: a small FAT file system, labelled CIDATA, that tells the new system who it is.
//!
//! NoCloud's three files for cloud-init, and `billet/` for the first-boot unit of our own
//! images, which has no YAML parser. The same identity gives the same files.

use std::{
    fmt::Write as _,
    io::{self, Read, Seek, Write},
};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use images::Digest;
use protocol::AgentIdentity;

use crate::identity::{Checked, Network};

const LABEL: [u8; 11] = *b"CIDATA     ";

/// Path in the seed and content.
pub(crate) type SeedFile = (String, Vec<u8>);

/// Every file of the seed for `identity`.
pub(crate) fn render(identity: &Checked) -> Vec<SeedFile> {
    let ours = |name: &str, text: String| (format!("billet/{name}"), text.into_bytes());
    let nocloud = |name: &str, text: String| (name.to_owned(), text.into_bytes());
    let mut files = vec![
        nocloud("meta-data", meta_data(identity)),
        nocloud("user-data", user_data(identity)),
        nocloud("network-config", network_config(identity)),
        ours("instance", format!("{}\n", identity.instance)),
        ours("hostname", format!("{}\n", identity.hostname)),
        ours("10-billet.network", networkd(identity)),
    ];
    let keys = identity.authorized_keys.iter().map(|key| format!("{key}\n")).collect();
    files.push(ours("authorized_keys", keys));
    files.extend(identity.agent.as_ref().map(|agent| ours("agent.toml", agent_toml(agent))));
    files.extend(identity.xen.as_ref().map(|xen| ours("xen.cfg", xen.clone())));
    for (algorithm, key) in &identity.host_keys {
        files.push(ours(&format!("ssh_host_{algorithm}_key"), key.clone()));
    }
    files
}

/// Formats `partition` and writes `files` into it.
pub(crate) fn write(
    mut partition: impl Read + Write + Seek,
    sector_size: u32,
    files: &[SeedFile],
) -> io::Result<()> {
    let content: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let number = *Digest::of(&content).as_bytes().first_chunk::<4>().unwrap_or(&[0; 4]);
    let options = FormatVolumeOptions::new()
        .volume_label(LABEL)
        .volume_id(u32::from_le_bytes(number))
        .bytes_per_sector(u16::try_from(sector_size).unwrap_or(512));
    format_volume(&mut partition, options)?;
    let system = FileSystem::new(partition, FsOptions::new())?;
    let root = system.root_dir();
    for (path, bytes) in files {
        if let Some((folder, _)) = path.split_once('/') {
            root.create_dir(folder)?;
        }
        let mut file = root.create_file(path)?;
        file.write_all(bytes)?;
        file.flush()?;
    }
    drop(root);
    system.unmount()
}

fn meta_data(identity: &Checked) -> String {
    let (instance, hostname) = (quote(&identity.instance), quote(&identity.hostname));
    format!("instance-id: {instance}\nlocal-hostname: {hostname}\n")
}

fn user_data(identity: &Checked) -> String {
    let mut text = format!("#cloud-config\nhostname: {}\n", quote(&identity.hostname));
    // Images that lock root out would leave nobody to log in.
    text.push_str("disable_root: false\nusers:\n  - name: root\n");
    if !identity.authorized_keys.is_empty() {
        text.push_str("    ssh_authorized_keys:\n");
    }
    for key in &identity.authorized_keys {
        let _ = writeln!(text, "      - {}", quote(key));
    }
    if !identity.host_keys.is_empty() {
        text.push_str("ssh_keys:\n");
    }
    for (algorithm, key) in &identity.host_keys {
        let _ = writeln!(text, "  {algorithm}_private: {}", quote(key));
    }
    text
}

fn network_config(identity: &Checked) -> String {
    let mac = quote(&identity.mac);
    let mut text =
        format!("version: 2\nethernets:\n  boot:\n    match:\n      macaddress: {mac}\n");
    match &identity.network {
        // By MAC, so that the server that knew the firmware knows the system too.
        Network::Dhcp => text.push_str("    dhcp4: true\n    dhcp-identifier: mac\n"),
        Network::Fixed { address, prefix, gateway, dns } => {
            let _ = writeln!(text, "    addresses: [\"{address}/{prefix}\"]");
            if let Some(gateway) = gateway {
                let _ = writeln!(text, "    gateway4: \"{gateway}\"");
            }
            if !dns.is_empty() {
                let dns: Vec<String> = dns.iter().map(|dns| format!("\"{dns}\"")).collect();
                let _ = writeln!(text, "    nameservers:\n      addresses: [{}]", dns.join(", "));
            }
        }
    }
    text
}

/// As whom the agent of the new system speaks to the provisioner; plain words all.
fn agent_toml(agent: &AgentIdentity) -> String {
    let AgentIdentity { server, node, token } = agent;
    format!("server = \"{server}\"\nnode = \"{node}\"\ntoken = \"{token}\"\n")
}

/// systemd.network(5). By the address that the card was made with: as ports of a bond all cards have one.
fn networkd(identity: &Checked) -> String {
    let mut text = format!("[Match]\nPermanentMACAddress={}\n\n[Network]\n", identity.mac);
    match &identity.network {
        Network::Dhcp => text.push_str("DHCP=ipv4\n\n[DHCPv4]\nClientIdentifier=mac\n"),
        Network::Fixed { address, prefix, gateway, dns } => {
            let _ = writeln!(text, "Address={address}/{prefix}");
            if let Some(gateway) = gateway {
                let _ = writeln!(text, "Gateway={gateway}");
            }
            for dns in dns {
                let _ = writeln!(text, "DNS={dns}");
            }
        }
    }
    text
}

/// A YAML double-quoted scalar (YAML 1.2, 7.3.1) of printable ASCII on one line, whatever the
/// text: readers differ on which other letters may stand there as they are.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        let _ = match letter {
            '"' | '\\' => write!(quoted, "\\{letter}"),
            '\n' => write!(quoted, "\\n"),
            ' '..='~' => write!(quoted, "{letter}"),
            '\0'..='\u{ffff}' => write!(quoted, "\\u{:04X}", letter as u32),
            _ => write!(quoted, "\\U{:08X}", letter as u32),
        };
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::identity::tests::{XEN, sample};

    fn files() -> Vec<SeedFile> {
        render(&Checked::of(&sample()).unwrap())
    }

    fn text(files: &[SeedFile], name: &str) -> String {
        let (_, bytes) = files.iter().find(|(path, _)| path == name).unwrap();
        String::from_utf8(bytes.clone()).unwrap()
    }

    #[test]
    fn nocloud_says_who_the_node_is() {
        let files = files();
        assert_eq!(
            text(&files, "meta-data"),
            "instance-id: \"d-17\"\nlocal-hostname: \"n1.rack\"\n"
        );
        assert_eq!(
            text(&files, "user-data"),
            "#cloud-config\nhostname: \"n1.rack\"\ndisable_root: false\nusers:\n  - name: root\n    \
             ssh_authorized_keys:\n      - \"ssh-ed25519 AAAA me@there\"\nssh_keys:\n  \
             ed25519_private: \"-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNza\\n\
             -----END OPENSSH PRIVATE KEY-----\\n\"\n"
        );
        assert!(
            text(&files, "network-config").ends_with("dhcp4: true\n    dhcp-identifier: mac\n")
        );
        assert!(
            text(&files, "billet/10-billet.network")
                .contains("PermanentMACAddress=52:54:00:77:00:01\n")
        );
    }

    #[test]
    fn the_next_agent_knows_its_server_and_grub_its_lines() {
        let files = files();
        assert_eq!(
            text(&files, "billet/agent.toml"),
            "server = \"http://10.77.0.1:8080\"\nnode = \"525400770001\"\n\
             token = \"0123456789abcdef\"\n"
        );
        assert_eq!(text(&files, "billet/xen.cfg"), XEN);
        let identity = protocol::Identity { agent: None, xen: None, ..sample() };
        let files = render(&Checked::of(&identity).unwrap());
        assert!(
            files
                .iter()
                .all(|(path, _)| !path.ends_with("agent.toml") && !path.ends_with("xen.cfg"))
        );
    }

    #[test]
    fn a_fixed_address_is_configured() {
        let mut identity = sample();
        identity.address = Some("10.0.0.9/24".to_owned());
        identity.gateway = Some("10.0.0.1".to_owned());
        identity.dns = vec!["10.0.0.2".to_owned()];
        let files = render(&Checked::of(&identity).unwrap());
        let network = text(&files, "billet/10-billet.network");
        assert!(network.ends_with("Address=10.0.0.9/24\nGateway=10.0.0.1\nDNS=10.0.0.2\n"));
        assert!(text(&files, "network-config").ends_with("addresses: [\"10.0.0.2\"]\n"));
    }

    #[test]
    fn what_is_written_can_be_read_and_is_the_same_each_time() {
        for (sector, size) in [(512, 1 << 20), (512, 16 << 20), (4096, 64 << 20)] {
            let seed = || {
                let mut disk = Cursor::new(vec![0; size]);
                write(&mut disk, sector, &files()).unwrap();
                disk.into_inner()
            };
            let disk = seed();
            assert_eq!(disk, seed());
            let system = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
            assert_eq!(system.volume_label(), "CIDATA");
            for (path, bytes) in files() {
                let mut found = Vec::new();
                system.root_dir().open_file(&path).unwrap().read_to_end(&mut found).unwrap();
                assert_eq!(found, bytes, "{path}");
            }
        }
    }

    #[test]
    fn a_partition_too_small_for_it_is_an_error() {
        assert!(write(Cursor::new(vec![0; 4096]), 512, &files()).is_err());
    }

    /// What YAML makes of a double-quoted scalar.
    fn unquote(quoted: &str) -> Option<String> {
        let mut letters = quoted.strip_prefix('"')?.strip_suffix('"')?.chars();
        let mut text = String::new();
        while let Some(letter) = letters.next() {
            let digits = match (letter, letter == '\\') {
                ('"', _) => return None,
                (_, false) => {
                    text.push(letter);
                    continue;
                }
                _ => match letters.next()? {
                    'n' => {
                        text.push('\n');
                        continue;
                    }
                    'u' => 4,
                    'U' => 8,
                    other => {
                        text.push(other);
                        continue;
                    }
                },
            };
            let hex: String = letters.by_ref().take(digits).collect();
            text.push(char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?);
        }
        Some(text)
    }

    proptest! {
        #[test]
        fn nothing_breaks_out_of_its_quotes(text in any::<String>()) {
            let quoted = quote(&text);
            prop_assert!(quoted.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{}", quoted);
            prop_assert_eq!(unquote(&quoted), Some(text));
        }
    }
}
