//! A lease: an IPv4 address that a machine may use until some moment.

use std::net::Ipv4Addr;

use crate::mac::Mac;

/// As it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address; no two leases share one.
    pub ip: Ipv4Addr,
    /// The machine that has it.
    pub mac: Mac,
    /// Client identifier (option 61) in hex, when the client sent one.
    pub client_id: Option<String>,
    /// Host name that the client gave (option 12).
    pub hostname: Option<String>,
    /// Unix seconds at which it ends.
    pub until: i64,
}
