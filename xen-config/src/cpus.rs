//! A set of CPUs, written as the kernel and xl write it: `0-3,8`.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};

/// CPU numbers end here: Xen's own limit (`CONFIG_NR_CPUS`) is never higher.
const LIMIT: u32 = 4096;

/// CPUs by number, ascending, each once. What the numbers mean (Xen's CPUs or the service
/// domain's own) is said where a set is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u32>);

/// A text that is no set of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no list of CPUs: numbers below {LIMIT} and ranges are, `0-3,8`")]
pub struct CpuSetError {
    text: String,
}

impl CpuSet {
    /// The first `count` CPUs.
    pub fn first(count: u32) -> CpuSet {
        (0..count.min(LIMIT)).collect()
    }

    /// One CPU.
    pub fn one(cpu: u32) -> CpuSet {
        CpuSet(BTreeSet::from([cpu]))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is one of them.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether all of them are in `other`.
    pub fn is_subset(&self, other: &CpuSet) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Those of both.
    pub fn and(&self, other: &CpuSet) -> CpuSet {
        CpuSet(&self.0 & &other.0)
    }

    /// Those of either.
    pub fn or(&self, other: &CpuSet) -> CpuSet {
        CpuSet(&self.0 | &other.0)
    }

    /// Those that are not in `other`.
    pub fn without(&self, other: &CpuSet) -> CpuSet {
        CpuSet(&self.0 - &other.0)
    }

    /// Their numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// Adds one.
    pub fn insert(&mut self, cpu: u32) {
        self.0.insert(cpu);
    }

    /// The set as `/proc/irq/*/smp_affinity` wants it: groups of 32 in hexadecimal, highest first.
    pub fn mask(&self) -> String {
        let words = self.0.last().map_or(1, |last| last / 32 + 1);
        let word = |at: u32| {
            let bits = (0..32).filter(|bit| self.contains(at * 32 + bit));
            format!("{:08x}", bits.fold(0_u32, |word, bit| word | 1 << bit))
        };
        (0..words).rev().map(word).collect::<Vec<_>>().join(",")
    }

    /// The set of a mask that [`CpuSet::mask`] or the kernel wrote; `None` for another text.
    pub fn from_mask(mask: &str) -> Option<CpuSet> {
        let mut cpus = CpuSet::default();
        for (at, word) in mask.trim().rsplit(',').enumerate() {
            let bits = u32::from_str_radix(word, 16).ok()?;
            let first = u32::try_from(at).ok()?.checked_mul(32).filter(|first| *first < LIMIT)?;
            (0..32).filter(|bit| bits >> bit & 1 == 1).for_each(|bit| cpus.insert(first + bit));
        }
        Some(cpus)
    }

    /// Ranges of neighbours, first and last.
    fn ranges(&self) -> Vec<(u32, u32)> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        ranges
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> CpuSet {
        CpuSet(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<CpuSet, CpuSetError> {
        let refused = || CpuSetError { text: text.to_owned() };
        let number = |word: &str| {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            let number = word.parse::<u32>().ok().filter(|cpu| digits && *cpu < LIMIT);
            number.ok_or_else(refused)
        };
        let mut cpus = BTreeSet::new();
        for part in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(refused());
            }
            cpus.extend(first..=last);
        }
        Ok(CpuSet(cpus))
    }
}

impl TryFrom<String> for CpuSet {
    type Error = CpuSetError;

    fn try_from(text: String) -> Result<CpuSet, CpuSetError> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> String {
        cpus.to_string()
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.ranges().into_iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(out, "{comma}{first}")?,
                _ => write!(out, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// A list of CPUs for serde where a set must have at least one.
pub(crate) fn some<'de, D: de::Deserializer<'de>>(from: D) -> Result<Option<CpuSet>, D::Error> {
    let cpus = CpuSet::deserialize(from)?;
    if cpus.is_empty() {
        return Err(de::Error::custom("a list of CPUs must name at least one"));
    }
    Ok(Some(cpus))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (text, same) in [
            ("0-3,8", "0-3,8"),
            ("", ""),
            ("3,2,1", "1-3"),
            ("0,0", "0"),
            (" 1 , 2-2 ", "1-2"),
            ("4095", "4095"),
        ] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), same, "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["a", "1-", "-1", "3-1", "1,,2", "4096", "+1", "1-2-3", "0x1", "99999999999"] {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_mask_is_in_groups_of_32() {
        for (cpus, mask) in
            [("", "00000000"), ("0-3", "0000000f"), ("32", "00000001,00000000"), ("31", "80000000")]
        {
            assert_eq!(cpus.parse::<CpuSet>().unwrap().mask(), mask);
            assert_eq!(CpuSet::from_mask(mask), cpus.parse().ok());
        }
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(cpus in btree_set(0..LIMIT, 0..40)) {
            let cpus = CpuSet(cpus);
            prop_assert_eq!(cpus.to_string().parse::<CpuSet>().unwrap(), cpus);
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,20}") {
            let _ = (text.parse::<CpuSet>(), CpuSet::from_mask(&text));
        }
    }
}
