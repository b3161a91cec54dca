//! Layers become one archive of a whole system, as GNU tar unpacks it.
//!
//! Folders first, then what has no bytes, then files in the order of the layers (each is
//! decompressed a second time, and nothing is kept on the way), then hard links.

use std::{
    collections::HashMap,
    io::{Read, Write},
};

use anyhow::Context;
use tar::{Builder, EntryType, Header};

use crate::{
    layer::Layer,
    member::{Kind, Member},
    tree::{Source, Tree},
};

/// What a ustar header has room for.
const LONGEST_NAME: usize = 100;
const LARGEST_ID: u64 = 0o777_7777;
const LARGEST_SIZE: u64 = 0o77_777_777_777;

/// Puts layers on top of one another, and checks those that somebody vouches for.
pub(crate) fn lay(layers: &[Layer]) -> anyhow::Result<Tree> {
    let mut tree = Tree::default();
    for (number, layer) in layers.iter().enumerate() {
        layer
            .read(|member_number, member, _| {
                tree.add(member, (number, member_number), layer.takes_away)
            })
            .with_context(|| format!("reading layer {} of {}", number + 1, layers.len()))?;
    }
    Ok(tree)
}

/// Writes the system that `layers` make as one archive.
pub(crate) fn write(tree: &Tree, layers: &[Layer], to: impl Write) -> anyhow::Result<()> {
    let mut builder = Builder::new(to);
    let nodes = tree.nodes();
    let of_kind =
        |wanted: fn(&Kind) -> bool| nodes.iter().filter(move |(node, _)| wanted(&node.member.kind));
    for (node, names) in of_kind(|kind| *kind == Kind::Folder) {
        append(&mut builder, &node.member, names[0], &mut std::io::empty())?;
    }
    for (node, names) in of_kind(|kind| !matches!(kind, Kind::Folder | Kind::File)) {
        append(&mut builder, &node.member, names[0], &mut std::io::empty())?;
    }
    let files: HashMap<Source, &[u8]> =
        of_kind(|kind| *kind == Kind::File).map(|(node, names)| (node.source, names[0])).collect();
    for (number, layer) in layers.iter().enumerate() {
        layer.read(|member_number, member, bytes| match files.get(&(number, member_number)) {
            Some(name) => append(&mut builder, &member, name, bytes),
            None => Ok(()),
        })?;
    }
    for (node, names) in &nodes {
        for name in names.iter().skip(1) {
            let link = Member {
                kind: Kind::Link(names[0].to_vec()),
                size: 0,
                attributes: Default::default(),
                ..node.member.clone()
            };
            append(&mut builder, &link, name, &mut std::io::empty())?;
        }
    }
    builder.into_inner().and_then(|mut to| to.flush()).context("writing the system's archive")
}

fn append(
    builder: &mut Builder<impl Write>,
    member: &Member,
    name: &[u8],
    bytes: &mut dyn Read,
) -> anyhow::Result<()> {
    let context = || format!("writing {} to the system's archive", name.escape_ascii());
    let mut path = [b"./", name].concat();
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    for (attribute, value) in &member.attributes {
        let attribute = String::from_utf8_lossy(attribute);
        records.push((format!("SCHILY.xattr.{attribute}"), value.clone()));
    }
    let mut header = Header::new_ustar();
    let (kind, link) = match &member.kind {
        Kind::File => (EntryType::Regular, Vec::new()),
        Kind::Link(target) => (EntryType::Link, [b"./", &target[..]].concat()),
        Kind::Symlink(target) => (EntryType::Symlink, target.clone()),
        Kind::Folder => (EntryType::Directory, Vec::new()),
        Kind::Fifo => (EntryType::Fifo, Vec::new()),
        Kind::Character(..) => (EntryType::Char, Vec::new()),
        Kind::Block(..) => (EntryType::Block, Vec::new()),
    };
    header.set_entry_type(kind);
    if let Kind::Character(major, minor) | Kind::Block(major, minor) = member.kind {
        header.set_device_major(major).and_then(|()| header.set_device_minor(minor))?;
    }
    header.set_mode(member.mode);
    let mut number = |key: &str, value: u64, largest: u64| {
        if value > largest {
            records.push((key.to_owned(), value.to_string().into_bytes()));
        }
        value.min(largest)
    };
    header.set_uid(number("uid", member.owner, LARGEST_ID));
    header.set_gid(number("gid", member.group, LARGEST_ID));
    header.set_size(number("size", member.size, LARGEST_SIZE));
    if member.modified < 0 {
        records.push(("mtime".to_owned(), member.modified.to_string().into_bytes()));
    }
    header.set_mtime(u64::try_from(member.modified).unwrap_or(0));
    for (key, value) in [("path", &mut path), ("linkpath", &mut link.clone())] {
        if value.len() > LONGEST_NAME {
            records.push((key.to_owned(), value.clone()));
        }
    }
    let fields = header.as_old_mut();
    path.truncate(LONGEST_NAME);
    fields.name[..path.len()].copy_from_slice(&path);
    let short = &link[..link.len().min(LONGEST_NAME)];
    fields.linkname[..short.len()].copy_from_slice(short);
    header.set_cksum();
    if !records.is_empty() {
        let records = records.iter().map(|(key, value)| (key.as_str(), &value[..]));
        builder.append_pax_extensions(records).with_context(context)?;
    }
    builder.append(&header, bytes).with_context(context)
}
