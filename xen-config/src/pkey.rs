//! Partition keys (InfiniBand Architecture 1.4, 10.9): who may talk to whom on a fabric.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The bit of a key that says full member.
const FULL: u16 = 0x8000;

/// A partition, and how one is its member: `0x8001:full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pkey {
    /// Its number without the bit of the membership, 1 to 0x7fff.
    partition: u16,
    /// How.
    membership: Membership,
}

/// How a port is a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    /// It talks to full members only.
    Limited,
    /// It talks to all members.
    Full,
}

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no partition key: 0x8001:full is, 0x0001:limited too, from 0x0001 to 0x7fff without the bit 0x8000"
)]
pub struct PkeyError {
    text: String,
}

impl Pkey {
    /// The partition's number, without the bit of the membership.
    pub const fn partition(self) -> u16 {
        self.partition
    }

    /// How one is its member.
    pub const fn membership(self) -> Membership {
        self.membership
    }

    /// As it stands in a port's table.
    pub const fn number(self) -> u16 {
        match self.membership {
            Membership::Full => self.partition | FULL,
            Membership::Limited => self.partition,
        }
    }

    /// What stands in a port's table; `None` for an empty place.
    pub const fn of_number(number: u16) -> Option<Pkey> {
        let membership = if number & FULL == 0 { Membership::Limited } else { Membership::Full };
        match number & !FULL {
            0 => None,
            partition => Some(Pkey { partition, membership }),
        }
    }
}

impl Membership {
    /// As partitions.conf and UFM spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Membership::Limited => "limited",
            Membership::Full => "full",
        }
    }
}

/// A word decides before the bit does: partitions.conf has both `0x1=full` and `0x8001=full`.
impl FromStr for Pkey {
    type Err = PkeyError;

    fn from_str(text: &str) -> Result<Pkey, PkeyError> {
        let refused = || PkeyError { text: text.to_owned() };
        let (number, word) = match text.split_once(':') {
            Some((number, word)) => (number, Some(word)),
            None => (text, None),
        };
        let digits = number.strip_prefix("0x").ok_or_else(refused)?;
        let fits =
            (1..=4).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_hexdigit());
        let number = u16::from_str_radix(digits, 16).ok().filter(|_| fits).ok_or_else(refused)?;
        let key = Pkey::of_number(number).ok_or_else(refused)?;
        let membership = match word {
            None => key.membership,
            Some("full") => Membership::Full,
            Some("limited") => Membership::Limited,
            Some(_) => return Err(refused()),
        };
        Ok(Pkey { membership, ..key })
    }
}

impl TryFrom<String> for Pkey {
    type Error = PkeyError;

    fn try_from(text: String) -> Result<Pkey, PkeyError> {
        text.parse()
    }
}

impl From<Pkey> for String {
    fn from(key: Pkey) -> String {
        key.to_string()
    }
}

impl fmt::Display for Pkey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#06x}:{}", self.number(), self.membership.name())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_word_decides_before_the_bit() {
        for (text, said) in [
            ("0x8001:full", "0x8001:full"),
            ("0x1:full", "0x8001:full"),
            ("0x8001:limited", "0x0001:limited"),
            ("0x8001", "0x8001:full"),
            ("0x0001", "0x0001:limited"),
            ("0xffff", "0xffff:full"),
            ("0x7FFF:limited", "0x7fff:limited"),
        ] {
            assert_eq!(text.parse::<Pkey>().unwrap().to_string(), said);
        }
        for text in
            ["", "0x0000:full", "0x8000", "0x10001:full", "8001:full", "0x8001:both", "0x+1"]
        {
            let error = text.parse::<Pkey>().unwrap_err().to_string();
            assert!(error.contains("0x8001:full is"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(number: u16) {
            match Pkey::of_number(number) {
                Some(key) => {
                    prop_assert_eq!(key.number(), number);
                    prop_assert_eq!(key.to_string().parse::<Pkey>().unwrap(), key);
                }
                None => prop_assert_eq!(number & 0x7fff, 0),
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = text.parse::<Pkey>();
        }
    }
}
