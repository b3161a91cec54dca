//! The footer of a VHD: whether the disk is whole (Microsoft, "Virtual Hard Disk Image Format
//! Specification"; big endian).

use std::path::Path;

use crate::format::Unfit;

/// How a footer begins, and the copy of it before a disk that grows.
pub(crate) const COOKIE: &[u8; 8] = b"conectix";
/// Offset of the disk's type in the footer, and of its checksum.
const TYPE: usize = 60;
const CHECKSUM: usize = 64;
const DIFFERENCING: u32 = 4;
/// Types there are: fixed, growing, differencing.
const TYPES: std::ops::RangeInclusive<u32> = 2..=DIFFERENCING;

/// Refuses a disk whose last 512 bytes are not the footer of a whole one.
pub(crate) fn check(path: &Path, footer: &[u8]) -> Result<(), Unfit> {
    let unfit = |why: &str| Err(Unfit::new(path, why));
    let Some((footer, _)) = footer.split_first_chunk::<512>() else {
        return unfit("is cut short: a VHD ends with a footer of 512 bytes");
    };
    if !footer.starts_with(COOKIE) {
        return unfit("is cut short: a VHD ends with a footer, and this one does not");
    }
    let field = |at: usize| {
        let mut field = [0; 4];
        field.copy_from_slice(&footer[at..at + 4]);
        u32::from_be_bytes(field)
    };
    let rest = footer.iter().enumerate().filter(|(at, _)| !(CHECKSUM..CHECKSUM + 4).contains(at));
    let sum = rest.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    if field(CHECKSUM) != !sum {
        return unfit("has a footer whose checksum does not fit: the disk is damaged");
    }
    match field(TYPE) {
        DIFFERENCING => unfit(
            "has only what changed since another disk; one that is whole is accepted (Hyper-V's \
             Convert-VHD makes it)",
        ),
        kind if TYPES.contains(&kind) => Ok(()),
        _ => unfit("is no disk: its footer has an unknown type"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    #[test]
    fn a_differencing_or_damaged_disk_is_refused() {
        let path = Path::new("disk");
        let footer = |kind: u8| {
            let mut footer = vec![0; 512];
            footer[..8].copy_from_slice(COOKIE);
            footer[TYPE + 3] = kind;
            let sum = !footer.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            footer[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_be_bytes());
            footer
        };
        check(path, &footer(2)).unwrap();
        check(path, &footer(3)).unwrap();
        for (footer, why) in [
            (footer(4), "only what changed"),
            (footer(9), "unknown type"),
            ([&footer(3)[..100], &[1], &footer(3)[101..]].concat(), "checksum"),
            (vec![0; 512], "cut short"),
            (vec![0; 9], "cut short"),
        ] {
            let said = check(path, &footer).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    proptest! {
        #[test]
        fn no_footer_panics(footer in vec(any::<u8>(), 0..600)) {
            let _ = check(Path::new("disk"), &footer);
        }
    }
}
