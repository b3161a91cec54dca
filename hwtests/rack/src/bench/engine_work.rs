//! What the engine and its peers are given: a disk of 4 GiB with a real Debian on it, and what
//! became of it, each as a raw file, in a store of ours and in the peers' forms.
//!
//! Made once, below `target/engine/`; a file that is there is whole.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use images::{Digest, Store, import};

use super::{say, target, wire::run};
use crate::tool;

/// Length of the disk.
pub const SIZE: u64 = 4 << 30;
/// Where the root file system begins.
pub const ROOT: u64 = 128 << 20;
/// What is touched is touched in stretches, as files are.
const STRETCH: usize = 1 << 20;
const MIRROR: &str = "http://deb.debian.org/debian";
const SUITE: &str = "bookworm";
/// Enough for the bytes in use that the figures speak of.
const PACKAGES: &str = "linux-image-amd64,systemd-sysv,openssh-server,build-essential,git,vim,\
     python3,python3-pip,perl,gdb,cmake,curl,rsync,strace,tcpdump,iproute2,man-db,locales,gfortran,\
     clang,default-jdk-headless";
/// The names of file systems, alike in all versions as an image's recipe would have it.
const UUID: &str = "6a1e7b52-31a5-4f0e-8f00-000000000001";

/// A state of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The image as it was deployed.
    Base,
    /// The same after use: a fifth of what it holds touched, and rubbish in free space.
    Used,
    /// The next version: one byte in twenty is new.
    Upgrade,
    /// The next version, rebuilt from packages with Debian's updates: all files moved.
    Rebuilt,
    /// A disk that shares nothing with any of them.
    Foreign,
}

impl State {
    /// What its files are called.
    pub fn name(self) -> &'static str {
        match self {
            State::Base => "base",
            State::Used => "used",
            State::Upgrade => "upgrade",
            State::Rebuilt => "rebuilt",
            State::Foreign => "foreign",
        }
    }
}

/// All of it.
#[derive(Debug)]
pub struct Work {
    /// The folder of everything.
    pub folder: PathBuf,
    /// Ours.
    pub store: Store,
}

/// The states that are written; the others only stand on the disk before.
const IMAGES: [State; 3] = [State::Base, State::Upgrade, State::Rebuilt];

impl Work {
    /// Makes what is missing. Needs root, the network, and a quarter of an hour.
    pub fn prepare() -> Result<Self> {
        let folder = target()?.join("engine");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let folder = folder.canonicalize().context("resolving the engine's folder")?;
        let store = Store::create(folder.join("store"))?;
        let work = Work { folder, store };
        work.once("base.raw", |to| work.system(to, "base.tar", &[]))?;
        let updates = [
            format!("deb {MIRROR} {SUITE}-updates main"),
            format!("deb {MIRROR}-security {SUITE}-security main"),
        ];
        work.once("rebuilt.raw", |to| work.system(to, "rebuilt.tar", &updates))?;
        work.once("used.raw", |to| work.touched(to, 5, true))?;
        work.once("upgrade.raw", |to| work.touched(to, 20, false))?;
        work.once("foreign.raw", foreign)?;
        IMAGES.iter().try_for_each(|image| work.pack(*image))?;
        Ok(work)
    }

    /// A file of the work.
    pub fn path(&self, state: State, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", state.name()))
    }

    /// The manifest of an image.
    pub fn manifest(&self, state: State) -> Result<Digest> {
        self.store.resolve(state.name()).with_context(|| format!("finding {}", state.name()))
    }

    /// Has packs and compressed disks of an image in the page cache, as a server that is asked for them all night
    /// has: what was compared since the last run may have driven them out.
    pub fn keep_in_memory(&self, image: State) -> Result<()> {
        let index = self.store.index(&self.manifest(image)?)?;
        let packs = index.packs().iter().map(|pack| self.store.pack_path(pack));
        let others = ["zst", "qcow2", "partclone.zst"].map(|extension| self.path(image, extension));
        for path in packs.chain(others).filter(|path| path.exists()) {
            File::open(&path)
                .and_then(|mut file| io::copy(&mut file, &mut io::sink()))
                .with_context(|| format!("reading {}", path.display()))?;
        }
        Ok(())
    }

    fn once(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (path, new) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        if path.exists() {
            return Ok(());
        }
        say(&format!("making {}", path.display()));
        let _ = fs::remove_file(&new);
        make(&new).with_context(|| format!("making {}", path.display()))?;
        fs::rename(&new, &path).with_context(|| format!("making {}", path.display()))
    }

