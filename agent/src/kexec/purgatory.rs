//! The few instructions between Linux and a Multiboot kernel: kexec ends in 64-bit mode with memory
//! mapped one to one, Multiboot begins in 32-bit mode without paging.
//!
//! Intel's Software Developer's Manual, volume 3, 10.8.5.4 (leaving IA-32e mode).

use super::multiboot::LOADED;

/// Nothing; code and data of 32 bits over all 4 GiB. Their selectors are 0x08 and 0x10.
const TABLE: [u64; 3] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// How far the processor looks in it.
const TABLE_LIMIT: u16 = 23;
const CODE: u16 = 0x08;

/// Behind table, its place and the far pointer: the first instruction.
pub(crate) const BEGIN: u32 = 40;
/// `cli; cld; lgdt [rip - 25]; jmp far [rip - 21]`, the place of the table and the pointer.
const WIDE: [u8; 15] =
    [0xfa, 0xfc, 0x0f, 0x01, 0x15, 0xe7, 0xff, 0xff, 0xff, 0xff, 0x2d, 0xeb, 0xff, 0xff, 0xff];
/// What the pointer points at: `mov eax, 0x10; mov ds, eax; mov es, eax; mov fs, eax; mov gs, eax;
/// mov ss, eax`, then `mov eax, cr0; and eax, ~PG; mov cr0, eax`, then `mov ecx, EFER; rdmsr;
/// and eax, ~LME; wrmsr`, and `xor eax, eax; mov cr4, eax`.
const NARROW: [u8; 45] = [
    0xb8, 0x10, 0x00, 0x00, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x8e,
    0xd0, //
    0x0f, 0x20, 0xc0, 0x25, 0xff, 0xff, 0xff, 0x7f, 0x0f, 0x22, 0xc0, //
    0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x25, 0xff, 0xfe, 0xff, 0xff, 0x0f, 0x30, //
    0x31, 0xc0, 0x0f, 0x22, 0xe0,
];
/// `mov eax, ..`, `mov ebx, ..`, `mov ecx, ..` and `jmp ecx`.
const MOV: [u8; 3] = [0xb8, 0xbb, 0xb9];
const JUMP: [u8; 2] = [0xff, 0xe1];

/// What lies at `at`, starts `entry` and tells it where `information` is; all are below 4 GiB.
pub(crate) fn render(at: u32, entry: u32, information: u32) -> Vec<u8> {
    let narrow = at + BEGIN + WIDE.len() as u32;
    let mut bytes: Vec<u8> = TABLE.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.extend(TABLE_LIMIT.to_le_bytes());
    bytes.extend(u64::from(at).to_le_bytes());
    bytes.extend(narrow.to_le_bytes());
    bytes.extend(CODE.to_le_bytes());
    bytes.extend(WIDE);
    bytes.extend(NARROW);
    for (mov, value) in MOV.into_iter().zip([LOADED, information, entry]) {
        bytes.push(mov);
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(JUMP);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_tables_are_where_they_are_said_to_be() {
        let (at, entry, information) = (0x1234_5000, 0x20_0000, 0x1234_6000);
        let bytes = render(at, entry, information);
        let number = |from: usize, length: usize| {
            let mut number = [0; 8];
            number[..length].copy_from_slice(&bytes[from..from + length]);
            u64::from_le_bytes(number)
        };
        // A distance counts from behind the instruction that ends with it.
        let far = |end: usize| end.wrapping_add(number(end - 4, 4) as u32 as i32 as usize);
        let begin = BEGIN as usize;
        let (table, pointer) = (far(begin + 9), far(begin + 15));
        assert_eq!((number(table, 2), number(table + 2, 8)), (23, at.into()));
        let narrow = number(pointer, 4) - u64::from(at);
        assert_eq!(bytes[narrow as usize..][..5], [0xb8, 0x10, 0, 0, 0]);
        let code = number(pointer + 4, 2) as usize;
        // Present, of 32 bits, in pages, to be executed or written.
        assert_eq!((number(code + 4, 4), number(0x10 + 4, 4)), (0x00cf_9b00, 0x00cf_9300));
        let last = bytes.len() - 17;
        let told = [1, 6, 11].map(|offset| number(last + offset, 4));
        assert_eq!(told, [LOADED, information, entry].map(u64::from));
        assert!(bytes.len() < 256);
    }
}
