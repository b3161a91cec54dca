//! Who the node will be, checked once: what is written into configuration files must not be
//! able to be more than the one word or line that it stands for.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use protocol::{AgentIdentity, Identity};
use xen_config::boot::{Lines, LinesError};

/// An identity whose every part is what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) instance: String,
    pub(crate) hostname: String,
    /// By algorithm; the text ends with a newline, as `ssh-keygen` wants it.
    pub(crate) host_keys: BTreeMap<String, String>,
    pub(crate) authorized_keys: Vec<String>,
    pub(crate) mac: String,
    pub(crate) network: Network,
    pub(crate) agent: Option<AgentIdentity>,
    /// How Xen is started; a fragment of GRUB's configuration that sets its two variables.
    pub(crate) xen: Option<String>,
}

/// How the interface gets its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// By DHCP.
    Dhcp,
    /// A fixed one.
    Fixed { address: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>, dns: Vec<IpAddr> },
}

/// A part of an identity that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("identity's {field} `{value}` cannot be used, {accepted} can")]
pub(crate) struct Unusable {
    field: &'static str,
    value: String,
    accepted: &'static str,
}

fn refuse(field: &'static str, value: impl fmt::Display, accepted: &'static str) -> Unusable {
    // Keys are long and secret: the beginning names the culprit well enough.
    let value = value.to_string().chars().take(24).collect();
    Unusable { field, value, accepted }
}

impl Checked {
    /// Checks every part.
    pub(crate) fn of(identity: &Identity) -> Result<Self, Unusable> {
        Ok(Checked {
            instance: check_line("instance", &identity.instance)?,
            hostname: check_hostname(&identity.hostname)?,
            host_keys: check_host_keys(&identity.host_keys)?,
            authorized_keys: identity
                .authorized_keys
                .iter()
                .map(|key| check_line("authorized key", key))
                .collect::<Result<_, _>>()?,
            mac: check_mac(&identity.mac)?,
            network: check_network(identity)?,
            agent: identity.agent.as_ref().map(check_agent).transpose()?,
            xen: identity.xen.as_deref().map(check_xen).transpose()?,
        })
    }
}

fn check_line(field: &'static str, text: &str) -> Result<String, Unusable> {
    let text = text.trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(refuse(field, text, "one line without control characters"));
    }
    Ok(text.to_owned())
}

/// RFC 1123, and Linux keeps 64 bytes.
fn check_hostname(name: &str) -> Result<String, Unusable> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    let ends = [name.bytes().next(), name.bytes().last()];
    let ends_well = ends.iter().flatten().all(u8::is_ascii_alphanumeric);
    if name.is_empty() || name.len() > 64 || !letters || !ends_well {
        return Err(refuse("host name", name, "1 to 64 letters, digits, dots and dashes"));
    }
    Ok(name.to_owned())
}

