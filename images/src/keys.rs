//! The keys of a store: one that signs, others that are believed, and those that no longer are.
//!
//! ```text
//! keys/billet.key, billet.pub    signs what is imported
//! keys/<id>.key, <id>.pub        signed before; the public half is still believed
//! keys/<id>.pub                  somebody else's, believed
//! keys/revoked/<id>              believed no more, whoever has it among the believed
//! ```

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

use crate::{
    Digest, Store, file, shelf,
    signature::{KeyId, REVOKED, SecretKey, Trusted, Untrusted, public_keys},
};

/// A key as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub id: KeyId,
    /// What it is for.
    pub role: Role,
    /// Named images that it signed.
    pub images: Vec<String>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It signs what is imported, and is believed.
    Signs,
    /// It is believed.
    Trusted,
    /// It is not believed any more.
    Revoked,
    /// It signed an image, and nobody said anything about it.
    Unknown,
}

/// Why keys stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum KeyRefused {
    /// No key has that name.
    #[error("no key `{typed}`, there are {}", list(keys))]
    NoKey {
        /// What was typed.
        typed: String,
        /// What there is.
        keys: Vec<KeyId>,
    },
    /// It signs.
    #[error("key {0} signs what is imported: `billet image key new` makes another one first")]
    Signs(KeyId),
    /// It is not believed any more.
    #[error("key {0} was revoked; a new key is accepted")]
    Revoked(KeyId),
    /// No public key.
    #[error("{} is no public key in minisign's format", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// An image is not to be signed as it is.
    #[error("image {image} {why}")]
    Image {
        /// Name or digest.
        image: String,
        /// What is wrong with it, and what would be accepted.
        why: String,
    },
}

