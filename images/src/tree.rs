//! The files of a system, put together from layers: what each layer adds, replaces and removes,
//! without a file system in between (OCI Image Format, "Layer Filesystem Changeset").
//!
//! A path is resolved as the kernel would inside the system, symbolic links included; nothing
//! outside can be reached by one. A hard link is a second name of what its target is at that
//! moment.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use crate::member::{Kind, Member};

/// The beginning of names that take something away.
const WHITEOUT: &[u8] = b".wh.";
/// The name that takes away all that lower layers have in a folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Symbolic links on the way to one file, as many as Linux follows.
const MOST_LINKS: usize = 40;

/// A place among the layers: the layer and the member's number in it.
pub(crate) type Source = (usize, usize);

/// Something with at least one name.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// What it is; its path is that of the name it came by.
    pub(crate) member: Member,
    /// Whence its bytes come.
    pub(crate) source: Source,
}

/// A name and what layer gave it last.
#[derive(Debug, Clone, Copy)]
struct Name {
    node: usize,
    layer: usize,
}

/// A system.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    names: BTreeMap<Vec<u8>, Name>,
}

impl Tree {
    /// Takes a member in; members of a layer in their order, layers from the lowest. In an archive
    /// that is no layer, nothing is taken away by a name.
    pub(crate) fn add(
        &mut self,
        member: Member,
        source: Source,
        is_layer: bool,
    ) -> anyhow::Result<()> {
        let shown = member.path.escape_ascii().to_string();
        self.place(member, source, is_layer).with_context(|| format!("laying out {shown}"))
    }

    fn place(&mut self, mut member: Member, source: Source, is_layer: bool) -> anyhow::Result<()> {
        let layer = source.0;
        let (parent, name) = split(&member.path);
        let (parent, name) = (parent.to_vec(), name.to_vec());
        if is_layer && name.starts_with(WHITEOUT) {
            let Some(parent) = self.find_folder(&parent)? else { return Ok(()) };
            if name == OPAQUE {
                self.take_away(&parent, layer, false);
            } else {
                self.take_away(&join(&parent, &name[WHITEOUT.len()..]), layer, true);
            }
            return Ok(());
        }
        let path = match &name[..] {
            [] => Vec::new(),
            name => join(&self.make_folder(&parent, source)?, name),
        };
        let node = match &member.kind {
            Kind::Link(target) => Some(self.linked(target)?),
            _ => None,
        };
        let there = self.names.get(&path).copied();
        let was_folder = there.is_some_and(|name| self.is_folder(name.node));
        if member.kind == Kind::Folder && was_folder {
            member.path.clone_from(&path);
        } else if was_folder {
            ensure!(!path.is_empty(), "the root is a folder");
            self.take_away(&path, usize::MAX, false);
        }
        let node = node.unwrap_or_else(|| {
            member.path.clone_from(&path);
            self.nodes.push(Node { member, source });
            self.nodes.len() - 1
        });
        self.names.insert(path, Name { node, layer });
        Ok(())
    }

    /// The node that a hard link is another name of.
    fn linked(&self, target: &[u8]) -> anyhow::Result<usize> {
        let (parent, name) = split(target);
        let parent = self.find_folder(parent)?;
        let found = parent.and_then(|parent| self.names.get(&join(&parent, name)));
        let shown = target.escape_ascii();
        let found = found.with_context(|| format!("it links to {shown}, which is not there"))?;
        ensure!(!self.is_folder(found.node), "it links to {shown}, which is a folder");
        Ok(found.node)
    }

    fn is_folder(&self, node: usize) -> bool {
        self.nodes[node].member.kind == Kind::Folder
    }

    /// Takes away what lower layers have at `path` and below it.
    fn take_away(&mut self, path: &[u8], layer: usize, itself: bool) {
        let mut gone: Vec<Vec<u8>> = self.under(path).map(<[u8]>::to_vec).collect();
        gone.extend(itself.then(|| path.to_vec()));
        for name in gone {
            if self.names.get(&name).is_some_and(|at| at.layer < layer) {
                self.names.remove(&name);
            }
        }
    }

    /// Names below a folder, however deep.
    fn under(&self, folder: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut first = folder.to_vec();
        first.extend((!folder.is_empty()).then_some(b'/'));
        let names = self.names.range(first.clone()..).map(|(name, _)| &name[..]);
        names.take_while(move |name| name.starts_with(&first)).filter(|name| !name.is_empty())
    }

    /// Where a folder really is; it is made, and so are those above it, when it is not there.
    fn make_folder(&mut self, path: &[u8], source: Source) -> anyhow::Result<Vec<u8>> {
        let mut at = Vec::new();
        self.imply(&at, source)?;
        for part in parts(path) {
            at = match self.resolve(&join(&at, part))? {
                Resolved::There(found) => found,
                // A symbolic link may lead to where nothing is yet.
                Resolved::Missing(place) => {
                    let slashes = place.iter().enumerate().filter(|(_, byte)| **byte == b'/');
                    for (end, _) in slashes {
                        self.imply(&place[..end], source)?;
                    }
                    place
                }
            };
            self.imply(&at, source)?;
        }
        Ok(at)
    }

