//! `billet image`: a store. These verbs work on its folder or bucket, without a server.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::Instant,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use images::{
    Digest,
    format::{Format, Unfit},
    import,
    manifest::Boot,
    pack::Compression,
    store::Store,
};
use serde_json::json;

use crate::place::Place;

use super::{
    bar::{Bar, Bars},
    client::Refused,
    text,
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a built-in image, or the RAM system that writes images, from Debian packages.
    Build(super::build::Build),
    /// Pack a disk: a file (raw, qcow2, vmdk, vhd, vhdx), a block device, or `-` for a raw disk from
    /// standard input.
    Import(Import),
    /// Write an image to a file, raw or qcow2.
    Export(super::export::Export),
    /// List images.
    Ls(Listing),
    /// Show one image.
    Show(One),
    /// Read every chunk of an image and check it, and its signature.
    Verify(One),
    /// Take a name away; `gc` then frees what no name needs.
    Rm(One),
    /// Keys that sign images, and keys that nodes believe.
    #[command(subcommand)]
    Key(super::key::Verb),
    /// Sign images again with the store's key.
    Sign(super::key::Sign),
    /// Free what no name needs, and repack what is mostly dead.
    Gc(super::collect::Gc),
    /// Copy images to another store, only what is missing there.
    Mirror(super::mirror::Mirror),
    /// Compare two images: bytes in common, bytes that are new.
    Diff(super::diff::Diff),
}

/// Where the images are.
#[derive(Debug, Clone, Args)]
pub(super) struct StoreArgs {
    /// The store: a folder, or `s3://bucket/prefix` with the usual AWS_* variables.
    #[arg(
        long,
        env = "BILLET_STORE",
        default_value_os_t = default_store(),
        value_name = "FOLDER|s3://BUCKET"
    )]
    store: PathBuf,
    /// Below it are the keys of a store in a bucket, its RAM system and what is unfinished.
    #[arg(
        long,
        env = "BILLET_DATA",
        default_value_os_t = crate::config::default_data(),
        value_name = "FOLDER"
    )]
    data: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Listing {
    #[command(flatten)]
    store: StoreArgs,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct One {
    #[command(flatten)]
    store: StoreArgs,
    /// Name, digest, or the start of a digest that fits only one image.
    image: String,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    #[command(flatten)]
    store: StoreArgs,
    /// Name for the image.
    #[arg(long)]
    name: String,
    /// Number of the partition that takes a node's identity (a NoCloud seed).
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u32>,
    /// Logical sector of the disk, when its partition table does not tell: 512 or 4096.
    #[arg(long, value_name = "BYTES")]
    sector_size: Option<u32>,
    /// What the file is, when its first bytes do not tell: raw, qcow2, vmdk, vhd or vhdx.
    #[arg(long)]
    format: Option<Format>,
    /// What the image is compressed for: `fast` for nodes, `small` for slow links to them.
    #[arg(long, default_value = "fast", value_name = "FOR")]
    compression: Compression,
    /// The kernel for nodes that start by kexec: the number of the partition (ext4) and the path in it.
    #[arg(long, value_name = "NUMBER:PATH", value_parser = kernel)]
    kernel: Option<(u32, String)>,
    /// The initial RAM disk for that kernel, in the same partition.
    #[arg(long, requires = "kernel", value_name = "PATH")]
    ramdisk: Option<String>,
    /// The command line for that kernel.
    #[arg(long, requires = "kernel", default_value = "", value_name = "LINE")]
    command_line: String,
    /// The disk, or `-`.
    disk: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl Import {
    fn boot(&self) -> Option<Boot> {
        let (partition, kernel) = self.kernel.clone()?;
        let (ramdisk, command_line) = (self.ramdisk.clone(), self.command_line.clone());
        Some(Boot { partition, kernel, ramdisk, command_line, hypervisor: None })
    }
}

/// `1:/boot/vmlinuz`.
fn kernel(typed: &str) -> Result<(u32, String), String> {
    let wanted = "a partition's number and an absolute path in it, as in 1:/boot/vmlinuz";
    let (number, path) = typed.split_once(':').ok_or(wanted)?;
    let number = number.parse().map_err(|_| wanted)?;
    if path.starts_with('/') { Ok((number, path.to_owned())) } else { Err(wanted.to_owned()) }
}

/// Where `billet serve` looks for images when nothing is configured.
fn default_store() -> PathBuf {
    crate::config::default_data().join("store")
}

impl StoreArgs {
    /// The store, which must be there.
    pub(super) fn open(&self) -> anyhow::Result<Store> {
        place(&self.store)?.open(&self.data)
    }

    /// The store, made when it is not there.
    pub(super) fn create(&self) -> anyhow::Result<Store> {
        place(&self.store)?.create(&self.data)
    }

    /// Another store, made when it is not there.
    pub(super) fn create_other(&self, other: &Path) -> anyhow::Result<Store> {
        place(other)?.create(&self.data)
    }
}

fn place(typed: &Path) -> anyhow::Result<Place> {
    Place::parse(typed.as_os_str()).map_err(|error| Refused(error.to_string()).into())
}

pub(super) fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Build(args) => super::build::run(&args),
        Verb::Import(args) => import(&args),
        Verb::Export(args) => super::export::run(&args),
        Verb::Ls(args) => ls(&args),
        Verb::Show(args) => show(&args),
        Verb::Verify(args) => verify(&args),
        Verb::Rm(args) => rm(&args),
        Verb::Key(verb) => super::key::run(&verb),
        Verb::Sign(args) => super::key::sign(&args),
        Verb::Gc(args) => super::collect::run(&args),
        Verb::Mirror(args) => super::mirror::run(&args),
        Verb::Diff(args) => super::diff::run(&args),
    }
}

