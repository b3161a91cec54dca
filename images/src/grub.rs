//! GRUB's first two stages for BIOS, told where on the disk they lie.
//!
//! The firmware loads the boot sector, the boot sector loads the first sector of the core, and
//! that one loads the rest. Offsets are those of GRUB 2's `boot.S` and `diskboot.S`.

use anyhow::{Result, bail};

/// Bytes in a sector, the only size that BIOS knows.
const SECTOR: usize = 512;
/// Code ends where a disk's signature and partition table begin.
pub(crate) const CODE: usize = 440;
/// In the boot sector: the core's first sector, 64 bits.
const CORE_SECTOR: usize = 0x5c;
/// In the boot sector: a jump over the trust in the drive number that the firmware gave.
const DRIVE_CHECK: usize = 0x66;
/// At the end of the core's first sector: where the rest begins (64 bits), its length in
/// sectors (16 bits), and the segment it is loaded to (16 bits).
const BLOCK_LIST: usize = SECTOR - 12;

/// The code of a disk's boot sector that starts a core at `sector`.
pub(crate) fn boot_code(boot: &[u8], sector: u64) -> Result<[u8; CODE]> {
    if boot.len() != SECTOR || boot[510..] != [0x55, 0xaa] {
        bail!("GRUB's boot.img has {} bytes, a boot sector of {SECTOR} is accepted", boot.len());
    }
    let mut code = [0; CODE];
    code.copy_from_slice(&boot[..CODE]);
    code[CORE_SECTOR..CORE_SECTOR + 8].copy_from_slice(&sector.to_le_bytes());
    // Two nops, as grub-bios-setup does for hard disks: some firmware starts them as drive 0.
    code[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    Ok(code)
}

/// The core as it lies on the disk from `sector` on, in whole sectors.
pub(crate) fn core_at(core: &[u8], sector: u64, room: usize) -> Result<Vec<u8>> {
    if core.len() <= SECTOR || core.len() > room {
        bail!("GRUB's core has {} bytes, {} to {room} are accepted", core.len(), SECTOR + 1);
    }
    let mut core = core.to_vec();
    core.resize(core.len().next_multiple_of(SECTOR), 0);
    let rest = (core.len() / SECTOR - 1) as u16;
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(sector + 1).to_le_bytes());
    core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&rest.to_le_bytes());
    Ok(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_points_at_the_core() {
        let mut boot = [0xcc; SECTOR];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        let code = boot_code(&boot, 2048).unwrap();
        assert_eq!(code[0x5c..0x64], [0, 8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(code[0x64..0x69], [0xcc, 0xcc, 0x90, 0x90, 0xcc]);
        assert!(boot_code(&boot[..511], 2048).is_err());
    }

    #[test]
    fn the_core_points_at_its_rest() {
        let core = core_at(&[0xcc; 1300], 2048, 1 << 20).unwrap();
        assert_eq!(core.len(), 1536);
        assert_eq!(core[500..512], [1, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0xcc, 0xcc]);
        assert_eq!(core[1300..], [0; 236]);
        assert!(core_at(&[0; 1300], 2048, 1024).is_err());
    }
}
