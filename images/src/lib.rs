//! What an image is: a disk cut by content into named chunks, packed, listed in
//! a signed manifest, kept in a store, and written back to a disk.
//!
//! Sync code only; no network. Programs bring the bytes (a folder or HTTP) and
//! this crate decides what to read, what to fetch and what to write, and in
//! which order, so that a disk never boots half an image.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod buffer;
pub mod catalogue;
pub mod checksum;
pub mod chunk;
pub mod cpio;
mod debian;
pub mod digest;
pub mod disk;
mod edge;
mod ext4;
mod failure;
mod fetch;
pub mod file;
pub mod gc;
mod grub;
pub mod hold;
pub mod import;
pub mod index;
mod ioctl;
mod look;
pub mod manifest;
pub mod modules;
mod mover;
mod moves;
pub mod name;
mod origin;
pub mod pack;
mod packer;
mod pipeline;
pub mod plan;
pub mod ram;
mod readback;
mod reader;
pub mod recipe;
mod recipe_build;
mod recipe_built_in;
mod recipe_disk;
mod recipe_system;
mod region;
mod scan;
mod scratch;
mod sector;
pub mod signature;
mod sources;
mod sparse;
pub mod store;
pub mod table;
mod tool;
pub mod verify;
mod window;
pub mod write;

pub use digest::Digest;
pub use disk::Disk;
pub use index::Index;
pub use manifest::{Extent, Manifest};
pub use signature::{SecretKey, Trusted};
pub use store::Store;
