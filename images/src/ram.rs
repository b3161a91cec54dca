//! The RAM system: a kernel, and beside it the drivers that machines need to reach their
//! network and their disks, with the agent as `/init`. It writes images, and is fetched by
//! every node for every deployment, so it is small.
//!
//! Kernel, drivers and boot programs come from Debian packages; nothing is installed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    cpio::Cpio,
    debian::{self, Apt, Source},
    file,
    modules::{self, ModuleInfo},
    scratch::Scratch,
    signature,
    tool::{self, Tool},
};

/// The suite that kernel and boot programs come from unless another is asked for.
const SUITE: &str = "trixie";
/// Package that depends on the current kernel's.
const KERNEL: &str = "linux-image-amd64";
/// What firmware fetches, and where package `ipxe` has it.
const BOOT_PROGRAMS: [&str; 3] = ["undionly.kpxe", "ipxe.efi", "snponly.efi"];
/// Where the agent looks for keys.
const TRUSTED: &str = "etc/billet/trusted";
/// Levels above this save little and cost minutes.
const LEVEL: i32 = 19;

/// Drivers, by what they are for. What they need themselves comes along.
const WANTED: [&[&str]; 6] = [
    // virtual machines
    &["virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi", "virtio_rng"],
    // disks and their controllers
    &["ahci", "ata_piix", "sd_mod", "nvme", "megaraid_sas", "mpt3sas"],
    // network up to 1 Gbit/s, with the chips between controller and cable
    &["e1000", "e1000e", "igb", "tg3", "broadcom"],
    // network above
    &["ixgbe", "i40e", "ice", "bnxt_en", "mlx4_en", "mlx5_core"],
    // file systems, for kexec and firmware variables; ext4 asks for its checksum by a name that
    // no dependency mentions, and does not mount without
    &["ext4", "crc32c_generic", "efivarfs"],
    // the BMC's own word on where it answers
    &["ipmi_si", "ipmi_devintf"],
];

/// What to build it from.
#[derive(Debug, Clone)]
pub struct Options {
    /// The agent, a static program.
    pub agent: PathBuf,
    /// Keys whose images it believes: file name (`*.pub`) and text in minisign's form; and
    /// `revoked/<id>` for keys that it never believes.
    pub trusted: Vec<(String, String)>,
    /// Folder for the files that are made.
    pub out: PathBuf,
    /// Debian suite instead of the usual one.
    pub suite: Option<String>,
    /// Debian mirror instead of the host's own.
    pub mirror: Option<String>,
}

/// What was built, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Version of the kernel.
    pub version: String,
    /// Size of `kernel`.
    pub kernel: u64,
    /// Size of `ramdisk`.
    pub ramdisk: u64,
}

