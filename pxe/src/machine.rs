//! Who is asking: a DHCP request read as a machine.
//!
//! The same machine asks several times during one boot, each time as somebody else: its
//! firmware's PXE or HTTP client, then iPXE, then the RAM system, then what was installed.

use std::{fmt, net::Ipv4Addr};

use crate::{
    mac::Mac,
    packet::{Malformed, Packet, code, encapsulated},
};

/// What one request says of the machine that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The interface that asks.
    pub mac: Mac,
    /// Which program asks.
    pub asker: Asker,
    /// Its architectures, in the client's order of preference (option 93).
    pub architectures: Vec<Architecture>,
    /// SMBIOS UUID as `/sys/class/dmi/id/product_uuid` writes it; none when it is all zero or one.
    pub uuid: Option<String>,
    /// The relay in between.
    pub relay: Option<Ipv4Addr>,
}

/// The program that sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// An operating system, or anything that does not look like a boot.
    System,
    /// A PXE ROM: wants a boot program by TFTP.
    Pxe,
    /// UEFI HTTP boot: wants a boot program by HTTP.
    HttpBoot,
    /// iPXE that speaks HTTP: wants a script.
    Ipxe,
}

/// A processor and its firmware, by the IANA number of option 93.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Architecture(pub u16);

/// What boot programs are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// x86 with a BIOS.
    Bios,
    /// 32-bit x86 with UEFI.
    Uefi32,
    /// x86-64 with UEFI.
    Uefi64,
    /// 32-bit ARM with UEFI.
    UefiArm32,
    /// 64-bit ARM with UEFI.
    UefiArm64,
}

impl Architecture {
    /// What it runs; none where no boot program of ours exists.
    pub fn platform(self) -> Option<Platform> {
        match self.0 {
            0 | 20 => Some(Platform::Bios),
            6 | 15 => Some(Platform::Uefi32),
            // 9 is "EFI byte code" on paper, and x86-64 in firmware that read RFC 4578 literally.
            7 | 9 | 16 | 17 => Some(Platform::Uefi64),
            10 | 18 => Some(Platform::UefiArm32),
            11 | 19 => Some(Platform::UefiArm64),
            _ => None,
        }
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Platform::Bios => "x86 bios",
            Platform::Uefi32 => "x86 uefi",
            Platform::Uefi64 => "x86_64 uefi",
            Platform::UefiArm32 => "arm uefi",
            Platform::UefiArm64 => "arm64 uefi",
        })
    }
}

impl Machine {
    /// Reads the machine out of a request; none when it has no Ethernet address.
    pub fn parse(packet: &Packet<'_>) -> Result<Option<Machine>, Malformed> {
        let Some(mac) = packet.ethernet() else {
            return Ok(None);
        };
        let architectures = architectures(packet)?;
        Ok(Some(Machine {
            mac: Mac(mac),
            asker: asker(packet),
            architectures,
            uuid: uuid(packet),
            relay: Some(packet.giaddr()).filter(|relay| !relay.is_unspecified()),
        }))
    }

    /// Its first architecture that something of ours runs on.
    pub fn platform(&self) -> Option<Platform> {
        self.architectures.iter().find_map(|architecture| architecture.platform())
    }

    /// Whether it asks for something to boot.
    pub fn boots(&self) -> bool {
        self.asker != Asker::System
    }
}

fn architectures(packet: &Packet<'_>) -> Result<Vec<Architecture>, Malformed> {
    let Some(data) = packet.option(code::ARCHITECTURE) else {
        return Ok(Vec::new());
    };
    let pairs = data.chunks_exact(2);
    if data.is_empty() || !pairs.remainder().is_empty() {
        return Err(Malformed::Length(code::ARCHITECTURE, data.len()));
    }
    Ok(pairs.map(|pair| Architecture(u16::from_be_bytes([pair[0], pair[1]]))).collect())
}

fn asker(packet: &Packet<'_>) -> Asker {
    let class = packet.option(code::VENDOR_CLASS).unwrap_or_default();
    if is_ipxe(packet) {
        // An iPXE without HTTP (some vendors' ROMs) is one more PXE ROM: it gets ours.
        return if ipxe_lacks_http(packet) { Asker::Pxe } else { Asker::Ipxe };
    }
    if class.starts_with(b"HTTPClient") {
        Asker::HttpBoot
    } else if class.starts_with(b"PXEClient") {
        Asker::Pxe
    } else {
        Asker::System
    }
}

/// RFC 3004 wants a length byte before each user class; iPXE sends the bare word.
fn is_ipxe(packet: &Packet<'_>) -> bool {
    let Some(class) = packet.option(code::USER_CLASS) else {
        return false;
    };
    if class[..] == *b"iPXE" {
        return true;
    }
    let mut rest = &class[..];
    while let Some((length, after)) = rest.split_first() {
        let Some((word, after)) = after.split_at_checked(usize::from(*length)) else {
            return false;
        };
        if word == b"iPXE" {
            return true;
        }
        rest = after;
    }
    false
}

/// iPXE lists its features in option 175; 0x13 is HTTP.
fn ipxe_lacks_http(packet: &Packet<'_>) -> bool {
    const HTTP: u8 = 0x13;
    packet.option(code::IPXE).is_some_and(|features| {
        !encapsulated(&features).any(|(feature, on)| feature == HTTP && on.first() != Some(&0))
    })
}

/// SMBIOS keeps the first three fields little-endian, and firmware sends them as they stand.
fn uuid(packet: &Packet<'_>) -> Option<String> {
    let data = packet.option(code::MACHINE_ID)?;
    let bytes: [u8; 16] = data.strip_prefix(&[0])?.try_into().ok()?;
    if bytes == [0; 16] || bytes == [255; 16] {
        return None;
    }
    Some(uuid::Uuid::from_bytes_le(bytes).to_string())
}