    /// A disk with a system of packages on it.
    fn system(&self, to: &Path, archive: &str, more: &[String]) -> Result<()> {
        self.once(archive, |archive| {
            let mut mmdebstrap = Command::new(tool::program("mmdebstrap", "mmdebstrap")?);
            mmdebstrap.args(["--quiet", "--format=tar", "--variant=important"]);
            mmdebstrap.arg(format!("--include={PACKAGES}")).arg(SUITE).arg(archive);
            run(mmdebstrap.arg(format!("deb {MIRROR} {SUITE} main")).args(more)).map(drop)
        })?;
        let tree = tempfile::tempdir_in(&self.folder).context("making a folder")?;
        let mut tar = Command::new("tar");
        tar.args(["--numeric-owner", "-xf"]).arg(self.folder.join(archive));
        run(tar.arg("-C").arg(tree.path()))?;
        File::create(to).and_then(|file| file.set_len(SIZE)).context("making a disk")?;
        let partitions = ["-n14:2048:4095", "-t14:ef02", "-n15:4096:262143", "-t15:ef00"];
        run(Command::new(tool::program("sgdisk", "gdisk")?)
            .args(partitions)
            .arg("-n1:262144:0")
            .arg(to))?;
        let mut mke2fs = Command::new(tool::program("mke2fs", "e2fsprogs")?);
        mke2fs.args(["-q", "-F", "-t", "ext4", "-U", UUID, "-d"]).arg(tree.path());
        mke2fs.arg("-E").arg(format!("hash_seed={UUID},offset={ROOT}")).arg(to);
        run(mke2fs.arg(format!("{}k", (SIZE - ROOT) / 1024 - 1024))).map(drop)
    }

    /// The base with every so many stretches changed, as compressible as before.
    fn touched(&self, to: &Path, every: u64, rubbish: bool) -> Result<()> {
        let mut copy = Command::new("cp");
        run(copy.arg("--sparse=always").arg(self.path(State::Base, "raw")).arg(to))?;
        let disk = File::options().read(true).write(true).open(to).context("opening the disk")?;
        let (mut bytes, mut used, mut free) = (vec![0; STRETCH], 0, 0);
        for offset in (ROOT..SIZE - (1 << 20)).step_by(STRETCH) {
            disk.read_exact_at(&mut bytes, offset).context("reading the disk")?;
            let empty = bytes.iter().all(|byte| *byte == 0);
            let count = if empty { &mut free } else { &mut used };
            *count += 1;
            if *count % every == 0 && (rubbish || !empty) {
                bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
                disk.write_all_at(&bytes, offset).context("changing the disk")?;
            }
        }
        Ok(())
    }

    /// An image in all its forms.
    fn pack(&self, image: State) -> Result<()> {
        let raw = self.path(image, "raw");
        if self.store.resolve(image.name()).is_err() {
            say(&format!("importing {}", raw.display()));
            import::import(&self.store, &raw, &import::Options::new(image.name()))?;
        }
        let name = |extension| format!("{}.{extension}", image.name());
        self.once(&name("zst"), |to| {
            let zstd = tool::program("zstd", "zstd")?;
            run(Command::new(zstd).args(["-q", "-3", "-T0"]).arg(&raw).arg("-o").arg(to)).map(drop)
        })?;
        self.once(&name("qcow2"), |to| {
            let mut convert = Command::new(tool::program("qemu-img", "qemu-utils")?);
            convert.args(["convert", "-c", "-o", "compression_type=zstd", "-O", "qcow2"]);
            run(convert.arg(&raw).arg(to)).map(drop)
        })?;
        match image {
            State::Base => self.pack_used(&raw, name)?,
            State::Rebuilt => self.once(&name("zsync"), |to| {
                let mut make = Command::new(tool::program("zsyncmake", "zsync")?);
                make.args(["-u", &name("raw"), "-o"]).arg(to);
                run(make.arg(&raw)).map(drop)
            })?,
            _ => {}
        }
        self.once(&name("caibx"), |to| {
            let mut make = Command::new(tool::program("casync", "casync")?);
            make.arg(format!("--store={}", self.folder.join("casync.castr").display()));
            // It tells what to make by the name.
            let named = self.folder.join("new.caibx");
            run(make.args(["--compression=zstd", "make"]).arg(&named).arg(&raw))?;
            fs::rename(&named, to).context("naming an index")
        })
    }
}

/// Forms that have what is used only.
impl Work {
    fn pack_used(&self, raw: &Path, name: impl Fn(&'static str) -> String) -> Result<()> {
        self.once(&name("bmap"), |to| {
            let mut create = Command::new(tool::program("bmaptool", "bmap-tools")?);
            run(create.args(["-q", "create", "-o"]).arg(to).arg(raw)).map(drop)
        })?;
        self.once(&name("partclone.zst"), |to| {
            tool::program("partclone.ext4", "partclone")?;
            let (raw, to) = (raw.display(), to.display());
            let line = format!(
                "root=$(losetup --find --show --read-only --offset {ROOT} {raw}) && \
                 partclone.ext4 -q -L /dev/null -c -s $root -o - | zstd -q -3 -T0 > {to}; \
                 ended=$?; losetup --detach $root; exit $ended"
            );
            run(Command::new("bash").args(["-o", "pipefail", "-c", &line])).map(drop)
        })
    }
}

/// Four GiB of noise (a linear congruential generator's words).
fn foreign(to: &Path) -> Result<()> {
    let disk = File::create(to).context("making a disk")?;
    let (mut state, mut bytes) = (1_u64, vec![0; 1 << 20]);
    for offset in (0..SIZE).step_by(bytes.len()) {
        for word in bytes.as_chunks_mut::<8>().0 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *word = (state ^ (state >> 29)).to_le_bytes();
        }
        disk.write_all_at(&bytes, offset).context("filling a disk")?;
    }
    Ok(())
}
