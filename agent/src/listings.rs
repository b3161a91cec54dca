//! The manifest and the location index of an image over HTTP, in ranges.

use std::{
    io::{self, Read},
    ops::Range,
};

use images::{
    Digest,
    listed::{Listed, Listing},
};
use protocol::path;

use crate::{
    image::AWAY,
    packs::Packs,
    patience::Patience,
    server::{Server, ServerError},
};

/// What describes one image of a provisioner.
#[derive(Debug)]
pub(crate) struct Listings {
    server: Server,
    files: Packs,
    manifest: Digest,
}

impl Listings {
    /// That of the image whose manifest is called so.
    pub(crate) fn of(server: &Server, manifest: Digest) -> Self {
        Listings { server: server.clone(), files: Packs::of(server), manifest }
    }

    fn path(&self, listing: Listing) -> String {
        let part = match listing {
            Listing::Manifest => "",
            Listing::Index => "/index",
        };
        format!("{}/{}{part}", path::MANIFESTS, self.manifest)
    }
}

impl Listed for Listings {
    fn begin(&self, listing: Listing, most: usize) -> io::Result<(Vec<u8>, u64)> {
        let (path, range) = (self.path(listing), 0..most as u64);
        let mut patience = Patience::new(&path, AWAY);
        let ask = || self.server.get(&path, Some(range.clone()))?.beginning(most as u64);
        Server::insist(&mut patience, ask).map_err(|error| match error {
            ServerError::Refused { status: 404, .. } => {
                let reason = format!("the server has no {listing} of image {}", self.manifest);
                io::Error::new(io::ErrorKind::NotFound, reason)
            }
            ServerError::Refused { .. } => io::Error::new(io::ErrorKind::PermissionDenied, error),
            error => io::Error::other(error),
        })
    }

    fn read(&self, listing: Listing, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(self.files.stream(self.path(listing), range, "the rest of what describes the image"))
    }
}
