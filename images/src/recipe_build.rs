//! A recipe becomes a disk: packages and overlay into a system, the system onto a disk.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    debian::{self, Apt, Source},
    foreign::{Foreign, Start},
    format::Format,
    manifest::{Boot, Hypervisor},
    ram,
    recipe::Recipe,
    recipe_disk::{Layout, Parts},
    recipe_system::{Given, System},
    scratch::Scratch,
    tool::{self, Tool},
};

/// Programs of the host that a build runs.
const TOOLS: [Tool; 4] = [
    Tool { program: "mmdebstrap", package: "mmdebstrap" },
    Tool { program: "mke2fs", package: "e2fsprogs" },
    Tool { program: "tar", package: "tar" },
    Tool { program: "truncate", package: "coreutils" },
];

/// What a build may be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder for the disk; made when it is not there.
    pub out: PathBuf,
    /// Suite in place of the recipe's.
    pub suite: Option<String>,
    /// Mirror in place of the host's own; asked alone, without updates from elsewhere.
    pub mirror: Option<String>,
    /// Folder that keeps downloaded packages for the next build.
    pub cache: Option<PathBuf>,
    /// The system, a tar archive or an OCI image layout, for recipes that make a disk of one.
    pub from: Option<PathBuf>,
    /// What that file is, where its first bytes do not tell.
    pub format: Option<Format>,
    /// Our agent, a static program, for recipes that take it in.
    pub agent: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The disk: raw, sparse, `<recipe>.raw` in the folder.
    pub disk: PathBuf,
    /// How to start its system without firmware.
    pub boot: Option<Boot>,
    /// Number of the partition for a node's identity.
    pub seed: Option<u32>,
    /// Source of the packages.
    pub source: Source,
    /// The build's moment in seconds of Unix time: the release of the suite.
    pub epoch: u64,
}

