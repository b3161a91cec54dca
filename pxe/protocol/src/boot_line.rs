//! What a node's kernel command line says to the agent.
//!
//! iPXE fills in the addresses, so that the agent need not ask DHCP again:
//! `billet.server=http://10.0.0.1:8080 billet.mac=52:54:00:00:00:01
//! billet.token=<one-time token> billet.ip=10.0.0.9/255.255.255.0
//! billet.gateway=10.0.0.1`

use std::{fmt, net::Ipv4Addr};

/// The parsed words, each absent when the line does not have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootLine {
    /// Base URL of the provisioner, without a closing slash.
    pub server: Option<String>,
    /// MAC of the interface that booted, lower case with colons.
    pub mac: Option<String>,
    /// The one-time boot token.
    pub token: Option<String>,
    /// Address and netmask that the firmware got.
    pub ip: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The router that the firmware got.
    pub gateway: Option<Ipv4Addr>,
}

impl BootLine {
    /// Picks our words out of a kernel command line; empty or malformed ones count as absent,
    /// because DHCP can still give what they would have said.
    pub fn parse(line: &str) -> Self {
        let mut boot = BootLine::default();
        for word in line.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            match key {
                "billet.server" => boot.server = Some(value.trim_end_matches('/').to_owned()),
                "billet.mac" => boot.mac = Some(value.to_ascii_lowercase().replace('-', ":")),
                "billet.token" => boot.token = Some(value.to_owned()),
                "billet.ip" => boot.ip = parse_ip(value),
                "billet.gateway" => boot.gateway = value.parse().ok(),
                _ => {}
            }
        }
        boot
    }
}

fn parse_ip(value: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (ip, mask) = value.split_once('/')?;
    Some((ip.parse().ok()?, mask.parse().ok()?))
}

impl fmt::Display for BootLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.server.as_ref().map(|server| format!("billet.server={server}")),
            self.mac.as_ref().map(|mac| format!("billet.mac={mac}")),
            self.token.as_ref().map(|token| format!("billet.token={token}")),
            self.ip.map(|(ip, mask)| format!("billet.ip={ip}/{mask}")),
            self.gateway.map(|gateway| format!("billet.gateway={gateway}")),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_and_parse_are_inverses() {
        let line = "billet.server=http://10.77.0.1:8080 billet.mac=52:54:00:77:00:01 \
                    billet.token=abc billet.ip=10.77.0.9/255.255.255.0 billet.gateway=10.77.0.1";
        assert_eq!(BootLine::parse(line).to_string(), line);
    }

    #[test]
    fn words_that_ipxe_left_empty_are_absent() {
        let boot = BootLine::parse("console=ttyS0 quiet billet.ip=/ billet.gateway= billet.token=");
        assert_eq!(boot, BootLine::default());
    }
}
