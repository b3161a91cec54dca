//! PCI functions: their addresses, and what a node has of them.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a function sits, `0000:01:10.0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress(String);

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no PCI address: `0000:01:10.0` is, `01:10.0` too")]
pub struct PciAddressError {
    text: String,
}

/// A function of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDevice {
    /// Where it sits.
    pub address: PciAddress,
    /// Class, six hexadecimal digits: `020000` is Ethernet, `020700` and `0c06..` InfiniBand.
    pub class: String,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// Its NUMA node, where the firmware says.
    pub node: Option<u32>,
}

/// The NUMA nodes of NICs and HCAs, for which the service domain works, among functions of which class
/// and node are told: the node with the most of them first, of equals the lower number.
pub fn near<'a>(functions: impl IntoIterator<Item = (&'a str, Option<u32>)>) -> Vec<u32> {
    let is_network = |class: &str| class.starts_with("02") || class.starts_with("0c06");
    let network = functions.into_iter().filter(|(class, _)| is_network(class));
    let mut count: BTreeMap<u32, usize> = BTreeMap::new();
    for node in network.filter_map(|(_, node)| node) {
        *count.entry(node).or_default() += 1;
    }
    let mut order: Vec<u32> = count.keys().copied().collect();
    order.sort_by_key(|node| std::cmp::Reverse(count.get(node)));
    order
}

impl PciAddress {
    /// As text, with its domain.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The function `distance` routing numbers further, on the same domain.
    pub(crate) fn after(&self, distance: u32) -> Option<PciAddress> {
        let part = |from: usize, to: usize| u32::from_str_radix(self.0.get(from..to)?, 16).ok();
        let own = part(5, 7)? << 8 | part(8, 10)? << 3 | part(11, 12)?;
        let number = u16::try_from(own.checked_add(distance)?).ok()?;
        let (bus, device, function) = (number >> 8, number >> 3 & 0x1f, number & 7);
        Some(PciAddress(format!("{}:{bus:02x}:{device:02x}.{function}", self.0.get(..4)?)))
    }
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<PciAddress, PciAddressError> {
        let refused = || PciAddressError { text: text.to_owned() };
        let whole = match text.matches(':').count() {
            1 => format!("0000:{text}"),
            _ => text.to_owned(),
        };
        let form = "hhhh:hh:hh.o";
        let fits = |(byte, form): (u8, u8)| match form {
            b'h' => byte.is_ascii_hexdigit(),
            b'o' => (b'0'..b'8').contains(&byte),
            same => byte == same,
        };
        if whole.len() != form.len() || !whole.bytes().zip(form.bytes()).all(fits) {
            return Err(refused());
        }
        Ok(PciAddress(whole.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = PciAddressError;

    fn try_from(text: String) -> Result<PciAddress, PciAddressError> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> String {
        address.0
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_with_most_nics_is_nearest() {
        let functions = [
            ("020000", Some(2)),
            ("010802", Some(0)),
            ("0c0600", Some(1)),
            ("020700", Some(1)),
            ("020000", None),
            ("020000", Some(0)),
        ];
        assert_eq!(near(functions), [1, 0, 2]);
    }

    #[test]
    fn the_domain_may_be_left_out() {
        assert_eq!("01:1A.7".parse::<PciAddress>().unwrap().to_string(), "0000:01:1a.7");
        assert_eq!("0001:01:10.0".parse::<PciAddress>().unwrap().as_str(), "0001:01:10.0");
        for text in ["", "01:10", "01:10.8", "0000:01:10.0,permissive=1", "01:10.0 ", "é1:10.0"] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }
}
