//! The system of a recipe: mmdebstrap makes it as an archive, mke2fs makes that a file system.
//!
//! As root both work on the host's own identifiers; as an ordinary user mmdebstrap makes a user
//! namespace of the user's subordinate ones, so that files belong to whom they should. Neither
//! mounts an image nor needs a loop device.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    debian::Source,
    ext4,
    recipe::Recipe,
    recipe_disk::Layout,
    recipe_packages::Packages,
    scratch::{self, Scratch},
    sparse, tool,
};

/// Packages that are needed to make GRUB's programs, and stay out of the image.
const GRUB: &str = "grub-common grub-pc-bin grub-efi-amd64-bin libdevmapper1.02.1";
/// Files of the new system's `/billet` that the disk needs.
pub(crate) const RESULTS: [&str; 4] = ["boot.img", "core.img", "bootx64.efi", "kernel"];
/// Where a user's subordinate identifiers are given.
const SUBORDINATE: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
/// Features of the root file system: what GRUB and every kernel of the suite know, whatever the
/// host's mke2fs would choose.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
                        flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,\
                        metadata_csum";
/// From an archive on standard input to a file system on standard output. Devices come from the
/// kernel, and a user namespace could not make them.
const MAKE_ROOT: &str = r#"
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/root"
tar --extract --numeric-owner --same-permissions --xattrs --xattrs-include='*' \
    --delay-directory-restore --exclude='./dev/*' --directory "$dir/root"
truncate --size "$1" "$dir/file"
shift
mke2fs -q -d "$dir/root" "$@" "$dir/file" >&2
cat "$dir/file"
"#;

/// What a system is made of beside its recipe.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    /// Where packages come from.
    pub(crate) source: &'a Source,
    /// What the build calls now, seconds of Unix time.
    pub(crate) epoch: u64,
    /// Where packages are kept.
    pub(crate) cache: Option<&'a Path>,
    /// Our agent.
    pub(crate) agent: Option<Vec<u8>>,
}

/// A system that is made but on no disk yet.
#[derive(Debug)]
pub(crate) struct System {
    archive: PathBuf,
    /// Where files are unpacked, unless it is where the user's programs do.
    memory: Option<&'static Path>,
    errors: PathBuf,
}

impl System {
    /// Installs packages and overlay; leaves [`RESULTS`] in `scratch`.
    pub(crate) fn build(
        recipe: &Recipe,
        given: &Given,
        scratch: &Scratch,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        check_user()?;
        let Given { source, epoch, cache, .. } = *given;
        stage(recipe, given.agent.as_deref(), &scratch.join("overlay"), epoch)?;
        let archive = scratch.join("system.tar");
        // The system as files, and once more as a file system of that size.
        let memory = scratch::in_memory((u64::from(recipe.disk.root) * 2 + 512) << 20);
        let mut mmdebstrap = mmdebstrap();
        mmdebstrap
            .current_dir(scratch.path())
            .env("SOURCE_DATE_EPOCH", epoch.to_string())
            .args(["--variant=apt", "--architectures=amd64", "--format=tar"])
            // The system is made anew after a power cut; dpkg need not sync every file.
            .args(["--dpkgopt=force-unsafe-io"])
            .arg(format!("--include={}", recipe.packages.join(",")));
        let packages = cache.map(|cache| Packages::lend(cache, scratch)).transpose()?;
        if let Some(packages) = &packages {
            packages.serve(&mut mmdebstrap);
        }
        mmdebstrap.envs(memory.map(|folder| ("TMPDIR", folder)));
        add_hooks(&mut mmdebstrap, recipe);
        mmdebstrap.args([source.suite.as_str(), "system.tar"]).args(source.lines());
        tool::run(&mut mmdebstrap, &mut |line| {
            // mmdebstrap's own steps; the rest is the chatter of apt and dpkg.
            if let Some(step) = line.strip_prefix("I: ").filter(|step| step.ends_with("...")) {
                progress(step.trim_end_matches('.'));
            }
        })
        .context("installing packages")?;
        if let Some(packages) = packages {
            packages.keep()?;
        }
        Ok(System { archive, memory, errors: scratch.join("errors") })
    }

    /// Where its files are, as a tar archive.
    pub(crate) fn archive(&self) -> &Path {
        &self.archive
    }

    /// The files of another archive in its place.
    pub(crate) fn with_archive(self, archive: PathBuf) -> Self {
        System { archive, ..self }
    }

    /// Writes the root file system into its partition.
    pub(crate) fn write_root(
        &self,
        disk: &File,
        layout: &Layout,
        recipe: &Recipe,
        epoch: u64,
    ) -> Result<()> {
        let root = layout.root();
        let mut child = in_namespace()
            .args(["sh", "-c", MAKE_ROOT, "sh", &root.size.to_string()])
            .args(["-t", "ext4", "-O", FEATURES, "-b", "4096", "-I", "256", "-i", "16384"])
            .args(["-m", "1", "-J", "size=32", "-L", "root"])
            .args(["-U", &recipe.id("root").to_string()])
            .arg("-E")
            .arg(format!(
                "hash_seed={},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0",
                recipe.id("hash")
            ))
            .env("E2FSPROGS_FAKE_TIME", epoch.to_string())
            .env("SOURCE_DATE_EPOCH", epoch.to_string())
            .envs(self.memory.map(|folder| ("TMPDIR", folder)))
            .stdin(File::open(&self.archive).context("opening the system's archive")?)
            .stdout(Stdio::piped())
            .stderr(File::create(&self.errors).context("creating a file for errors")?)
            .spawn()
            .context("starting mke2fs")?;
        let stdout = child.stdout.take().context("listening to mke2fs")?;
        let copied = sparse::copy(stdout, disk, root.start);
        let status = child.wait().context("waiting for mke2fs")?;
        let said = fs::read_to_string(&self.errors).unwrap_or_default();
        if !status.success() {
            bail!("making the root file system failed ({status}):\n{}", said.trim_end());
        }
        if copied.context("copying the root file system")? != root.size {
            bail!("the root file system is not as long as its partition");
        }
        ext4::settle_times(disk, root.start, u32::try_from(epoch).unwrap_or(u32::MAX))
            .context("settling the times of files")
    }
}

