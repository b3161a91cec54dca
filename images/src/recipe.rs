//! A recipe: what makes a built-in image out of Debian packages.
//!
//! It is a folder: `recipe.toml`, the files of `overlay/`, and `finish`, which runs in the new
//! system. Those of this program are inside it; [`Recipe::read`] takes anyone else's. In files of
//! the overlay `@root_uuid@` and `@command_line@` stand for what the recipe says, and a file that
//! begins with `#!` is executable.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use uuid::Uuid;

pub use crate::{
    debian::Source,
    recipe_build::{Built, Options, build},
};

/// Every key of a recipe, by section; those without one come first.
const KEYS: [(&str, &[&str]); 3] = [
    ("", &["name", "suite", "components", "packages", "disk", "boot"]),
    ("disk", &["esp", "seed", "root"]),
    ("boot", &["command_line"]),
];
/// The smallest partition that FAT32 fits in, MiB.
const SMALLEST_ESP: u32 = 34;

/// What makes an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Recipe {
    /// Its name; the identifiers of disk, partitions and file systems follow from it.
    pub name: String,
    /// Debian suite, unless another is asked for.
    pub suite: String,
    /// Components of the archive.
    pub components: Vec<String>,
    /// Packages beside Debian's essential ones and apt.
    pub packages: Vec<String>,
    /// Sizes of the partitions.
    pub disk: Sizes,
    /// How the system starts.
    pub boot: Start,
    /// Files that are laid into the new system.
    #[serde(skip)]
    pub overlay: Vec<OverlayFile>,
    /// Shell script that runs in the new system when all packages are in.
    #[serde(skip)]
    pub finish: String,
}

/// Sizes of partitions in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Sizes {
    /// The EFI system partition.
    pub esp: u32,
    /// The partition for a node's identity.
    pub seed: u32,
    /// The root file system, before it grows.
    pub root: u32,
}

/// How the system starts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Start {
    /// The kernel's command line beside `root=`.
    pub command_line: String,
}

/// A file that is laid into the new system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayFile {
    /// Where, without the leading slash.
    pub path: String,
    /// What is in it.
    pub text: String,
}

macro_rules! overlay {
    ($recipe:literal: $($path:literal)*) => {
        &[$(($path, include_str!(concat!("../recipes/", $recipe, "/overlay/", $path)))),*]
    };
}

/// Name, `recipe.toml`, `finish` and overlay of each recipe in this program.
type Embedded = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);
const EMBEDDED: [Embedded; 1] = [(
    "bare",
    include_str!("../recipes/bare/recipe.toml"),
    include_str!("../recipes/bare/finish"),
    overlay!("bare":
        "boot/grub/grub.cfg"
        "etc/fstab"
        "etc/hostname"
        "etc/hosts"
        "etc/initramfs-tools/conf.d/billet"
        "etc/initramfs-tools/hooks/billet"
        "etc/initramfs-tools/scripts/init-bottom/udev"
        "etc/initramfs-tools/scripts/init-top/udev"
        "etc/modprobe.d/billet.conf"
        "etc/ssh/sshd_config.d/billet.conf"
        "etc/systemd/system/billet-identity.service"
        "etc/systemd/system/billet-resolver.path"
        "etc/systemd/system/billet-resolver.service"
        "etc/systemd/system/ssh.service"
        "usr/lib/billet/identity"
        "usr/lib/billet/resolver"
    ),
)];

impl Recipe {
    /// The recipe of this program with that name.
    pub fn built_in(name: &str) -> Result<Self> {
        let Some((_, text, finish, files)) = EMBEDDED.iter().find(|recipe| recipe.0 == name) else {
            let names: Vec<&str> = EMBEDDED.iter().map(|recipe| recipe.0).collect();
            bail!("no recipe `{name}`: {} or a folder is accepted", names.join(", "));
        };
        let overlay = files.iter().map(|(path, text)| OverlayFile::new(path, text));
        Self::parse(text, finish, overlay.collect())
            .with_context(|| format!("reading the recipe {name}"))
    }

