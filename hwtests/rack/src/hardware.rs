//! The machine under [`kernel`](crate::kernel): a small one, or one with cards that can be cut
//! into VFs behind an IOMMU.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{bench, tool};

/// Debian's release whose QEMU has igb (8.0 and newer); the host's is often older.
const RELEASE: &str = "trixie";
/// The emulator keeps what it has translated of a program by its addresses: were they others at every
/// start, it would translate the whole program anew each time, as no real processor does.
const SAME_PLACE: &str = "norandmaps";
const MIRROR: &str = "http://deb.debian.org/debian";

/// A machine, without its kernel.
#[derive(Debug)]
pub struct Hardware {
    /// QEMU and its arguments.
    pub words: Vec<OsString>,
    /// What its kernel must be told.
    pub line: &'static str,
}

impl Hardware {
    /// One processor and no device but the serial line.
    pub fn plain() -> Result<Self> {
        let program = tool::program("qemu-system-x86_64", "qemu-system-x86")?;
        let mut words = vec![program.into_os_string()];
        words.extend(["-cpu", "qemu64,+rdrand"].map(OsString::from));
        Ok(Hardware { words, line: SAME_PLACE })
    }

    /// Number 1 or 2 of two small ones with a cable between them, whose ends are in `folder`.
    pub fn cabled(folder: &Path, number: u8) -> Result<Self> {
        let mut hardware = Self::plain()?;
        let [own, other] = [number, 3 - number].map(|end| folder.join(format!("end{end}")));
        let (own, other) = (own.display(), other.display());
        let cable = format!(
            "dgram,id=n0,local.type=unix,local.path={own},remote.type=unix,remote.path={other}"
        );
        let card = format!("virtio-net-pci,netdev=n0,mac=52:54:00:79:00:0{number}");
        for word in ["-netdev", &cable, "-device", &card] {
            hardware.words.push(word.into());
        }
        Ok(hardware)
    }

    /// Two cards of Intel's 82576 with up to 7 VFs each, behind an emulated IOMMU.
    ///
    /// Without `no_timer_check` Linux sometimes finds no timer through the emulated IOMMU;
    /// `norandmaps` as on the plain one.
    pub fn with_igb() -> Result<Self> {
        let qemu = newer_qemu()?;
        let mut words = vec![qemu.get_program().to_owned()];
        words.extend(qemu.get_args().map(OsString::from));
        words.extend(
            [
                "-machine",
                "q35,kernel-irqchip=split",
                "-cpu",
                "qemu64,+rdrand",
                "-device",
                "intel-iommu,intremap=on,caching-mode=on",
            ]
            .map(OsString::from),
        );
        for card in 0..2 {
            words.extend(["-netdev".into(), format!("hubport,id=n{card},hubid={card}").into()]);
            words.extend(igb(card, &format!("52:54:00:77:01:0{card}")).map(OsString::from));
        }
        Ok(Hardware { words, line: "norandmaps intel_iommu=on no_timer_check" })
    }
}

/// The arguments of the `card`-th card of Intel's 82576 on the netdev `n<card>`. It sits behind a
/// port of its own: only PCI Express has VFs.
pub(crate) fn igb(card: u32, mac: &str) -> [String; 4] {
    [
        "-device".to_owned(),
        format!("pcie-root-port,id=rp{card},slot={card},chassis={}", card + 1),
        "-device".to_owned(),
        format!("igb,bus=rp{card},netdev=n{card},mac={mac}"),
    ]
}

/// A QEMU that has igb, by its own loader and libraries, with the firmware that came with it.
pub(crate) fn newer_qemu() -> Result<Command> {
    let tree = unpacked_qemu()?;
    let mut command = Command::new(tree.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(tree.join("usr/lib/x86_64-linux-gnu"));
    command.arg(tree.join("usr/bin/qemu-system-x86_64"));
    for place in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(tree.join(place));
    }
    Ok(command)
}

/// A QEMU of a newer Debian with all of its libraries, unpacked once, which wants the network. Its files
/// are the user's own, who can remove them: mmdebstrap's are of subordinate users.
pub(crate) fn unpacked_qemu() -> Result<PathBuf> {
    let place = bench::target()?.join("peers").join(format!("qemu-{RELEASE}"));
    if place.is_dir() {
        return Ok(place);
    }
    let (fresh, archive) = (place.with_extension("new"), place.with_extension("tar"));
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).with_context(|| format!("making {}", fresh.display()))?;
    let mut mmdebstrap = Command::new(tool::program("mmdebstrap", "mmdebstrap")?);
    mmdebstrap.args([
        "--quiet",
        "--variant=extract",
        "--include=qemu-system-x86,seabios,ipxe-qemu",
    ]);
    mmdebstrap.arg("--aptopt=Apt::Install-Recommends \"false\"");
    mmdebstrap.arg(RELEASE).arg(&archive).arg(MIRROR);
    let mut tar = Command::new(tool::program("tar", "tar")?);
    tar.args(["--extract", "--no-same-owner", "--exclude=./dev/*", "--file"]);
    tar.arg(&archive).arg("--directory").arg(&fresh);
    for command in [&mut mmdebstrap, &mut tar] {
        let output = command.output().context("starting mmdebstrap and tar")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "unpacking QEMU of {RELEASE}: {}", said.trim());
    }
    let _ = fs::remove_file(&archive);
    fs::rename(&fresh, &place).with_context(|| format!("making {}", place.display()))?;
    Ok(place)
}
