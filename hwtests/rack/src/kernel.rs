//! Debian's kernel in a machine of its own, for what the host's kernel was built without.
//!
//! The calling program itself is the machine's `/init`: outside it packs itself and what it
//! needs into a RAM disk, inside it is process 1 and does what it was told on the kernel's line.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use images::{
    cpio::Cpio,
    modules::{ModuleInfo, closure, plain_name},
};
use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};

use crate::{bench::peers, hardware::Hardware, tool};

/// What is in the machine.
pub struct Kernel<'a> {
    /// Modules that it loads, with what they need.
    pub modules: &'a [&'a str],
    /// Programs of the host, with the libraries that they need: name and Debian's package.
    pub programs: &'a [(&'a str, &'a str)],
    /// Static programs of ours: where they are inside, and on the host.
    pub files: &'a [(&'a str, PathBuf)],
}

/// Where the modules are inside, and the order in which they are loaded.
const MODULES: &str = "/modules";
const ORDER: &str = "/modules/order";

impl Kernel<'_> {
    /// Whether this process is the machine's first: [`start_inside`] is to be called.
    pub fn is_inside() -> bool {
        std::process::id() == 1
    }

    /// Boots it with the calling program as `/init` and these arguments; gives every line that
    /// it prints to `line`, until it ends.
    ///
    /// # Errors
    /// Also when it takes longer than `patience`.
    pub fn run(
        &self,
        folder: &Path,
        arguments: &str,
        patience: Duration,
        line: impl FnMut(&str),
    ) -> Result<()> {
        self.run_on(&Hardware::plain()?, folder, arguments, patience, line)
    }

    /// The same on a chosen machine.
    ///
    /// # Errors
    /// Also when it takes longer than `patience`.
    pub fn run_on(
        &self,
        hardware: &Hardware,
        folder: &Path,
        arguments: &str,
        patience: Duration,
        mut line: impl FnMut(&str),
    ) -> Result<()> {
        let package = peers::kernel()?;
        let ramdisk = folder.join("ramdisk");
        fs::write(&ramdisk, self.pack(&package)?).context("writing a RAM disk")?;
        let kernel = only(&package.join("boot"), "vmlinuz-")?;
        // It ends when its time is over, and with the program that started it.
        let mut command = Command::new(tool::program("setpriv", "util-linux")?);
        command.args(["--pdeathsig", "TERM", "timeout", &patience.as_secs().to_string()]);
        command.args(&hardware.words);
        command.args(["-accel", "tcg", "-m", "768", "-smp", "1"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-serial", "stdio"]).arg("-kernel").arg(kernel).arg("-initrd").arg(ramdisk);
        let line_of = hardware.line;
        let append = format!("console=ttyS0 quiet panic=-1 PATH=/bin {line_of} -- {arguments}");
        command.args(["-append", &append]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting QEMU")?;
        let output = child.stdout.take().context("taking QEMU's output")?;
        for text in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            line(String::from_utf8_lossy(&text).trim_end());
        }
        let status = child.wait().context("waiting for QEMU")?;
        match status.success() {
            true => Ok(()),
            false => bail!("the machine did not end well ({status})"),
        }
    }

    fn pack(&self, package: &Path) -> Result<Vec<u8>> {
        let mut tree = Tree::default();
        for folder in ["dev", "proc", "sys", "tmp", "run", "etc", "root", "var"] {
            tree.folder(Path::new(folder));
        }
        tree.cpio.device("dev/console", 0o600, 5, 1);
        let own = std::env::current_exe().context("finding the program itself")?;
        tree.file("init", &own)?;
        for (inside, outside) in self.files {
            tree.file(inside, outside)?;
        }
        let busybox = tool::program("busybox", "busybox-static")?;
        tree.file("bin/busybox", &busybox)?;
        for (name, package) in self.programs {
            let path = tool::program(name, package)?;
            tree.file(&format!("bin/{name}"), &path)?;
            for library in libraries(&path, &[])? {
                tree.file(&library.display().to_string(), &library)?;
            }
        }
        self.add_modules(&mut tree, package)?;
        Ok(tree.cpio.finish())
    }

    fn add_modules(&self, tree: &mut Tree, package: &Path) -> Result<()> {
        let places = ["usr/lib/modules", "lib/modules"].map(|place| package.join(place));
        let home = places.iter().find(|place| place.is_dir()).context("finding the modules")?;
        let files = module_files(&only(home, "")?)?;
        let find = |name: &str| files.iter().find(|(known, _)| known == name);
        let wanted: Vec<&str> =
            self.modules.iter().copied().filter(|name| find(&plain_name(name)).is_some()).collect();
        let chosen = closure(&wanted, |name| {
            find(name)
                .map(|(_, path)| Ok(ModuleInfo::parse(&read_module(path)?)))
                .transpose()
                .map(Option::flatten)
        })?;
        let mut order = String::new();
        for (name, _) in &chosen {
            let Some((_, path)) = find(name) else { continue };
            tree.bytes(&format!("{MODULES}/{name}.ko"), 0o644, &read_module(path)?);
            order += &format!("{MODULES}/{name}.ko\n");
        }
        tree.bytes(ORDER, 0o644, order.as_bytes());
        Ok(())
    }
}

/// A file tree that grows, each entry once.
#[derive(Default)]
struct Tree {
    cpio: Cpio,
    known: BTreeSet<PathBuf>,
}

impl Tree {
    fn folder(&mut self, path: &Path) {
        let path = path.strip_prefix("/").unwrap_or(path);
        if path.as_os_str().is_empty() || !self.known.insert(path.to_owned()) {
            return;
        }
        path.parent().iter().for_each(|above| self.folder(above));
        self.cpio.folder(&path.display().to_string());
    }

    fn bytes(&mut self, path: &str, permissions: u32, bytes: &[u8]) {
        let inside = PathBuf::from(path.trim_start_matches('/'));
        inside.parent().iter().for_each(|above| self.folder(above));
        if self.known.insert(inside.clone()) {
            self.cpio.file(&inside.display().to_string(), permissions, bytes);
        }
    }

    fn file(&mut self, inside: &str, outside: &Path) -> Result<()> {
        let bytes = fs::read(outside).with_context(|| format!("reading {}", outside.display()))?;
        self.bytes(inside, 0o755, &bytes);
        Ok(())
    }
}

/// What `ldd` names: the loader too. Libraries in `places` come first.
pub(crate) fn libraries(program: &Path, places: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let places = std::env::join_paths(places).context("naming places of libraries")?;
    let mut ldd = Command::new("ldd");
    let output = ldd.arg(program).env("LD_LIBRARY_PATH", places).output().context("running ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).filter(|path| path.is_file()).collect())
}

/// The file of `folder` whose name begins so.
pub(crate) fn only(folder: &Path, begin: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let found = paths.find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin))
    });
    found.with_context(|| format!("finding {begin}* in {}", folder.display()))
}

fn module_files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match file.split_once(".ko") {
                Some((name, _)) => found.push((plain_name(name), path)),
                None if path.is_dir() && !path.is_symlink() => folders.push(path),
                None => {}
            }
        }
    }
    Ok(found)
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension() == Some(OsStr::new("xz")) {
        let output = Command::new("xz").arg("-dc").arg(path).output().context("running xz")?;
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Inside: mounts, loads, does `work`, and ends the machine. What fails is printed.
pub fn start_inside(work: impl FnOnce() -> Result<()>) -> ! {
    if let Err(error) = prepare().and_then(|()| work()) {
        println!("the machine's work failed: {error:#}");
    }
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    loop {
        std::thread::park();
    }
}

fn prepare() -> Result<()> {
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
    ] {
        let nothing = None::<&str>;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), nothing)
            .with_context(|| format!("mounting {place}"))?;
    }
    for module in fs::read_to_string(ORDER).context("reading the modules' order")?.lines() {
        let output = Command::new("/bin/busybox").args(["insmod", module]).output();
        let output = output.with_context(|| format!("loading {module}"))?;
        if !output.status.success() {
            println!("{module}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}
