//! Programs and files of the host's packages that the rack needs: found, or named together
//! with the command that installs them.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail, ensure};

/// Where a package's program may be; `sbin` is often not in an ordinary user's `PATH`.
const FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];

/// The path of `program`, of Debian's `package`.
pub fn program(program: &str, package: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
    let found = folders.map(|folder| folder.join(program)).find(|path| path.is_file());
    found.map_or_else(|| bail!("`{program}` is missing: `apt-get install {package}` brings it"), Ok)
}

/// The first of `places` that exists, of Debian's `package`.
pub fn file(what: &str, places: &[&str], package: &str) -> Result<PathBuf> {
    let found = places.iter().map(Path::new).find(|path| path.is_file());
    found.map_or_else(
        || {
            bail!(
                "{what} is missing (looked for {places:?}): `apt-get install {package}` brings it"
            )
        },
        |path| Ok(path.to_owned()),
    )
}

/// Runs `program` with these words.
pub fn run(program: &str, words: &str) -> Result<Output> {
    let output = Command::new(program).args(words.split_whitespace()).output();
    output.with_context(|| format!("running {program} {words}"))
}

/// The same: what it printed.
///
/// # Errors
/// When it fails: with what it said.
pub fn said(program: &str, words: &str) -> Result<String> {
    let output = run(program, words)?;
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{program} {words}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
