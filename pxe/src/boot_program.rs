//! Which boot program fits a machine, and the only names that are handed out.

use std::net::Ipv4Addr;

use crate::{
    dhcp_config::UefiProgram,
    machine::{Asker, Machine, Platform},
};

/// Every boot program that TFTP and UEFI HTTP boot may name.
pub const PROGRAMS: [&str; 8] = [
    "undionly.kpxe",
    "ipxe.efi",
    "snponly.efi",
    "ipxe-i386.efi",
    "snponly-i386.efi",
    "ipxe-arm32.efi",
    "ipxe-arm64.efi",
    "snponly-arm64.efi",
];

/// What a machine is told to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// One of [`PROGRAMS`], by TFTP.
    Program(&'static str),
    /// A URL: iPXE's script, or one of [`PROGRAMS`] for UEFI HTTP boot.
    Url(String),
}

/// Where machines find billet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// Our address on the machine's network.
    pub server: Ipv4Addr,
    /// The port of our HTTP server.
    pub http_port: u16,
}

/// What fits `machine`; none when it did not ask, or nothing of ours runs on it.
pub fn boot(machine: &Machine, here: Here, uefi: UefiProgram) -> Option<Boot> {
    let base = format!("http://{}:{}{}", here.server, here.http_port, protocol::path::BOOT);
    match machine.asker {
        Asker::System => None,
        Asker::Ipxe => Some(Boot::Url(format!("{base}/{}", machine.mac))),
        Asker::Pxe => Some(Boot::Program(program(machine.platform()?, uefi))),
        Asker::HttpBoot => {
            Some(Boot::Url(format!("{base}/{}", program(machine.platform()?, uefi))))
        }
    }
}

fn program(platform: Platform, uefi: UefiProgram) -> &'static str {
    match (platform, uefi) {
        (Platform::Bios, _) => "undionly.kpxe",
        (Platform::Uefi64, UefiProgram::Ipxe) => "ipxe.efi",
        (Platform::Uefi64, UefiProgram::Snponly) => "snponly.efi",
        (Platform::Uefi32, UefiProgram::Ipxe) => "ipxe-i386.efi",
        (Platform::Uefi32, UefiProgram::Snponly) => "snponly-i386.efi",
        (Platform::UefiArm32, _) => "ipxe-arm32.efi",
        (Platform::UefiArm64, UefiProgram::Ipxe) => "ipxe-arm64.efi",
        (Platform::UefiArm64, UefiProgram::Snponly) => "snponly-arm64.efi",
    }
}
