//! `billet node`: enroll, list and show nodes.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use protocol::{DiskHints, Restart};

use super::{ServerArgs, client::Client, config, deploy, text};
use crate::{
    api::{NodeChange, NodeView},
    mac::Mac,
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List nodes and what they wait for.
    Ls(ServerArgs),
    /// Show one node.
    Show(Named),
    /// Name a machine, known by its MAC, and make it ready for deployments; or change one.
    Enroll(Enroll),
    /// Write an image to nodes and start it.
    Deploy(deploy::DeployArgs),
    /// Follow a node's deployment until it ends, then print its time line.
    Watch(Named),
    /// Say what a node should be: its service domain, network and guests.
    Config(config::ConfigArgs),
    /// List a node's guests.
    Guests(Named),
    /// List a node's slices: VFs of its HCAs and NICs, with their GUIDs and addresses.
    Slices(config::SlicesArgs),
    /// Forget a node.
    Rm(Named),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    /// The node's name or identifier.
    pub(super) node: String,
}

#[derive(Debug, Args)]
pub(super) struct Enroll {
    #[command(flatten)]
    server: ServerArgs,
    /// Its name: letters, digits and dashes.
    name: String,
    /// A hardware address that it boots from (may be given several times).
    #[arg(long = "mac")]
    macs: Vec<Mac>,
    /// The IPv4 address to keep for it.
    #[arg(long)]
    address: Option<Ipv4Addr>,
    /// Write that address into its system, which asks for none by DHCP then.
    #[arg(long)]
    fixed: bool,
    /// A file of public keys that may log in as root.
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<PathBuf>,
    /// Start images by kexec instead of through the firmware.
    #[arg(long)]
    kexec: bool,
    /// A note as KEY=VALUE (may be given several times).
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    disk: DiskArgs,
}

/// Which disk may be written.
#[derive(Debug, Clone, Args)]
pub(super) struct DiskArgs {
    /// Only the disk with this serial number may be written.
    #[arg(long, value_name = "SERIAL")]
    disk_serial: Option<String>,
    /// Only the disk with this world-wide name.
    #[arg(long, value_name = "WWN")]
    disk_wwn: Option<String>,
    /// Only a disk of this model.
    #[arg(long, value_name = "MODEL")]
    disk_model: Option<String>,
    /// Only a disk on this bus: nvme, sata, virtio, scsi.
    #[arg(long, value_name = "BUS")]
    disk_bus: Option<String>,
    /// Only a disk of at least this many bytes.
    #[arg(long, value_name = "BYTES")]
    disk_min: Option<u64>,
    /// Only a disk of at most this many bytes.
    #[arg(long, value_name = "BYTES")]
    disk_max: Option<u64>,
}