fn check_host_keys(keys: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Unusable> {
    let check = |(algorithm, key): (&String, &String)| {
        // It becomes part of a file name.
        let named =
            algorithm.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if algorithm.is_empty() || !named {
            let accepted = "lower-case letters and digits (`ed25519`)";
            return Err(refuse("host key algorithm", algorithm, accepted));
        }
        let key = key.trim_end();
        let odd = |letter: char| !letter.is_ascii() || (letter.is_control() && letter != '\n');
        if !key.starts_with("-----BEGIN ") || key.contains(odd) {
            return Err(refuse("host key", algorithm, "a private key in OpenSSH's form"));
        }
        Ok((algorithm.clone(), format!("{key}\n")))
    };
    keys.iter().map(check).collect()
}

fn check_mac(mac: &str) -> Result<String, Unusable> {
    let bytes: Vec<&str> = mac.split(':').collect();
    let is_byte =
        |byte: &&str| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
    if bytes.len() != 6 || !bytes.iter().all(is_byte) {
        return Err(refuse("MAC", mac, "the form 52:54:00:77:00:01"));
    }
    Ok(mac.to_ascii_lowercase())
}

fn check_agent(agent: &AgentIdentity) -> Result<AgentIdentity, Unusable> {
    let host = agent.server.strip_prefix("http://").unwrap_or_default();
    let of_url = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    if host.is_empty() || host.len() > 255 || !host.bytes().all(of_url) {
        return Err(refuse("server", &agent.server, "the form http://10.0.0.1:8080"));
    }
    let is_word = |text: &str| {
        (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    if !is_word(&agent.node) {
        return Err(refuse("node", &agent.node, "a word of letters and digits"));
    }
    if !is_word(&agent.token) {
        return Err(refuse("token", "", "a word of letters and digits"));
    }
    Ok(agent.clone())
}

/// GRUB runs it: comments, and the two variables with nothing that GRUB would expand.
fn check_xen(text: &str) -> Result<String, Unusable> {
    let refused = |LinesError { line }| refuse("way to start Xen", line, LinesError::ACCEPTED);
    text.parse::<Lines>().map(|_| text.to_owned()).map_err(refused)
}

fn check_network(identity: &Identity) -> Result<Network, Unusable> {
    let Some(text) = &identity.address else { return Ok(Network::Dhcp) };
    let wrong = || refuse("address", text, "the form 10.0.0.9/24");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    let address = address.parse().map_err(|_| wrong())?;
    if prefix > 32 {
        return Err(wrong());
    }
    let gateway = identity
        .gateway
        .as_ref()
        .map(|gateway| gateway.parse().map_err(|_| refuse("gateway", gateway, "an IPv4 address")));
    let dns = identity.dns.iter();
    let dns = dns.map(|dns| dns.parse().map_err(|_| refuse("resolver", dns, "an IP address")));
    let dns = dns.collect::<Result<_, _>>()?;
    Ok(Network::Fixed { address, prefix, gateway: gateway.transpose()?, dns })
}

#[cfg(test)]
pub(crate) mod tests {
    use xen_config::{CommandLine, CpuSet, Desired, Size, Topology, boot, service};

    use super::*;

    /// How Xen starts in it.
    pub(crate) const XEN: &str = "# How Xen starts.\nset xen_line=\"console=vga,com1 dom0_mem=512M,max:512M\"\n\
                                  set linux_line=\"quiet console=hvc0\"\n";

    /// An identity with nothing wrong.
    pub(crate) fn sample() -> Identity {
        let key =
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza\n-----END OPENSSH PRIVATE KEY-----";
        Identity {
            instance: "d-17".to_owned(),
            hostname: "n1.rack".to_owned(),
            host_keys: [("ed25519".to_owned(), key.to_owned())].into(),
            authorized_keys: vec!["ssh-ed25519 AAAA me@there".to_owned()],
            mac: "52:54:00:77:00:01".to_owned(),
            address: None,
            gateway: None,
            dns: Vec::new(),
            agent: Some(AgentIdentity {
                server: "http://10.77.0.1:8080".to_owned(),
                node: "525400770001".to_owned(),
                token: "0123456789abcdef".to_owned(),
            }),
            xen: Some(XEN.to_owned()),
        }
    }

    fn agent(identity: &mut Identity) -> &mut AgentIdentity {
        identity.agent.as_mut().unwrap()
    }

    #[test]
    fn what_is_right_passes() {
        let mut identity = sample();
        assert_eq!(Checked::of(&identity).unwrap().network, Network::Dhcp);
        identity.address = Some("10.0.0.9/24".to_owned());
        identity.gateway = Some("10.0.0.1".to_owned());
        identity.dns = vec!["10.0.0.1".to_owned(), "fe80::1".to_owned()];
        assert!(Checked::of(&identity).is_ok());
    }

    #[test]
    fn every_way_to_start_xen_that_is_rendered_passes() {
        let words = "[xen]\nconsole = [\"com1\"]\niommu = true\nextra = [\"a-_.,:=/+@%9\"]\n\
                     linux = [\"b=c\"]\n[service]\ncpus = 2\n";
        for text in ["", words] {
            let desired = Desired::from_toml(text).unwrap();
            let topology = Topology::even(8, 2, 2, Size::of_mib(8192));
            let plan =
                service::plan(&desired.service, &topology, &[1], &CpuSet::default()).unwrap();
            let line = CommandLine::of_xen(&desired.xen, &plan, &topology.node_numbers());
            let fragment = boot::fragment(&line, &desired.xen);
            assert_eq!(check_xen(&fragment), Ok(fragment));
        }
    }

    #[test]
    fn what_could_break_out_is_refused() {
        let spoil: [fn(&mut Identity); 16] = [
            |identity| identity.hostname = "a\nb".to_owned(),
            |identity| identity.hostname = "-a".to_owned(),
            |identity| identity.hostname = String::new(),
            |identity| identity.instance = "a\0".to_owned(),
            |identity| identity.authorized_keys.push("ssh-rsa A\nssh-rsa B".to_owned()),
            |identity| identity.mac = "52:54:00:77:00:01\n[Network]".to_owned(),
            |identity| identity.address = Some("10.0.0.9/33".to_owned()),
            |identity| {
                identity.host_keys.insert("../../etc/shadow".to_owned(), "-----BEGIN ".to_owned());
            },
            |identity| {
                identity.host_keys.insert("rsa".to_owned(), "no key".to_owned());
            },
            |identity| agent(identity).server = "http://a\"\nb".to_owned(),
            |identity| agent(identity).server = "https://10.0.0.1".to_owned(),
            |identity| agent(identity).node = "a\"".to_owned(),
            |identity| agent(identity).token = "a\nb = 1".to_owned(),
            |identity| identity.xen = Some("set xen_line=\"${x}\"\n".to_owned()),
            |identity| identity.xen = Some("set xen_line=\"a\"; reboot\n".to_owned()),
            |identity| identity.xen = Some("reboot\n".to_owned()),
        ];
        for (case, spoil) in spoil.iter().enumerate() {
            let mut identity = sample();
            spoil(&mut identity);
            assert!(Checked::of(&identity).is_err(), "case {case}");
        }
    }
}
