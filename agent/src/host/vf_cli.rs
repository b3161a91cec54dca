//! VFs of a link, by hand.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use xen_config::{
    guid::Guid,
    nic::{Mac, Rate, Vlan},
    slice_step::VfChange,
    sriov::{Policy, VfSays},
};

use crate::{cli::print, sys::vf::Vfs};

/// What is done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print what a link says of its VFs, as JSON
    Ls {
        /// The link of the physical function
        link: String,
    },
    /// Change a VF of a link
    Set(Box<Set>),
    /// Make VFs of a link what `ls` has printed of them: all in one go, after the driver forgot
    Load {
        /// The link of the physical function
        link: String,
        /// What `ls` has printed, or the part of it that is to be
        file: PathBuf,
    },
}

/// What of a VF is changed.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The link of the physical function
    link: String,
    /// Number of the VF, from 0
    vf: u32,
    /// GUID of its node
    #[arg(long)]
    node_guid: Option<Guid>,
    /// GUID of its port
    #[arg(long)]
    port_guid: Option<Guid>,
    /// Whether its port is up
    #[arg(long, value_enum)]
    policy: Option<Word>,
    /// Its hardware address
    #[arg(long)]
    mac: Option<Mac>,
    /// The VLAN of all of its frames; 0 for none
    #[arg(long)]
    vlan: Option<u32>,
    /// Whether it may change its address
    #[arg(long)]
    trust: Option<bool>,
    /// Its limit, 100Mb/s
    #[arg(long)]
    rate: Option<Rate>,
}

/// When a port is up.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Word {
    Follow,
    Up,
    Down,
}

/// Does it.
pub(crate) fn run(verb: Verb) -> Result<ExitCode> {
    let mut door = Vfs::open()?;
    match verb {
        Verb::Ls { link } => print(&serde_json::to_string_pretty(&door.probe(&link)?)?)?,
        Verb::Set(set) => {
            let changes: Vec<(u32, VfChange)> =
                set.changes()?.into_iter().map(|change| (set.vf, change)).collect();
            door.apply(&set.link, &changes)?;
        }
        Verb::Load { link, file } => {
            let reading = || format!("reading {}", file.display());
            let text = fs::read_to_string(&file).with_context(reading)?;
            let wanted: BTreeMap<u32, VfSays> =
                serde_json::from_str(&text).with_context(reading)?;
            let says = door.probe(&link)?;
            let differing = |(vf, wanted): (u32, VfSays)| {
                let had = says.get(&vf).map(VfSays::changes).unwrap_or_default();
                let changes = wanted.changes().into_iter();
                changes.filter(move |it| !had.contains(it)).map(move |it| (vf, it))
            };
            let changes: Vec<_> = wanted.into_iter().flat_map(differing).collect();
            door.apply(&link, &changes)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Set {
    fn changes(&self) -> Result<Vec<VfChange>> {
        let mut changes = Vec::new();
        changes.extend(self.node_guid.map(|guid| VfChange::NodeGuid { guid }));
        changes.extend(self.port_guid.map(|guid| VfChange::PortGuid { guid }));
        changes.extend(self.policy.map(|word| {
            let policy = match word {
                Word::Follow => Policy::Follow,
                Word::Up => Policy::Up,
                Word::Down => Policy::Down,
            };
            VfChange::Policy { policy }
        }));
        changes.extend(self.mac.clone().map(|mac| VfChange::Mac { mac }));
        if let Some(number) = self.vlan {
            let vlan = (number != 0).then(|| Vlan::try_from(number)).transpose()?;
            changes.push(VfChange::Vlan { vlan });
        }
        changes.extend(self.trust.map(|trust| VfChange::Trust { trust }));
        if let Some(rate) = self.rate {
            let megabits = rate.megabits();
            let megabits = megabits.ok_or_else(|| anyhow::anyhow!("{rate} is no whole Mb/s"))?;
            changes.push(VfChange::Rate { megabits });
        }
        Ok(changes)
    }
}
