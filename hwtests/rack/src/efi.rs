//! A program for UEFI that says a line and waits for ever: one section, no relocations, no data directories.

/// Where headers end and the section begins in the file, and what both are rounded up to, bytes.
const FILE: u32 = 0x200;
/// Where the section begins in memory, and what it is rounded up to, bytes.
const MEMORY: u32 = 0x1000;

/// Prints the text behind it, in UTF-16 and ended by zero (x86-64; rdx is the system table, UEFI 2.10,
/// 2.3.4, 4.3, 12.4): `sub rsp,40; mov rcx,[rdx+64] (ConOut); lea rdx,[text];
/// call [rcx+8] (OutputString); hang: hlt; jmp hang; nop; text:`
const CODE: [u8; 22] = [
    0x48, 0x83, 0xec, 0x28, 0x48, 0x8b, 0x4a, 0x40, 0x48, 0x8d, 0x15, 0x07, 0x00, 0x00, 0x00, 0xff,
    0x51, 0x08, 0xf4, 0xeb, 0xfd, 0x90,
];

/// A PE32+ image (Microsoft PE/COFF, revision 11) that says `line`; `None` where it is longer than some 240
/// UTF-16 units.
pub(crate) fn saying(line: &str) -> Option<Vec<u8>> {
    let mut code = CODE.to_vec();
    code.extend(format!("\r\n{line}\r\n\0").encode_utf16().flat_map(u16::to_le_bytes));
    if code.len() > FILE as usize {
        return None;
    }
    let mut image = headers();
    image.resize(FILE as usize, 0);
    image.extend(code);
    image.resize(2 * FILE as usize, 0);
    Some(image)
}

fn headers() -> Vec<u8> {
    let mut headers = b"MZ".to_vec();
    headers.resize(0x3c, 0);
    words(&mut headers, &[0x40]);
    headers.extend(b"PE\0\0");
    // Machine x86-64, one section; no symbols; an optional header of 240 bytes; executable, large addresses.
    words(&mut headers, &[0x0001_8664, 0, 0, 0, 0x0022_00f0]);
    // PE32+; lengths of code and data; entry, base of the code, preferred base of the image.
    words(&mut headers, &[0x20b, FILE, 0, 0, MEMORY, MEMORY, 0, 0]);
    // Alignments, versions, lengths of image and headers, checksum, subsystem (10: an EFI application).
    words(&mut headers, &[MEMORY, FILE, 0, 0, 0, 0, 2 * MEMORY, FILE, 0, 10]);
    // Stack and heap, flags, and 16 data directories, all empty.
    words(&mut headers, &[0; 9]);
    words(&mut headers, &[16]);
    words(&mut headers, &[0; 32]);
    headers.extend(b".text\0\0\0");
    // Code that is executed and read.
    words(&mut headers, &[FILE, MEMORY, FILE, FILE, 0, 0, 0, 0x6000_0020]);
    headers
}

fn words(to: &mut Vec<u8>, words: &[u32]) {
    to.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_lengths_they_tell() {
        let image = saying("a line").unwrap();
        assert_eq!(headers().len(), 0x40 + 4 + 20 + 240 + 40);
        assert_eq!(image.len(), 2 * FILE as usize);
        assert!(image[FILE as usize..].starts_with(&CODE));
        assert!(saying(&"x".repeat(300)).is_none());
    }
}
