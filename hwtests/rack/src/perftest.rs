//! Debian's perftest with the libraries of verbs, unpacked, for machines of
//! [`kernel`]: `ib_write_bw` over soft-RoCE.

use std::path::PathBuf;

use anyhow::Result;

use crate::{bench::peers, kernel};

/// Modules of soft-RoCE and of the card that it is on; it asks for its checksum by name.
pub const MODULES: [&str; 5] =
    ["virtio_net", "virtio_pci", "crc32_generic", "rdma_rxe", "ib_uverbs"];

/// perftest's package.
const PERFTEST: &str = "perftest";
/// What it needs beyond libc and the library below.
const PACKAGES: [&str; 6] = [
    "ibverbs-providers",
    "libibumad3",
    "libibverbs1",
    "libnl-3-200",
    "libnl-route-3-200",
    "libpci3",
];
/// Debian 13's has `t64` behind its name.
const RDMACM: &str = "librdmacm1";
const LIBRARIES: &str = "lib/x86_64-linux-gnu";

/// `bin/ib_write_bw` and all that it needs: where it is inside, and on the host.
///
/// # Errors
/// When a package cannot be had: naming it.
pub fn files() -> Result<Vec<(String, PathBuf)>> {
    let perftest = peers::fetch_one(PERFTEST)?;
    let rdmacm = peers::needed_by(PERFTEST, RDMACM)?;
    let others = PACKAGES.into_iter().chain([rdmacm.as_str()]).map(peers::fetch_one);
    let trees = others.collect::<Result<Vec<_>>>()?;
    let [providers, ..] = &trees[..] else { return Ok(Vec::new()) };
    let places =
        trees.iter().flat_map(|tree| [tree.join(LIBRARIES), tree.join("usr").join(LIBRARIES)]);
    let places: Vec<PathBuf> = places.filter(|place| place.is_dir()).collect();
    let program = perftest.join("usr/bin/ib_write_bw");
    let mut files = Vec::new();
    for library in kernel::libraries(&program, &places)? {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The loader's own place is in the program.
        let inside = match name.starts_with("ld-linux") {
            true => format!("lib64/{name}"),
            false => format!("{LIBRARIES}/{name}"),
        };
        files.push((inside, library));
    }
    files.push(("bin/ib_write_bw".to_owned(), program));
    // libibverbs finds its drivers by a file of configuration and a folder.
    files.push((
        "etc/libibverbs.d/rxe.driver".to_owned(),
        providers.join("etc/libibverbs.d/rxe.driver"),
    ));
    let drivers = format!("usr/{LIBRARIES}/libibverbs");
    let driver = kernel::only(&providers.join(&drivers), "librxe")?;
    let name = driver.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files.push((format!("{drivers}/{name}"), driver));
    Ok(files)
}
