//! A Xen host to measure on: imaged by billet in an emulated machine, with the small guest ready.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{Artefacts, NodeSpec, Rack, Server, guest, server};

/// Its name.
const NODE: &str = "dom0";
/// About anything that an emulated Xen does.
const PATIENCE: Duration = Duration::from_secs(900);

/// The host, which stands as long as this.
pub struct Dom0 {
    // Dropped in this order.
    server: Server,
    _rack: Rack,
}

impl Dom0 {
    /// Makes a machine of `spec` a Xen host, with the rack's and the server's files in `folder`.
    pub fn make(folder: &Path, artefacts: &Artefacts, mut spec: NodeSpec) -> Result<Self> {
        let _ = std::fs::remove_dir_all(folder);
        NODE.clone_into(&mut spec.name);
        let mut rack = Rack::new(folder)?;
        let node = rack.add(spec)?;
        let options = server::Options::new(&artefacts.store);
        let server = Server::start(&artefacts.programs, &folder.join("server"), &options)?;
        server.enroll(&node)?;
        let deployment = server.api().deploy(NODE, &json!({ "image": "dom0" }))?;
        node.power_on()?;
        let ended = server.api().wait(&deployment.id, PATIENCE, |_| false)?;
        ensure!(ended.state == "done", "imaging {}: {:?}", ended.state, ended.reason);
        let dom0 = Dom0 { server, _rack: rack };
        dom0.ssh("systemctl is-system-running --wait || true")?;
        guest::install(dom0.server.key(), &dom0.server.target(NODE)?)?;
        Ok(dom0)
    }

    /// The server, for what is not here.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Its name at the server.
    pub fn name(&self) -> &'static str {
        NODE
    }

    /// Runs a script on it.
    pub fn ssh(&self, script: &str) -> Result<String> {
        self.server.ssh(NODE, script, PATIENCE)
    }

    /// Makes it what `desired` says.
    pub fn becomes(&self, desired: &str) -> Result<()> {
        let generation = self.server.api().configure(NODE, desired)?;
        self.server.api().configured(NODE, generation, "applied", PATIENCE).map(drop)
    }

    /// Waits until a guest has printed that it is ready.
    pub fn guest_is_ready(&self, guest: &str) -> Result<()> {
        let log = format!("/var/log/xen/console/guest-{guest}.log");
        let ready = guest::READY;
        self.ssh(&format!(
            "for try in $(seq 300); do grep -qs '{ready}' {log} && exit 0; sleep 1; done; exit 1"
        ))
        .map(drop)
    }
}
