//! The SSH host key of a node: made once, kept, so that who logs in can know the machine.

use anyhow::Context as _;
use ssh_key::{
    LineEnding, PrivateKey,
    private::{Ed25519Keypair, KeypairData},
};

/// A fresh ed25519 key in OpenSSH's private form.
pub fn new_host_key() -> anyhow::Result<String> {
    let pair = Ed25519Keypair::from_seed(&rand::random());
    let key = PrivateKey::new(KeypairData::from(pair), "").context("making an SSH host key")?;
    let text = key.to_openssh(LineEnding::LF).context("rendering an SSH host key")?;
    Ok(text.to_string())
}

/// The public line (`ssh-ed25519 AAAA...`) of a private key.
pub fn public_line(private: &str) -> anyhow::Result<String> {
    let key = PrivateKey::from_openssh(private).context("reading an SSH host key")?;
    key.public_key().to_openssh().context("rendering a public SSH host key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_both_forms() {
        let private = new_host_key().unwrap();
        assert!(private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        assert!(private.ends_with("-----END OPENSSH PRIVATE KEY-----\n"));
        let line = public_line(&private).unwrap();
        assert!(line.starts_with("ssh-ed25519 AAAA") && !line.contains('\n'), "{line}");
        assert_ne!(private, new_host_key().unwrap());
    }
}
