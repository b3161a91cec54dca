//! What machines do on the network: ask for a script, ask DHCP, come up again.

use super::{Provisioner, Result};
use crate::{
    deployment::Input,
    event::{Note, now},
    identity,
    live::Sighting,
    mac::Mac,
    node::{Node, State},
    registry::{Heard, Seen},
    script::Script,
    token::Token,
};

impl Provisioner {
    /// The iPXE script for the machine of `mac`, which reached us at `server`.
    pub async fn boot_script(&self, mac: Mac, server: &str) -> Result<String> {
        if self.registry.get(mac).is_none() {
            self.discover(mac, None).await?;
        }
        let now = now();
        let mut change = self.store.change().await?;
        let Some(mut node) = change.node_of(mac).await? else {
            return Ok(Script::Disk { node: &mac.to_string() }.render());
        };
        let Some(before) = change.open_deployment(node.id).await? else {
            return Ok(Script::Disk { node: &node.name }.render());
        };
        let token = Token::new();
        let (after, mut notes) =
            before.advance(Input::BootAsked(token.hash()), now, &self.limits)?;
        notes.extend(node.follow(&after, now));
        change.update_deployment(&after).await?;
        change.update_node(&node).await?;
        self.commit(change, &node, Some(&after), notes, now).await?;
        let (node, image) = (node.name.as_str(), after.image.as_str());
        let script = match after.boots_from_us() {
            true => Script::RamSystem { server, mac, token: &token, node, image },
            false => Script::Disk { node },
        };
        Ok(script.render())
    }

    /// Records what DHCP or TFTP heard.
    pub async fn heard(&self, seen: Seen) -> Result<()> {
        if self.registry.get(seen.mac).is_none() {
            return match seen.what {
                Heard::BootRequest => self.discover(seen.mac, seen.uuid).await,
                // Anything may ask for an address; only what boots is a machine for us.
                Heard::Leased(_) | Heard::Fetched(_) => Ok(()),
            };
        }
        let old = self.live.sighting(seen.mac);
        let address = match &seen.what {
            Heard::Leased(address) => Some(*address),
            Heard::BootRequest | Heard::Fetched(_) => old.address,
        };
        let sighting = Sighting { address, uuid: seen.uuid.clone().or(old.uuid.clone()) };
        let new_uuid = sighting.uuid.clone().filter(|_| sighting.uuid != old.uuid);
        self.live.saw(seen.mac, sighting);
        if let Some(uuid) = new_uuid {
            self.learn_uuid(seen.mac, uuid).await?;
        }
        match seen.what {
            Heard::BootRequest | Heard::Leased(_) => self.came_up(seen.mac).await,
            Heard::Fetched(file) => {
                tracing::info!(mac = %seen.mac, "fetched {file}");
                Ok(())
            }
        }
    }

    async fn learn_uuid(&self, mac: Mac, uuid: String) -> Result<()> {
        let mut change = self.store.change().await?;
        if let Some(mut node) = change.node_of(mac).await?
            && node.uuid.as_ref() != Some(&uuid)
        {
            node.uuid = Some(uuid);
            change.update_node(&node).await?;
            change.commit().await?;
        }
        Ok(())
    }

    /// A machine asks for an address or a boot file: one that was written has restarted.
    async fn came_up(&self, mac: Mac) -> Result<()> {
        let now = now();
        let mut change = self.store.change().await?;
        let Some(node) = change.node_of(mac).await? else { return Ok(()) };
        let Some(before) = change.open_deployment(node.id).await? else { return Ok(()) };
        let (after, notes) = before.clone().advance(Input::Restarted, now, &self.limits)?;
        if after == before {
            return Ok(());
        }
        change.update_deployment(&after).await?;
        self.commit(change, &node, Some(&after), notes, now).await
    }

    /// Records a machine that nobody has vouched for, unless there are too many of them.
    async fn discover(&self, mac: Mac, uuid: Option<String>) -> Result<()> {
        let counts = self.store.count_nodes().await?;
        let word = State::Discovered.word();
        let strangers = counts.iter().find(|(state, _)| state == word).map_or(0, |count| count.1);
        if usize::try_from(strangers).is_ok_and(|strangers| strangers >= self.strangers) {
            tracing::warn!(%mac, "not recorded: {strangers} discovered machines are the limit");
            return Ok(());
        }
        let now = now();
        let host_key = identity::new_host_key()?;
        let mut change = self.store.change().await?;
        if change.node_of(mac).await?.is_some() {
            return Ok(());
        }
        let mut node = Node::discovered(mac, host_key, now);
        node.uuid = uuid;
        change.insert_node(&node).await?;
        let note = Note::new("node.discovered", format!("{mac} asks for something to boot"));
        self.commit(change, &node, None, vec![note], now).await
    }
}
