//! The disk of a recipe: partitions, boot sector, and what firmware starts.
//!
//! One disk for BIOS and UEFI, sectors of 512 bytes: BIOS boot partition, EFI system partition,
//! seed, root. Root comes last, so that it can grow.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use anyhow::{Context, Result};
use fatfs::{FatType, FormatVolumeOptions, FsOptions};
use gpt::{disk::LogicalBlockSize, mbr::ProtectiveMBR, partition, partition_types};

use crate::{
    grub,
    recipe::{Recipe, Sizes},
    scratch::Scratch,
    sparse,
};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// A partition's place in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) start: u64,
    pub(crate) size: u64,
}

/// Where the partitions lie, in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    places: [Place; 4],
}

/// What GRUB consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    boot: Vec<u8>,
    core: Vec<u8>,
    efi: Vec<u8>,
}

impl Parts {
    /// Reads what the new system left.
    pub(crate) fn read(scratch: &Scratch) -> Result<Self> {
        let read =
            |name: &str| fs::read(scratch.join(name)).with_context(|| format!("reading {name}"));
        Ok(Parts { boot: read("boot.img")?, core: read("core.img")?, efi: read("bootx64.efi")? })
    }
}

impl Layout {
    /// Number of the seed partition.
    pub(crate) const SEED: u32 = 3;
    /// Number of the root partition; GRUB's prefix says it too.
    pub(crate) const ROOT: u32 = 4;

    /// Partitions of these sizes, one after the other, from the first MiB on.
    pub(crate) fn new(sizes: Sizes) -> Self {
        let mut start = MIB;
        let places = [1, sizes.esp, sizes.seed, sizes.root].map(|size| {
            let place = Place { start, size: u64::from(size) * MIB };
            start += place.size;
            place
        });
        Layout { places }
    }

    /// Where the root file system lies.
    pub(crate) fn root(&self) -> Place {
        self.places[3]
    }

    /// The disk's length: one more MiB than the partitions, for the backup table.
    fn size(&self) -> u64 {
        let root = self.root();
        root.start + root.size + MIB
    }

    /// A new disk without a byte.
    pub(crate) fn create(&self, path: &Path) -> Result<File> {
        let creating = || format!("creating {}", path.display());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let disk = options.open(path).with_context(creating)?;
        disk.set_len(self.size()).with_context(creating)?;
        Ok(disk)
    }

    /// Writes the protective MBR and both partition tables.
    pub(crate) fn write_table(&self, disk: &File, recipe: &Recipe) -> Result<()> {
        let mut device = disk.try_clone().context("opening the disk again")?;
        let sectors = u32::try_from(self.size() / SECTOR - 1).unwrap_or(u32::MAX);
        ProtectiveMBR::with_lb_size(sectors)
            .overwrite_lba0(&mut device)
            .context("writing the protective MBR")?;
        let mut table = gpt::GptConfig::new()
            .writable(true)
            .logical_block_size(LogicalBlockSize::Lb512)
            .create_from_device(device, Some(recipe.id("disk")))
            .context("making the partition table")?;
        let kinds = [
            ("bios", partition_types::BIOS),
            ("esp", partition_types::EFI),
            ("seed", partition_types::BASIC),
            ("root", partition_types::LINUX_FS),
        ];
        let entries =
            kinds.into_iter().zip(self.places).map(|((name, kind), place)| partition::Partition {
                part_type_guid: kind,
                part_guid: recipe.id(&format!("partition {name}")),
                first_lba: place.start / SECTOR,
                last_lba: (place.start + place.size) / SECTOR - 1,
                flags: 0,
                name: name.to_owned(),
            });
        let entries: BTreeMap<u32, _> = (1..).zip(entries).collect();
        table.update_partitions(entries).context("filling the partition table")?;
        table.write().context("writing the partition table")?;
        Ok(())
    }

    /// Writes GRUB for BIOS: boot sector, and core in the BIOS boot partition.
    pub(crate) fn write_grub(&self, disk: &File, parts: &Parts) -> Result<()> {
        let Place { start, size } = self.places[0];
        let code = grub::boot_code(&parts.boot, start / SECTOR)?;
        let core = grub::core_at(&parts.core, start / SECTOR, size as usize)?;
        disk.write_all_at(&code, 0)
            .and_then(|()| disk.write_all_at(&core, start))
            .context("writing GRUB for BIOS")
    }

    /// Writes the EFI system partition with GRUB where firmware looks by itself.
    pub(crate) fn write_esp(&self, disk: &File, recipe: &Recipe, parts: &Parts) -> Result<()> {
        let place = self.places[1];
        let image = fat(recipe.id("esp").as_fields().0, place.size, &parts.efi)
            .context("making the EFI system partition")?;
        sparse::copy(&image[..], disk, place.start).context("writing the EFI system partition")?;
        Ok(())
    }
}

/// A FAT32 file system with one file, `\EFI\BOOT\BOOTX64.EFI`.
fn fat(id: u32, size: u64, program: &[u8]) -> io::Result<Vec<u8>> {
    let mut image = io::Cursor::new(vec![0; size as usize]);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(512)
        .volume_id(id)
        .volume_label(*b"ESP        ");
    fatfs::format_volume(&mut image, options)?;
    image.seek(SeekFrom::Start(0))?;
    let options = FsOptions::new().time_provider(&NoTime);
    let volume = fatfs::FileSystem::new(&mut image, options)?;
    let folder = volume.root_dir().create_dir("EFI")?.create_dir("BOOT")?;
    let mut file = folder.create_file("BOOTX64.EFI")?;
    file.write_all(program)?;
    file.flush()?;
    drop((file, folder));
    volume.unmount()?;
    Ok(image.into_inner())
}

/// FAT's first moment, for every file.
#[derive(Debug)]
struct NoTime;

impl fatfs::TimeProvider for NoTime {
    fn get_current_date(&self) -> fatfs::Date {
        fatfs::Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> fatfs::DateTime {
        let time = fatfs::Time { hour: 0, min: 0, sec: 0, millis: 0 };
        fatfs::DateTime { date: self.get_current_date(), time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_agree_about_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let recipe = Recipe::built_in("bare").unwrap();
        let layout = Layout::new(Sizes { esp: 34, seed: 4, root: 8 });
        let disk = layout.create(&path).unwrap();
        layout.write_table(&disk, &recipe).unwrap();
        let parts = Parts {
            boot: [&[0x90; 510][..], &[0x55, 0xaa]].concat(),
            core: vec![1; 30000],
            efi: vec![7; 150_000],
        };
        layout.write_grub(&disk, &parts).unwrap();
        layout.write_esp(&disk, &recipe, &parts).unwrap();

        let run = |program: &str, args: &[&str]| {
            let output = crate::tool::command(program).args(args).output().unwrap();
            assert!(output.status.success(), "{program}: {output:?}");
            output.stdout
        };
        let name = path.to_str().unwrap();
        let said = String::from_utf8(run("sgdisk", &["-v", name])).unwrap();
        assert!(said.contains("No problems found"), "{said}");
        let image = format!("{name}@@2M");
        assert_eq!(run("mtype", &["-i", &image, "::EFI/BOOT/BOOTX64.EFI"]), parts.efi);
        let found = gptman::GPT::find_from(&mut File::open(&path).unwrap()).unwrap();
        let names: Vec<&str> = (1..=4).map(|n| found[n].partition_name.as_str()).collect();
        assert_eq!(names, ["bios", "esp", "seed", "root"]);
    }
}