/// Builds `kernel`, `ramdisk` and the boot programs into the folder asked for; each file is
/// replaced whole. `progress` is told what is being done.
pub fn build(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Built> {
    tool::need(&debian::TOOLS)?;
    tool::need(&[Tool { program: "xz", package: "xz-utils" }])?;
    let agent = read_agent(&options.agent)?;
    fs::create_dir_all(&options.out)
        .with_context(|| format!("making {}", options.out.display()))?;
    let scratch = Scratch::new(&options.out)?;
    progress("fetching package lists");
    let suite = options.suite.as_deref().unwrap_or(SUITE);
    let source = Source::new(suite, options.mirror.as_deref(), &["main".to_owned()]);
    let apt = Apt::new(&scratch.join("apt"), &source)?;
    let package = apt.depends(KERNEL)?;
    let tree = scratch.join("tree");
    progress(&format!("fetching {package}"));
    apt.unpack(&package, &tree)?;
    progress("fetching ipxe");
    apt.unpack("ipxe", &tree)?;
    progress("packing the RAM disk");
    let (version, folder) = kernel_folder(&tree)?;
    let ramdisk = pack(&agent, &options.trusted, &version, &folder)?;
    let kernel = read(&tree.join("boot").join(format!("vmlinuz-{version}")))?;
    for program in BOOT_PROGRAMS {
        let bytes = read(&tree.join("usr/lib/ipxe").join(program))?;
        file::replace(&options.out.join(program), &bytes)?;
    }
    file::replace(&options.out.join("kernel"), &kernel)?;
    file::replace(&options.out.join("ramdisk"), &ramdisk)?;
    Ok(Built { version, kernel: kernel.len() as u64, ramdisk: ramdisk.len() as u64 })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The agent must run where there is no C library: a program that asks for an interpreter
/// would leave every node with a kernel panic.
pub(crate) fn read_agent(path: &Path) -> Result<Vec<u8>> {
    const INTERPRETER: u32 = 3;
    let bytes = read(path)?;
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        bail!("{} is not a program; a static x86-64 billet-agent is", path.display());
    }
    let field = |at: usize, size: usize| {
        let field = bytes.get(at..at + size).unwrap_or_default();
        field.iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (table, entry, count) = (field(0x20, 8), field(0x36, 2), field(0x38, 2));
    let kinds = (0..count).map(|n| field(table.saturating_add(n * entry).min(bytes.len()), 4));
    if kinds.into_iter().any(|kind| kind == INTERPRETER as usize) {
        bail!("{} needs a C library beside it; a static billet-agent does not", path.display());
    }
    Ok(bytes)
}

/// The kernel's version and the folder of its modules.
fn kernel_folder(tree: &Path) -> Result<(String, PathBuf)> {
    let places = ["usr/lib/modules", "lib/modules"].map(|place| tree.join(place));
    let mut versions =
        places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    let folder = versions.next().context("the kernel's package has no modules")?.path();
    let version = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((version, folder))
}

fn pack(
    agent: &[u8],
    trusted: &[(String, String)],
    version: &str,
    folder: &Path,
) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for path in ["dev", "etc", "etc/billet", TRUSTED, "lib", "lib/modules"] {
        cpio.folder(path);
    }
    cpio.folder(&format!("{TRUSTED}/{}", signature::REVOKED));
    // Before devtmpfs is there, the kernel opens this one for /init.
    cpio.device("dev/console", 0o600, 5, 1);
    for (name, text) in trusted {
        cpio.file(&format!("{TRUSTED}/{name}"), 0o644, text.as_bytes());
    }
    let home = format!("lib/modules/{version}");
    cpio.folder(&home);
    let kernel = KernelModules::find(folder)?;
    let chosen = kernel.choose()?;
    for (name, _) in &chosen {
        let bytes = kernel.read(name)?.with_context(|| format!("reading module {name}"))?;
        cpio.file(&format!("{home}/{name}.ko"), 0o644, &bytes);
    }
    cpio.file(&format!("{home}/modules.dep"), 0o644, modules::render_dep(&chosen).as_bytes());
    cpio.file(&format!("{home}/modules.alias"), 0o644, modules::render_alias(&chosen).as_bytes());
    cpio.file("init", 0o755, agent);
    zstd::bulk::compress(&cpio.finish(), LEVEL).context("compressing the RAM disk")
}

/// The modules of a kernel's package.
struct KernelModules {
    files: BTreeMap<String, PathBuf>,
    built_in: String,
}

impl KernelModules {
    fn find(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.join("kernel")];
        while let Some(folder) = folders.pop() {
            let list = fs::read_dir(&folder);
            for entry in list.with_context(|| format!("reading {}", folder.display()))? {
                let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                match file.split_once(".ko") {
                    Some((name, _)) => drop(files.insert(modules::plain_name(name), path)),
                    None if path.is_dir() => folders.push(path),
                    None => {}
                }
            }
        }
        let built_in = fs::read_to_string(folder.join("modules.builtin"));
        let built_in = built_in.context("reading modules.builtin")?;
        Ok(KernelModules { files, built_in: modules::plain_name(&built_in) })
    }

    /// What is wanted and what that needs; what the kernel has built in needs no file.
    fn choose(&self) -> Result<Vec<(String, ModuleInfo)>> {
        let in_kernel = |name: &&str| self.built_in.contains(&format!("/{name}.ko"));
        let wanted: Vec<&str> =
            WANTED.concat().into_iter().filter(|name| !in_kernel(name)).collect();
        modules::closure(&wanted, |name| {
            let Some(bytes) = self.read(name)? else { return Ok(None) };
            let info = ModuleInfo::parse(&bytes);
            Ok(Some(info.with_context(|| format!("module {name} has no .modinfo section"))?))
        })
    }

    /// A module, as the kernel loads it.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.files.get(name) else { return Ok(None) };
        let bytes = match path.extension().and_then(|end| end.to_str()) {
            Some("xz") => tool::output(Command::new("xz").arg("-dc").arg(path))?,
            Some("zst") => zstd::stream::decode_all(&*read(path)?)
                .with_context(|| format!("decompressing {}", path.display()))?,
            _ => read(path)?,
        };
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_no_static_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(read_agent(&script).unwrap_err().to_string().contains("not a program"));
        let error = read_agent(Path::new("/bin/sh")).unwrap_err().to_string();
        assert!(error.contains("needs a C library"), "{error}");
        // Tests are static, like every program here.
        read_agent(Path::new("/proc/self/exe")).unwrap();
    }
}
