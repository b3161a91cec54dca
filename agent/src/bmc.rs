//! Whether the machine has a baseboard management controller, as its firmware's SMBIOS
//! tables say.

use protocol::inventory::Bmc;

use crate::sysfs::Sysfs;

/// IPMI Device Information, SMBIOS 7.39.
const IPMI_DEVICE: u8 = 38;
/// Management Controller Host Interface, SMBIOS 7.43: in practice Redfish over USB network.
const HOST_INTERFACE: u8 = 42;
const END: u8 = 127;

/// The BMC, when the firmware lists one.
pub(crate) fn probe(sysfs: &Sysfs) -> Option<Bmc> {
    let table = sysfs.bytes("sys/firmware/dmi/tables/DMI")?;
    kind_of(&table).map(|kind| Bmc { kind: kind.to_owned(), address: None })
}

fn kind_of(table: &[u8]) -> Option<&'static str> {
    let kinds: Vec<u8> = Structures(table).collect();
    // Both may be there; IPMI is the one that every such machine answers.
    let has = |kind| kinds.contains(&kind);
    has(IPMI_DEVICE).then_some("ipmi").or(has(HOST_INTERFACE).then_some("redfish"))
}

/// Types of the structures in a table, up to its end or the first malformed one.
struct Structures<'a>(&'a [u8]);

impl Iterator for Structures<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let [kind, length, ..] = self.0 else { return None };
        let strings = self.0.get(usize::from((*length).max(4))..)?;
        // The strings after the fixed part end with two zero bytes.
        let end = strings.windows(2).position(|pair| pair == [0, 0]);
        self.0 = end.map_or(&[], |end| &strings[end + 2..]);
        (*kind != END).then_some(*kind)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ipmi_structure_is_found_behind_strings() {
        let mut table = vec![1, 6, 0, 1, 1, 2];
        table.extend(b"QEMU\0Standard PC\0\0");
        table.extend([38, 5, 0, 2, 9, 0, 0, 127, 4, 0, 3, 0, 0]);
        assert_eq!(Structures(&table).collect::<Vec<_>>(), [1, 38]);
        assert_eq!(kind_of(&table), Some("ipmi"));
        assert_eq!(kind_of(&table[..24]), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(table in prop::collection::vec(any::<u8>(), 0..200)) {
            kind_of(&table);
        }
    }
}
