//! Amounts of memory: `512MiB`.

use std::{fmt, iter::Sum, str::FromStr};

use serde::{Deserialize, Serialize};

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Bytes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

/// A text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no amount: a whole number and KiB, MiB, GiB or TiB is, `512MiB`")]
pub struct SizeError {
    text: String,
}

impl Size {
    /// Nothing.
    pub const ZERO: Size = Size(0);

    /// So many bytes.
    pub const fn of_bytes(bytes: u64) -> Size {
        Size(bytes)
    }

    /// So many KiB; xl's JSON counts in them.
    pub const fn of_kib(kib: u64) -> Size {
        Size(kib.saturating_mul(1 << 10))
    }

    /// So many MiB; xl's tables and files count in them.
    pub const fn of_mib(mib: u64) -> Size {
        Size(mib.saturating_mul(1 << 20))
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In KiB, rounded down.
    pub const fn kib(self) -> u64 {
        self.0 >> 10
    }

    /// In MiB, rounded down.
    pub const fn mib(self) -> u64 {
        self.0 >> 20
    }

    /// Both together.
    pub const fn and(self, more: Size) -> Size {
        Size(self.0.saturating_add(more.0))
    }

    /// What is left without `less`; nothing when that is more.
    pub const fn without(self, less: Size) -> Size {
        Size(self.0.saturating_sub(less.0))
    }
}

impl Sum for Size {
    fn sum<I: Iterator<Item = Size>>(sizes: I) -> Size {
        sizes.fold(Size::ZERO, Size::and)
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        let refused = || SizeError { text: text.to_owned() };
        let end = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(refused)?;
        let (number, unit) = text.split_at(end);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(refused)?;
        number.checked_mul(*bytes).map(Size).ok_or_else(refused)
    }
}

impl TryFrom<String> for Size {
    type Error = SizeError;

    fn try_from(text: String) -> Result<Size, SizeError> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

/// In the largest unit that leaves a whole number.
impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, bytes)| self.0 != 0 && self.0.is_multiple_of(*bytes));
        let (unit, bytes) = whole.copied().unwrap_or(("B", 1));
        write!(out, "{}{unit}", self.0 / bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_powers_of_two() {
        assert_eq!("512MiB".parse(), Ok(Size::of_mib(512)));
        assert_eq!("2 GiB".parse(), Ok(Size::of_mib(2048)));
        assert_eq!(Size::of_mib(1536).to_string(), "1536MiB");
        assert_eq!(Size::ZERO.to_string(), "0B");
        for text in ["", "512", "MiB", "1.5GiB", "-1MiB", "1MB", "99999999999TiB", "1 MiBs"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(bytes: u64) {
            prop_assert_eq!(Size(bytes).to_string().parse::<Size>().unwrap(), Size(bytes));
        }
    }
}
