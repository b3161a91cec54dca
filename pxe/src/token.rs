//! Secrets that a bearer shows: made here, kept only as hashes.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, ensure};
use images::Digest;

/// 256 random bits as 64 hex digits. It has no `Debug` and no `Display`: it must not be logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A fresh one, from the kernel's randomness.
    pub fn new() -> Token {
        Token(Digest::from_bytes(rand::random()).to_string())
    }

    /// One of a known text.
    #[cfg(test)]
    pub fn from_text(text: &str) -> Token {
        Token(text.to_owned())
    }

    /// Its text, for the one who is to bear it.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> Digest {
        hash(&self.0)
    }

    /// The token in the file at `path`, made there (for the owner alone) when there is none.
    /// The flag says whether it was made.
    pub fn load_or_create(path: &Path) -> anyhow::Result<(Token, bool)> {
        let token = Token::new();
        let mut options = fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let write = writeln!(file, "{}", token.secret()).and_then(|()| file.sync_all());
                write.with_context(|| format!("writing {}", path.display()))?;
                Ok((token, true))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok((Token::load(path)?, false))
            }
            Err(error) => Err(error).with_context(|| format!("making {}", path.display())),
        }
    }

    /// The token in the file at `path`, which nobody else may read.
    pub fn load(path: &Path) -> anyhow::Result<Token> {
        let context = || format!("reading {}", path.display());
        let mode = fs::metadata(path).with_context(context)?.permissions().mode() & 0o777;
        let shown = path.display();
        ensure!(
            mode & 0o077 == 0,
            "{shown} can be read by others (mode {mode:o}): chmod 600 {shown}"
        );
        let text = fs::read_to_string(path).with_context(context)?;
        let text = text.trim();
        ensure!(text.len() >= 32, "{shown} holds no token: one has at least 32 characters");
        Ok(Token(text.to_owned()))
    }
}

/// What is kept of a token that somebody shows. Comparing hashes gives no timing away.
pub fn hash(secret: &str) -> Digest {
    Digest::of(secret.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        let (first, made) = Token::load_or_create(&path).unwrap();
        assert!(made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (second, made) = Token::load_or_create(&path).unwrap();
        assert!(!made && first == second && first.secret().len() == 64);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Token::load(&path).is_err());
    }
}
