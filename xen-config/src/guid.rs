//! GUIDs of InfiniBand nodes and ports (EUI-64, InfiniBand Architecture 1.4, 4.1).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::derive::derive;

/// A GUID that a port may have: neither zero, which asks the subnet manager for one, nor all
/// ones, which deletes one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Guid(u64);

/// A text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuidError {
    /// It has no such form.
    #[error("`{text}` is no GUID: eight bytes are, 02:11:22:33:44:55:66:77, or 0x0211223344556677")]
    Form {
        /// The text.
        text: String,
    },
    /// No port may have it.
    #[error(
        "GUID {text} {means}: leave guid out, and one is derived from the names of node and slice"
    )]
    Reserved {
        /// The text.
        text: String,
        /// What it means instead.
        means: &'static str,
    },
}

impl Guid {
    /// As a number: the first byte that is printed is the highest.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// As OpenSM and UFM read it, `0x0211223344556677`.
    pub fn hex(self) -> String {
        format!("{:#018x}", self.0)
    }

    /// The GUID that follows from `what` (`node`, `port`) of a slice, or of a VF that nobody has,
    /// on `node`.
    ///
    /// Of one machine and locally administered, as EUI-64 has it: what a maker gave never
    /// has that bit, so no HCA can have one like it. 62 bits are left.
    pub fn derived(what: &str, node: &str, owner: &str) -> Guid {
        let bytes = derive(&["guid", what, node, owner]);
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[..8]);
        number[0] = number[0] & 0xfc | 0x02;
        Guid(u64::from_be_bytes(number))
    }
}

impl TryFrom<u64> for Guid {
    type Error = GuidError;

    fn try_from(number: u64) -> Result<Guid, GuidError> {
        let text = || Guid(number).to_string();
        match number {
            0 => Err(GuidError::Reserved { text: text(), means: "is none" }),
            u64::MAX => Err(GuidError::Reserved { text: text(), means: "deletes one" }),
            _ => Ok(Guid(number)),
        }
    }
}

/// `02:11:22:33:44:55:66:77` as `ip` prints, `0211:2233:4455:6677` as sysfs does, and
/// `0x0211223344556677` as subnet managers do.
impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Guid, GuidError> {
        let refused = || GuidError::Form { text: text.to_owned() };
        let parts: Vec<&str> = match text.strip_prefix("0x") {
            Some(digits) => vec![digits],
            None => text.split(':').collect(),
        };
        let length = match parts.len() {
            8 => 2,
            4 => 4,
            1 => 16,
            _ => return Err(refused()),
        };
        let digits =
            |part: &&str| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !parts.iter().all(digits) {
            return Err(refused());
        }
        let number = u64::from_str_radix(&parts.concat(), 16).map_err(|_| refused())?;
        Guid::try_from(number)
    }
}

impl TryFrom<String> for Guid {
    type Error = GuidError;

    fn try_from(text: String) -> Result<Guid, GuidError> {
        text.parse()
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> String {
        guid.to_string()
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.to_be_bytes().into_iter().enumerate() {
            let mark = if at == 0 { "" } else { ":" };
            write!(out, "{mark}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_spellings_and_what_is_none() {
        for text in ["00:11:22:33:44:55:66:78", "0011:2233:4455:6678", "0x0011223344556678"] {
            let guid: Guid = text.parse().unwrap();
            assert_eq!(guid.number(), 0x0011_2233_4455_6678);
            assert_eq!(guid.to_string(), "00:11:22:33:44:55:66:78");
            assert_eq!(guid.hex(), "0x0011223344556678");
        }
        for text in
            ["", "0x", "0x1", "1", "00:11", "00:11:22:33:44:55:66:7g", "+0:11:22:33:44:55:66:77"]
        {
            assert!(matches!(text.parse::<Guid>(), Err(GuidError::Form { .. })), "{text}");
        }
        let zero = "00:00:00:00:00:00:00:00".parse::<Guid>().unwrap_err().to_string();
        assert!(zero.contains("is none") && zero.contains("leave guid out"), "{zero}");
        let ones = "0xffffffffffffffff".parse::<Guid>().unwrap_err().to_string();
        assert!(ones.contains("ff:ff deletes one"), "{ones}");
    }

    #[test]
    fn what_is_derived_stays_and_differs() {
        let guid = Guid::derived("port", "r1n3", "web/0");
        assert_eq!(guid, Guid::derived("port", "r1n3", "web/0"));
        for (what, node, owner) in
            [("node", "r1n3", "web/0"), ("port", "r1n4", "web/0"), ("port", "r1n3", "web/1")]
        {
            assert_ne!(guid, Guid::derived(what, node, owner));
        }
        // Announced to subnet managers: another derivation would cut every guest off.
        assert_eq!(guid.to_string(), "26:5c:2d:53:72:df:6a:72");
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(number in 1..u64::MAX) {
            let guid = Guid::try_from(number).unwrap();
            prop_assert_eq!(guid.to_string().parse::<Guid>().unwrap(), guid);
            prop_assert_eq!(guid.hex().parse::<Guid>().unwrap(), guid);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Guid>();
        }

        #[test]
        fn a_derived_one_is_local_and_of_one_machine(owner in "[a-z/0-9]{1,12}") {
            let first = Guid::derived("port", "n", &owner).number() >> 56;
            prop_assert_eq!(first & 3, 2);
        }
    }
}