    /// The folder at `path`, which a member is to be put in: made when no member spoke of it.
    fn imply(&mut self, path: &[u8], source: Source) -> anyhow::Result<()> {
        if let Some(name) = self.names.get_mut(path) {
            let folder = self.nodes[name.node].member.kind == Kind::Folder;
            ensure!(folder, "{} is no folder and has files in it", path.escape_ascii());
            // What this layer puts in it keeps the folder, whatever the layer takes away later.
            name.layer = source.0;
            return Ok(());
        }
        let member = Member {
            path: path.to_vec(),
            kind: Kind::Folder,
            mode: 0o755,
            owner: 0,
            group: 0,
            modified: 0,
            size: 0,
            attributes: BTreeMap::new(),
        };
        self.nodes.push(Node { member, source });
        self.names.insert(path.to_vec(), Name { node: self.nodes.len() - 1, layer: source.0 });
        Ok(())
    }

    fn find_folder(&self, path: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        match self.resolve(path)? {
            Resolved::There(found) => Ok(self.is_folder(self.names[&found].node).then_some(found)),
            Resolved::Missing(place) => Ok(place.is_empty().then_some(place)),
        }
    }

    /// Follows a path, and the symbolic links on it, as the kernel would with this tree as root.
    fn resolve(&self, path: &[u8]) -> anyhow::Result<Resolved> {
        let mut left: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        let (mut at, mut links) = (Vec::new(), 0);
        while let Some(part) = left.pop() {
            if part == b".." {
                at = split(&at).0.to_vec();
                continue;
            }
            let next = join(&at, &part);
            let Some(name) = self.names.get(&next) else {
                let rest = left.into_iter().rev();
                let missing = rest.fold(next, |at, part| match &part[..] {
                    b".." => split(&at).0.to_vec(),
                    part => join(&at, part),
                });
                return Ok(Resolved::Missing(missing));
            };
            match &self.nodes[name.node].member.kind {
                Kind::Symlink(target) => {
                    links += 1;
                    let shown = path.escape_ascii();
                    ensure!(links <= MOST_LINKS, "too many symbolic links on the way to {shown}");
                    left.extend(parts(target).rev().map(<[u8]>::to_vec));
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                }
                _ => at = next,
            }
        }
        Ok(if self.names.contains_key(&at) { Resolved::There(at) } else { Resolved::Missing(at) })
    }

    /// What a path leads to.
    pub(crate) fn find(&self, path: &str) -> Option<&Node> {
        match self.resolve(path.as_bytes()).ok()? {
            Resolved::There(found) => Some(&self.nodes[self.names.get(&found)?.node]),
            Resolved::Missing(_) => None,
        }
    }

    /// Names in a folder.
    pub(crate) fn names_in(&self, folder: &str) -> Vec<String> {
        let Ok(Resolved::There(folder)) = self.resolve(folder.as_bytes()) else {
            return Vec::new();
        };
        let names =
            self.under(&folder).map(|name| &name[folder.len() + usize::from(!folder.is_empty())..]);
        let names = names.filter(|name| !name.contains(&b'/'));
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Every node that has a name, with its names in order; folders before what is in them.
    pub(crate) fn nodes(&self) -> Vec<(&Node, Vec<&[u8]>)> {
        let mut names: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
        for (path, name) in &self.names {
            names.entry(name.node).or_default().push(path);
        }
        let mut nodes: Vec<_> =
            names.into_iter().map(|(node, names)| (&self.nodes[node], names)).collect();
        nodes.sort_by(|a, b| a.1[0].cmp(b.1[0]));
        nodes
    }

    /// Bytes that its files take in blocks of 4 KiB, and a block for everything else.
    pub(crate) fn weight(&self) -> u64 {
        let weight =
            |(node, _): &(&Node, Vec<&[u8]>)| node.member.size.next_multiple_of(4096).max(4096);
        self.nodes().iter().map(weight).sum()
    }
}

/// Where a path leads.
enum Resolved {
    There(Vec<u8>),
    Missing(Vec<u8>),
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(part, [] | [b'.']))
}

