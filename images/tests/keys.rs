//! Keys of a store as its operator handles them, beside minisign's own program.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use images::{
    Digest, Store, Trusted,
    import::{Options, import_stream},
    keys::{KeyRefused, Role},
    signature::Untrusted,
};

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("store")).unwrap();
    (folder, store)
}

fn add(store: &Store, name: &str, byte: u8) -> Digest {
    import_stream(store, &[byte; 9000][..], &Options::new(name)).unwrap().manifest
}

fn signer(store: &Store, manifest: &Digest) -> Result<String, Untrusted> {
    let text = fs::read_to_string(store.minisig_path(manifest)).unwrap();
    let bytes = store.manifest_bytes(manifest).unwrap();
    store.trusted().unwrap().verify(&bytes, &text).map(|id| id.to_string())
}

fn minisign(args: &[&str], files: &[(&str, &Path)]) -> Output {
    let mut command = Command::new("minisign");
    command.args(args);
    for (option, path) in files {
        command.arg(option).arg(path);
    }
    command.output().unwrap()
}

#[test]
fn a_new_key_signs_and_what_the_old_one_signed_is_believed_until_it_is_revoked() {
    let (_folder, store) = store();
    let first = add(&store, "first", 1);
    let (new, old) = store.new_key().unwrap();
    assert_ne!(new, old);
    let second = add(&store, "second", 2);
    assert_eq!(signer(&store, &first).unwrap(), old.to_string());
    assert_eq!(signer(&store, &second).unwrap(), new.to_string());
    let keys = store.keys().unwrap();
    let of = |id| keys.iter().find(|key| key.id == id).unwrap().clone();
    assert_eq!(
        (of(new.clone()).role, of(new.clone()).images),
        (Role::Signs, vec!["second".to_owned()])
    );
    assert_eq!(
        (of(old.clone()).role, of(old.clone()).images),
        (Role::Trusted, vec!["first".to_owned()])
    );

    let error = store.revoke(&new.to_string()).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(KeyRefused::Signs(_))), "{error}");
    let error = store.revoke("0000").unwrap_err().to_string();
    assert!(error.contains(&old.to_string()) && error.starts_with("no key `0000`"), "{error}");
    assert_eq!(store.revoke(&old.to_string()[..6].to_lowercase()).unwrap(), old);
    assert_eq!(store.revoke(&old.to_string()).unwrap(), old);
    let said = signer(&store, &first).unwrap_err().to_string();
    assert_eq!(said, format!("signed by key {old}, which was revoked; trusted are {new}"));
    let faults = store.verify(&first, &store.trusted().unwrap(), &|_, _| {}).unwrap().faults;
    assert!(faults[0].to_string().contains("which was revoked"), "{faults:?}");

    store.sign("first", false).unwrap();
    assert_eq!(signer(&store, &first).unwrap(), new.to_string());

    // Cut between the two halves of a new key.
    let keys = store.root().join("keys");
    let former = fs::read(keys.join("billet.pub")).unwrap();
    let (third, _) = store.new_key().unwrap();
    fs::rename(keys.join("billet.pub"), keys.join("new.pub")).unwrap();
    fs::write(keys.join("billet.pub"), former).unwrap();
    let manifest = add(&store, "third", 3);
    assert_eq!(signer(&store, &manifest).unwrap(), third.to_string());
    assert_eq!(store.new_key().unwrap().1, third);
    assert_eq!(signer(&store, &manifest).unwrap(), third.to_string());
    assert_eq!(signer(&store, &first).unwrap(), new.to_string());
}

#[test]
fn a_ram_system_gets_the_believed_keys_and_refuses_a_revoked_one_by_name() {
    let (folder, store) = store();
    let first = add(&store, "first", 1);
    let (new, old) = store.new_key().unwrap();
    store.revoke(&old.to_string()).unwrap();
    let files = store.trusted_files().unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [format!("{new}.pub"), format!("revoked/{old}")]);
    // As the agent finds them, even when an old file is still among the believed.
    let there = folder.path().join("trusted");
    fs::create_dir_all(there.join("revoked")).unwrap();
    files.iter().for_each(|(name, text)| fs::write(there.join(name), text).unwrap());
    fs::copy(store.root().join("keys/revoked").join(old.to_string()), there.join("old.pub"))
        .unwrap();
    let text = fs::read_to_string(store.minisig_path(&first)).unwrap();
    let trusted = Trusted::load(&there).unwrap();
    let error = trusted.verify(&store.manifest_bytes(&first).unwrap(), &text).unwrap_err();
    assert!(matches!(error, Untrusted::Revoked { .. }), "{error}");
}

#[test]
fn minisign_and_we_believe_each_other() {
    let (folder, store) = store();
    let manifest = add(&store, "image", 3);
    let (path, keys) = (store.manifest_path(&manifest), store.root().join("keys"));
    let (public, minisig) = (keys.join("billet.pub"), store.minisig_path(&manifest));
    let checked = minisign(&["-V"], &[("-p", &public), ("-m", &path), ("-x", &minisig)]);
    assert!(checked.status.success(), "{checked:?}");

    let (theirs, secret) = (folder.path().join("theirs.pub"), folder.path().join("theirs.key"));
    let made = minisign(&["-G", "-W"], &[("-p", &theirs), ("-s", &secret)]);
    assert!(made.status.success(), "{made:?}");
    let signed = minisign(&["-S"], &[("-s", &secret), ("-m", &path), ("-x", &minisig)]);
    assert!(signed.status.success(), "{signed:?}");
    assert!(matches!(signer(&store, &manifest), Err(Untrusted::UnknownKey { .. })));
    assert!(store.keys().unwrap().iter().any(|key| key.role == Role::Unknown));
    let id = store.trust(&theirs).unwrap();
    assert_eq!(store.trust(&theirs).unwrap(), id);
    assert_eq!(signer(&store, &manifest).unwrap(), id.to_string());
    store.revoke(&id.to_string()).unwrap();
    let error = store.trust(&theirs).unwrap_err().to_string();
    assert_eq!(error, format!("key {id} was revoked; a new key is accepted"));
    let error = store.trust(&path).unwrap_err().to_string();
    assert!(error.contains("no public key"), "{error}");
}

#[test]
fn only_what_is_whole_is_signed_again() {
    let (_folder, store) = store();
    let first = add(&store, "first", 1);
    let other = add(&store, "other", 2);
    fs::copy(store.minisig_path(&other), store.minisig_path(&first)).unwrap();
    let refused = |unsigned| store.sign("first", unsigned).unwrap_err().to_string();
    assert!(refused(true).contains("changed after signing"), "{}", refused(true));
    // The same by a key that is revoked.
    let (_, old) = store.new_key().unwrap();
    store.revoke(&old.to_string()).unwrap();
    assert!(refused(true).contains("changed after signing"), "{}", refused(true));
    fs::remove_file(store.minisig_path(&first)).unwrap();
    assert!(refused(false).contains("--unsigned"), "{}", refused(false));
    let (manifest, key) = store.sign("first", true).unwrap();
    assert_eq!((manifest, signer(&store, &first).unwrap()), (first, key.to_string()));
}
