//! An image as the node believes it: a manifest whose bytes have the name that the job gave,
//! signed by a key of the RAM system, and the index that says where its chunks are.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use images::{Digest, Index, Manifest, Trusted};
use protocol::{Step, path};

use crate::{
    console,
    fault::Fault,
    patience::Patience,
    server::{Server, ServerError},
};

/// Where the RAM system has the keys it believes.
pub(crate) const TRUSTED: &str = "/etc/billet/trusted";
/// The longest manifest or index that is taken, bytes: an image with more than 200 GB of
/// content would need more.
const LONGEST: u64 = 128 << 20;
const AWAY: Duration = Duration::from_secs(10 * 60);

/// Manifest and index, checked.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Manifest,
    pub(crate) index: Index,
    /// Who signed it; nobody where the job allows that.
    pub(crate) signer: Option<String>,
}

impl Image {
    /// Fetches the image called `name`. Without a signature it is refused unless `unsigned`;
    /// with one that does not fit it is refused always.
    pub(crate) fn fetch(
        server: &Server,
        name: &Digest,
        trusted: &Path,
        unsigned: bool,
    ) -> Result<Self, Fault> {
        let bytes = fetch(server, name, "")?.ok_or_else(|| {
            Fault::stays(Step::Plan, anyhow!("the server has no manifest {name}"))
        })?;
        let got = Digest::of(&bytes);
        if got != *name {
            let reason = anyhow!("manifest {name} was asked, what came has the name {got}");
            return Err(Fault::passes(Step::Plan, reason));
        }
        let signature = fetch(server, name, "/minisig")?;
        let signer = check_signature(&bytes, signature.as_deref(), trusted, unsigned)
            .with_context(|| format!("checking manifest {name}"))
            .map_err(|reason| Fault::stays(Step::Plan, reason))?;
        let stays = |reason: anyhow::Error| Fault::stays(Step::Plan, reason);
        let manifest = Manifest::parse(&bytes).context("parsing the manifest").map_err(stays)?;
        drop(bytes);
        let index = fetch_index(server, name, &manifest)?;
        Ok(Image { manifest, index, signer })
    }
}

/// Fetches the manifest of an image that was on the disk before. It needs no signature: it only
/// tells where to look.
pub(crate) fn previous(server: &Server, name: &Digest) -> Result<Manifest, Fault> {
    let stays = |reason: anyhow::Error| Fault::stays(Step::Plan, reason);
    let bytes = fetch(server, name, "")?
        .ok_or_else(|| stays(anyhow!("the server has no manifest {name}")))?;
    Manifest::parse(&bytes).context("parsing the previous manifest").map_err(stays)
}

fn fetch_index(server: &Server, name: &Digest, manifest: &Manifest) -> Result<Index, Fault> {
    let bytes = fetch(server, name, "/index")?
        .ok_or_else(|| Fault::stays(Step::Plan, anyhow!("the server has no index of {name}")))?;
    // It is not signed: a damaged one may have been damaged on the way.
    let passes = |reason: anyhow::Error| Fault::passes(Step::Plan, reason);
    let index = Index::parse(&bytes).context("parsing the location index").map_err(passes)?;
    index.check(manifest).context("checking the location index").map_err(passes)?;
    Ok(index)
}

/// The bytes of a manifest or of what belongs to it; `None` where there are none.
fn fetch(server: &Server, name: &Digest, part: &str) -> Result<Option<Vec<u8>>, Fault> {
    let path = format!("{}/{name}{part}", path::MANIFESTS);
    let mut patience = Patience::new(&path, AWAY);
    match Server::insist(&mut patience, || server.get(&path, None)?.bytes(LONGEST)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ServerError::Refused { status: 404, .. }) => Ok(None),
        Err(error) if error.may_pass() => Err(Fault::passes(Step::Plan, error)),
        Err(error) => Err(Fault::stays(Step::Plan, error)),
    }
}

/// Who signed the bytes of a manifest: a key in the folder `trusted`. Nobody did only where
/// `unsigned` manifests are allowed, which the operator said to the provisioner.
pub(crate) fn check_signature(
    manifest: &[u8],
    signature: Option<&[u8]>,
    trusted: &Path,
    unsigned: bool,
) -> anyhow::Result<Option<String>> {
    let Some(signature) = signature else {
        if unsigned {
            console::say("the image is not signed, and the job allows that");
            return Ok(None);
        }
        bail!("it has no signature, one by a trusted key is needed");
    };
    let trusted = Trusted::load(trusted).context("loading trusted keys")?;
    let signer = trusted.verify(manifest, &String::from_utf8_lossy(signature))?;
    Ok(Some(signer.to_string()))
}