/// Overlay, agent and scripts as files of one moment, for mmdebstrap to carry into the new system.
fn stage(recipe: &Recipe, agent: Option<&[u8]>, folder: &Path, epoch: u64) -> Result<()> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch);
    let lay = |path: &str, bytes: &[u8]| -> Result<()> {
        let mode =
            if bytes.starts_with(b"#!") || bytes.starts_with(b"\x7fELF") { 0o755 } else { 0o644 };
        let to = folder.join(path);
        to.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&to, bytes))
            .and_then(|()| fs::set_permissions(&to, fs::Permissions::from_mode(mode)))
            .and_then(|()| File::open(&to)?.set_modified(time))
            .with_context(|| format!("laying out {path}"))
    };
    for file in &recipe.overlay {
        lay(&file.path, recipe.render(file).as_bytes())?;
    }
    if let Some(agent) = agent {
        lay("usr/sbin/billet-agent", agent)?;
    }
    let modules = recipe.boot.grub.join(" ");
    let grub = include_str!("../recipes/build/grub").replace("@grub@", &modules);
    lay("billet/grub", grub.as_bytes())?;
    lay("billet/clean", include_bytes!("../recipes/build/clean"))?;
    for (number, script) in recipe.finish.iter().enumerate() {
        lay(&format!("billet/finish{number}"), script.as_bytes())?;
    }
    let archive = folder.with_extension("tar");
    let mut tar = tool::command("tar");
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=u=rwX,go=rX", &format!("--mtime=@{epoch}"), "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .arg(".");
    tool::run(&mut tar, &mut |_| {}).context("packing the overlay")
}

/// What happens in the new system, in order.
fn add_hooks(mmdebstrap: &mut Command, recipe: &Recipe) {
    let script = |name: &str| format!(r#"chroot "$1" sh /billet/{name} >&2"#);
    let download = format!(
        r#"cd "$1/billet" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q \
           -o APT::Sandbox::User=root download {GRUB} >&2"#
    );
    // Before the packages: initramfs-tools reads its configuration while it is installed.
    mmdebstrap.arg("--essential-hook=tar-in overlay.tar /");
    let results = RESULTS.map(|name| format!("download /billet/{name} {name}"));
    let xen = recipe.boot.xen_line.as_ref().map_or("", |_| "/boot/xen.gz");
    let kernel =
        format!(r#"chroot "$1" readlink -f /vmlinuz /initrd.img {xen} >"$1/billet/kernel""#);
    let remove = r#"rm -rf "$1/billet""#;
    let finish = (0..recipe.finish.len()).map(|number| script(&format!("finish{number}")));
    let hooks = [download, script("grub")].into_iter().chain(finish);
    let hooks = hooks.chain([script("clean"), kernel]).chain(results);
    for hook in hooks.chain([remove.to_owned()]) {
        mmdebstrap.arg(format!("--customize-hook={hook}"));
    }
}

/// mmdebstrap with mounts of its own: an ordinary user's are in a namespace anyway, and root's must not
/// stay on the host when somebody kills it.
fn mmdebstrap() -> Command {
    if !nix::unistd::geteuid().is_root() {
        return tool::command("mmdebstrap");
    }
    let mut command = tool::command("unshare");
    command.args(["--mount", "mmdebstrap"]);
    command
}

/// Says what an ordinary user lacks, before mmdebstrap does it at greater length.
fn check_user() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    tool::need(&[tool::Tool { program: "newuidmap", package: "uidmap" }])?;
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .context("looking up the user")?
        .context("the user has no name")?;
    let uid = user.uid.to_string();
    for file in SUBORDINATE {
        let text = fs::read_to_string(file).unwrap_or_default();
        let given = text.lines().filter_map(|line| line.split(':').next());
        if !given.into_iter().any(|name| name == user.name || name == uid) {
            bail!(
                "{file} gives {name} no identifiers for a user namespace; `sudo usermod \
                 --add-subuids 100000-165535 --add-subgids 100000-165535 {name}` does",
                name = user.name
            );
        }
    }
    tool::output(in_namespace().arg("true")).context(
        "entering a user namespace (is kernel.unprivileged_userns_clone or AppArmor in \
                  the way?)",
    )?;
    Ok(())
}

/// A command that runs as the owner of all files: directly as root, else in a user namespace.
fn in_namespace() -> Command {
    if nix::unistd::geteuid().is_root() {
        tool::command("env")
    } else {
        let mut command = tool::command("mmdebstrap");
        command.arg("--unshare-helper");
        command
    }
}
