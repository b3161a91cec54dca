//! What an image is: a disk cut by content into named chunks, packed, listed in
//! a signed manifest, kept in a store, and written back to a disk.
//!
//! Sync code only; no network. Programs bring the bytes (a folder or HTTP) and
//! this crate decides what to read, what to fetch and what to write, and in
//! which order, so that a disk never boots half an image.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod digest;
pub mod manifest;

pub use digest::Digest;
pub use manifest::{Extent, Manifest};
