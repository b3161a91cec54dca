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
mod convert;
pub mod cpio;
mod debian;
pub mod diff;
pub mod digest;
pub mod disk;
mod disk_error;
mod edge;
pub mod export;
mod ext4;
mod failure;
mod fetch;
pub mod file;
mod flatten;
mod folder;
pub mod foreign;
pub mod format;
mod frames;
pub mod gc;
mod grub;
pub mod hold;
pub mod image;
pub mod import;
pub mod index;
mod ioctl;
pub mod keys;
mod layer;
pub mod listed;
mod look;
pub mod manifest;
mod member;
pub mod mirror;
pub mod modules;
mod mover;
mod moves;
pub mod name;
mod oci;
mod origin;
pub mod pack;
mod packer;
mod pipeline;
pub mod plan;
pub mod previous;
mod qcow2;
mod qcow2_layout;
pub mod ram;
mod readback;
mod reader;
pub mod recipe;
mod recipe_build;
mod recipe_built_in;
mod recipe_disk;
mod recipe_packages;
mod recipe_system;
mod region;
mod repack;
mod retired;
mod scan;
mod scratch;
mod sector;
pub mod shelf;
pub mod signature;
mod sources;
mod sparse;
pub mod store;
pub mod table;
pub mod text;
mod tool;
mod tree;
pub mod verify;
mod vhd;
mod vmdk;
mod window;
pub mod write;

pub use digest::Digest;
pub use disk::Disk;
pub use image::Image;
pub use index::Index;
pub use manifest::{Extent, Manifest};
pub use signature::{SecretKey, Trusted};
pub use store::Store;