fn import(args: &Import) -> anyhow::Result<()> {
    let store = args.store.create()?;
    let mut options = import::Options::new(&args.name);
    options.seed = args.seed;
    options.sector_size = args.sector_size;
    options.format = args.format;
    options.compression = args.compression;
    options.boot = args.boot();
    let imported = import_disk(&store, &args.disk, options)?;
    if args.json {
        return text::json(&json!({
            "name": args.name,
            "manifest": imported.manifest,
            "size": imported.size,
            "chunks": imported.chunks,
            "new_chunks": imported.new_chunks,
            "new_bytes": imported.new_bytes,
        }));
    }
    text::line(&told(&args.name, &imported))
}

/// Imports a disk with a progress bar.
pub(super) fn import_disk(
    store: &Store,
    disk: &Path,
    options: import::Options<'_>,
) -> anyhow::Result<import::Imported> {
    let bars = Bars::new();
    let bar = Mutex::new((bars.add(&options.name), Instant::now()));
    let progress =
        |done: u64, total: Option<u64>| moved(&bar, "packing", done, total.unwrap_or(done));
    let imported = import::import(store, disk, &import::Options { progress: &progress, ..options });
    if let Ok((bar, _)) = bar.into_inner().as_mut() {
        bar.end(if imported.is_ok() { "packed" } else { "not packed" });
    }
    imported.map_err(refused)
}

/// A file that does not fit is a refusal, and nothing that is broken.
pub(super) fn refused(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<Unfit>() {
        Some(unfit) => Refused(unfit.to_string()).into(),
        None => error,
    }
}

/// Shows how many bytes of how many are done.
pub(super) fn moved(bar: &Mutex<(Bar, Instant)>, what: &str, done: u64, total: u64) {
    let Ok(mut bar) = bar.lock() else { return };
    let rate = (done as f64 / bar.1.elapsed().as_secs_f64().max(0.001)) as u64;
    bar.0.bytes(what, done, total, rate);
}

/// One line on what an import did.
pub(super) fn told(name: &str, imported: &import::Imported) -> String {
    format!(
        "{name} is {}: {} in {} chunks, {} of them new ({} packed)",
        imported.manifest,
        text::bytes(imported.size),
        imported.chunks,
        imported.new_chunks,
        text::bytes(imported.new_bytes)
    )
}

