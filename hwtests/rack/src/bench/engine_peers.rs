//! How an operator would have the peers write a disk, all over HTTP (or rsync's own protocol)
//! and each ending with the bytes on the medium.

use std::process::Command;

use anyhow::Result;

use super::{
    engine_site::{HTTP, RSYNC},
    engine_target::Target,
    engine_work::{State, Work},
};
use crate::{artefacts::Programs, tool};

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
    /// `qemu-img convert` from a compressed qcow2.
    QemuImg,
    /// casync, with the disk itself as seed.
    Casync,
    /// `rsync --write-devices` from a daemon.
    Rsync,
}

impl Writer {
    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Writer::Billet { .. } => "billet",
            Writer::Dd => "curl|zstd|dd",
            Writer::QemuImg => "qemu-img",
            Writer::Casync => "casync",
            Writer::Rsync => "rsync",
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
            Writer::QemuImg => shell(&format!(
                "qemu-img convert -n -T none -t none -W -f qcow2 -O raw {HTTP}/{name}.qcow2 {device} \
                 && sync {device}"
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
        })
    }
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", line]);
    command
}
