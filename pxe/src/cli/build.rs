//! `billet image build`: the built-in images, and the RAM system that writes images.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use images::{
    Store,
    format::Format,
    import,
    pack::Compression,
    ram,
    recipe::{self, Recipe},
};
use serde_json::json;

use super::{
    bar::Bars,
    client::Refused,
    image::{self, StoreArgs},
    text,
};

/// What `build ram` means by a recipe's name.
const RAM: &str = "ram";

#[derive(Debug, Args)]
pub(super) struct Build {
    #[command(flatten)]
    store: StoreArgs,
    /// `bare`, `dom0`, `system`, `ram`, or a folder with a recipe of your own.
    recipe: String,
    /// With `system`: the files of it, a tar archive or a container's image (an OCI image layout, as a
    /// folder or a tar archive; skopeo and buildah write them).
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// What that file is, when it does not tell itself: tar or oci.
    #[arg(long, requires = "from")]
    format: Option<Format>,
    /// Name for the image; the recipe's own without it.
    #[arg(long)]
    name: Option<String>,
    /// Debian suite instead of the recipe's.
    #[arg(long)]
    suite: Option<String>,
    /// Debian mirror instead of the host's own.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Folder for what is made on the way, and for packages that a later build can use again.
    #[arg(long, env = "BILLET_BUILD", value_name = "FOLDER")]
    work: Option<PathBuf>,
    /// What the image is compressed for: `fast` for nodes, `small` for slow links to them.
    #[arg(long, default_value = "fast", value_name = "FOR")]
    compression: Compression,
    /// With `dom0` and `ram`: the node's program; beside this one or in PATH without it.
    #[arg(long, env = "BILLET_AGENT", value_name = "FILE")]
    agent: Option<PathBuf>,
    /// With `ram`: believe the image keys (*.pub) in this folder too.
    #[arg(long, value_name = "FOLDER")]
    trust: Option<PathBuf>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Build) -> anyhow::Result<()> {
    let store = args.store.create()?;
    match args.recipe.as_str() {
        RAM => build_ram(&store, args),
        _ => build_image(&store, args),
    }
}

fn build_image(store: &Store, args: &Build) -> anyhow::Result<()> {
    let recipe = match args.recipe.as_str() {
        folder if folder.contains('/') => Recipe::read(Path::new(folder))?,
        name => Recipe::built_in(name).map_err(|error| Refused(format!("{error:#}")))?,
    };
    let name = args.name.clone().unwrap_or_else(|| recipe.name.clone());
    let work = tempfile::Builder::new().prefix("billet-build-").tempdir_in(work_folder(args)?)?;
    let options = recipe::Options {
        agent: if recipe.agent { Some(agent(args)?) } else { None },
        out: work.path().to_owned(),
        from: args.from.clone(),
        format: args.format,
        suite: args.suite.clone(),
        mirror: args.mirror.clone(),
        // Beside what is being made, not around it: all of the cache is copied into the system
        // while that is built.
        cache: args.work.as_ref().map(|work| work.join("packages")),
    };
    if recipe.given != args.from.is_some() {
        let said = match recipe.given {
            true => {
                "--from says which system to make a disk of: a tar archive, an OCI image layout"
            }
            false => "--from goes with `system`",
        };
        return Err(Refused(said.to_owned()).into());
    }
    let built = with_bar(&name, |progress| recipe::build(&recipe, &options, progress))
        .map_err(image::refused)?;
    let mut options = import::Options::new(&name);
    options.boot = built.boot;
    options.compression = args.compression;
    options.seed = built.seed;
    let imported = image::import_disk(store, &built.disk, options)?;
    if args.json {
        return text::json(&json!({
            "name": name, "manifest": imported.manifest, "size": imported.size,
        }));
    }
    text::line(&image::told(&name, &imported))
}

fn build_ram(store: &Store, args: &Build) -> anyhow::Result<()> {
    let agent = agent(args)?;
    let mut trusted = store.trusted_files()?;
    if let Some(folder) = &args.trust {
        trusted.extend(public_keys(folder)?);
    }
    let options = ram::Options {
        agent,
        trusted,
        out: store.boot_folder(),
        suite: args.suite.clone(),
        mirror: args.mirror.clone(),
    };
    let built = with_bar(RAM, |progress| ram::build(&options, progress))?;
    let (kernel, ramdisk) = (built.kernel, built.ramdisk);
    if args.json {
        return text::json(&json!({"kernel": kernel, "ramdisk": ramdisk}));
    }
    let (kernel, ramdisk) = (text::bytes(kernel), text::bytes(ramdisk));
    text::line(&format!("kernel {kernel}, RAM disk {ramdisk}, in {}", options.out.display()))
}

fn with_bar<T>(
    name: &str,
    work: impl FnOnce(&mut dyn FnMut(&str)) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let bars = Bars::new();
    let mut bar = bars.add(name);
    let done = work(&mut |step| bar.note(step, ""));
    bar.end(if done.is_ok() { "built" } else { "not built" });
    done
}

fn work_folder(args: &Build) -> anyhow::Result<PathBuf> {
    let folder = args.work.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

fn agent(args: &Build) -> anyhow::Result<PathBuf> {
    args.agent.clone().map_or_else(find_agent, Ok)
}

fn find_agent() -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("billet-agent");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|folder| folder.join("billet-agent"));
    let found = std::iter::once(beside.clone()).chain(places).find(|place| place.is_file());
    found.ok_or_else(|| {
        let place = beside.display();
        Refused(format!("no billet-agent at {place} or in PATH; --agent says where it is")).into()
    })
}

fn public_keys(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut keys = Vec::new();
    let list =
        std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in list {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "pub") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path);
            keys.push((name, text.with_context(|| format!("reading {}", path.display()))?));
        }
    }
    Ok(keys)
}
