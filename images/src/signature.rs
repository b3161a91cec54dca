//! Who vouches for a manifest: ed25519 signatures in minisign's format, made over its bytes.
//!
//! A store signs with one secret key. A node believes every public key in one folder, which comes
//! with its RAM system and not with the image.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// Names a key, as minisign prints it: 16 upper-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(String);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl KeyId {
    /// The key that a signature says it is by.
    pub fn of_signature(minisig: &str) -> Option<Self> {
        let boxed = minisign::SignatureBox::from_string(minisig).ok()?;
        Some(Self::from_bytes(boxed.keynum()))
    }

    /// The key in the text of a `.pub` file.
    pub fn of_public_key(text: &str) -> Option<Self> {
        let boxed = minisign::PublicKeyBox::from_string(text).ok()?;
        Some(Self::from_bytes(boxed.into_public_key().ok()?.keynum()))
    }

    /// Its name as it is printed.
    fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
        (text.len() == 16 && text.bytes().all(digit)).then(|| KeyId(text.to_owned()))
    }

    /// Minisign keeps the number little endian.
    fn from_bytes(bytes: &[u8]) -> Self {
        KeyId(bytes.iter().rev().map(|byte| format!("{byte:02X}")).collect())
    }
}

/// Why bytes are not believed.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// What should be a signature is none.
    #[error("signature is malformed: a minisign signature of four lines is needed")]
    Malformed,
    /// The signer is not among the trusted.
    #[error("signed by key {signer}, trusted are {}", list(trusted))]
    UnknownKey {
        /// Who signed.
        signer: KeyId,
        /// Who is believed.
        trusted: Vec<KeyId>,
    },
    /// The signer was trusted, and is not any more.
    #[error("signed by key {signer}, which was revoked; trusted are {}", list(trusted))]
    Revoked {
        /// Who signed.
        signer: KeyId,
        /// Who is believed.
        trusted: Vec<KeyId>,
    },
    /// The signer is trusted, but these are not the bytes that were signed.
    #[error("signature by key {signer} does not fit: the bytes were changed after signing")]
    Mismatch {
        /// Who is said to have signed.
        signer: KeyId,
    },
}

fn list(keys: &[KeyId]) -> String {
    match keys {
        [] => "none".to_owned(),
        keys => keys.iter().map(|key| key.0.as_str()).collect::<Vec<_>>().join(", "),
    }
}

/// The key of a store, which signs what it imports.
pub struct SecretKey {
    secret: minisign::SecretKey,
    id: KeyId,
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretKey({})", self.id)
    }
}

impl SecretKey {
    /// Reads `billet.key` in `folder`, or makes it (mode 0600) and `billet.pub` beside it.
    pub fn load_or_create(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("billet.key");
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).with_context(|| format!("reading {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::create(folder, "billet").with_context(|| format!("making {}", path.display()))
            }
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let sealed = minisign::SecretKeyBox::from_string(text)?;
        let secret = sealed.into_unencrypted_secret_key()?;
        let id = KeyId::from_bytes(secret.keynum());
        Ok(SecretKey { secret, id })
    }

    /// Makes a key: `<name>.key` in `folder` (mode 0600) and `<name>.pub` beside it.
    pub(crate) fn create(folder: &Path, name: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let pair = minisign::KeyPair::generate_unencrypted_keypair()?;
        let id = KeyId::from_bytes(pair.pk.keynum());
        // The public half first: a secret key that exists always has it beside it.
        let public = pair.pk.to_box()?.into_string();
        write_new(&folder.join(format!("{name}.pub")), &public, 0o644)?;
        let secret = pair.sk.to_box(Some("billet store key"))?.into_string();
        write_new(&folder.join(format!("{name}.key")), &secret, 0o600)?;
        Ok(SecretKey { secret: pair.sk, id })
    }

