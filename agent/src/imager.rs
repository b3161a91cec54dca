//! The imager: from a kernel command line to a machine that was told what to do, and did it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::{BootLine, Hello, Inventory, Job, Welcome, path};

use crate::{
    console, deployment,
    devices::Devices,
    init, inventory, ipmi,
    modules::Modules,
    network,
    patience::Patience,
    restart::Ending,
    server::{Server, ServerError},
    sysfs::Sysfs,
};

/// Controllers and firmware of large machines take their time.
const DEVICES: Duration = Duration::from_secs(60);
/// The server may be restarted, or its network: both are over sooner.
const HELLO: Duration = Duration::from_secs(15 * 60);

/// Runs as the child of PID 1 and says how the machine is to be let go of.
pub(crate) fn run() -> Ending {
    console::open();
    init::mount_efivars();
    let ended = run_job();
    ended.unwrap_or_else(|error| {
        console::say(format_args!("{error:#}"));
        // Whatever went wrong before there was a job: the next start has a new token, a new
        // address and maybe a cable.
        Ending::Retry
    })
}

fn run_job() -> Result<Ending> {
    let line = std::fs::read_to_string("/proc/cmdline").context("reading the kernel line")?;
    let boot = BootLine::parse(&line);
    let sysfs = Sysfs::at("/");
    let mut devices = Devices::open(load_list())?;
    let interface = boot.mac.as_ref().map_or("a network interface".to_owned(), |mac| {
        format!("the network interface with address {mac}")
    });
    let missing = || network::candidates(&sysfs, &boot).is_empty().then(|| interface.clone());
    if let Some(missing) = devices.settle(DEVICES, missing) {
        bail!("{missing} is not there after {} s", DEVICES.as_secs());
    }
    let interface = network::bring_up(&sysfs, &boot)?;
    let base = boot.server.as_ref().context("the kernel line has no billet.server=http://...")?;
    let server = Server::at(base)?;
    let hello = Hello {
        token: boot.token.clone().context("the kernel line has no billet.token=")?,
        mac: interface.mac.clone(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        inventory: take_inventory(&sysfs, &mut devices, &interface.mac),
    };
    let welcome = say_hello(&server, &hello).context("saying hello")?;
    match welcome.job {
        Job::Deploy(job) => Ok(deployment::run(&mut devices, &server, welcome.bearer, &job)),
        Job::Leave => Ok(Ending::Reset),
    }
}

/// The inventory, with what only the machine's own BMC knows.
fn take_inventory(sysfs: &Sysfs, devices: &mut Devices, mac: &str) -> Inventory {
    let mut inventory = inventory::probe(sysfs, Some(mac));
    if let Some(bmc) = inventory.bmc.as_mut().filter(|bmc| bmc.kind == "ipmi") {
        match ["ipmi_si", "ipmi_devintf"].iter().try_for_each(|module| devices.load(module)) {
            Ok(()) => bmc.address = ipmi::lan_address().map(|address| address.to_string()),
            Err(error) => console::say(format_args!("asking the BMC: {error:#}")),
        }
    }
    inventory
}

/// A kernel with everything built in needs no drivers from here.
fn load_list() -> Modules {
    Modules::open().unwrap_or_else(|error| {
        console::say(format_args!("no drivers to load: {error:#}"));
        Modules::default()
    })
}

fn say_hello(server: &Server, hello: &Hello) -> Result<Welcome, ServerError> {
    let mut patience = Patience::new("an answer of the server", HELLO);
    Server::insist(&mut patience, || server.post(path::HELLO, None, hello)?.json())
}
