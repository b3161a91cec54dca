//! What the rack's machines boot: the two programs, the RAM system and the images, found or
//! built once and kept in a cache.
//!
//! Building wants the network and an ordinary user's own identity, so it comes before
//! [`crate::enter()`].

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::hardware;

/// The two programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `billet`.
    pub billet: PathBuf,
    /// `billet-agent`.
    pub agent: PathBuf,
}

/// A store with what was asked for in it.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// The programs it was made with.
    pub programs: Programs,
    /// The store's folder.
    pub store: PathBuf,
}

/// Something that the store can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Kernel, RAM disk and boot programs.
    Ram,
    /// The image `bare`.
    Bare,
    /// The image `dom0`.
    Dom0,
    /// A QEMU with cards that can be cut into VFs.
    Qemu,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Ram => "ram",
            Part::Bare => "bare",
            Part::Dom0 => "dom0",
            Part::Qemu => "qemu",
        }
    }

    fn has_agent(self) -> bool {
        matches!(self, Part::Ram | Part::Dom0)
    }
}

impl Programs {
    /// From `BILLET` and `BILLET_AGENT`, or what cargo built last.
    pub fn find() -> Result<Self> {
        let billet = find("BILLET", "billet", &["debug", "release"], "cargo build -p pxe")?;
        Ok(Programs { billet, agent: Programs::agent()? })
    }

    /// The agent alone, from `BILLET_AGENT` or what cargo built last.
    pub fn agent() -> Result<PathBuf> {
        let build = "cargo build --profile agent -p agent";
        find("BILLET_AGENT", "billet-agent", &["agent"], build)
    }
}

/// The folder `target/` of this build.
fn target() -> PathBuf {
    let root = repository();
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn find(variable: &str, name: &str, profiles: &[&str], build: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable).map(PathBuf::from) {
        ensure!(path.is_file(), "{variable} names {}, which is not there", path.display());
        return path.canonicalize().context("resolving a program's path");
    }
    let folder = target().join("x86_64-unknown-linux-gnu");
    let places = profiles.iter().map(|profile| folder.join(profile).join(name));
    let newest = places
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max_by_key(|(modified, _)| *modified);
    let (_, path) = newest.with_context(|| {
        format!("`{name}` is not built: `{build}` does, or set {variable} to its path")
    })?;
    Ok(path)
}

