//! How an operator would have the peers write a disk, over HTTP (or rsync's own protocol) where they can,
//! and each ending with the bytes on the medium.

use std::process::Command;

use anyhow::Result;

use super::{
    engine_site::{HTTP, RSYNC},
    engine_target::Target,
    engine_work::{ROOT, State, Work},
};
use crate::{artefacts::Programs, tool};

/// How much of the disk a writer makes the image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Every byte.
    All,
    /// What is not zero in the image; elsewhere old bytes stay.
    Used,
    /// The same, of the root file system only.
    UsedOfRoot,
}

/// Somebody who writes an image to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// `billet-agent write`, told what was deployed before.
    Billet {
        /// The image that was.
        previous: Option<State>,
    },
    /// `curl | zstd -d | dd oflag=direct`
    Dd,
    /// `coreos-installer install`, of the same compressed disk.
    CoreosInstaller,
    /// A compressed qcow2 is received into memory, and converted by `qemu-img` then: reading over HTTP itself,
    /// QEMU 7.2 and 10.0 stand still in the middle now and then, and are slower where they do not.
    QemuImg,
    /// casync, with the disk itself as seed.
    Casync,
    /// `rsync --write-devices` from a daemon.
    Rsync,
    /// `udp-sender` and `udp-receiver`, one receiver.
    Udpcast,
    /// zsync with the disk as seed makes a file, which is written to the disk then: it cannot
    /// write to what it reads.
    Zsync,
    /// bmaptool writes what is mapped in the image's file.
    Bmaptool,
    /// partclone writes the used blocks of the root file system, and nothing else.
    Partclone,
}

impl Writer {
    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Writer::Billet { .. } => "billet",
            Writer::Dd => "curl|zstd|dd",
            Writer::CoreosInstaller => "coreos-installer",
            Writer::QemuImg => "qemu-img (received before)",
            Writer::Casync => "casync",
            Writer::Rsync => "rsync",
            Writer::Udpcast => "udpcast",
            Writer::Zsync => "zsync",
            Writer::Bmaptool => "bmaptool",
            Writer::Partclone => "partclone (root only)",
        }
    }

    /// How much of the disk is the image's afterwards.
    pub fn writes(self) -> Writes {
        match self {
            Writer::Bmaptool => Writes::Used,
            Writer::Partclone => Writes::UsedOfRoot,
            _ => Writes::All,
        }
    }

    /// The command that makes the target the image.
    pub fn command(self, work: &Work, target: &Target, image: State) -> Result<Command> {
        let (device, name) = (&target.device, image.name());
        Ok(match self {
            Writer::Billet { previous } => {
                let mut command = Command::new(Programs::find()?.agent);
                command.args(["write", "--to", device]);
                command.args(["--image", &format!("{HTTP}#{}", work.manifest(image)?)]);
                command.arg("--trusted").arg(work.store.root().join("keys"));
                if let Some(previous) = previous {
                    let previous = format!("{HTTP}#{}", work.manifest(previous)?);
                    command.args(["--previous", &previous]);
                }
                command
            }
            Writer::Dd => shell(&format!(
                "curl -sf {HTTP}/{name}.zst | zstd -dcq | \
                 dd {} bs=4M iflag=fullblock oflag=direct conv=fsync status=none",
                target.output()
            )),
            Writer::CoreosInstaller => shell(&format!(
                // It asks udev whether all has settled; here nobody else looks at the disk.
                "unshare --mount bash -c 'mount -t tmpfs none /run && mkdir /run/udev && \
                 touch /run/udev/control && ln -s /bin/true /run/udev/udevadm && \
                 PATH=$PATH:/run/udev coreos-installer install --insecure \
                 --image-url {HTTP}/{name}.zst {device}' && sync {device}"
            )),
            Writer::QemuImg => shell(&format!(
                "received=$(mktemp -p /dev/shm) && curl -sf -o $received {HTTP}/{name}.qcow2 && \
                 qemu-img convert -n -t none -W -f qcow2 -O raw $received {device} && sync {device}; \
                 ended=$?; rm -f $received; exit $ended"
            )),
            Writer::Casync => shell(&format!(
                "casync --store={HTTP}/casync.castr --seed={device} extract \
                 {HTTP}/{name}.caibx {device} && sync {device}"
            )),
            Writer::Rsync => {
                tool::program("rsync", "rsync")?;
                shell(&format!(
                    "rsync --write-devices {RSYNC}/{name}.raw {device} && sync {device}"
                ))
            }
            Writer::Udpcast => {
                tool::program("udp-sender", "udpcast")?;
                shell(&format!(
                    "udp-sender --interface lo --nokbd --min-receivers 1 --file {} >/dev/null & \
                     udp-receiver --interface lo --nokbd | zstd -dcq | \
                     dd {} bs=4M iflag=fullblock oflag=direct conv=fsync status=none; wait",
                    work.path(image, "zst").display(),
                    target.output()
                ))
            }
            Writer::Zsync => {
                tool::program("zsync", "zsync")?;
                let new = work.folder.join("zsync.raw");
                let new = new.display();
                shell(&format!(
                    "rm -f {new} && zsync -q -i {device} -o {new} {HTTP}/{name}.zsync && \
                     dd if={new} {} bs=4M iflag=direct oflag=direct conv=fsync status=none && \
                     rm -f {new} {new}.zs-old",
                    target.output()
                ))
            }
            Writer::Bmaptool => {
                tool::program("bmaptool", "bmap-tools")?;
                shell(&format!(
                    "bmaptool -q copy --bmap {HTTP}/{name}.bmap {HTTP}/{name}.zst {device} && \
                     sync {device}"
                ))
            }
            Writer::Partclone => {
                tool::program("partclone.restore", "partclone")?;
                shell(&format!(
                    "root=$(losetup --find --show --direct-io=on --offset {ROOT} {device}) && \
                     curl -sf {HTTP}/{name}.partclone.zst | zstd -dcq | \
                     partclone.restore -q -L /dev/null -s - -o $root; \
                     ended=$?; sync {device}; losetup --detach $root; exit $ended"
                ))
            }
        })
    }
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", line]);
    command
}
