//! A disk that is quickly written and says on the serial line that it boots.
//!
//! Most of what a deployment must survive has nothing to do with Debian: for that, a GUID
//! partition table, a partition full of numbers, one for the identity, and a boot sector of
//! twenty instructions are enough.

use std::{
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{Size, efi, tool};

/// What it prints when firmware starts it, before its name.
pub const BOOTS: &str = "tiny disk boots:";
/// Number of the partition that takes the identity.
pub const SEED: u32 = 2;
/// Where the first partition begins, bytes.
pub const DATA: u64 = 1 << 20;

const MIB: u64 = 1 << 20;

/// The EFI system partition, before the first one: its first and last sector.
const ESP: [u64; 2] = [64, DATA / 512 - 1];

/// Prints the text behind it on the first serial port, then waits for ever (8086, at 0x7c00):
/// `xor ax,ax; mov ds,ax; cld; mov si,text; next: lodsb; test al,al; jz hang; mov ah,al;
/// mov dx,0x3fd; wait: in al,dx; test al,0x20; jz wait; mov dx,0x3f8; mov al,ah; out dx,al;
/// jmp next; hang: hlt; jmp hang; text:`
const BOOT_CODE: [u8; 34] = [
    0x31, 0xc0, 0x8e, 0xd8, 0xfc, 0xbe, 0x22, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x12, 0x88, 0xc4, 0xba,
    0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xeb, 0xe9, 0xf4,
    0xeb, 0xfd,
];

/// A raw disk in a file.
pub struct Tiny {
    name: String,
    /// The file.
    pub path: PathBuf,
    /// Bytes of numbers in its first partition.
    pub data: u64,
    /// Its whole length.
    pub size: u64,
}

impl Tiny {
    /// Makes one called `name` in `folder` with `data` bytes that do not compress; another
    /// name gives other bytes.
    pub fn make(folder: &Path, name: &str, data: Size) -> Result<Self> {
        let path = folder.join(format!("{name}.raw"));
        let size = data.0 + 8 * MIB;
        let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        file.set_len(size).context("sizing a disk")?;
        partition(&path, data)?;
        let mut code = BOOT_CODE.to_vec();
        code.extend(format!("\r\n{BOOTS} {name}\r\n\0").bytes());
        ensure!(code.len() <= 440, "name `{name}` is too long for a boot sector");
        file.write_all_at(&code, 0).context("writing a boot sector")?;
        let mut numbers = Numbers::of(name);
        let mut writer = BufWriter::with_capacity(MIB as usize, At(&file, DATA));
        for _ in 0..data.0 / 8 {
            writer.write_all(&numbers.draw().to_le_bytes()).context("filling a disk")?;
        }
        writer.flush().context("filling a disk")?;
        Ok(Tiny { name: name.to_owned(), path, data: data.0, size })
    }

    /// Has UEFI start it, too.
    pub fn for_uefi(self) -> Result<Self> {
        let said = format!("{BOOTS} {}", self.name);
        let program = efi::saying(&said).with_context(|| format!("`{said}` is too long"))?;
        let source = self.path.with_extension("efi");
        std::fs::write(&source, program).context("writing a program for UEFI")?;
        let [first, last] = ESP;
        let of_disk = format!("{}@@{}", self.path.display(), first * 512);
        let kib = ((last + 1 - first) / 2).to_string();
        let mut sgdisk = Command::new(tool::program("sgdisk", "gdisk")?);
        sgdisk.args(["-a", "1"]).arg(format!("-n4:{first}:{last}"));
        sgdisk.args(["-t4:ef00", "-u4:b111e700-0000-4000-8000-000000000004"]).arg(&self.path);
        let mut mkfs = Command::new(tool::program("mkfs.fat", "dosfstools")?);
        mkfs.args(["-i", "b111e700", "--offset", &first.to_string()]).arg(&self.path).arg(kib);
        let mut mmd = Command::new(tool::program("mmd", "mtools")?);
        mmd.args(["-i", &of_disk, "::EFI", "::EFI/BOOT"]);
        let mut mcopy = Command::new(tool::program("mcopy", "mtools")?);
        mcopy.args(["-i", &of_disk]).arg(source).arg("::EFI/BOOT/BOOTX64.EFI");
        for mut command in [sgdisk, mkfs, mmd, mcopy] {
            let output = command.output().with_context(|| format!("running {command:?}"))?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{command:?}: {said}");
        }
        Ok(self)
    }

    /// What it prints behind [`BOOTS`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes at `offset`.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        read(&self.path, offset, length)
    }

    /// That a node's disk has the same first partition.
    pub fn is_on(&self, disk: &Path) -> Result<()> {
        let mut offset = DATA;
        while offset < DATA + self.data {
            let same = self.read(offset, MIB as usize)? == read(disk, offset, MIB as usize)?;
            ensure!(same, "{} differs from the image in the MiB at {offset}", disk.display());
            offset += MIB;
        }
        Ok(())
    }

    /// How many blocks of its first partition a node's disk has, after making sure that all
    /// others are zero: whatever was written is right.
    pub fn blocks_on(&self, disk: &Path) -> Result<u64> {
        let mut found = 0;
        for offset in (DATA..DATA + self.data).step_by(MIB as usize) {
            let (ours, theirs) =
                (self.read(offset, MIB as usize)?, read(disk, offset, MIB as usize)?);
            for (block, (ours, theirs)) in ours.chunks(4096).zip(theirs.chunks(4096)).enumerate() {
                let zero = theirs.iter().all(|byte| *byte == 0);
                ensure!(zero || ours == theirs, "block {block} of the MiB at {offset} is wrong");
                found += u64::from(!zero);
            }
        }
        Ok(found)
    }
}

