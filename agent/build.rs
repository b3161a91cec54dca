//! A static program that may be loaded anywhere relocates itself; said compactly (DT_RELR), its
//! addresses take 2 KiB in the file instead of 180.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