    /// The recipe in a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let mut overlay = Vec::new();
        if folder.join("overlay").is_dir() {
            read_overlay(&folder.join("overlay"), "", &mut overlay)?;
        }
        Self::parse(&text("recipe.toml")?, &text("finish")?, overlay)
            .with_context(|| format!("reading the recipe in {}", folder.display()))
    }

    fn parse(text: &str, finish: &str, overlay: Vec<OverlayFile>) -> Result<Self> {
        let table: toml::Table = text.parse().context("reading recipe.toml")?;
        for (section, known) in KEYS {
            let keys = match section {
                "" => Some(&table),
                _ => table.get(section).and_then(toml::Value::as_table),
            };
            for key in keys.into_iter().flat_map(toml::Table::keys) {
                refuse_unknown(section, key, known)?;
            }
        }
        let mut recipe: Recipe = table.try_into().context("reading recipe.toml")?;
        recipe.check()?;
        recipe.finish = finish.to_owned();
        recipe.overlay = overlay;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        let word = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
            !text.is_empty() && text.chars().all(plain) && !text.starts_with('-')
        };
        let words = [&self.name, &self.suite].into_iter().chain(&self.components);
        if let Some(bad) = words.chain(&self.packages).find(|text| !word(text)) {
            bail!("`{bad}` is no name: letters, digits and `+-._` are accepted");
        }
        let Sizes { esp, seed, root } = self.disk;
        if esp < SMALLEST_ESP || seed == 0 || root == 0 {
            bail!(
                "partitions of {esp}, {seed} and {root} MiB: esp of at least {SMALLEST_ESP}, seed \
                 and root of at least 1 are accepted"
            );
        }
        Ok(())
    }

    /// The identifier of `what` in every image of this recipe.
    pub(crate) fn id(&self, what: &str) -> Uuid {
        let hash = blake3::hash(format!("billet recipe {} {what}", self.name).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// The whole command line of the kernel.
    pub(crate) fn command_line(&self) -> String {
        format!("root=UUID={} rw {}", self.id("root"), self.boot.command_line)
    }

    /// A file of the overlay as it is laid into the system.
    pub(crate) fn render(&self, file: &OverlayFile) -> String {
        file.text
            .replace("@root_uuid@", &self.id("root").to_string())
            .replace("@command_line@", &self.command_line())
    }
}

impl OverlayFile {
    fn new(path: &str, text: &str) -> Self {
        OverlayFile { path: path.to_owned(), text: text.to_owned() }
    }
}

fn refuse_unknown(section: &str, key: &str, known: &[&str]) -> Result<()> {
    if known.contains(&key) {
        return Ok(());
    }
    let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, key));
    let dot = if section.is_empty() { "" } else { "." };
    bail!(
        "unknown key `{section}{dot}{key}`, the nearest known one is `{section}{dot}{}`",
        nearest.unwrap_or(&"")
    )
}

fn read_overlay(folder: &Path, prefix: &str, files: &mut Vec<OverlayFile>) -> Result<()> {
    let reading = || format!("reading {}", folder.display());
    let entries = fs::read_dir(folder).with_context(reading)?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().with_context(reading)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else {
            bail!("{} has a name that is not UTF-8", path.display());
        };
        if path.is_dir() {
            read_overlay(&path, &format!("{prefix}{name}/"), files)?;
        } else {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("reading {} as text", path.display()))?;
            files.push(OverlayFile { path: format!("{prefix}{name}"), text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_recipe_is_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/bare");
        assert_eq!(Recipe::built_in("bare").unwrap(), Recipe::read(&folder).unwrap());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_neighbour() {
        let text = include_str!("../recipes/bare/recipe.toml");
        for (from, to, said) in [
            (
                "packages =",
                "package =",
                "unknown key `package`, the nearest known one is `packages`",
            ),
            ("esp =", "efs =", "unknown key `disk.efs`, the nearest known one is `disk.esp`"),
            ("esp = 48", "esp = 8", "partitions of 8, 4 and 768 MiB: esp of at least 34"),
            ("\"udev\"", "\"udev; rm\"", "`udev; rm` is no name"),
        ] {
            let error = Recipe::parse(&text.replace(from, to), "", Vec::new()).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
        let error = Recipe::built_in("bear").unwrap_err().to_string();
        assert_eq!(error, "no recipe `bear`: bare or a folder is accepted");
    }

    #[test]
    fn identifiers_follow_from_the_name() {
        let recipe = Recipe::built_in("bare").unwrap();
        assert_eq!(recipe.id("root"), recipe.id("root"));
        assert_ne!(recipe.id("root"), recipe.id("disk"));
        let fstab = recipe.overlay.iter().find(|file| file.path == "etc/fstab").unwrap();
        assert!(recipe.render(fstab).starts_with(&format!("UUID={} / ext4", recipe.id("root"))));
    }
}
