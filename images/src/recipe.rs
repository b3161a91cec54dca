//! A recipe: what makes a built-in image out of Debian packages.
//!
//! It is a folder: `recipe.toml`, the files of `overlay/`, and if need be `finish`, which runs in
//! the new system. Those of this program are inside it; [`Recipe::read`] takes anyone else's. A
//! recipe may begin with a base: the base's packages, files and `finish` come first, and a file of
//! the recipe takes the place of the base's. In files of the overlay `@root_uuid@`,
//! `@command_line@`, `@options@` (the same without `root=`) and `@xen_line@` stand for what the recipe
//! says, and a file that begins with `#!` is executable.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use uuid::Uuid;

use crate::recipe_built_in::{BASES, Embedded, RECIPES};
pub use crate::{
    debian::Source,
    recipe_build::{Built, Options, build},
};

/// Every key of a recipe, by section; those without one come first.
const KEYS: [(&str, &[&str]); 3] = [
    ("", &["name", "base", "suite", "components", "packages", "given", "agent", "disk", "boot"]),
    ("disk", &["esp", "seed", "root"]),
    ("boot", &["command_line", "xen_line", "kexec", "grub"]),
];
/// The smallest partition that FAT32 fits in, MiB.
const SMALLEST_ESP: u32 = 34;

/// What makes an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Recipe {
    /// Its name; the identifiers of disk, partitions and file systems follow from it.
    pub name: String,
    /// What it begins with: a base of this program.
    pub base: Option<String>,
    /// Debian suite, unless another is asked for.
    pub suite: String,
    /// Components of the archive.
    pub components: Vec<String>,
    /// Packages beside Debian's essential ones and apt.
    pub packages: Vec<String>,
    /// Whether the system comes from a file, and of the packages its kernel only.
    #[serde(default)]
    pub given: bool,
    /// Whether our agent comes into the system, as `/usr/sbin/billet-agent`.
    #[serde(default)]
    pub agent: bool,
    /// Sizes of the partitions.
    pub disk: Sizes,
    /// How the system starts.
    pub boot: Start,
    /// Files that are laid into the new system.
    #[serde(skip)]
    pub overlay: Vec<OverlayFile>,
    /// Shell scripts that run in the new system when all packages are in, one after the other.
    #[serde(skip)]
    pub finish: Vec<String>,
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
    /// Xen's, where `/boot/xen.gz` starts the kernel.
    pub xen_line: Option<String>,
    /// Whether its kernel can be started by itself, without firmware and GRUB.
    #[serde(default = "yes")]
    pub kexec: bool,
    /// Modules that its `grub.cfg` needs of GRUB beside those that every one has.
    #[serde(default)]
    pub grub: Vec<String>,
}

fn yes() -> bool {
    true
}

/// What recipes can begin with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    packages: Vec<String>,
}

/// A file that is laid into the new system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayFile {
    /// Where, without the leading slash.
    pub path: String,
    /// What is in it.
    pub text: String,
}

impl Recipe {
    /// The recipe of this program with that name.
    pub fn built_in(name: &str) -> Result<Self> {
        let found = Embedded::find(&RECIPES, "recipe", name)?;
        Self::parse(found.text, found.finish, found.overlay())
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
        let finish = if folder.join("finish").exists() { text("finish")? } else { String::new() };
        Self::parse(&text("recipe.toml")?, &finish, overlay)
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
        recipe.finish = Vec::from_iter((!finish.is_empty()).then(|| finish.to_owned()));
        recipe.overlay = overlay;
        recipe.lay_on_base()?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Puts what its base has before what it has itself.
    fn lay_on_base(&mut self) -> Result<()> {
        let Some(name) = &self.base else { return Ok(()) };
        let found = Embedded::find(&BASES, "base", name)?;
        let base: Base = toml::from_str(found.text).context("reading base.toml")?;
        self.packages.splice(0..0, base.packages);
        self.finish.insert(0, found.finish.to_owned());
        for file in found.overlay() {
            if self.overlay.iter().all(|own| own.path != file.path) {
                self.overlay.push(file);
            }
        }
        self.overlay.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let word = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
            !text.is_empty() && text.chars().all(plain) && !text.starts_with('-')
        };
        let words = [&self.name, &self.suite].into_iter().chain(&self.components);
        if let Some(bad) =
            words.chain(&self.packages).chain(&self.boot.grub).find(|text| !word(text))
        {
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

    /// What the kernel's command line begins with.
    pub(crate) fn root_line(&self) -> String {
        format!("root=UUID={} rw", self.id("root"))
    }

    /// The whole command line of the kernel.
    pub(crate) fn command_line(&self) -> String {
        format!("{} {}", self.root_line(), self.boot.command_line)
    }

    /// A file of the overlay as it is laid into the system.
    pub(crate) fn render(&self, file: &OverlayFile) -> String {
        file.text
            .replace("@root_uuid@", &self.id("root").to_string())
            .replace("@command_line@", &self.command_line())
            .replace("@options@", &self.boot.command_line)
            .replace("@xen_line@", self.boot.xen_line.as_deref().unwrap_or_default())
    }
}

impl OverlayFile {
    pub(crate) fn new(path: &str, text: &str) -> Self {
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
    fn the_embedded_recipes_are_the_folders() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        for name in ["bare", "dom0", "system"] {
            assert_eq!(Recipe::built_in(name).unwrap(), Recipe::read(&folder.join(name)).unwrap());
        }
        let mut files = Vec::new();
        read_overlay(&folder.join("node/overlay"), "", &mut files).unwrap();
        assert_eq!(BASES[0].overlay(), files);
    }

    #[test]
    fn a_recipe_begins_with_its_base() {
        let text = include_str!("../recipes/bare/recipe.toml");
        let text = text.replace("packages = []", "packages = [\"vim\"]");
        let own = vec![OverlayFile::new("etc/hosts", "own")];
        let recipe = Recipe::parse(&text, "own", own).unwrap();
        assert_eq!(recipe.packages.first().unwrap(), "ca-certificates");
        assert_eq!(recipe.packages.last().unwrap(), "vim");
        assert_eq!(recipe.finish.len(), 2);
        assert_eq!(recipe.finish[1], "own");
        let hosts: Vec<_> = recipe.overlay.iter().filter(|file| file.path == "etc/hosts").collect();
        assert_eq!(hosts, [&OverlayFile::new("etc/hosts", "own")]);
        let without =
            Recipe::parse(&text.replace("base = \"node\"", ""), "own", Vec::new()).unwrap();
        assert_eq!((without.packages.len(), without.finish.len()), (1, 1));
        let error = Recipe::parse(&text.replace("\"node\"", "\"mode\""), "", Vec::new());
        let error = format!("{:#}", error.unwrap_err());
        assert_eq!(error, "no base `mode`: node is accepted");
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
            ("packages = []", "packages = [\"udev; rm\"]", "`udev; rm` is no name"),
        ] {
            let error = Recipe::parse(&text.replace(from, to), "", Vec::new()).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
        let error = Recipe::built_in("bear").unwrap_err().to_string();
        assert_eq!(error, "no recipe `bear`: bare, dom0, system is accepted");
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