fn list(keys: &[KeyId]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Store {
    fn keys_folder(&self) -> PathBuf {
        self.root().join("keys")
    }

    /// Every key that is known, or that signed an image with a name.
    pub fn keys(&self) -> anyhow::Result<Vec<Key>> {
        let signs = self.secret_key()?.id().clone();
        let mut keys: BTreeMap<KeyId, Key> = BTreeMap::new();
        let mut note = |id: KeyId, role: Role| {
            let key = Key { id: id.clone(), role, images: Vec::new() };
            keys.entry(id).or_insert(key).role = role;
        };
        let trusted = self.trusted()?;
        trusted.ids().into_iter().for_each(|id| note(id, Role::Trusted));
        note(signs, Role::Signs);
        trusted.revoked().iter().for_each(|id| note(id.clone(), Role::Revoked));
        for name in self.names()? {
            let Some(found) = self.name(&name)? else { continue };
            let text = self.minisig(&found.manifest)?.unwrap_or_default();
            let Some(id) = KeyId::of_signature(&text) else { continue };
            let key = Key { id: id.clone(), role: Role::Unknown, images: Vec::new() };
            keys.entry(id).or_insert(key).images.push(name);
        }
        Ok(keys.into_values().collect())
    }

    /// Makes a key that signs from now on. The one before keeps its files under its name, and is
    /// still believed. Returns the new one and the one before.
    pub fn new_key(&self) -> anyhow::Result<(KeyId, KeyId)> {
        let (folder, before) = (self.keys_folder(), self.secret_key()?.id().clone());
        let _lock = self.lock_alone()?;
        // Whatever a crash leaves, every key that ever signed is believed, and one signs. Here it has
        // left the public half of the key that signs under the name it was made by.
        let (made, public) = (folder.join("new.pub"), folder.join("billet.pub"));
        let text = fs::read_to_string(&made).unwrap_or_default();
        if KeyId::of_public_key(&text).as_ref() == Some(&before) {
            fs::rename(&made, &public).context("replacing billet.pub")?;
        }
        let new = SecretKey::create(&folder, "new")?.id().clone();
        for end in ["pub", "key"] {
            let kept = folder.join(format!("{before}.{end}"));
            match fs::hard_link(folder.join(format!("billet.{end}")), &kept) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("keeping {}", kept.display()));
                }
                _ => {}
            }
        }
        for end in ["key", "pub"] {
            let (from, to) = (format!("new.{end}"), format!("billet.{end}"));
            fs::rename(folder.join(from), folder.join(&to))
                .with_context(|| format!("replacing {to}"))?;
        }
        file::sync_folder(&folder)?;
        Ok((new, before))
    }

    /// Believes the key in a file in minisign's format.
    pub fn trust(&self, path: &Path) -> anyhow::Result<KeyId> {
        let reading = || format!("reading {}", path.display());
        let text = fs::read(path).with_context(reading)?;
        let text = String::from_utf8_lossy(&text);
        let malformed = || KeyRefused::Malformed { path: path.to_owned() };
        let id = KeyId::of_public_key(&text).ok_or_else(malformed)?;
        let trusted = self.trusted()?;
        if trusted.revoked().contains(&id) {
            return Err(KeyRefused::Revoked(id).into());
        }
        if !trusted.ids().contains(&id) {
            file::replace(&self.keys_folder().join(format!("{id}.pub")), text.as_bytes())?;
        }
        Ok(id)
    }

    /// Believes a key no more, given by its name or at least 4 of its first digits.
    pub fn revoke(&self, typed: &str) -> anyhow::Result<KeyId> {
        let keys = self.keys()?;
        let upper = typed.to_ascii_uppercase();
        let fits = |key: &&Key| upper.len() >= 4 && key.id.to_string().starts_with(&upper);
        let mut found = keys.iter().filter(fits);
        let (Some(key), None) = (found.next(), found.next()) else {
            let keys = keys.into_iter().map(|key| key.id).collect();
            return Err(KeyRefused::NoKey { typed: typed.to_owned(), keys }.into());
        };
        let id = key.id.clone();
        if key.role == Role::Signs {
            return Err(KeyRefused::Signs(id).into());
        }
        let folder = self.keys_folder();
        let revoked = folder.join(REVOKED);
        fs::create_dir_all(&revoked).with_context(|| format!("making {}", revoked.display()))?;
        let (mut text, mut files) = (String::new(), Vec::new());
        for path in public_keys(&folder)? {
            let found = fs::read_to_string(&path).unwrap_or_default();
            if KeyId::of_public_key(&found).as_ref() == Some(&id) {
                (text, files) = (found, [files, vec![path]].concat());
            }
        }
        // Noted as revoked before it is gone from the believed: the former counts. Its text stays, to
        // check by it what is to be signed again.
        if key.role != Role::Revoked {
            file::replace(&revoked.join(id.to_string()), text.as_bytes())?;
        }
        for path in files {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        file::sync_folder(&folder)?;
        Ok(id)
    }

    /// Signs an image with the store's key, in place of the signature it has. That one must fit,
    /// even if its key is not believed any more; no signature is accepted where `unsigned` says so.
    pub fn sign(&self, image: &str, unsigned: bool) -> anyhow::Result<(Digest, KeyId)> {
        let manifest = self.resolve(image)?;
        let _lock = self.lock_shared()?;
        let bytes = self.manifest_bytes(&manifest)?;
        let refused = |why: String| KeyRefused::Image { image: image.to_owned(), why };
        match self.minisig(&manifest)? {
            Some(text) => {
                let known = match self.trusted()?.verify(&bytes, &text) {
                    Err(Untrusted::Revoked { signer, .. }) => self.believed(&signer, &bytes, &text),
                    verified => verified,
                };
                known.map_err(|why| refused(format!("is not signed again: {why}")))?;
            }
            None if unsigned => {}
            None => {
                let why = "has no signature; `--unsigned` accepts that".to_owned();
                return Err(refused(why).into());
            }
        }
        let key = self.secret_key()?;
        self.shelf().put(&shelf::minisig(&manifest), key.sign(&bytes)?.as_bytes())?;
        Ok((manifest, key.id().clone()))
    }

    /// What a key that was revoked would be said of a signature if it had not been.
    fn believed(&self, signer: &KeyId, bytes: &[u8], minisig: &str) -> Result<KeyId, Untrusted> {
        let path = self.keys_folder().join(REVOKED).join(signer.to_string());
        let mut former = Trusted::default();
        // A key that was revoked by its name alone is unknown.
        let _ = former.add(&fs::read_to_string(path).unwrap_or_default());
        former.verify(bytes, minisig)
    }

    /// What a RAM system believes: files in its folder of keys, by their names, and their texts.
    pub fn trusted_files(&self) -> anyhow::Result<Vec<(String, String)>> {
        let folder = self.keys_folder();
        let trusted = self.trusted()?;
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for path in public_keys(&folder)? {
            let text = fs::read_to_string(&path);
            let text = text.with_context(|| format!("reading {}", path.display()))?;
            let id = KeyId::of_public_key(&text);
            let id = id.with_context(|| format!("{} is no public key", path.display()))?;
            if !trusted.revoked().contains(&id) {
                files.insert(format!("{id}.pub"), text);
            }
        }
        ensure!(!files.is_empty(), "the store has no key to believe");
        for id in trusted.revoked() {
            files.insert(format!("{REVOKED}/{id}"), String::new());
        }
        Ok(files.into_iter().collect())
    }
}
