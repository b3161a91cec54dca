//! VLANs (IEEE 802.1Q): sets of their numbers, written `10,20-30`, and what a port of a
//! VLAN-aware bridge does with each.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The numbers that a frame may carry; 0 and 4095 are reserved.
pub const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// A set of VLANs. `FromStr` and `Display` are inverses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VlanSet {
    /// First and last, ascending, neither overlapping nor touching.
    ranges: Vec<(u16, u16)>,
}

/// What was given is no set of VLANs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no set of VLANs: numbers from 1 to 4094 as `10,20-30` are accepted")]
pub struct NoVlans(String);

impl VlanSet {
    /// The set of one VLAN; of none when `id` is no VLAN's number.
    pub fn one(id: u16) -> Self {
        Self::range(id, id)
    }

    /// All from `first` to `last`; of none unless both are VLANs' numbers in this order.
    pub fn range(first: u16, last: u16) -> Self {
        let is_range = first <= last && VLANS.contains(&first) && VLANS.contains(&last);
        VlanSet { ranges: is_range.then_some((first, last)).into_iter().collect() }
    }

    /// The set of these ranges, in any order.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let clip = |(first, last): (u16, u16)| (first.max(*VLANS.start()), last.min(*VLANS.end()));
        let mut ranges: Vec<_> = ranges.into_iter().map(clip).collect();
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        // Those that touch become one; its end is the last that any of them has.
        ranges.dedup_by(|next, kept| {
            let touches = next.0 <= kept.1 + 1;
            kept.1 = if touches { kept.1.max(next.1) } else { kept.1 };
            touches
        });
        VlanSet { ranges }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many it has.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|(first, last)| usize::from(last - first) + 1).sum()
    }

    /// Whether `id` is one of them.
    pub fn contains(&self, id: u16) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= id);
        after > 0 && self.ranges[after - 1].1 >= id
    }

    /// First and last of each run, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.ranges.iter().copied()
    }

    /// Those in either.
    pub fn with(&self, other: &Self) -> Self {
        Self::from_ranges(self.ranges().chain(other.ranges()))
    }

    /// Those that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        for (mut first, last) in self.ranges() {
            for (begin, end) in other.ranges() {
                if begin <= last && end >= first {
                    ranges.extend((begin > first).then(|| (first, begin - 1)));
                    first = end + 1;
                }
            }
            ranges.extend((first <= last).then_some((first, last)));
        }
        VlanSet { ranges }
    }

    /// Those in both.
    pub fn common(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }
}

impl FromStr for VlanSet {
    type Err = NoVlans;

    fn from_str(text: &str) -> Result<Self, NoVlans> {
        let wrong = || NoVlans(text.chars().take(40).collect());
        let number = |text: &str| text.trim_ascii().parse().ok().filter(|id| VLANS.contains(id));
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((first, last))
        };
        if text.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        Ok(Self::from_ranges(ranges.ok_or_else(wrong)?))
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.ranges().enumerate() {
            f.write_str(if place == 0 { "" } else { "," })?;
            match last - first {
                0 => write!(f, "{first}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for VlanSet {
    type Error = NoVlans;

    fn try_from(text: String) -> Result<Self, NoVlans> {
        text.parse()
    }
}

impl From<VlanSet> for String {
    fn from(set: VlanSet) -> String {
        set.to_string()
    }
}

/// The VLANs of a bridge's port, or of the bridge itself as a host on its own network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortVlans {
    /// Where frames without a tag belong.
    pub pvid: Option<u16>,
    /// Those whose frames leave without a tag.
    pub untagged: VlanSet,
    /// Those whose frames leave with their tag.
    pub tagged: VlanSet,
}

impl PortVlans {
    /// A port of one VLAN, whose frames have no tag: what the kernel gives a new port.
    pub fn access(id: u16) -> Self {
        let pvid = VLANS.contains(&id).then_some(id);
        PortVlans { pvid, untagged: VlanSet::one(id), tagged: VlanSet::default() }
    }

    /// What leads from this to `wanted`; nothing when they are the same.
    pub fn change_to(&self, wanted: &PortVlans) -> Option<VlanChange> {
        if self == wanted {
            return None;
        }
        let all = wanted.untagged.with(&wanted.tagged);
        let mut change = VlanChange {
            remove: self.untagged.with(&self.tagged).without(&all),
            untagged: wanted.untagged.without(&self.untagged),
            tagged: wanted.tagged.without(&self.tagged),
            pvid: None,
        };
        if self.pvid != wanted.pvid {
            // A VLAN that is sent without the mark of the pvid loses it, one with it gains it.
            for id in self.pvid.into_iter().chain(wanted.pvid) {
                let id = VlanSet::one(id);
                change.untagged = change.untagged.with(&id.common(&wanted.untagged));
                change.tagged = change.tagged.with(&id.common(&wanted.tagged));
            }
        }
        let sent = |id: &u16| change.untagged.contains(*id) || change.tagged.contains(*id);
        change.pvid = wanted.pvid.filter(sent);
        Some(change)
    }

    /// What the kernel makes of `change`.
    pub fn apply(&mut self, change: &VlanChange) {
        let sent = change.untagged.with(&change.tagged);
        self.untagged = self.untagged.without(&change.remove).without(&sent).with(&change.untagged);
        self.tagged = self.tagged.without(&change.remove).without(&sent).with(&change.tagged);
        self.pvid = self.pvid.filter(|id| !change.remove.contains(*id) && !sent.contains(*id));
        self.pvid = change.pvid.or(self.pvid);
    }
}

impl fmt::Display for PortVlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend((!self.tagged.is_empty()).then(|| format!("{} tagged", self.tagged)));
        parts.extend((!self.untagged.is_empty()).then(|| format!("{} untagged", self.untagged)));
        parts.extend(self.pvid.map(|id| format!("pvid {id}")));
        f.write_str(&if parts.is_empty() { "no VLAN".to_owned() } else { parts.join(", ") })
    }
}