/// Folder and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, name].join(&b'/') }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    /// Lays out layers of lines such as `d a`, `f a/b`, `l a/c a/b` (hard), `s d a` (symbolic);
    /// returns the names, each with its node's first name and layer.
    fn tree(layers: &[&[&str]]) -> anyhow::Result<Vec<String>> {
        let mut tree = Tree::default();
        for (layer, members) in layers.iter().enumerate() {
            for (number, line) in members.iter().enumerate() {
                let fields: Vec<&str> = line.split(' ').collect();
                let target = fields.get(2).unwrap_or(&"").as_bytes().to_vec();
                let kind = match fields[0] {
                    "d" => Kind::Folder,
                    "l" => Kind::Link(target),
                    "s" => Kind::Symlink(target),
                    _ => Kind::File,
                };
                let path = fields[1].as_bytes().to_vec();
                let member = Member {
                    path,
                    kind,
                    mode: 0o644,
                    owner: 0,
                    group: 0,
                    modified: 0,
                    size: 0,
                    attributes: BTreeMap::new(),
                };
                tree.add(member, (layer, number), true)?;
            }
        }
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let lines = tree.nodes().into_iter().skip(1).flat_map(|(node, names)| {
            let end = format!("{}", node.source.0);
            names.into_iter().map(move |name| format!("{}@{end}", text(name))).collect::<Vec<_>>()
        });
        Ok(lines.collect())
    }

    #[test]
    fn a_whiteout_takes_away_what_lower_layers_have() {
        let lower: &[&str] = &["d a", "f a/b", "f a/c", "d a/d", "f a/d/e", "f a.b"];
        assert_eq!(tree(&[lower, &["f a/.wh.b", "f a/.wh.d"]]).unwrap(), ["a@0", "a.b@0", "a/c@0"]);
        // Whatever stands first in the layer.
        for upper in [["f a/.wh.b", "f a/b"], ["f a/b", "f a/.wh.b"]] {
            let names = tree(&[lower, &upper]).unwrap();
            assert!(names.contains(&"a/b@1".to_owned()), "{names:?}");
        }
        for upper in [["f a/.wh..wh..opq", "f a/n"], ["f a/n", "f a/.wh..wh..opq"]] {
            assert_eq!(tree(&[lower, &upper]).unwrap(), ["a@0", "a.b@0", "a/n@1"]);
        }
        assert_eq!(tree(&[lower, &["f .wh.a", "f x/.wh.y"]]).unwrap(), ["a.b@0"]);
        assert!(tree(&[&["f .wh..wh..opq"]]).unwrap().is_empty());
    }

    #[test]
    fn kinds_replace_one_another() {
        let lower: &[&str] = &["d a", "f a/b"];
        assert_eq!(tree(&[lower, &["f a"]]).unwrap(), ["a@1"]);
        assert_eq!(tree(&[lower, &["d a"]]).unwrap(), ["a@1", "a/b@0"]);
        assert_eq!(tree(&[&["f a"], &["d a", "f a/b"]]).unwrap(), ["a@1", "a/b@1"]);
        assert!(tree(&[&["f a"], &["f a/b"]]).is_err());
        assert_eq!(tree(&[&["f a/b/c"]]).unwrap(), ["a@0", "a/b@0", "a/b/c@0"]);
    }

    #[test]
    fn a_hard_link_outlives_the_name_it_was_made_of() {
        let names = tree(&[&["f a", "l b a"], &["f a"], &["l c b"]]).unwrap();
        assert_eq!(names, ["a@1", "b@0", "c@0"]);
        assert!(tree(&[&["l b a"]]).is_err());
        assert!(tree(&[&["d a", "l b a"]]).is_err());
    }

    #[test]
    fn symbolic_links_lead_inside_and_nowhere_else() {
        let merged: &[&str] = &["d usr/lib", "s lib usr/lib", "s up ../../usr", "s abs /usr"];
        let names = tree(&[merged, &["f lib/x", "f up/y", "f abs/z"]]).unwrap();
        for name in ["usr/lib/x@1", "usr/y@1", "usr/z@1"] {
            assert!(names.contains(&name.to_owned()), "{names:?}");
        }
        let names = tree(&[&["s new usr/share", "f new/x"]]).unwrap();
        assert!(names.contains(&"usr/share/x@0".to_owned()), "{names:?}");
        let error = tree(&[&["s a b", "s b a", "f a/x"]]).unwrap_err();
        assert!(format!("{error:#}").contains("too many symbolic links"), "{error:#}");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_parents_come_first(
            layers in vec(vec((0_usize..4, 0_usize..8, 0_usize..8, any::<bool>()), 0..12), 0..4)
        ) {
            const PATHS: [&str; 8] =
                ["a", "a/b", "a/b/c", "b", "b/a", "a/.wh.b", "a/.wh..wh..opq", ".wh.a"];
            const LINKS: [&str; 8] = ["a", "/b", "../a", "b/a", "c", "..", "a/b", "/"];
            let lines = layers.iter().map(|layer| {
                let line = |(kind, path, link, _): &(usize, usize, usize, bool)| {
                    let (kind, path) = (["d", "f", "l", "s"][*kind], PATHS[*path]);
                    format!("{kind} {path} {}", LINKS[*link].trim_start_matches("../"))
                };
                layer.iter().map(line).collect::<Vec<_>>()
            });
            let lines: Vec<Vec<String>> = lines.collect();
            let lines: Vec<Vec<&str>> =
                lines.iter().map(|layer| layer.iter().map(String::as_str).collect()).collect();
            let lines: Vec<&[&str]> = lines.iter().map(Vec::as_slice).collect();
            if let Ok(names) = tree(&lines) {
                let names: Vec<&str> =
                    names.iter().filter_map(|name| name.split('@').next()).collect();
                for name in &names {
                    if let Some((folder, _)) = name.rsplit_once('/') {
                        assert!(names.contains(&folder), "{names:?}");
                    }
                }
            }
        }
    }
}
