//! Kernel modules: what one says of itself, and which others it needs.
//!
//! A package of Debian's kernel has no `modules.dep` (its installation makes that), so the
//! module's own `.modinfo` section is read, as depmod does (Linux, `include/linux/module.h`).

use std::collections::{BTreeMap, BTreeSet};

/// What a module says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Modules that it wants loaded first, where there are such (`softdep=pre:`).
    pub wishes: Vec<String>,
    /// Patterns of what it drives.
    pub aliases: Vec<String>,
}

/// `virtio-net` and `virtio_net` are one module.
pub fn plain_name(name: &str) -> String {
    name.replace('-', "_")
}

impl ModuleInfo {
    /// Reads the `.modinfo` section of an ELF64 module; `None` where there is none.
    pub fn parse(elf: &[u8]) -> Option<Self> {
        let section = section(elf, ".modinfo")?;
        let mut info = ModuleInfo::default();
        let words = section.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        for (key, value) in words.filter_map(|word| {
            Some(word.split_once('=')?).map(|(k, v)| (k.to_owned(), v.to_owned()))
        }) {
            let names = || value.split(',').filter(|name| !name.is_empty()).map(plain_name);
            match key.as_str() {
                "depends" => info.depends.extend(names()),
                "alias" => info.aliases.push(value),
                "softdep" => info.wishes.extend(before(&value)),
                _ => {}
            }
        }
        Some(info)
    }
}

/// `pre: a b post: c` wants `a` and `b` first.
fn before(softdep: &str) -> Vec<String> {
    let words = softdep.split_ascii_whitespace().skip_while(|word| *word != "pre:").skip(1);
    words.take_while(|word| !word.ends_with(':')).map(plain_name).collect()
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    let value = field.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).ok()
}

/// The bytes of a section (ELF-64 Object File Format, "Sections"; little endian).
fn section<'b>(elf: &'b [u8], wanted: &str) -> Option<&'b [u8]> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, entry) = (number(elf, 0x28, 8)?, number(elf, 0x3a, 2)?);
    let (count, names) = (number(elf, 0x3c, 2)?, number(elf, 0x3e, 2)?);
    let header = |n: usize| {
        let at = table.checked_add(n.checked_mul(entry)?)?;
        let bytes = elf.get(at..at.checked_add(64)?)?;
        Some((number(bytes, 0, 4)?, number(bytes, 0x18, 8)?, number(bytes, 0x20, 8)?))
    };
    let (_, strings, _) = header(names)?;
    (0..count).find_map(|n| {
        let (name, offset, size) = header(n)?;
        let text = elf.get(strings.checked_add(name)?..)?;
        let named = text.starts_with(wanted.as_bytes()) && text.get(wanted.len()) == Some(&0);
        named.then(|| elf.get(offset..offset.checked_add(size)?)).flatten()
    })
}

/// `wanted` and all that they need, each after what it needs itself. `info` says what a module
/// needs; `None` for a name that is no module. The error is the first name that is missing.
pub fn closure(
    wanted: &[&str],
    mut info: impl FnMut(&str) -> anyhow::Result<Option<ModuleInfo>>,
) -> anyhow::Result<Vec<(String, ModuleInfo)>> {
    let mut known: BTreeMap<String, ModuleInfo> = BTreeMap::new();
    let mut order = Vec::new();
    let mut open = BTreeSet::new();
    for name in wanted {
        visit(&plain_name(name), true, &mut info, &mut known, &mut open, &mut order)?;
    }
    let found = order.into_iter().filter_map(|name| known.remove_entry(&name));
    Ok(found.collect())
}

