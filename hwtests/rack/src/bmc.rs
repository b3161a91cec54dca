//! A machine's baseboard controller: OpenIPMI's simulator, a whole BMC but for its board.
//!
//! QEMU's machines reach it through KCS registers (`ipmi-bmc-extern`, docs/specs/ipmi), as an
//! operating system reaches the one it stands on.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{child::Child, tool};

/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running one; it ends when dropped.
pub struct Bmc {
    /// Where [`NodeSpec::bmc`](crate::NodeSpec) finds it.
    pub port: u16,
    _child: Child,
}

impl Bmc {
    /// Starts one, with its files in `folder`, that says it answers at `address`.
    pub fn start(folder: &Path, address: Ipv4Addr) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let program = tool::program("ipmi_sim", "openipmi")?;
        let [port, lan] = [free_port()?, free_port()?];
        let network = folder.join("network");
        fs::write(&network, script(address)).context("writing a BMC's network")?;
        fs::set_permissions(&network, fs::Permissions::from_mode(0o755))
            .context("making a script a program")?;
        let (configuration, board) = (folder.join("lan.conf"), folder.join("board.emu"));
        let text = format!(
            "name \"bmc\"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 {lan}\n\
             priv_limit admin\nlan_config_program \"{} bmc\"\nendlan\n\
             serial 15 127.0.0.1 {port} codec VM\n",
            network.display()
        );
        fs::write(&configuration, text).context("configuring a BMC")?;
        fs::write(&board, BOARD).context("configuring a BMC's board")?;
        let mut command = Command::new(program);
        command.arg("-n").arg("-c").arg(&configuration).arg("-f").arg(&board);
        command.arg("-s").arg(folder);
        let log = folder.join("bmc.log");
        let mut child = Child::start("ipmi_sim", command, &log, Vec::new())?;
        let began = std::time::Instant::now();
        // It takes one connection, which is the machine's: whether it listens, the kernel knows.
        while free(port) {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            ensure!(child.ended().is_none(), "ipmi_sim ended: {}", said());
            ensure!(began.elapsed() < PATIENCE, "ipmi_sim does not listen: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Bmc { port, _child: child })
    }
}

/// One management controller at the usual address, with nothing but its identity.
const BOARD: &str = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\n\
                     mc_enable 0x20\n";

/// What the simulator asks for its network's parameters: `DEVICE get NAME...`.
fn script(address: Ipv4Addr) -> String {
    format!(
        "#!/bin/sh\nshift\n[ \"$1\" = get ] || exit 0\nshift\nfor name; do case \"$name\" in\n\
         ip_addr) echo ip_addr:{address};;\nip_addr_src) echo ip_addr_src:static;;\n\
         *mac_addr) echo \"$name:52:54:00:77:b0:01\";;\n\
         subnet_mask) echo subnet_mask:255.255.255.0;;\n*) echo \"$name:0.0.0.0\";;\n\
         esac; done\n"
    )
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    Ok(listener.local_addr().context("finding a free port")?.port())
}

fn free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
