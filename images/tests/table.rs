//! Partition tables as other tools make and see them: `sgdisk` and the crate gptman.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{fs, io::Cursor, path::Path, process::Command};

use images::table::{Fitted, Table, TableError};
use proptest::{collection::vec, prelude::any, prop_assert, proptest};

const MIB: u64 = 1 << 20;

fn sgdisk(disk: &Path, arguments: &[&str]) -> String {
    let output = Command::new("sgdisk").args(arguments).arg(disk).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text.into_owned()
}

/// An image with the partitions that Debian's have: 14 and 15 before 1, which ends last.
fn debian(folder: &Path) -> Vec<u8> {
    let path = folder.join("debian.raw");
    fs::write(&path, vec![0; 8 << 20]).unwrap();
    let boot_code = [vec![0xeb; 440], vec![0; 8 << 20]].concat();
    fs::write(&path, &boot_code[..8 << 20]).unwrap();
    let partitions = [
        "-n14:2048:4095",
        "-t14:ef02",
        "-n15:4096:8191",
        "-t15:ef00",
        "-c15:EFI",
        "-n1:8192:0",
        "-A1:set:2",
    ];
    sgdisk(&path, &partitions);
    fs::read(&path).unwrap()
}

/// The same with sectors of 4096 bytes, made by gptman because sgdisk asks the file's device.
fn wide() -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; 8 << 20]);
    let mut table = gptman::GPT::new_from(&mut disk, 4096, [7; 16]).unwrap();
    for (number, first, last) in [(14, 256, 511), (15, 512, 1023), (1, 1024, 2041)] {
        table[number] = gptman::GPTPartitionEntry {
            partition_type_guid: [number as u8; 16],
            unique_partition_guid: [number as u8 + 100; 16],
            starting_lba: first,
            ending_lba: last,
            attribute_bits: 0,
            partition_name: "wide".into(),
        };
    }
    table.write_into(&mut disk).unwrap();
    gptman::GPT::write_protective_mbr_into(&mut disk, 4096).unwrap();
    disk.into_inner()
}

fn read(bytes: &[u8], sector: u32) -> Table {
    Table::read(&mut Cursor::new(bytes), sector).unwrap().unwrap()
}

/// A disk of `size` bytes with a fitted table and nothing else.
fn apply(fitted: &Fitted, size: u64) -> Vec<u8> {
    let mut disk = vec![0; size as usize];
    disk[..fitted.head.len()].copy_from_slice(&fitted.head);
    disk[fitted.tail_offset as usize..].copy_from_slice(&fitted.tail);
    disk
}

#[test]
fn sgdisk_finds_no_problem_on_disks_of_any_size() {
    let folder = tempfile::tempdir().unwrap();
    let image = debian(folder.path());
    let table = read(&image, 512);
    for (size, grow) in
        [(8 * MIB, false), (8 * MIB + 512, true), (9 * MIB, false), (77 * MIB + 512 * 7, true)]
    {
        let fitted = table.fit(size, grow).unwrap();
        let path = folder.path().join("fitted.raw");
        fs::write(&path, apply(&fitted, size)).unwrap();
        let verdict = sgdisk(&path, &["-v"]);
        assert!(verdict.contains("No problems found"), "{size}: {verdict}");
        assert!(!verdict.to_lowercase().contains("warning"), "{size}: {verdict}");
        let before = sgdisk(&folder.path().join("debian.raw"), &["-i15"]);
        assert_eq!(sgdisk(&path, &["-i15"]), before);
        assert!(sgdisk(&path, &["-i1"]).contains("Attribute flags: 0000000000000004"));
        assert_eq!(fs::read(&path).unwrap()[..440], image[..440]);
    }
}

#[test]
fn numbers_stay_and_the_last_partition_grows_to_a_whole_mib() {
    let folder = tempfile::tempdir().unwrap();
    for (image, sector) in [(debian(folder.path()), 512), (wide(), 4096)] {
        let table = read(&image, sector);
        assert_eq!(table.partitions().iter().map(|at| at.number).collect::<Vec<_>>(), [1, 14, 15]);
        let fitted = table.fit(64 * MIB, true).unwrap();
        assert_eq!(fitted.partitions[1..], table.partitions()[1..]);
        let grown = &fitted.partitions[0];
        assert_eq!((grown.start, grown.start + grown.size), (4 * MIB, 63 * MIB));
        assert_eq!(table.fit(64 * MIB, false).unwrap().partitions, table.partitions());
    }
}

#[test]
fn gptman_reads_both_copies_alike() {
    let folder = tempfile::tempdir().unwrap();
    for (image, sector) in [(debian(folder.path()), 512), (wide(), 4096)] {
        let size = 20 * MIB;
        let fitted = read(&image, sector).fit(size, true).unwrap();
        let disk = apply(&fitted, size);
        let whole = gptman::GPT::read_from(&mut Cursor::new(&disk), u64::from(sector)).unwrap();
        let used: Vec<_> =
            whole.iter().filter(|(_, entry)| entry.is_used()).map(|(n, _)| n).collect();
        assert_eq!(used, [1, 14, 15]);
        let last = size / u64::from(sector) - 1;
        assert_eq!((whole.header.primary_lba, whole.header.backup_lba), (1, last));
        assert_eq!(
            u64::from_le_bytes(
                disk[size as usize - sector as usize + 24..][..8].try_into().unwrap()
            ),
            last
        );
        let mut broken = disk.clone();
        broken[sector as usize..][..8].fill(0);
        let backup = gptman::GPT::read_from(&mut Cursor::new(&broken), u64::from(sector)).unwrap();
        for number in used {
            assert_eq!(whole[number], backup[number]);
        }
        assert_eq!(whole.header.disk_guid, backup.header.disk_guid);
    }
}

