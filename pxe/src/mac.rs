//! A hardware address of an Ethernet interface.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Six bytes, written `52:54:00:77:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// What was given is not a hardware address.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a MAC address: 52:54:00:77:00:01 is the form, dashes or none also do")]
pub struct NotAMac(String);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let wrong = || NotAMac(text.chars().take(40).collect());
        let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b':' && *byte != b'-').collect();
        if hex.len() != 12 || !hex.iter().all(u8::is_ascii_hexdigit) {
            return Err(wrong());
        }
        let mut bytes = [0; 6];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Mac(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = NotAMac;

    fn try_from(text: String) -> Result<Self, NotAMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_and_parse_are_inverses() {
        let mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        assert_eq!("52-54-00-77-00-01".parse::<Mac>().unwrap(), mac);
        assert_eq!("525400770001".parse::<Mac>().unwrap(), mac);
        assert!("52:54:00:77:00".parse::<Mac>().is_err());
    }
}
