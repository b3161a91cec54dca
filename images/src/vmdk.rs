//! The descriptor of a VMDK: which files it consists of, and whether it is whole (VMware,
//! "Virtual Disk Format 5.0").

use std::path::Path;

use crate::format::Unfit;

/// A sector, in which the header counts.
const SECTOR: u64 = 512;
/// No descriptor is longer than this many bytes.
const LONGEST: u64 = 1 << 20;

/// Where the descriptor stands in a file that begins with `head`: offset and length.
pub(crate) fn descriptor(head: &[u8]) -> Option<(u64, u64)> {
    if !head.starts_with(b"KDMV") {
        return head.starts_with(b"#").then_some((0, LONGEST));
    }
    let field = |at: usize| {
        let field = head.get(at..at + 8)?;
        Some(field.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (offset, size) = (field(28)?.checked_mul(SECTOR)?, field(36)?.checked_mul(SECTOR)?);
    (offset != 0).then_some((offset, size.min(LONGEST)))
}

/// Refuses a disk that is not whole by itself, or that names files outside its folder.
pub(crate) fn check(path: &Path, descriptor: &[u8]) -> Result<(), Unfit> {
    let unfit = |why: String| Err(Unfit::new(path, why));
    let text = String::from_utf8_lossy(descriptor);
    let lines = || text.lines().map(str::trim);
    let value = |key: &str| {
        lines().find_map(|line| {
            let (found, value) = line.split_once('=')?;
            (found.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
        })
    };
    if value("parentCID").is_some_and(|parent| !parent.eq_ignore_ascii_case("ffffffff")) {
        let name = value("parentFileNameHint").unwrap_or_else(|| "another disk".to_owned());
        return unfit(format!(
            "has only what changed since `{}`; `qemu-img convert` makes a whole disk of both, \
             which is accepted",
            name.escape_debug()
        ));
    }
    let extents = lines().filter(|line| ["RW ", "RDONLY "].iter().any(|how| line.starts_with(how)));
    let mut names = extents.filter_map(|line| line.split('"').nth(1));
    match names.find(|name| name.contains('/')) {
        Some(name) => unfit(format!(
            "takes bytes from `{}`; files beside it are accepted",
            name.escape_debug()
        )),
        None => Ok(()),
    }
}

/// The files that hold their part of the disk byte for byte, and how long they must be.
pub(crate) fn flat_files(descriptor: &[u8]) -> Vec<(String, u64)> {
    let text = String::from_utf8_lossy(descriptor);
    let file = |line: &str| {
        let (fields, rest) = line.trim().split_once('"')?;
        let (name, rest) = rest.split_once('"')?;
        let [how, sectors, "FLAT"] = fields.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let offset = rest.trim().parse().unwrap_or(0_u64);
        let end = offset.checked_add(sectors.parse().ok()?)?.checked_mul(SECTOR)?;
        ["RW", "RDONLY"].contains(&how).then(|| (name.to_owned(), end))
    };
    text.lines().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    #[test]
    fn a_descriptor_tells_parents_and_files_elsewhere() {
        let path = Path::new("disk");
        let whole =
            "# Disk DescriptorFile\nparentCID=ffffffff\nRW 2048 FLAT \"disk-flat.vmdk\" 0\n";
        check(path, whole.as_bytes()).unwrap();
        assert_eq!(flat_files(whole.as_bytes()), [("disk-flat.vmdk".to_owned(), 2048 * 512)]);
        let child = "parentCID = 1234abcd\nparentFileNameHint=\"base.vmdk\"\n";
        let said = check(path, child.as_bytes()).unwrap_err().to_string();
        assert!(said.starts_with("disk has only what changed since `base.vmdk`"), "{said}");
        let elsewhere = whole.replace("disk-flat.vmdk", "/dev/sda");
        let said = check(path, elsewhere.as_bytes()).unwrap_err().to_string();
        assert_eq!(said, "disk takes bytes from `/dev/sda`; files beside it are accepted");
    }

    proptest! {
        #[test]
        fn no_descriptor_panics(mut head in vec(any::<u8>(), 0..100)) {
            let _ = check(Path::new("disk"), &head);
            let _ = (descriptor(&head), flat_files(&head));
            head.splice(0..0, *b"KDMV");
            let _ = descriptor(&head);
        }
    }
}
