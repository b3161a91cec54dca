//! Where Debian packages come from: a suite on a mirror, and `apt-get` with a state of its
//! own, so that neither root nor the host's package lists are needed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::tool::{self, Tool};

/// Debian's own name for the nearest mirror.
const PUBLIC_MIRROR: &str = "http://deb.debian.org/debian";
/// Debian's keys, which sign its release files.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Programs that [`Apt`] runs.
pub(crate) const TOOLS: [Tool; 3] = [
    Tool { program: "apt-get", package: "apt" },
    Tool { program: "dpkg-deb", package: "dpkg" },
    Tool { program: "date", package: "coreutils" },
];

/// A suite on a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The suite, as `trixie`.
    pub suite: String,
    /// URL of the archive.
    pub mirror: String,
    /// Its components.
    pub components: Vec<String>,
    /// Whether updates and security updates are taken in.
    pub updates: bool,
}

impl Source {
    /// `suite` from `mirror`, or from the mirror that the host uses itself. A mirror that was
    /// chosen by hand may be a snapshot: only it is asked then.
    pub fn new(suite: &str, mirror: Option<&str>, components: &[String]) -> Self {
        let chosen = mirror.map(|mirror| mirror.trim_end_matches('/').to_owned());
        Source {
            suite: suite.to_owned(),
            updates: chosen.is_none(),
            mirror: chosen.unwrap_or_else(host_mirror),
            components: components.to_vec(),
        }
    }

    /// Lines of a `sources.list`.
    pub(crate) fn lines(&self) -> Vec<String> {
        let (mirror, suite, components) = (&self.mirror, &self.suite, self.components.join(" "));
        let mut lines = vec![format!("deb {mirror} {suite} {components}")];
        if self.updates {
            lines.push(format!("deb {mirror} {suite}-updates {components}"));
            lines.push(format!("deb {mirror}-security {suite}-security {components}"));
        }
        lines
    }
}

/// The archive that the host's own sources name first, else the public one.
fn host_mirror() -> String {
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.path()).collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.filter_map(|text| archive_in(&text)).next().unwrap_or_else(|| PUBLIC_MIRROR.to_owned())
}

/// The first URL of a Debian archive in a sources file of either form.
fn archive_in(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim);
    let used = lines.filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    let mut words = used.flat_map(str::split_ascii_whitespace);
    let archive =
        |word: &&str| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian");
    Some(words.find(archive)?.trim_end_matches('/').to_owned())
}

/// `apt-get` with lists, cache and configuration in a folder of ours.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
    suite: String,
}

impl Apt {
    /// Fetches the lists of `source` into `folder`.
    pub(crate) fn new(folder: &Path, source: &Source) -> Result<Self> {
        let apt = Apt { folder: folder.to_owned(), suite: source.suite.clone() };
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, text)
        };
        if !Path::new(KEYRING).exists() {
            bail!("missing {KEYRING}; `sudo apt-get install debian-archive-keyring` installs it");
        }
        let options = format!("deb [arch=amd64 signed-by={KEYRING}] ");
        let sources = source.lines().join("\n").replace("deb ", &options) + "\n";
        write("etc/apt/sources.list", sources)
            .and_then(|()| write("var/lib/dpkg/status", String::new()))
            .and_then(|()| write("var/lib/apt/lists/partial/.keep", String::new()))
            .and_then(|()| write("var/cache/apt/archives/partial/.keep", String::new()))
            .and_then(|()| write("apt.conf", apt.configuration()))
            .with_context(|| format!("writing apt's configuration in {}", folder.display()))?;
        tool::run(apt.command("apt-get").arg("update"), &mut |_| {})
            .with_context(|| format!("fetching the package lists of {}", source.mirror))?;
        Ok(apt)
    }

    fn configuration(&self) -> String {
        let root = self.folder.display();
        let mut text = format!(
            "Dir \"{root}/\";\nDir::State::status \"{root}/var/lib/dpkg/status\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n"
        );
        // A site's proxy is a fact of its network, not of its package lists.
        let dump = tool::output(tool::command("apt-config").arg("dump")).unwrap_or_default();
        for line in String::from_utf8_lossy(&dump).lines() {
            if line.starts_with("Acquire::http") && line.contains("Proxy") {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    fn command(&self, program: &str) -> Command {
        let mut command = tool::command(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).current_dir(&self.folder);
        command
    }

    /// When the suite was released, in seconds of Unix time: what a build calls now.
    pub(crate) fn released(&self) -> Result<u64> {
        let lists = self.folder.join("var/lib/apt/lists");
        let end = format!("_dists_{}_InRelease", self.suite);
        let entries = fs::read_dir(&lists).context("reading apt's lists")?.flatten();
        let release = entries
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with(&end))
            .with_context(|| format!("no release file of {} in apt's lists", self.suite))?;
        let text = fs::read_to_string(&release).context("reading the release file")?;
        let date = text.lines().find_map(|line| line.strip_prefix("Date: "));
        let date = date.context("the release file has no date")?;
        let seconds = tool::output(tool::command("date").args(["-u", "+%s", "-d", date]))?;
        let seconds = String::from_utf8_lossy(&seconds);
        seconds.trim().parse().with_context(|| format!("reading the date {date}"))
    }

    /// The first package that `package` depends on: the real one behind a metapackage.
    pub(crate) fn depends(&self, package: &str) -> Result<String> {
        let show = tool::output(self.command("apt-cache").args(["show", package]))
            .with_context(|| format!("looking up package {package}"))?;
        let show = String::from_utf8_lossy(&show);
        let line = show.lines().find_map(|line| line.strip_prefix("Depends: "));
        let name = line.and_then(|line| line.split([' ', ',', '(']).next());
        Ok(name.with_context(|| format!("package {package} depends on nothing"))?.to_owned())
    }

    /// Downloads `package` and unpacks it under `target`.
    pub(crate) fn unpack(&self, package: &str, target: &Path) -> Result<()> {
        let folder = self.folder.join(package);
        fs::create_dir_all(&folder).context("making a folder for a package")?;
        let mut download = self.command("apt-get");
        download.args(["download", package]).current_dir(&folder);
        tool::run(&mut download, &mut |_| {})
            .with_context(|| format!("downloading package {package}"))?;
        let mut entries = fs::read_dir(&folder).context("looking for the package")?.flatten();
        let file = entries.next().with_context(|| format!("package {package} did not come"))?;
        tool::run(tool::command("dpkg-deb").arg("-x").arg(file.path()).arg(target), &mut |_| {})
            .with_context(|| format!("unpacking package {package}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_mirror_is_read_from_both_forms_of_sources() {
        let old = "# deb http://no/debian x\ndeb [arch=amd64] http://a.example/debian/ trixie main";
        assert_eq!(archive_in(old).as_deref(), Some("http://a.example/debian"));
        let new = "Types: deb\nURIs: http://b.example/debian-security http://b.example/debian\n";
        assert_eq!(archive_in(new).as_deref(), Some("http://b.example/debian"));
        assert_eq!(archive_in("deb http://c.example/ubuntu noble main"), None);
    }

    #[test]
    fn a_mirror_chosen_by_hand_is_asked_alone() {
        let main = ["main".to_owned()];
        let chosen = Source::new("trixie", Some("http://a.example/snapshot/"), &main);
        assert_eq!(chosen.lines(), ["deb http://a.example/snapshot trixie main"]);
        assert_eq!(Source::new("trixie", None, &main).lines().len(), 3);
    }
}
