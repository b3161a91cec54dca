//! The whole desired state of a node.

use serde::{Deserialize, Serialize};

use crate::{
    boot::XenWish, domain::Guest, fabric::Fabric, network::Network, service::ServiceWish,
    slice::Slices,
};

/// What a node should be, as an operator writes it (TOML) or the provisioner sends it (JSON).
/// Every key has a default; one that is none is refused with the nearest that is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Desired {
    /// `[service]`: the service domain.
    pub service: ServiceWish,
    /// `[xen]`: the hypervisor's command line.
    pub xen: XenWish,
    /// `[network]`
    pub network: Network,
    /// `[[fabric]]`
    #[serde(rename = "fabric", skip_serializing_if = "Vec::is_empty")]
    pub fabrics: Vec<Fabric>,
    /// `[slice.<name>]`: slices that are made ready for somebody else than billet's guests.
    #[serde(rename = "slice", skip_serializing_if = "Slices::is_empty")]
    pub slices: Slices,
    /// `[[guest]]`
    #[serde(rename = "guest")]
    pub guests: Vec<Guest>,
}

/// A text that is no desired state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct DesiredError {
    /// Line of the text, from 1.
    pub line: usize,
    /// What is wrong there, and what would be accepted.
    pub reason: String,
}

impl Desired {
    /// Reads TOML.
    pub fn from_toml(text: &str) -> Result<Desired, DesiredError> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            DesiredError { line, reason: advice(error.message()) }
        })
    }

    /// Reads JSON.
    pub fn from_json(text: &str) -> Result<Desired, DesiredError> {
        serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            // The place is told in `line` already.
            let reason = message.split(" at line ").next().unwrap_or_default();
            DesiredError { line: error.line(), reason: advice(reason) }
        })
    }

    /// Renders JSON; [`Desired::from_json`] reads it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// What serde says of an unknown key, with the key that was probably meant.
fn advice(message: &str) -> String {
    nearest(message).unwrap_or_else(|| message.trim().to_owned())
}

/// serde says "unknown field `vcpu`, expected one of `name`, `vcpus`": what was meant is the
/// nearest of the latter.
fn nearest(message: &str) -> Option<String> {
    let list = message.strip_prefix("unknown field ")?;
    let mut words = list.split('`').skip(1).step_by(2);
    let typed = words.next()?;
    let keys: Vec<&str> = words.collect();
    let near = keys.iter().min_by_key(|key| strsim::damerau_levenshtein(typed, key))?;
    let close = strsim::damerau_levenshtein(typed, near) <= 1 + typed.len() / 3;
    let hint = if close { format!("; `{near}` is the nearest") } else { String::new() };
    Some(format!("there is no key `{typed}`{hint} (there are {})", keys.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Boot;

    const WHOLE: &str = r#"
[service]
cpus = 2
memory = "1GiB"
dedicate = "pool"

[xen]
com1 = "115200,8n1"
console = ["com1", "vga"]

[[guest]]
name = "web"
type = "pv"
vcpus = 2
memory = "512MiB"
boot.kernel = { path = "/srv/vmlinuz", ramdisk = "/srv/ird.gz", line = "root=/dev/xvda ro" }
pci = ["01:10.0"]

[[guest.disk]]
path = "/dev/vg/web"
as = "xvda"

[[guest.nic]]
bridge = "br0"
vlan = 100
rate = "100Mb/s"
"#;

    #[test]
    fn an_empty_text_is_a_desired_state() {
        assert_eq!(Desired::from_toml("").unwrap(), Desired::default());
        assert_eq!(Desired::from_json("{}").unwrap(), Desired::default());
    }

    #[test]
    fn json_says_the_same_as_toml() {
        let desired = Desired::from_toml(WHOLE).unwrap();
        assert_eq!(Desired::from_json(&desired.to_json()).unwrap(), desired);
        let guest = &desired.guests[0];
        assert!(matches!(&guest.boot, Boot::Kernel { line, .. } if &**line == "root=/dev/xvda ro"));
        assert_eq!(guest.pci[0].as_str(), "0000:01:10.0");
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        for (text, line, near) in [
            ("[servce]\n", 1, "service"),
            ("[service]\n\ncpu = 1", 3, "cpus"),
            ("[xen]\nconsol = [\"com1\"]", 2, "console"),
            ("[[guest]]\nname = \"a\"\nmemry = \"1GiB\"", 3, "memory"),
        ] {
            let error = Desired::from_toml(text).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.reason.contains(&format!("`{near}` is the nearest")), "{error}");
        }
        let error = Desired::from_json("{\"gest\": []}").unwrap_err().to_string();
        assert!(error.contains("`guest` is the nearest"), "{error}");
    }

    #[test]
    fn a_wrong_value_says_what_is_accepted() {
        for (text, said) in [
            ("[service]\ndedicate = \"yes\"", "`pool`"),
            ("[service]\nmemory = \"1GB\"", "512MiB"),
            ("[service]\nplace = \"a\"", "0-3,8"),
        ] {
            let error = Desired::from_toml(text).unwrap_err().to_string();
            assert!(error.starts_with("line 2") && error.contains(said), "{error}");
        }
    }
}