#[test]
fn an_image_as_made_by_others_is_given_back_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    for (image, sector) in [(debian(folder.path()), 512), (wide(), 4096)] {
        let fitted = read(&image, sector).fit(image.len() as u64, false).unwrap();
        assert!(fitted.head == image[..fitted.head.len()], "head, sector {sector}");
        assert!(fitted.tail == image[fitted.tail_offset as usize..], "tail, sector {sector}");
    }
}

#[test]
fn foreign_records_of_the_boot_sector_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut image = debian(folder.path());
    // A hybrid boot sector: the ESP first, the protection second.
    let protective: [u8; 16] = image[446..462].try_into().unwrap();
    image[446..462].copy_from_slice(&[0x80, 0, 1, 0, 0xef, 0, 1, 0, 0, 16, 0, 0, 0, 16, 0, 0]);
    image[462..478].copy_from_slice(&protective);
    let head = read(&image, 512).fit(16 * MIB, true).unwrap().head;
    assert_eq!(head[446..462], image[446..462]);
    assert_eq!(head[474..478], (16 * MIB as u32 / 512 - 1).to_le_bytes());
    image[446..512].fill(0);
    let head = read(&image, 512).fit(16 * MIB, true).unwrap().head;
    assert_eq!((head[450], &head[510..512]), (0xee, &[0x55, 0xaa][..]));
}

#[test]
fn a_disk_that_is_too_small_is_refused_with_both_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let table = read(&debian(folder.path()), 512);
    let error = table.fit(8 * MIB - 512, true).unwrap_err();
    assert!(matches!(error, TableError::TooSmall { .. }));
    let text = format!(
        "partition table needs a disk of {} bytes, this one has {}",
        8 * MIB,
        8 * MIB - 512
    );
    assert_eq!(error.to_string(), text);
    assert!(table.fit(0, true).is_err());
}

#[test]
fn a_damaged_table_is_an_error_and_none_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let image = debian(folder.path());
    for at in [512 + 40, 512 + 80, 1024, 1024 + 13 * 128 + 3] {
        let mut damaged = image.clone();
        damaged[at] ^= 1;
        assert!(Table::read(&mut Cursor::new(&damaged), 512).is_err(), "{at}");
    }
    for bytes in [&[][..], &[0; 700], &[0; 100_000]] {
        assert_eq!(Table::read(&mut Cursor::new(bytes), 512).unwrap(), None);
    }
    assert_eq!(Table::read(&mut Cursor::new(&image), 4096).unwrap(), None);
    assert!(Table::read(&mut Cursor::new(&image), 1024).is_err());
}

fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, step)
}

proptest! {
    /// Fields of a header and an entry that a fuzzer likes, with checksums that fit: what gets
    /// past the checksums must be caught by its meaning.
    #[test]
    fn nonsense_with_good_checksums_never_panics(
        changes in vec((0_usize..92 / 4, any::<u32>()), 0..3),
        small in any::<bool>(),
        entry in vec((0_usize..32, any::<u32>()), 0..3),
        size in 0_u64..40 << 20,
    ) {
        let mut image = wide();
        for (at, value) in entry {
            let value = if small { value % 3000 } else { value };
            image[8192 + at * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        let sum = crc(&image[8192..8192 + 128 * 128]);
        image[4096 + 88..][..4].copy_from_slice(&sum.to_le_bytes());
        for (at, value) in changes {
            let value = if small { value % 3000 } else { value };
            image[4096 + at * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        image[4096 + 16..][..4].fill(0);
        let sum = crc(&image[4096..4096 + 92]);
        image[4096 + 16..][..4].copy_from_slice(&sum.to_le_bytes());
        if let Ok(Some(table)) = Table::read(&mut Cursor::new(&image), 4096)
            && let Ok(fitted) = table.fit(size, true)
        {
            prop_assert!(fitted.head.len() as u64 <= fitted.tail_offset);
            prop_assert!(fitted.tail_offset + fitted.tail.len() as u64 <= size);
            for partition in &fitted.partitions {
                prop_assert!(partition.start >= fitted.head.len() as u64);
                prop_assert!(partition.start + partition.size <= fitted.tail_offset);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_table_or_not(bytes in vec(any::<u8>(), 0..3000), sector in 0_u32..5000) {
        let mut disk = bytes.clone();
        let _ = Table::read(&mut Cursor::new(&disk), sector);
        if disk.len() > 520 {
            disk[512..520].copy_from_slice(b"EFI PART");
            let _ = Table::read(&mut Cursor::new(&disk), 512);
        }
    }
}
