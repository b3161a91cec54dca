//! A guest's network interface: where it is plugged in, its address and its limit.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A NIC of a guest as desired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The bridge that it is plugged into.
    pub bridge: String,
    /// Its hardware address; derived from node, guest and position when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The VLAN that its untagged frames belong to, on a VLAN-aware bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// At most so much from the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// A hardware address, lower case with colons.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(String);

/// A text that is no address of one machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no address for a NIC: six bytes are, the first of them even, 02:00:00:00:00:01"
)]
pub struct MacError {
    text: String,
}

impl Mac {
    pub(crate) fn of_bytes(bytes: [u8; 6]) -> Mac {
        Mac(bytes.map(|byte| format!("{byte:02x}")).join(":"))
    }

    /// Its six bytes.
    pub fn bytes(&self) -> [u8; 6] {
        let mut bytes = [0; 6];
        for (byte, pair) in bytes.iter_mut().zip(self.0.split(':')) {
            *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
        }
        bytes
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Mac, MacError> {
        let refused = || MacError { text: text.to_owned() };
        let byte = |pair: &str| {
            let digits = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
            u8::from_str_radix(pair, 16).ok().filter(|_| digits)
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let bytes = bytes.filter(|bytes| bytes.len() == 6).ok_or_else(refused)?;
        // An odd first byte is a group address.
        if bytes[0] & 1 == 1 || bytes.iter().all(|byte| *byte == 0) {
            return Err(refused());
        }
        Ok(Mac(text.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Mac, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A VLAN, 1 to 4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vlan(u16);

/// A number that is no VLAN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{number} is no VLAN: 1 to 4094 are")]
pub struct VlanError {
    number: u32,
}

impl Vlan {
    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Vlan {
    type Error = VlanError;

    fn try_from(number: u32) -> Result<Vlan, VlanError> {
        match number {
            1..=4094 => Ok(Vlan(number as u16)),
            _ => Err(VlanError { number }),
        }
    }
}

impl From<Vlan> for u32 {
    fn from(vlan: Vlan) -> u32 {
        u32::from(vlan.0)
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// How often the limit is granted anew, in microseconds: xl's own interval, so that what xl
/// writes at creation and what is written live are the same.
const INTERVAL: u64 = 50_000;
/// The largest rate: what its share in one interval needs must fit 32 bits.
const FASTEST: u64 = u32::MAX as u64 * (1_000_000 / INTERVAL);
const RATES: [(&str, u64); 3] = [("Gb/s", 1_000_000_000), ("Mb/s", 1_000_000), ("Kb/s", 1_000)];

/// A limit in bits per second, as xl spells it: `100Mb/s`, decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    bytes: u64,
}

/// A text that is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no rate: 1Kb/s to 600Gb/s is, or the same in bytes, `10MB/s`")]
pub struct RateError {
    text: String,
}

impl Rate {
    /// Bytes per second.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// In whole megabits per second, as NICs limit their VFs; `None` for what lies between.
    pub fn megabits(self) -> Option<u32> {
        let bits = self.bytes * 8;
        bits.is_multiple_of(1_000_000).then(|| u32::try_from(bits / 1_000_000).ok()).flatten()
    }

    /// As netback reads it from the key `rate` of the backend: bytes, then microseconds.
    pub fn share(self) -> String {
        format!("{},{INTERVAL}", self.bytes * INTERVAL / 1_000_000)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Rate, RateError> {
        let refused = || RateError { text: text.to_owned() };
        let end = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(refused)?;
        let (number, unit) = text.split_at(end);
        let (in_bits, bits_a_unit) = match unit.trim() {
            unit if unit.ends_with("B/s") => (unit.replace("B/s", "b/s"), 8),
            unit => (unit.to_owned(), 1),
        };
        let (_, factor) = RATES.iter().find(|(name, _)| *name == in_bits).ok_or_else(refused)?;
        let number: u64 = number.parse().map_err(|_| refused())?;
        let bits = number.checked_mul(factor * bits_a_unit).ok_or_else(refused)?;
        // The smallest unit is Kb/s, because xl takes no number beyond 32 bits.
        let fits = (125..=FASTEST).contains(&(bits / 8));
        if fits { Ok(Rate { bytes: bits / 8 }) } else { Err(refused()) }
    }
}

impl TryFrom<String> for Rate {
    type Error = RateError;

    fn try_from(text: String) -> Result<Rate, RateError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

/// In the largest unit that leaves a whole number.
impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bytes * 8;
        let whole = RATES.iter().find(|(_, factor)| bits.is_multiple_of(*factor));
        let (unit, factor) = whole.copied().unwrap_or(("Kb/s", 1_000));
        write!(out, "{}{unit}", bits / factor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_in_bits_or_bytes() {
        let rate: Rate = "10MB/s".parse().unwrap();
        assert_eq!(rate.to_string(), "80Mb/s");
        assert_eq!(rate.share(), "500000,50000");
        assert_eq!("1Gb/s".parse::<Rate>().unwrap().bytes(), 125_000_000);
        for text in ["", "10", "10Mbit", "0Kb/s", "100b/s", "-1Mb/s", "1.5Gb/s", "999999Gb/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_of_one_machine() {
        assert_eq!("00:16:3E:00:00:0a".parse::<Mac>().unwrap().to_string(), "00:16:3e:00:00:0a");
        for text in ["", "01:00:5e:00:00:01", "00:00:00:00:00:00", "0:1:2:3:4:5", "00-16-3e-0-0-1"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(kilobits in 1..FASTEST / 125) {
            let rate = Rate { bytes: kilobits * 125 };
            prop_assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
        }
    }
}