impl DiskArgs {
    /// The hints, when any was given.
    pub(super) fn hints(&self) -> Option<DiskHints> {
        let this = self.clone();
        let hints = DiskHints {
            serial: this.disk_serial,
            wwn: this.disk_wwn,
            model: this.disk_model,
            bus: this.disk_bus,
            min_size: this.disk_min,
            max_size: this.disk_max,
        };
        (hints != DiskHints::default()).then_some(hints)
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is the form")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Ls(args) => ls(&args)?,
        Verb::Show(args) => show(&args)?,
        Verb::Enroll(args) => enroll(args)?,
        Verb::Deploy(args) => return deploy::run(&args),
        Verb::Watch(args) => return deploy::watch(&args),
        Verb::Config(args) => return config::run(&args),
        Verb::Guests(args) => config::guests(&args)?,
        Verb::Slices(args) => config::slices(&args)?,
        Verb::Rm(args) => Client::new(&args.server)?.delete(&format!("/v1/nodes/{}", args.node))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn ls(args: &ServerArgs) -> anyhow::Result<()> {
    let nodes: Vec<NodeView> = Client::new(args)?.all("/v1/nodes")?;
    if args.json {
        return text::json(&nodes);
    }
    let rows = nodes.iter().map(row).collect();
    let none =
        "no nodes: power one on beside `billet serve`, or `billet node enroll NAME --mac MAC`";
    text::table(&["name", "state", "address", "mac", "changed", "why"], rows, none)
}

fn row(node: &NodeView) -> Vec<String> {
    let address = node.address.or(node.reserved);
    let why = match (&node.wait, &node.reason) {
        (Some(wait), _) => text::wait(wait),
        (None, Some(reason)) => reason.clone(),
        (None, None) => String::new(),
    };
    vec![
        node.name.clone(),
        node.state.clone(),
        address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
        node.macs.first().map_or_else(|| "-".to_owned(), Mac::to_string),
        text::ago(node.changed),
        why,
    ]
}

fn show(args: &Named) -> anyhow::Result<()> {
    let node: NodeView = Client::new(&args.server)?.get(&format!("/v1/nodes/{}", args.node))?;
    if args.server.json {
        return text::json(&node);
    }
    facts(&node).into_iter().try_for_each(|(name, fact)| text::line(&format!("{name:<12} {fact}")))
}

fn facts(node: &NodeView) -> Vec<(&'static str, String)> {
    let macs: Vec<String> = node.macs.iter().map(Mac::to_string).collect();
    let optional = |name, fact: &Option<String>| fact.clone().map(|fact| (name, fact));
    let mut facts = vec![("name", node.name.clone()), ("id", node.id.clone())];
    facts.push(("state", format!("{}, {}", node.state, text::ago(node.changed))));
    facts.extend(optional("heading", &node.heading));
    facts.extend(optional("reason", &node.reason));
    facts.extend(node.wait.as_ref().map(|wait| ("wait", text::wait(wait))));
    facts.push(("mac", macs.join(" ")));
    facts.extend(node.address.map(|address| ("address", address.to_string())));
    let fixed = if node.fixed { ", fixed" } else { "" };
    facts.extend(node.reserved.map(|address| ("reserved", format!("{address}{fixed}"))));
    facts.extend(optional("uuid", &node.uuid));
    facts.extend(optional("host key", &node.host_key));
    facts.extend(optional("deployment", &node.deployment));
    if let Some(config) = &node.config {
        let standing = config::standing(config);
        facts.push(("config", format!("generation {}: {standing}", config.generation)));
    }
    if node.disk != DiskHints::default() {
        facts.push(("disk", serde_json::to_string(&node.disk).unwrap_or_default()));
    }
    facts.extend(node.labels.iter().map(|(key, value)| ("label", format!("{key}={value}"))));
    if let Some(inventory) = &node.inventory {
        let cpu = &inventory.cpu;
        facts.push(("cpu", format!("{} ({} threads)", cpu.model, cpu.threads)));
        facts.push(("memory", text::bytes(inventory.memory)));
        facts.extend(inventory.disks.iter().map(|disk| {
            let words = [disk.model.as_deref(), disk.serial.as_deref(), disk.wwn.as_deref()];
            let words = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
            ("has disk", format!("{} {} {} {words}", disk.name, disk.bus, text::bytes(disk.size)))
        }));
        facts.extend(inventory.nics.iter().map(|nic| {
            let link = if nic.link { "link" } else { "no link" };
            let driver = nic.driver.as_deref().unwrap_or("no driver");
            ("has nic", format!("{} {} {driver} {link}", nic.name, nic.mac))
        }));
    }
    facts
}

fn enroll(args: Enroll) -> anyhow::Result<()> {
    let client = Client::new(&args.server)?;
    let keys = args.authorized_keys.map(|file| {
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        anyhow::Ok(lines.map(str::to_owned).collect::<Vec<_>>())
    });
    let labels: BTreeMap<_, _> = args.labels.into_iter().collect();
    let change = NodeChange {
        name: Some(args.name.clone()),
        macs: (!args.macs.is_empty()).then_some(args.macs),
        reserved: args.address,
        disk: args.disk.hints(),
        authorized_keys: keys.transpose()?,
        restart: args.kexec.then_some(Restart::Kexec),
        fixed: args.fixed.then_some(true),
        labels: (!labels.is_empty()).then_some(labels),
    };
    // With a MAC the machine gets this name, whether it was discovered before or not; without one
    // it is a node of that name that is changed.
    let node: NodeView = match change.macs {
        Some(_) => client.post("/v1/nodes", &change)?,
        None => client.patch(&format!("/v1/nodes/{}", args.name), &change)?,
    };
    if args.server.json {
        return text::json(&node);
    }
    text::line(&format!("{} is {}", node.name, node.state))
}
