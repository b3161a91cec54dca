//! Drivers: which ones the machine's devices ask for, and how they get into the kernel.
//!
//! Reads `modules.dep` and `modules.alias` of `/lib/modules/<version>` as depmod writes them
//! (files uncompressed), and the `modalias` of every device in sysfs.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    kmod::{ModuleInitFlags, finit_module},
    sys::utsname::uname,
};

use crate::{alias, console};

/// The drivers that the RAM system has.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    folder: PathBuf,
    /// File and what must be loaded before it (nearest first), by module name.
    files: HashMap<String, Vec<String>>,
    /// Pattern and module name.
    aliases: Vec<(String, String)>,
    /// Names that need no second try, loaded or not.
    tried: HashSet<String>,
    /// What devices said that was looked up already.
    asked: HashSet<String>,
}

impl Modules {
    /// The drivers for the running kernel.
    pub(crate) fn open() -> Result<Self> {
        let kernel = uname().context("asking for the kernel's version")?;
        Self::read(&Path::new("/lib/modules").join(kernel.release()))
    }

    fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        Ok(Self::parse(folder, &text("modules.dep")?, &text("modules.alias")?))
    }

    fn parse(folder: &Path, dep: &str, alias: &str) -> Self {
        let file = |line: &str| {
            let (file, needs) = line.split_once(':')?;
            let files = std::iter::once(file).chain(needs.split_ascii_whitespace());
            Some((name_of(file), files.map(str::to_owned).collect()))
        };
        let alias_of = |line: &str| {
            let mut words = line.strip_prefix("alias ")?.rsplitn(2, ' ');
            let module = words.next()?.to_owned();
            Some((words.next()?.to_owned(), module))
        };
        Modules {
            folder: folder.to_owned(),
            files: dep.lines().filter_map(file).collect(),
            aliases: alias.lines().filter_map(alias_of).collect(),
            ..Modules::default()
        }
    }

    /// Modules for a device's `modalias`, or for a name the kernel asks for (`fs-ext4`).
    fn matching(&self, modalias: &str) -> Vec<String> {
        let fits = self.aliases.iter().filter(|(pattern, _)| alias::fits(pattern, modalias));
        fits.map(|(_, module)| module.replace('-', "_")).collect()
    }

    /// Files to load for `module`, in order.
    fn plan(&self, module: &str) -> Option<Vec<&str>> {
        Some(self.files.get(module)?.iter().rev().map(String::as_str).collect())
    }

    /// Loads a module by its name, or all that have it for an alias, and what they need first.
    /// A module that is in already is no error. Of several, one that loads is enough: of the
    /// checksums called `crypto-crc32c` one wants an instruction that not every CPU has.
    pub(crate) fn load(&mut self, name: &str) -> Result<()> {
        let plain = name.replace('-', "_");
        let names = if self.files.contains_key(&plain) { vec![plain] } else { self.matching(name) };
        if names.is_empty() {
            return Err(anyhow!("no module `{name}` in {}", self.folder.display()));
        }
        let loaded: Vec<Result<()>> = names.iter().map(|name| self.load_module(name)).collect();
        match loaded.iter().any(Result::is_ok) {
            true => Ok(()),
            false => loaded.into_iter().collect(),
        }
    }

    fn load_module(&mut self, module: &str) -> Result<()> {
        if !self.tried.insert(module.to_owned()) {
            return Ok(());
        }
        let files = self.plan(module).with_context(|| format!("no file for module {module}"))?;
        for file in files {
            insert(&self.folder.join(file))?;
        }
        Ok(())
    }

    /// Loads what the devices under `devices` ask for and was not looked up yet; whether any
    /// device was new. A driver that does not load is said once and done without.
    pub(crate) fn load_for(&mut self, devices: &Path) -> bool {
        let mut found = Vec::new();
        collect_modaliases(devices, &mut found);
        let new: Vec<String> =
            found.into_iter().filter(|modalias| self.asked.insert(modalias.clone())).collect();
        for module in new.iter().flat_map(|modalias| self.matching(modalias)).collect::<Vec<_>>() {
            if let Err(error) = self.load_module(&module) {
                console::say(format_args!("driver {module}: {error:#}"));
            }
        }
        !new.is_empty()
    }
}

/// `kernel/drivers/net/virtio-net.ko` is module `virtio_net`.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

fn insert(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    match finit_module(file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("loading {}", path.display())),
    }
}

fn collect_modaliases(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            // Links lead back up; following them would never end.
            Ok(kind) if kind.is_dir() => collect_modaliases(&entry.path(), found),
            Ok(_) if entry.file_name() == "modalias" => {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                found.push(text.trim().to_owned());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/hid/hid-generic.ko: kernel/drivers/hid/hid.ko
";
    const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias virtio:d00000001v* virtio_net
alias fs-ext4 ext4
alias platform:with spaces* hid-generic
";

    fn modules() -> Modules {
        Modules::parse(Path::new("/m"), DEP, ALIAS)
    }

    #[test]
    fn what_a_module_needs_comes_before_it() {
        assert_eq!(
            modules().plan("virtio_net").unwrap(),
            [
                "kernel/net/core/failover.ko",
                "kernel/drivers/net/net_failover.ko",
                "kernel/drivers/net/virtio_net.ko"
            ]
        );
    }

    #[test]
    fn dashes_in_names_are_underscores() {
        assert!(modules().plan("hid_generic").is_some());
        assert_eq!(modules().matching("platform:with spaces and more"), ["hid_generic"]);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let error = modules().load("nosuch").unwrap_err();
        assert_eq!(error.to_string(), "no module `nosuch` in /m");
    }

    #[test]
    fn modaliases_are_found_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("pci0000:00/0000:00:01.0");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("modalias"), "virtio:d00000009v1\n").unwrap();
        std::os::unix::fs::symlink(folder.path(), device.join("subsystem")).unwrap();
        let mut modules = modules();
        assert!(modules.load_for(folder.path()));
        assert!(!modules.load_for(folder.path()), "nothing is new the second time");
    }
}
