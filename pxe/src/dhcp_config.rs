//! `[dhcp]` of the configuration.

use serde::Deserialize;

use crate::subnet::Subnet;

/// How billet answers DHCP. Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DhcpConfig {
    /// `server`, `proxy` (the default) or `off`.
    pub mode: DhcpMode,
    /// Interfaces that are answered on; empty: every one that has an IPv4 address.
    pub interfaces: Vec<String>,
    /// The subnets that mode `server` gives addresses in.
    pub subnets: Vec<Subnet>,
    /// How long a machine may use an address before it must ask again, in seconds.
    pub lease_seconds: u32,
    /// How long an offered address is kept for whoever it was offered to, in seconds.
    pub offer_seconds: u32,
    /// How long an address rests after a machine found it in use by another, in seconds.
    pub decline_seconds: u32,
    /// The iPXE that UEFI machines get: `ipxe` (its own drivers) or `snponly` (the firmware's).
    pub uefi_program: UefiProgram,
}

/// Whose addresses the machines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhcpMode {
    /// billet's: it is the only DHCP server of its subnets.
    Server,
    /// Another server's: billet only adds what to boot, and only for machines that boot from it.
    #[default]
    Proxy,
    /// DHCP is somebody else's business entirely.
    Off,
}

/// Which iPXE a UEFI machine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UefiProgram {
    /// With iPXE's own drivers.
    #[default]
    Ipxe,
    /// With the firmware's driver of the interface that booted.
    Snponly,
}

impl Default for DhcpConfig {
    fn default() -> DhcpConfig {
        DhcpConfig {
            mode: DhcpMode::Proxy,
            interfaces: Vec::new(),
            subnets: Vec::new(),
            lease_seconds: 3600,
            offer_seconds: 30,
            decline_seconds: 600,
            uefi_program: UefiProgram::Ipxe,
        }
    }
}