fn visit(
    name: &str,
    must: bool,
    info: &mut impl FnMut(&str) -> anyhow::Result<Option<ModuleInfo>>,
    known: &mut BTreeMap<String, ModuleInfo>,
    open: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> anyhow::Result<()> {
    if !open.insert(name.to_owned()) {
        return Ok(());
    }
    let Some(found) = info(name)? else {
        anyhow::ensure!(!must, "the kernel has no module {name}");
        return Ok(());
    };
    for needed in &found.depends {
        visit(needed, true, info, known, open, order)?;
    }
    for wished in &found.wishes {
        visit(wished, false, info, known, open, order)?;
    }
    known.insert(name.to_owned(), found);
    order.push(name.to_owned());
    Ok(())
}

/// `modules.dep` for these modules, each a file `<name>.ko` beside it: a line a module, what must
/// be loaded before it nearest first. Modules come after what they need.
pub fn render_dep(modules: &[(String, ModuleInfo)]) -> String {
    let mut before: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut text = String::new();
    for (name, info) in modules {
        // In load order, each once: first all that its own needs need.
        let mut needs: Vec<&str> = Vec::new();
        for needed in info.wishes.iter().chain(&info.depends) {
            let Some(chain) = before.get(needed.as_str()) else { continue };
            for one in chain.iter().copied().chain([needed.as_str()]) {
                if !needs.contains(&one) {
                    needs.push(one);
                }
            }
        }
        let files: Vec<String> = needs.iter().rev().map(|needed| format!(" {needed}.ko")).collect();
        text.push_str(&format!("{name}.ko:{}\n", files.concat()));
        before.insert(name, needs);
    }
    text
}

/// `modules.alias` for these modules.
pub fn render_alias(modules: &[(String, ModuleInfo)]) -> String {
    let lines = modules.iter().flat_map(|(name, info)| {
        info.aliases.iter().map(move |alias| format!("alias {alias} {name}\n"))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF file with nothing but a `.modinfo` and the names of sections.
    fn elf(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let table = 64 + modinfo.len() + names.len();
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        bytes[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
        bytes[0x3c..0x3e].copy_from_slice(&3_u16.to_le_bytes());
        bytes[0x3e..0x40].copy_from_slice(&2_u16.to_le_bytes());
        bytes.extend(modinfo);
        bytes.extend(names);
        for (name, offset, size) in
            [(0, 0, 0), (1, 64, modinfo.len()), (10, 64 + modinfo.len(), names.len())]
        {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&(name as u32).to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            bytes.extend(header);
        }
        bytes
    }

    #[test]
    fn reads_what_a_module_says() {
        let module = elf(b"license=GPL\0depends=net-failover,virtio\0alias=virtio:d1v*\0\
                           softdep=pre: crc32c x-y post: z\0");
        let info = ModuleInfo::parse(&module).unwrap();
        assert_eq!(info.depends, ["net_failover", "virtio"]);
        assert_eq!(info.aliases, ["virtio:d1v*"]);
        assert_eq!(info.wishes, ["crc32c", "x_y"]);
    }

    fn needing(needs: &[&str], wishes: &[&str]) -> ModuleInfo {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ModuleInfo { depends: list(needs), wishes: list(wishes), aliases: vec![] }
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let info = |name: &str| {
            Ok(match name {
                "ext4" => Some(needing(&["jbd2", "mbcache"], &["crc32c", "nowhere"])),
                "jbd2" | "mbcache" | "crc32c" => Some(needing(&[], &[])),
                _ => None,
            })
        };
        let modules = closure(&["ext4", "jbd2"], info).unwrap();
        let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["jbd2", "mbcache", "crc32c", "ext4"]);
        let dep = render_dep(&modules);
        assert!(dep.ends_with("ext4.ko: mbcache.ko jbd2.ko crc32c.ko\n"), "{dep}");
        assert!(closure(&["nosuch"], info).unwrap_err().to_string().contains("nosuch"));
    }

    proptest! {
        #[test]
        fn nonsense_is_no_module(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut elf = b"\x7fELF\x02\x01".to_vec();
            elf.extend(bytes);
            ModuleInfo::parse(&elf);
        }
    }
}
