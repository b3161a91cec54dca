//! netdevsim as an InfiniBand card: the kernel's own simulated device with two more operations,
//! built for Debian's kernel.
//!
//! No InfiniBand card is needed to show that the kernel understands a message about a VF's
//! GUID and says it back. Device 1, 3, ... are InfiniBand, 2, 4, ... Ethernet.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::{bench::peers, tool};

/// What is put into netdevsim's source (Linux 6.1 and 6.12), before or after which of its lines.
const CHANGES: [(&str, &str, &str); 3] = [
    ("netdevsim.h", "struct nsim_vf_config {", "struct nsim_vf_config {\n\tu64 guid[2];"),
    (
        "netdev.c",
        "static const struct net_device_ops nsim_netdev_ops = {",
        include_str!("netdevsim/operations.c"),
    ),
    (
        "netdev.c",
        "\tnsim_ipsec_init(ns);\n",
        "\tnsim_ipsec_init(ns);\n\tif (ns->nsim_bus_dev->dev.id & 1) {\n\t\t\
         ns->netdev->type = ARPHRD_INFINIBAND;\n\t\tns->netdev->addr_len = 20;\n\t\t\
         memset(ns->netdev->broadcast, 0xff, 20);\n\t}\n",
    ),
];
const SOURCE: &str = "drivers/net/netdevsim";

/// The module, built once for the kernel of [`peers::kernel`].
///
/// # Errors
/// When a package cannot be had or the compiler says no.
pub fn module() -> Result<PathBuf> {
    let kernel = peers::kernel()?;
    let name = kernel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let flavour = name.trim_start_matches("linux-image-").to_owned();
    let place = kernel.with_file_name(format!("netdevsim-{flavour}"));
    let module = place.join("netdevsim.ko");
    if module.is_file() {
        return Ok(module);
    }
    let scratch = tempfile::tempdir_in(kernel.parent().context("finding the peers' folder")?)?;
    let (tree, source) = (scratch.path().join("tree"), scratch.path().join("netdevsim"));
    headers(&tree, &flavour)?;
    sources(scratch.path(), &source, &flavour)?;
    change(&source)?;
    let build = tree.join(format!("usr/src/linux-headers-{flavour}"));
    let mut make = Command::new(tool::program("make", "build-essential")?);
    make.arg("-C").arg(&build).arg(format!("M={}", source.display()));
    // BTF wants one more program, pahole, and nobody here reads it.
    make.args(["CONFIG_NETDEVSIM=m", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
    run(&mut make).context("building netdevsim")?;
    fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
    let fresh = place.join("netdevsim.new");
    fs::copy(source.join("netdevsim.ko"), &fresh).context("keeping netdevsim.ko")?;
    fs::rename(&fresh, &module).context("keeping netdevsim.ko")?;
    Ok(module)
}

/// Where [`Kernel`](crate::kernel::Kernel) is to have the module.
pub const INSIDE: &str = "netdevsim.ko";

/// Inside a machine: loads the module, makes devices 1 (InfiniBand) and 2 (Ethernet), with at
/// most 64 VFs each.
pub fn simulate() -> Result<()> {
    run(Command::new("/bin/busybox").args(["insmod", &format!("/{INSIDE}")]))?;
    let nothing = None::<&str>;
    mount(Some("debugfs"), "/sys/kernel/debug", Some("debugfs"), MsFlags::empty(), nothing)
        .context("mounting debugfs")?;
    for device in ["1", "2"] {
        fs::write("/sys/bus/netdevsim/new_device", device).context("making a device")?;
        let most = format!("/sys/kernel/debug/netdevsim/netdevsim{device}/max_vfs");
        fs::write(&most, "64").context("asking for 64 VFs")?;
    }
    Ok(())
}

/// Inside a machine: cuts a device into VFs; tells the name of its link.
pub fn cut(device: u32, count: u32) -> Result<String> {
    let folder = format!("/sys/bus/netdevsim/devices/netdevsim{device}");
    for count in [0, count] {
        fs::write(format!("{folder}/sriov_numvfs"), count.to_string()).context("cutting")?;
    }
    let entries = fs::read_dir(format!("{folder}/net")).context("listing links")?;
    let mut links = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let port = |link: &String| {
        let name = fs::read_to_string(format!("/sys/class/net/{link}/phys_port_name"));
        name.is_ok_and(|name| name.trim() == "p1")
    };
    links.find(port).context("finding the device's own link")
}

/// The kernel's headers and build programs, which find each other by absolute paths.
fn headers(tree: &Path, flavour: &str) -> Result<()> {
    let (version, architecture) = flavour.rsplit_once('-').context("reading a kernel's name")?;
    let common = format!("linux-headers-{version}-common");
    let own = format!("linux-headers-{version}-{architecture}");
    let programs = peers::needed_by(&own, "linux-kbuild-")?;
    for package in [own, common.clone(), programs] {
        let unpacked = peers::fetch_one(&package)?;
        let mut copy = Command::new(tool::program("cp", "coreutils")?);
        run(copy.arg("-aT").arg(unpacked).arg(tree))?;
    }
    let makefile = tree.join(format!("usr/src/linux-headers-{flavour}/Makefile"));
    let place = tree.join(format!("usr/src/{common}/Makefile"));
    fs::write(&makefile, format!("include {}\n", place.display()))
        .with_context(|| format!("writing {}", makefile.display()))
}

/// `6.1` of `6.1.0-42`
fn series(version: &str) -> Result<String> {
    let parts: Vec<&str> = version.split('.').collect();
    ensure!(parts.len() > 2, "{version} is no kernel's version");
    Ok(parts[..2].join("."))
}

fn sources(scratch: &Path, source: &Path, flavour: &str) -> Result<()> {
    let series = series(flavour)?;
    let package = peers::fetch_one(&format!("linux-source-{series}"))?;
    let archive = package.join(format!("usr/src/linux-source-{series}.tar.xz"));
    let mut tar = Command::new(tool::program("tar", "tar")?);
    tar.arg("-xJf").arg(archive).arg("-C").arg(scratch);
    run(tar.arg(format!("linux-source-{series}/{SOURCE}")))?;
    let unpacked = scratch.join(format!("linux-source-{series}")).join(SOURCE);
    fs::rename(unpacked, source).context("moving netdevsim's source")
}

fn change(source: &Path) -> Result<()> {
    for (file, line, instead) in CHANGES {
        let path = source.join(file);
        let reading = || format!("changing {}", path.display());
        let text = fs::read_to_string(&path).with_context(reading)?;
        ensure!(text.contains(line), "{} is another kernel's: no {line:?}", path.display());
        fs::write(&path, text.replacen(line, instead, 1)).with_context(reading)?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