/// Removed first, then set, each with its marks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanChange {
    /// No longer the port's.
    pub remove: VlanSet,
    /// Set, and leaving without a tag.
    pub untagged: VlanSet,
    /// Set, and leaving with their tag.
    pub tagged: VlanSet,
    /// Which of those set gets the frames without a tag.
    pub pvid: Option<u16>,
}

impl fmt::Display for VlanChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = PortVlans {
            pvid: self.pvid,
            untagged: self.untagged.clone(),
            tagged: self.tagged.clone(),
        };
        let sets = !(self.untagged.is_empty() && self.tagged.is_empty());
        match (sets, self.remove.is_empty()) {
            (true, true) => write!(f, "set {set}"),
            (true, false) => write!(f, "remove {}, set {set}", self.remove),
            (false, _) => write!(f, "remove {}", self.remove),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn sets_are_written_as_ranges() {
        for text in ["", "1", "4094", "10,20-30", "1-4094", "2,4,6"] {
            assert_eq!(text.parse::<VlanSet>().unwrap().to_string(), text);
        }
        assert_eq!("30,10-12,11-20, 21".parse::<VlanSet>().unwrap().to_string(), "10-21,30");
        for text in ["0", "4095", "3-2", "a", "1,,2", "-", "1-", "99999"] {
            assert!(text.parse::<VlanSet>().is_err(), "{text}");
        }
    }

    fn set() -> impl Strategy<Value = VlanSet> {
        vec((1..=40_u16, 0..5_u16), 0..6)
            .prop_map(|runs| VlanSet::from_ranges(runs.into_iter().map(|(id, n)| (id, id + n))))
    }

    pub(crate) fn port() -> impl Strategy<Value = PortVlans> {
        (set(), set(), any::<bool>()).prop_map(|(untagged, tagged, pvid)| {
            let tagged = tagged.without(&untagged);
            let first = untagged.with(&tagged).ranges().next().map(|(id, _)| id);
            PortVlans { pvid: first.filter(|_| pvid), untagged, tagged }
        })
    }

    proptest! {
        #[test]
        fn what_is_displayed_is_parsed(set in set()) {
            prop_assert_eq!(set.to_string().parse::<VlanSet>().unwrap(), set);
        }

        #[test]
        fn sets_do_what_sets_do(a in set(), b in set()) {
            for id in VLANS {
                let (in_a, in_b) = (a.contains(id), b.contains(id));
                prop_assert_eq!(a.with(&b).contains(id), in_a || in_b);
                prop_assert_eq!(a.without(&b).contains(id), in_a && !in_b);
                prop_assert_eq!(a.common(&b).contains(id), in_a && in_b);
            }
            prop_assert_eq!(a.len(), VLANS.filter(|id| a.contains(*id)).count());
        }

        #[test]
        fn a_change_leads_where_it_should(from in port(), to in port()) {
            let mut port = from.clone();
            match from.change_to(&to) {
                Some(change) => port.apply(&change),
                None => prop_assert_eq!(&from, &to),
            }
            prop_assert_eq!(port, to);
        }
    }
}
