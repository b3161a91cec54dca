//! Bytes that follow from names: always the same ones, and other ones for other names.

/// BLAKE3 of the parts, each with its length before it, so that `a`, `bc` and `ab`, `c` differ.
pub(crate) fn derive(parts: &[&str]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    bytes
}
