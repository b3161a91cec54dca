//! Disks of other programs, read by `qemu-img`: it knows their formats with all their options
//! (compression by zlib and by zstd, sub-clusters, split and stream-optimised disks).
//!
//! It is told the format, never asked to guess it, and only once the header has been looked at
//! here: a disk may name other files, and those are not read. A disk that was cut short is
//! refused by `qemu-img check`; `convert` alone would give zeros for what is missing.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    format::{Format, Unfit},
    qcow2,
    scratch::Scratch,
    tool::{self, Tool},
    vhd, vmdk,
};

const QEMU_IMG: Tool = Tool { program: "qemu-img", package: "qemu-utils" };
/// What `qemu-img check` says of a format that it cannot check.
const CANNOT_CHECK: &str = "does not support checks";

/// Makes a raw disk of `path` in `scratch`.
pub(crate) fn to_raw(path: &Path, format: Format, scratch: &Scratch) -> anyhow::Result<PathBuf> {
    tool::need(&[QEMU_IMG])?;
    look_at(path, format)?;
    // A path from the root: `nbd:...` is a file here, and no protocol.
    let path = path.canonicalize().with_context(|| format!("finding {}", path.display()))?;
    check(&path, format)?;
    let raw = scratch.join("disk");
    let mut convert = tool::command(QEMU_IMG.program);
    convert.args(["convert", "-f", driver(format), "-O", "raw", "-W", "-m", "4"]);
    convert.arg(&path).arg(&raw);
    tool::run(&mut convert, &mut |_| {})
        .with_context(|| format!("converting {} from {format}", path.display()))?;
    Ok(raw)
}

/// What QEMU calls a format.
fn driver(format: Format) -> &'static str {
    if format == Format::Vhd { "vpc" } else { format.name() }
}

/// Refuses what is not whole by itself, before QEMU opens it.
fn look_at(path: &Path, format: Format) -> anyhow::Result<()> {
    let reading = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let mut bytes = |from: SeekFrom, most: u64| -> std::io::Result<Vec<u8>> {
        file.seek(from)?;
        let mut bytes = Vec::new();
        (&file).take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let head = bytes(SeekFrom::Start(0), 4096).with_context(reading)?;
    match format {
        Format::Qcow2 => qcow2::check(path, &head)?,
        Format::Vmdk => {
            if let Some((offset, size)) = vmdk::descriptor(&head) {
                let text = bytes(SeekFrom::Start(offset), size).with_context(reading)?;
                vmdk::check(path, &text)?;
                vmdk::flat_files(&text).iter().try_for_each(|part| check_part(path, part))?;
            }
        }
        Format::Vhd => {
            let size = bytes(SeekFrom::End(0), 0).and_then(|_| file.stream_position());
            let start = size.with_context(reading)?.saturating_sub(512);
            file.seek(SeekFrom::Start(start)).with_context(reading)?;
            let mut footer = Vec::new();
            file.read_to_end(&mut footer).with_context(reading)?;
            vhd::check(path, &footer)?;
        }
        Format::Vhdx | Format::Raw | Format::Tar | Format::Oci => {}
    }
    Ok(())
}

/// A file of a split disk must be there as long as it should be: QEMU would read zeros.
fn check_part(path: &Path, (name, wanted): &(String, u64)) -> anyhow::Result<()> {
    let size = path.with_file_name(name).metadata().map_or(0, |metadata| metadata.len());
    if size < *wanted {
        let why = format!("needs {wanted} bytes of `{}`, which has {size}", name.escape_debug());
        return Err(Unfit::new(path, why).into());
    }
    Ok(())
}

fn check(path: &Path, format: Format) -> anyhow::Result<()> {
    let mut check = tool::command(QEMU_IMG.program);
    let output = check.args(["check", "-f", driver(format)]).arg(path).output();
    let output = output.context("starting qemu-img")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = if said.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { said };
    // 3 is leaked clusters: they waste room and harm nothing.
    if matches!(output.status.code(), Some(0 | 3)) || said.contains(CANNOT_CHECK) {
        return Ok(());
    }
    let first = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let first = first.strip_prefix("qemu-img: ").unwrap_or(first);
    Err(Unfit::new(path, format!("is no whole {format}: {first}")).into())
}
