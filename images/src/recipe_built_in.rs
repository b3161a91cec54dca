//! The recipes and their base that are inside this program: the folders of `recipes/`.

use anyhow::{Result, bail};

use crate::recipe::OverlayFile;

/// A folder of `recipes/` as it was when this program was made.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// The folder's name.
    pub(crate) name: &'static str,
    /// Its TOML file.
    pub(crate) text: &'static str,
    /// Its `finish`, empty when there is none.
    pub(crate) finish: &'static str,
    overlay: &'static [(&'static str, &'static str)],
}

macro_rules! overlay {
    ($recipe:literal: $($path:literal)*) => {
        &[$(($path, include_str!(concat!("../recipes/", $recipe, "/overlay/", $path)))),*]
    };
}

/// What recipes can begin with.
pub(crate) const BASES: [Embedded; 1] = [Embedded {
    name: "node",
    text: include_str!("../recipes/node/base.toml"),
    finish: include_str!("../recipes/node/finish"),
    overlay: overlay!("node":
        "etc/fstab"
        "etc/hosts"
        "etc/initramfs-tools/conf.d/billet"
        "etc/initramfs-tools/hooks/billet"
        "etc/initramfs-tools/scripts/init-bottom/udev"
        "etc/initramfs-tools/scripts/init-top/udev"
        "etc/modprobe.d/billet.conf"
        "etc/ssh/sshd_config.d/billet.conf"
        "etc/systemd/network/10-billet.network.d/cards.conf"
        "etc/systemd/system/billet-identity.service"
        "etc/systemd/system/billet-resolver.path"
        "etc/systemd/system/billet-resolver.service"
        "etc/systemd/system/ssh.service"
        "usr/lib/billet/identity"
        "usr/lib/billet/resolver"
    ),
}];

/// The recipes.
pub(crate) const RECIPES: [Embedded; 3] = [
    Embedded {
        name: "bare",
        text: include_str!("../recipes/bare/recipe.toml"),
        finish: "",
        overlay: overlay!("bare": "boot/grub/grub.cfg" "etc/hostname"),
    },
    Embedded {
        name: "dom0",
        text: include_str!("../recipes/dom0/recipe.toml"),
        finish: include_str!("../recipes/dom0/finish"),
        overlay: overlay!("dom0":
            "boot/grub/grub.cfg"
            "etc/dpkg/dpkg.cfg.d/billet"
            "etc/hostname"
            "etc/modules-load.d/billet.conf"
            "etc/systemd/network/10-billet.network.d/keep.conf"
            "etc/systemd/networkd.conf.d/billet.conf"
            "etc/systemd/system/billet-agent.service"
            "etc/systemd/system/billet-guest-logs.service"
            "etc/systemd/system/billet-guest-logs.timer"
            "etc/systemd/system/billet-guests.service"
            "etc/systemd/system/proc-xen.mount"
            "etc/systemd/system/xenconsoled.service"
            "etc/systemd/system/xenstored.service"
            "usr/lib/billet/domain-0"
            "usr/lib/billet/guest-logs"
        ),
    },
    Embedded {
        name: "system",
        text: include_str!("../recipes/system/recipe.toml"),
        finish: "",
        overlay: overlay!("system": "etc/hostname"),
    },
];

impl Embedded {
    /// The one of `these` with that name; `kind` is what a refusal calls it.
    pub(crate) fn find(these: &'static [Self], kind: &str, name: &str) -> Result<&'static Self> {
        let Some(found) = these.iter().find(|embedded| embedded.name == name) else {
            let names: Vec<&str> = these.iter().map(|embedded| embedded.name).collect();
            bail!("no {kind} `{name}`: {} is accepted", names.join(", "));
        };
        Ok(found)
    }

    /// The files of its overlay.
    pub(crate) fn overlay(&self) -> Vec<OverlayFile> {
        self.overlay.iter().map(|(path, text)| OverlayFile::new(path, text)).collect()
    }
}
