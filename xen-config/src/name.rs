//! A guest's name, and what is derived from it: its UUID and the addresses of its NICs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::derive::derive;

/// The longest name: it becomes part of a file's name and fits xl's column.
const LONGEST: usize = 40;

/// The name of a guest: a letter or digit, then letters, digits, `.`, `_` and `-`.
///
/// It becomes a column of `xl list`, the name of a log file and a word of a command line; so
/// blanks, quotes, slashes and newlines are refused here and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no name for a guest: a letter, then letters, digits, `.`, `_` and `-`, \
     {LONGEST} at most, and not Domain-0"
)]
pub struct NameError {
    text: String,
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The UUID of the guest of this name on `node`: whose UUID is this one was made by us.
    ///
    /// RFC 9562, version 8: the bits are ours (a BLAKE3 of both names).
    pub fn uuid(&self, node: &str) -> String {
        let mut bytes = self.derive("uuid", node, 0);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    /// The hardware address of its NIC number `at` on `node`.
    ///
    /// Locally administered: 46 bits, where Xen's own prefix (00:16:3e) would leave 24 and with
    /// them a collision among some thousand guests.
    pub fn mac(&self, node: &str, at: u32) -> String {
        let mut bytes = self.derive("mac", node, at);
        bytes[0] = bytes[0] & 0xfc | 0x02;
        let pairs: Vec<String> = bytes[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        pairs.join(":")
    }

    fn derive(&self, what: &str, node: &str, at: u32) -> [u8; 16] {
        derive(&[what, node, &self.0, &at.to_string()])
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        // xl takes a word of digits for a domain's number.
        let first = text.starts_with(|letter: char| letter.is_ascii_alphabetic());
        let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = text.len() <= LONGEST && text != "Domain-0";
        if first && fits && text.bytes().all(rest) {
            Ok(Name(text.to_owned()))
        } else {
            Err(NameError { text: text.to_owned() })
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Name, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_break_out_is_refused() {
        let long = "a".repeat(41);
        for text in ["", "1", "a b", "a\nb", "a\"b", "a'b", "a/b", "..", "-e", "Domain-0", &long] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        for text in ["web", "web-1.example_x", &long[1..]] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_derived_stays() {
        let name: Name = "web".parse().unwrap();
        assert_eq!(name.uuid("r1n3"), name.uuid("r1n3"));
        assert_ne!(name.uuid("r1n3"), name.uuid("r1n4"));
        assert_ne!(name.mac("r1n3", 0), name.mac("r1n3", 1));
        assert_eq!(&name.uuid("r1n3")[14..15], "8");
    }

    proptest! {
        #[test]
        fn an_address_is_local_and_of_one_machine(text in "[a-z][a-z0-9]{0,9}", at: u32) {
            let mac = text.parse::<Name>().unwrap().mac("node", at);
            let first = u8::from_str_radix(&mac[..2], 16).unwrap();
            prop_assert_eq!(first & 3, 2);
            prop_assert_eq!(mac.len(), 17);
        }
    }
}