impl Artefacts {
    /// Makes sure that the cached store has `parts`; `say` is told before something is built,
    /// which may take minutes. `BILLET_STORE` names a ready store to take as it is instead.
    pub fn prepare(parts: &[Part], say: impl Fn(&str)) -> Result<Self> {
        let programs = Programs::find()?;
        if parts.contains(&Part::Qemu) {
            hardware::unpacked_qemu()?;
        }
        if let Some(store) = env::var_os("BILLET_STORE").map(PathBuf::from) {
            let store = store.canonicalize().context("resolving BILLET_STORE")?;
            return Ok(Artefacts { programs, store });
        }
        let cache = env::var_os("BILLET_CACHE").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| target().join("rack-cache"));
        fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
        let cache = cache.canonicalize().context("resolving the cache's path")?;
        let artefacts = Artefacts { programs, store: cache.join("store") };
        let lock = File::create(cache.join("lock")).context("opening the cache's lock")?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive);
        let _lock = lock.map_err(|(_, errno)| errno).context("locking the cache")?;
        for part in parts.iter().filter(|part| **part != Part::Qemu) {
            artefacts.make(*part, &cache, &say)?;
        }
        Ok(artefacts)
    }

    /// A store of its own in `folder`, without images, with the same RAM system: it signs with
    /// the key that this RAM system believes.
    pub fn small_store(&self, folder: &Path) -> Result<PathBuf> {
        let store = folder.join("store");
        for part in ["boot", "keys"] {
            let (from, to) = (self.store.join(part), store.join(part));
            fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
            for entry in fs::read_dir(&from).with_context(|| format!("reading {from:?}"))? {
                let entry = entry.context("reading a folder")?;
                fs::copy(entry.path(), to.join(entry.file_name())).context("copying a file")?;
            }
        }
        Ok(store)
    }

    /// The folder with Debian packages that the cached images were made of.
    pub fn packages(&self) -> PathBuf {
        self.store.with_file_name("build")
    }

    /// `billet ARGUMENTS`: what it printed.
    ///
    /// # Errors
    /// When it fails: with what it said.
    pub fn billet(&self, arguments: &[&OsStr]) -> Result<String> {
        let mut command = Command::new(&self.programs.billet);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output = output.context("running billet")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "billet {arguments:?}: {} {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `billet image import`
    pub fn import(&self, store: &Path, name: &str, seed: Option<u32>, disk: &Path) -> Result<()> {
        let seed = seed.map(|number| number.to_string());
        let mut arguments: Vec<&OsStr> = vec!["image".as_ref(), "import".as_ref()];
        arguments.extend::<[&OsStr; 4]>([
            "--store".as_ref(),
            store.as_ref(),
            "--name".as_ref(),
            name.as_ref(),
        ]);
        if let Some(seed) = &seed {
            arguments.extend::<[&OsStr; 2]>(["--seed".as_ref(), seed.as_ref()]);
        }
        arguments.push(disk.as_ref());
        self.billet(&arguments).map(drop)
    }

    fn make(&self, part: Part, cache: &Path, say: &impl Fn(&str)) -> Result<()> {
        let stamp = cache.join(format!("{}.stamp", part.name()));
        let key = self.key(part)?;
        if fs::read_to_string(&stamp).is_ok_and(|known| known == key) {
            return Ok(());
        }
        let log = cache.join(format!("build-{}.log", part.name()));
        let here = std::env::current_dir().unwrap_or_default();
        let shown = log.strip_prefix(here).unwrap_or(&log).display();
        say(&format!("building {} (once; see {shown})", part.name()));
        let output = File::create(&log).context("opening a build's log")?;
        let mut command = Command::new(&self.programs.billet);
        command.args(["image", "build", part.name(), "--store"]).arg(&self.store);
        command.arg("--work").arg(cache.join("build"));
        if part.has_agent() {
            command.arg("--agent").arg(&self.programs.agent);
        }
        command.stdout(output.try_clone().context("copying a descriptor")?).stderr(output);
        let status = command.status().context("running billet image build")?;
        ensure!(
            status.success(),
            "`billet image build {}` failed ({status}); the end of {}:\n{}",
            part.name(),
            log.display(),
            last_lines(&log, 20)
        );
        fs::write(&stamp, key).context("writing a stamp")
    }

    /// Changes when the part would come out differently: with the recipes for an image, with
    /// the agent too where it is inside.
    fn key(&self, part: Part) -> Result<String> {
        let images = repository().join("images");
        let mut paths = files(&images.join("recipes"))?;
        let mut sources = files(&images.join("src"))?;
        let made_by = match part {
            Part::Bare | Part::Dom0 => ["recipe", "debian", "ext4", "grub"].as_slice(),
            Part::Ram => ["ram", "cpio", "modules"].as_slice(),
            // No image: Debian's own.
            Part::Qemu => &[],
        };
        sources.retain(|path| {
            let path = path.to_string_lossy();
            made_by.iter().any(|name| path.contains(&format!("src/{name}")))
        });
        paths.append(&mut sources);
        if part.has_agent() {
            paths.push(self.programs.agent.clone());
        }
        let mut hasher = blake3::Hasher::new();
        for path in paths {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            hasher.update(path.to_string_lossy().as_bytes()).update(&bytes);
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Every file under a folder, in order; none when there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        if path.is_dir() {
            found.append(&mut files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The last lines of a log, for a failure's message.
pub(crate) fn last_lines(path: &Path, count: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