    /// Its name.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The text of a detached signature over `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> anyhow::Result<String> {
        let comment = Some("signature of a billet manifest");
        let signature = minisign::sign(None, &self.secret, bytes, Some("billet manifest"), comment)
            .context("signing")?;
        Ok(signature.into_string())
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    io::Write::write_all(&mut &file, text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// In a folder of public keys: names of those that are believed no more, each a file.
pub(crate) const REVOKED: &str = "revoked";

/// The public keys that are believed, and the names of those that are so no more.
#[derive(Debug, Clone, Default)]
pub struct Trusted {
    keys: Vec<(KeyId, minisign_verify::PublicKey)>,
    revoked: Vec<KeyId>,
}

impl Trusted {
    /// Every `*.pub` of `folder` but those that are named in its folder `revoked`; a folder that is
    /// absent has none.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let mut trusted = Trusted::default();
        for path in list_folder(&folder.join(REVOKED))? {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(KeyId::parse);
            trusted.revoked.extend(name);
        }
        for path in public_keys(folder)? {
            let context = || format!("reading public key {}", path.display());
            trusted.add(&fs::read_to_string(&path).with_context(context)?).with_context(context)?;
        }
        Ok(trusted)
    }

    /// Believes one more key, given as the text of its `.pub` file.
    pub fn add(&mut self, text: &str) -> anyhow::Result<()> {
        let boxed = minisign::PublicKeyBox::from_string(text)?;
        let id = KeyId::from_bytes(boxed.into_public_key()?.keynum());
        if self.revoked.contains(&id) {
            return Ok(());
        }
        self.keys.push((id, minisign_verify::PublicKey::decode(text)?));
        Ok(())
    }

    /// Who is believed.
    pub fn ids(&self) -> Vec<KeyId> {
        let mut ids: Vec<_> = self.keys.iter().map(|(id, _)| id.clone()).collect();
        // A key may be in several files.
        ids.sort();
        ids.dedup();
        ids
    }

    /// Who is believed no more.
    pub fn revoked(&self) -> &[KeyId] {
        &self.revoked
    }

    /// The trusted key that signed `bytes` with the signature whose text is `minisig`.
    pub fn verify(&self, bytes: &[u8], minisig: &str) -> Result<KeyId, Untrusted> {
        self.verify_stream(minisig, |take| {
            take(bytes);
            Ok(())
        })
    }

    /// As [`Trusted::verify`], where `read` takes the bytes as they come, and is not asked at all
    /// where nobody who is trusted signed.
    pub fn verify_stream<E: From<Untrusted>>(
        &self,
        minisig: &str,
        read: impl FnOnce(&mut dyn FnMut(&[u8])) -> Result<(), E>,
    ) -> Result<KeyId, E> {
        let boxed = minisign::SignatureBox::from_string(minisig);
        let signer = KeyId::from_bytes(boxed.map_err(|_| Untrusted::Malformed)?.keynum());
        let signature =
            minisign_verify::Signature::decode(minisig).map_err(|_| Untrusted::Malformed)?;
        if self.revoked.contains(&signer) {
            return Err(Untrusted::Revoked { signer, trusted: self.ids() }.into());
        }
        let mut of_signer = self.keys.iter().filter(|(id, _)| *id == signer).peekable();
        if of_signer.peek().is_none() {
            return Err(Untrusted::UnknownKey { signer, trusted: self.ids() }.into());
        }
        // Signatures of the bytes themselves, which minisign made long ago, have no stream.
        let verifiers = of_signer.filter_map(|(_, key)| key.verify_stream(&signature).ok());
        let mut verifiers: Vec<_> = verifiers.collect();
        read(&mut |bytes| verifiers.iter_mut().for_each(|verifier| verifier.update(bytes)))?;
        if verifiers.iter_mut().any(|verifier| verifier.finalize().is_ok()) {
            return Ok(signer);
        }
        Err(Untrusted::Mismatch { signer }.into())
    }
}

/// The public keys in a folder.
pub(crate) fn public_keys(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = list_folder(folder)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pub"));
    Ok(paths)
}

/// What is in a folder, in order; nothing where there is none.
fn list_folder(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let context = || format!("listing {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(context)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().with_context(context)?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::{prelude::any, proptest};

    use super::*;

    #[test]
    fn a_key_is_made_once_and_its_signatures_are_believed() {
        let folder = tempfile::tempdir().unwrap();
        let key = SecretKey::load_or_create(folder.path()).unwrap();
        assert_eq!(SecretKey::load_or_create(folder.path()).unwrap().id(), key.id());
        let mode = fs::metadata(folder.path().join("billet.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let trusted = Trusted::load(folder.path()).unwrap();
        let signature = key.sign(b"manifest").unwrap();
        assert_eq!(trusted.verify(b"manifest", &signature).unwrap(), *key.id());
        let error = trusted.verify(b"manifesT", &signature).unwrap_err();
        assert!(matches!(error, Untrusted::Mismatch { .. }), "{error}");
    }

    #[test]
    fn a_foreign_signature_names_its_key_and_the_trusted_ones() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = SecretKey::load_or_create(ours.path()).unwrap();
        let foreign = SecretKey::load_or_create(theirs.path()).unwrap();
        let mut trusted = Trusted::load(ours.path()).unwrap();
        let signature = foreign.sign(b"manifest").unwrap();
        let error = trusted.verify(b"manifest", &signature).unwrap_err().to_string();
        assert_eq!(error, format!("signed by key {}, trusted are {}", foreign.id(), key.id()));
        trusted.add(&fs::read_to_string(theirs.path().join("billet.pub")).unwrap()).unwrap();
        assert_eq!(trusted.verify(b"manifest", &signature).unwrap(), *foreign.id());
        let none = Trusted::load(Path::new("/nonexistent")).unwrap();
        let error = none.verify(b"manifest", &signature).unwrap_err().to_string();
        assert!(error.ends_with("trusted are none"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_is_believed_by_chance(text in any::<String>()) {
            let error = Trusted::default().verify(b"manifest", &text).unwrap_err();
            assert!(matches!(error, Untrusted::Malformed | Untrusted::UnknownKey { .. }));
        }
    }
}
