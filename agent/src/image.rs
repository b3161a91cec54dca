//! An image as the node believes it: a manifest whose bytes have the name that the job gave,
//! signed by a key of the RAM system, and the index that says where its chunks are.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use images::{Digest, Trusted, image::ImageError, listed::Listed, previous::Previous, text::Text};
use protocol::{Step, path};

use crate::{
    console,
    fault::Fault,
    listings::Listings,
    patience::Patience,
    server::{Server, ServerError},
};

/// Where the RAM system has the keys it believes.
pub(crate) const TRUSTED: &str = "/etc/billet/trusted";
/// The longest signature that is taken, bytes.
const SIGNATURE: u64 = 64 << 10;
/// A server that is being restarted is back sooner.
pub(crate) const AWAY: Duration = Duration::from_secs(10 * 60);

/// An image that is believed.
pub(crate) struct Image {
    pub(crate) image: images::Image<'static>,
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
        let signature = signature(server, name)?;
        let listed = Arc::new(Listings::of(server, *name));
        Image::open(listed, name, signature.as_deref(), trusted, unsigned)
    }

    /// Reads the image called `name`, refused as [`Image::fetch`] does.
    pub(crate) fn open(
        listed: Arc<dyn Listed>,
        name: &Digest,
        signature: Option<&str>,
        trusted: &Path,
        unsigned: bool,
    ) -> Result<Self, Fault> {
        let (text, signer) = check(listed, name, signature, trusted, unsigned)
            .with_context(|| format!("checking manifest {name}"))
            .map_err(fault)?;
        let image = images::Image::open(text).map_err(|error| fault(error.into()))?;
        Ok(Image { image, signer })
    }
}

/// What is known of an image that was on the disk before. It needs no signature: it only tells
/// where to look.
pub(crate) fn previous(listed: Arc<dyn Listed>) -> Result<Previous<'static>, Fault> {
    Previous::open(listed).context("looking for the previous manifest").map_err(fault)
}

fn fault(reason: anyhow::Error) -> Fault {
    let passes = reason.downcast_ref().is_some_and(ImageError::may_pass);
    if passes { Fault::passes(Step::Plan, reason) } else { Fault::stays(Step::Plan, reason) }
}

/// The signature of a manifest; `None` where there is none.
fn signature(server: &Server, name: &Digest) -> Result<Option<String>, Fault> {
    let path = format!("{}/{name}/minisig", path::MANIFESTS);
    let mut patience = Patience::new(&path, AWAY);
    match Server::insist(&mut patience, || server.get(&path, None)?.bytes(SIGNATURE)) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(ServerError::Refused { status: 404, .. }) => Ok(None),
        Err(error) if error.may_pass() => Err(Fault::passes(Step::Plan, error)),
        Err(error) => Err(Fault::stays(Step::Plan, error)),
    }
}

/// Reads a manifest and says who signed it: a key in the folder `trusted`. Nobody did only where
/// `unsigned` manifests are allowed, which the operator said to the provisioner.
fn check(
    listed: Arc<dyn Listed>,
    name: &Digest,
    signature: Option<&str>,
    trusted: &Path,
    unsigned: bool,
) -> anyhow::Result<(Text<'static>, Option<String>)> {
    let Some(signature) = signature else {
        let text = Text::read(listed, name, |_| {})?;
        if !unsigned {
            bail!("it has no signature, one by a trusted key is needed");
        }
        console::say("the image is not signed, and the job allows that");
        return Ok((text, None));
    };
    let trusted = Trusted::load(trusted).context("loading trusted keys")?;
    let mut text = None;
    let signer = trusted.verify_stream(signature, |take| {
        text = Some(Text::read(listed, name, take)?);
        anyhow::Ok(())
    })?;
    Ok((text.context("reading the manifest")?, Some(signer.to_string())))
}