/// That no firmware would start a disk: no boot sector and no partition table at either end.
pub fn does_not_boot(disk: &Path) -> Result<()> {
    let size = std::fs::metadata(disk).context("looking at a disk")?.len();
    ensure!(read(disk, 510, 2)? != [0x55, 0xaa], "{} has a boot sector", disk.display());
    for offset in [512, size - 512] {
        let header = read(disk, offset, 8)?;
        ensure!(header != b"EFI PART", "{} has a table at {offset}", disk.display());
    }
    Ok(())
}

/// That a disk's partition table is whole, as `sgdisk` sees it.
pub fn table_is_sound(disk: &Path) -> Result<()> {
    let mut command = Command::new(tool::program("sgdisk", "gdisk")?);
    let output = command.arg("-v").arg(disk).output().context("running sgdisk")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("No problems found"), "sgdisk -v {}: {said}", disk.display());
    Ok(())
}

fn read(path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.read_exact_at(&mut bytes, offset)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes)
}

fn partition(path: &Path, data: Size) -> Result<()> {
    let data_end = DATA + data.0;
    let output = Command::new(tool::program("sgdisk", "gdisk")?)
        .args(["-a", "1", "-U", "b111e700-0000-4000-8000-000000000000"])
        .arg(format!("-n1:{}:{}", DATA / 512, data_end / 512 - 1))
        .arg(format!("-n{SEED}:{}:{}", data_end / 512, (data_end + 4 * MIB) / 512 - 1))
        .arg(format!("-n3:{}:{}", (data_end + 4 * MIB) / 512, (data_end + 6 * MIB) / 512 - 1))
        .args(["-c1:data", "-c2:seed", "-c3:rest", "-t1:8300", "-t2:0700", "-t3:8300"])
        .args(["-u1:b111e700-0000-4000-8000-000000000001"])
        .args(["-u2:b111e700-0000-4000-8000-000000000002"])
        .args(["-u3:b111e700-0000-4000-8000-000000000003"])
        .arg(path)
        .output()
        .context("running sgdisk")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sgdisk on {}: {said}", path.display());
    Ok(())
}

/// A stream of numbers that look like chance, and that a name begins (xorshift64*).
pub struct Numbers(u64);

impl Numbers {
    /// The same name gives the same numbers.
    pub fn of(name: &str) -> Self {
        let mix = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        Numbers(name.bytes().fold(0xcbf2_9ce4_8422_2325, mix) | 1)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Writes on from an offset.
struct At<'a>(&'a File, u64);

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.0.write_at(bytes, self.1)?;
        self.1 += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