fn ls(args: &Listing) -> anyhow::Result<()> {
    let images = args.store.open()?.images()?;
    if args.json {
        let list = images.iter().map(|image| {
            json!({
                "name": image.name,
                "manifest": image.manifest,
                "size": image.size,
                "packed": image.packed,
                "own": image.own,
                "shared": image.packed - image.own,
                "created": moment(image.created),
            })
        });
        return text::json(&list.collect::<Vec<_>>());
    }
    let rows = images.iter().map(|image| {
        vec![
            image.name.clone(),
            text::short(&image.manifest.to_string()).to_owned(),
            text::bytes(image.size),
            text::bytes(image.packed),
            text::bytes(image.own),
            text::bytes(image.packed - image.own),
            moment(image.created),
        ]
    });
    let none = "no images: `billet image build bare` makes one, `billet image import` packs a disk";
    let heading = ["name", "manifest", "disk", "packed", "own", "shared", "created"];
    text::table(&heading, rows.collect(), none)
}

fn moment(seconds: u64) -> String {
    let moment = jiff::Timestamp::from_second(seconds.cast_signed());
    moment.map(|moment| moment.to_string()).unwrap_or_default()
}

pub(super) fn find(store: &Store, typed: &str) -> anyhow::Result<Digest> {
    Ok(store.resolve(typed).map_err(|error| Refused(error.to_string()))?)
}

fn show(args: &One) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let name = find(&store, &args.image)?;
    let header = store.manifest(&name)?.header;
    if args.json {
        let mut value = serde_json::to_value(&header)?;
        value["manifest"] = json!(name);
        return text::json(&value);
    }
    text::line(&format!("manifest     {name}"))?;
    text::line(&format!(
        "disk         {} ({} bytes)",
        text::bytes(header.disk_size),
        header.disk_size
    ))?;
    text::line(&format!("sector       {}", header.sector_size))?;
    if let Some(boot) = &header.boot {
        let mut line = boot.command_line.clone();
        if let Some(hypervisor) = &boot.hypervisor {
            text::line(&format!("hypervisor   {} {}", hypervisor.xen, hypervisor.xen_line))?;
            line = format!("{line} {}", hypervisor.linux_line);
        }
        text::line(&format!("kernel       {} {line}", boot.kernel))?;
    }
    let rows = header.partitions.iter().map(|partition| {
        let seed = if header.seed == Some(partition.number) { "takes the identity" } else { "" };
        vec![
            partition.number.to_string(),
            text::bytes(partition.start),
            text::bytes(partition.size),
            partition.kind.clone(),
            partition.name.clone(),
            seed.to_owned(),
        ]
    });
    text::table(
        &["partition", "start", "size", "type", "name", ""],
        rows.collect(),
        "no partitions",
    )
}

fn verify(args: &One) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let name = find(&store, &args.image)?;
    let bars = Bars::new();
    let bar = Mutex::new((bars.add(&args.image), Instant::now()));
    let progress = |done: u64, total: u64| {
        if let Ok(mut bar) = bar.lock() {
            bar.0.note("checking", &format!("{done} of {total} chunks"));
        }
    };
    let verified =
        store.verify(&name, &store.trusted()?, &progress).context("verifying the image")?;
    if let Ok((bar, _)) = bar.into_inner().as_mut() {
        bar.end("read");
    }
    let faults: Vec<String> = verified.faults.iter().map(ToString::to_string).collect();
    let signer = verified.signer.map(|key| key.to_string());
    if args.json {
        text::json(&json!({
            "manifest": name,
            "signer": signer,
            "chunks": verified.chunks,
            "bytes": verified.bytes,
            "faults": faults,
        }))?;
    }
    if !faults.is_empty() {
        return Err(Refused(format!("{} is not whole: {}", args.image, faults.join("; "))).into());
    }
    if args.json {
        return Ok(());
    }
    let (checked, signer) = (text::bytes(verified.bytes), signer.unwrap_or_default());
    text::line(&format!("{} is whole: {checked} checked, signed by {signer}", args.image))
}

fn rm(args: &One) -> anyhow::Result<()> {
    let manifest = args.store.open()?.remove(&args.image)?;
    if args.json {
        return text::json(&json!({"removed": args.image, "manifest": manifest}));
    }
    text::line(&format!(
        "{} is gone; `billet image gc` frees what no other image needs",
        args.image
    ))
}
