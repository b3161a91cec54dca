//! The header of a qcow2: what must be known before anything is read by it (QEMU,
//! `docs/interop/qcow2`; big endian).

use std::path::Path;

use crate::format::Unfit;

/// Incompatible features that are refused.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
/// The longest name of a backing file that the format allows.
const LONGEST_NAME: usize = 1023;

/// Refuses a qcow2 that is not whole by itself: one with a backing file, with its data elsewhere,
/// encrypted, or marked as corrupt. `head` has its first 4 KiB.
pub(crate) fn check(path: &Path, head: &[u8]) -> Result<(), Unfit> {
    let unfit = |why: String| Err(Unfit::new(path, why));
    let field = |at: usize, size: usize| {
        let field = head.get(at..at + size)?;
        Some(field.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    let fields = [(4, 4), (8, 8), (16, 4), (32, 4)].map(|(at, size)| field(at, size));
    let [Some(version), Some(name_at), Some(name_size), Some(encryption)] = fields else {
        return unfit("is cut short in its header".to_owned());
    };
    if name_at != 0 {
        let start = usize::try_from(name_at).unwrap_or(usize::MAX);
        let size = usize::try_from(name_size).unwrap_or(usize::MAX).min(LONGEST_NAME);
        let name = head.get(start..).map(|rest| &rest[..size.min(rest.len())]);
        let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
        return unfit(format!(
            "has only what changed since its backing file `{}`; `qemu-img convert` makes a whole \
             disk of both, which is accepted",
            name.escape_debug()
        ));
    }
    if encryption != 0 {
        return unfit("is encrypted; one that is not is accepted".to_owned());
    }
    let features = if version >= 3 { field(72, 8) } else { Some(0) };
    match features {
        None => unfit("is cut short in its header".to_owned()),
        Some(features) if features & EXTERNAL_DATA != 0 => unfit(
            "keeps its data in another file; `qemu-img convert` makes a whole disk of both, which \
             is accepted"
                .to_owned(),
        ),
        Some(features) if features & CORRUPT != 0 => {
            unfit("is marked as corrupt; `qemu-img check -r all` may repair it".to_owned())
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    fn said(head: &[u8]) -> String {
        check(Path::new("disk"), head).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_whole_is_refused_by_name() {
        let mut head = vec![0; 200];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        check(Path::new("disk"), &head).unwrap();
        for (bit, why) in [(2, "marked as corrupt"), (4, "in another file")] {
            head[79] = bit;
            assert!(said(&head).contains(why), "{}", said(&head));
        }
        head[35] = 1;
        assert!(said(&head).contains("encrypted"));
        head[15] = 120;
        head[19] = 8;
        head[120..128].copy_from_slice(b"base.img");
        assert!(
            said(&head).starts_with("disk has only what changed since its backing file `base.img`")
        );
        assert!(said(&head[..30]).contains("cut short"));
    }

    proptest! {
        #[test]
        fn no_header_panics(mut head in vec(any::<u8>(), 0..300)) {
            let _ = check(Path::new("disk"), &head);
            if head.len() > 8 {
                head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
            }
            let _ = check(Path::new("disk"), &head);
        }
    }
}
