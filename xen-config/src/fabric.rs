//! A fabric: the HCAs or NICs of a node that are cut into slices for guests.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    pci::PciAddress,
    sriov::{Pf, Sriov},
};

/// The longest name: it becomes part of a file's name.
const LONGEST: usize = 32;

/// `[[fabric]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fabric {
    /// Its name; nodes whose fabrics have one name are on one fabric.
    pub name: FabricName,
    /// What travels on it.
    #[serde(default)]
    pub link: LinkLayer,
    /// The physical functions that lead to it.
    pub pfs: Vec<PfName>,
    /// So many VFs of each of them; as many as its firmware has when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vfs: Option<u32>,
}

/// What travels on a fabric or through a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkLayer {
    /// Slices have GUIDs and partition keys.
    #[default]
    InfiniBand,
    /// Slices have a MAC, and perhaps a VLAN, trust and a rate.
    Ethernet,
}

/// Name of a fabric: a letter, then letters, digits, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FabricName(String);

/// A text that is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no name for a fabric: a letter, then letters, digits, `_` and `-`, {LONGEST} at most"
)]
pub struct FabricNameError {
    text: String,
}

/// A physical function as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PfName {
    /// By its address, `0000:3b:00.0`.
    At(PciAddress),
    /// By its InfiniBand device or its link, `mlx5_0` or `ens1`.
    Called(String),
}

/// A text that names no physical function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no device: a PCI address does, 0000:3b:00.0, or mlx5_0, or ens1")]
pub struct PfNameError {
    text: String,
}

impl LinkLayer {
    /// As sysfs spells it.
    pub const fn name(self) -> &'static str {
        match self {
            LinkLayer::InfiniBand => "InfiniBand",
            LinkLayer::Ethernet => "Ethernet",
        }
    }
}

impl Fabric {
    /// Those of its physical functions that this node has, in the order of their names.
    pub fn pfs_of<'a>(&self, sriov: &'a Sriov) -> Vec<&'a Pf> {
        self.pfs.iter().filter_map(|name| name.find(sriov)).collect()
    }

    /// How many VFs `pf` should have.
    pub fn vfs_of(&self, pf: &Pf) -> u32 {
        self.vfs.unwrap_or(pf.total)
    }
}

impl PfName {
    /// The physical function of that name.
    pub fn find<'a>(&self, sriov: &'a Sriov) -> Option<&'a Pf> {
        sriov.pfs.iter().find(|pf| match self {
            PfName::At(address) => pf.address == *address,
            PfName::Called(name) => {
                let device = pf.device.as_ref().map(|device| &device.name);
                device == Some(name) || pf.links.iter().any(|link| link.name == *name)
            }
        })
    }
}

impl FabricName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FabricName {
    type Err = FabricNameError;

    fn from_str(text: &str) -> Result<FabricName, FabricNameError> {
        let first = text.starts_with(|letter: char| letter.is_ascii_alphabetic());
        let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if first && text.len() <= LONGEST && text.bytes().all(rest) {
            Ok(FabricName(text.to_owned()))
        } else {
            Err(FabricNameError { text: text.to_owned() })
        }
    }
}

impl TryFrom<String> for FabricName {
    type Error = FabricNameError;

    fn try_from(text: String) -> Result<FabricName, FabricNameError> {
        text.parse()
    }
}

impl From<FabricName> for String {
    fn from(name: FabricName) -> String {
        name.0
    }
}

impl fmt::Display for FabricName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for PfName {
    type Err = PfNameError;

    fn from_str(text: &str) -> Result<PfName, PfNameError> {
        if let Ok(address) = text.parse() {
            return Ok(PfName::At(address));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(plain);
        match text.starts_with(|letter: char| letter.is_ascii_alphabetic()) && fits {
            true => Ok(PfName::Called(text.to_owned())),
            false => Err(PfNameError { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for PfName {
    type Error = PfNameError;

    fn try_from(text: String) -> Result<PfName, PfNameError> {
        text.parse()
    }
}

impl From<PfName> for String {
    fn from(name: PfName) -> String {
        name.to_string()
    }
}

impl fmt::Display for PfName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PfName::At(address) => address.fmt(out),
            PfName::Called(name) => out.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fabrics_and_functions() {
        for text in ["ib0", "storage-net", "a_b"] {
            assert_eq!(text.parse::<FabricName>().unwrap().to_string(), text);
        }
        for text in ["", "0ib", "a/b", "a.b", "a b", "..", &"a".repeat(33)] {
            assert!(text.parse::<FabricName>().is_err(), "{text}");
        }
        for text in ["0000:3b:00.0", "mlx5_0", "ens1f0"] {
            assert_eq!(text.parse::<PfName>().unwrap().to_string(), text);
        }
        assert_eq!("3b:00.0".parse::<PfName>().unwrap().to_string(), "0000:3b:00.0");
        for text in ["", "3b:00", "../x", "a b", "-x"] {
            assert!(text.parse::<PfName>().is_err(), "{text}");
        }
    }
}