/// Builds the disk of `recipe`; `progress` is told each step as it begins.
///
/// Two builds from the same packages give the same bytes. It needs no root: as an ordinary user
/// the packages are installed in a user namespace.
pub fn build(recipe: &Recipe, options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Built> {
    tool::need(&[&TOOLS[..], &debian::TOOLS[..]].concat())?;
    let agent = agent(recipe, options)?;
    let (foreign, recipe) = foreign(recipe, options)?;
    let recipe = &recipe;
    let suite = options.suite.as_deref().unwrap_or(&recipe.suite);
    let source = Source::new(suite, options.mirror.as_deref(), &recipe.components);
    let scratch = Scratch::new(&options.out)?;

    progress(&format!("asking {} for {suite}", source.mirror));
    let apt = Apt::new(&scratch.join("apt"), &source)?;
    let epoch = apt.released()?;
    let given = Given { source: &source, epoch, cache: options.cache.as_deref(), agent };
    let mut system = System::build(recipe, &given, &scratch, progress)?;
    let names = scratch.join("kernel");
    let mut boot = boot(recipe, &names)?;
    if let Some(foreign) = foreign {
        progress("completing the system");
        let whole = scratch.join("whole.tar");
        let start = foreign.complete(recipe, system.archive(), &names, &whole)?;
        system = system.with_archive(whole);
        let Start { kernel, ramdisk, command_line } = start;
        let partition = Foreign::PARTITION;
        boot = boot.map(|_| Boot { partition, kernel, ramdisk, command_line, hypervisor: None });
    }

    progress("writing the disk");
    let layout = Layout::new(recipe.disk);
    let unfinished = scratch.join("disk");
    let disk = layout.create(&unfinished)?;
    layout.write_table(&disk, recipe)?;
    let parts = Parts::read(&scratch)?;
    layout.write_grub(&disk, &parts)?;
    layout.write_esp(&disk, recipe, &parts)?;
    system.write_root(&disk, &layout, recipe, epoch)?;
    disk.sync_all().context("flushing the disk")?;

    let path = options.out.join(format!("{}.raw", recipe.name));
    fs::rename(&unfinished, &path).with_context(|| format!("naming {}", path.display()))?;
    Ok(Built { disk: path, boot, seed: Some(Layout::SEED), source, epoch })
}

/// The system that comes from a file, and the recipe with room for it.
fn foreign(recipe: &Recipe, options: &Options) -> Result<(Option<Foreign>, Recipe)> {
    let (name, mut recipe) = (&recipe.name, recipe.clone());
    match (&options.from, recipe.given) {
        (None, false) => Ok((None, recipe)),
        (None, true) => bail!("recipe {name} makes a disk of a system in a file: none was given"),
        (Some(_), false) => bail!("recipe {name} makes its system itself: no file is accepted"),
        (Some(path), true) => {
            let foreign = Foreign::open(path, options.format)?;
            foreign.check()?;
            recipe.disk.root = recipe.disk.root.max(foreign.size());
            Ok((Some(foreign), recipe))
        }
    }
}

/// The agent's bytes, when the recipe takes it in.
fn agent(recipe: &Recipe, options: &Options) -> Result<Option<Vec<u8>>> {
    if !recipe.agent {
        return Ok(None);
    }
    let name = &recipe.name;
    let path = options.agent.as_deref();
    let path = path.with_context(|| format!("recipe {name} takes in an agent, none was given"))?;
    ram::read_agent(path).map(Some)
}

/// What `kexec` needs, from the names that the new system told: kernel, RAM disk, and Xen where that
/// starts first.
fn boot(recipe: &Recipe, names: &Path) -> Result<Option<Boot>> {
    if !recipe.boot.kexec {
        return Ok(None);
    }
    let text = fs::read_to_string(names).context("reading the names of kernel and RAM disk")?;
    let mut lines = text.lines().map(str::to_owned);
    let kernel = lines.next().context("the new system has no kernel")?;
    let ramdisk = lines.next();
    let (command_line, hypervisor) = match recipe.boot.xen_line.clone() {
        None => (recipe.command_line(), None),
        Some(xen_line) => {
            let xen = lines.next().context("the new system has no Xen")?;
            let linux_line = recipe.boot.command_line.clone();
            (recipe.root_line(), Some(Hypervisor { xen, xen_line, linux_line }))
        }
    };
    Ok(Some(Boot { partition: Layout::ROOT, kernel, ramdisk, command_line, hypervisor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a recipe says of its start, when the system told these names.
    fn told(recipe: &str, names: &str) -> Result<Option<Boot>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, names).unwrap();
        boot(&Recipe::built_in(recipe).unwrap(), &path)
    }

    #[test]
    fn kexec_starts_what_grub_would() {
        let bare = told("bare", "/boot/vmlinuz-1\n/boot/initrd.img-1\n").unwrap().unwrap();
        assert!(bare.hypervisor.is_none());
        let names = "/boot/vmlinuz-1\n/boot/initrd.img-1\n/boot/xen-4-amd64.gz\n";
        let dom0 = told("dom0", names).unwrap().unwrap();
        let hypervisor = dom0.hypervisor.unwrap();
        assert_eq!(hypervisor.xen, "/boot/xen-4-amd64.gz");
        let recipe = Recipe::built_in("dom0").unwrap();
        let grub = recipe.overlay.iter().find(|file| file.path == "boot/grub/grub.cfg").unwrap();
        let grub = recipe.render(grub);
        for said in [
            format!("set xen_line=\"{}\"\n", hypervisor.xen_line),
            format!("set linux_line=\"{}\"\n", hypervisor.linux_line),
            format!("module2 /vmlinuz {} $linux_line\n", dom0.command_line),
        ] {
            assert!(grub.contains(&said), "{said}");
        }
        assert!(told("dom0", "/boot/vmlinuz-1\n/boot/initrd.img-1\n").is_err());
    }
}
