//! What a node's agent says, and who it must be to say it.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use protocol::{AgentIdentity, Deploy, Hello, Identity, Inventory, Job, Progress, Report, Welcome};

use super::{Provisioner, Result, configs};
use crate::{
    deployment::{Deployment, Input},
    event::now,
    live::Message,
    mac::Mac,
    node::Node,
    refusal::Refusal,
    store::Change,
    token::{self, Token},
    xen_line,
};

impl Provisioner {
    /// The token of a boot script buys an identity and a job. It may be shown again until that
    /// identity was used, because the answer may have been lost on its way. `server` is the base
    /// URL under which the node reached us.
    pub async fn hello(&self, hello: Hello, peer: IpAddr, server: &str) -> Result<Welcome> {
        let now = now();
        let mut change = self.store.change().await?;
        let hash = token::hash(&hello.token);
        let deployment = change.deployment_of_boot_token(hash).await?;
        let Some(deployment) = deployment.filter(|deployment| !deployment.spent) else {
            return Err(Refusal::Unproven(
                "the boot token is spent or of no open deployment; a fresh one comes with the \
                 node's next boot script"
                    .into(),
            )
            .into());
        };
        let mut node = owner(&mut change, &deployment).await?;
        if !hello.mac.parse::<Mac>().is_ok_and(|mac| node.macs.contains(&mac)) {
            let text =
                "the boot token is another node's; each is good for the node it was made for";
            return Err(Refusal::Forbidden(text.into()).into());
        }
        let bearer = Token::new();
        let (deployment, notes) =
            deployment.advance(Input::Hello(bearer.hash()), now, &self.limits)?;
        if let IpAddr::V4(address) = peer.to_canonical() {
            node.address = Some(address);
        }
        node.uuid = hello.inventory.firmware.uuid.clone().or(node.uuid);
        change.set_inventory(node.id, &hello.inventory).await?;
        change.update_node(&node).await?;
        change.update_deployment(&deployment).await?;
        let mut job = self.job(&node, &deployment, &hello.mac);
        if let Job::Deploy(deploy) = &mut job {
            deploy.previous = change.written_before(&deployment).await?;
            let identity = &mut deploy.identity;
            identity.agent = Some(offer_agent(&mut change, &node, server).await?);
            identity.xen = xen_fragment(&mut change, &node, &hello.inventory).await?;
        }
        self.commit(change, &node, Some(&deployment), notes, now).await?;
        Ok(Welcome { bearer: bearer.secret().to_owned(), job })
    }

    /// An agent says how far it is. What only moves bytes is told to who listens and is not
    /// written down each time.
    pub async fn progress(&self, bearer: &str, progress: Progress) -> Result<()> {
        let now = now();
        let hash = token::hash(bearer);
        let known = self.store.deployment_of_bearer(hash).await?;
        let before = admit(known, &progress.deployment)?;
        let (after, _) = advance(before.clone(), Input::Progress(&progress), now, self)?;
        if !self.is_news(&before, &after) {
            return self.tell_progress(&before, progress);
        }
        let mut change = self.store.change().await?;
        let known = change.deployment_of_bearer(hash).await?;
        let before = admit(known, &progress.deployment)?;
        let (after, notes) = advance(before, Input::Progress(&progress), now, self)?;
        change.update_deployment(&after).await?;
        let node = owner(&mut change, &after).await?;
        self.commit(change, &node, Some(&after), notes, now).await?;
        self.tell_progress(&after, progress)
    }

    /// An agent says how it ended.
    pub async fn report(&self, bearer: &str, report: Report) -> Result<()> {
        let now = now();
        let mut change = self.store.change().await?;
        let known = change.deployment_of_bearer(token::hash(bearer)).await?;
        let before = admit(known, &report.deployment)?;
        let (after, mut notes) =
            advance(before.clone(), Input::Reported(&report.outcome), now, self)?;
        if after == before {
            return Ok(());
        }
        let mut node = owner(&mut change, &after).await?;
        notes.extend(node.follow(&after, now));
        change.update_deployment(&after).await?;
        change.update_node(&node).await?;
        if after.written.is_some() {
            change.succeed_agent(node.id).await?;
        }
        self.commit(change, &node, Some(&after), notes, now).await
    }

    fn tell_progress(&self, deployment: &Deployment, progress: Progress) -> Result<()> {
        self.live.set_progress(deployment.id, Some(progress.clone()));
        self.live.tell(Message::Progress(deployment.node, progress));
        Ok(())
    }

    /// Whether `after` must be written down: a crash may cost an eighth of the silence allowed.
    fn is_news(&self, before: &Deployment, after: &Deployment) -> bool {
        let until = |deployment: &Deployment| {
            deployment.wait.map_or(Timestamp::UNIX_EPOCH, |wait| wait.until)
        };
        let often = SignedDuration::try_from(self.limits.silence / 8)
            .unwrap_or(SignedDuration::from_secs(Duration::from_secs(1).as_secs() as i64));
        before.step != after.step
            || before.spent != after.spent
            || until(after).duration_since(until(before)) > often
    }

    fn job(&self, node: &Node, deployment: &Deployment, mac: &str) -> Job {
        let mut authorized_keys = node.authorized_keys.clone();
        // A subnet that was taken out of the configuration since leaves its nodes to DHCP.
        let fixed = node.fixed.then(|| self.fixed_address(node).ok()).flatten();
        let text = |address: &Ipv4Addr| address.to_string();
        let subnet = fixed.map(|(_, subnet)| subnet);
        authorized_keys.extend(self.authorized_keys.iter().cloned());
        Job::Deploy(Box::new(Deploy {
            deployment: deployment.id.to_string(),
            image: deployment.image.clone(),
            manifest: deployment.manifest,
            previous: None,
            unsigned: deployment.unsigned,
            disk: deployment.disk.clone(),
            grow: deployment.grow,
            identity: Identity {
                instance: deployment.id.to_string(),
                hostname: node.name.clone(),
                host_keys: [("ed25519".to_owned(), node.host_key.clone())].into(),
                authorized_keys,
                mac: mac.to_owned(),
                address: fixed
                    .map(|(address, subnet)| format!("{address}/{}", subnet.network.prefix())),
                gateway: subnet.and_then(|subnet| subnet.router.as_ref().map(text)),
                dns: subnet.map(|subnet| subnet.dns.iter().map(text).collect()).unwrap_or_default(),
                agent: None,
                xen: None,
            },
            restart: deployment.restart,
        }))
    }
}

/// As whom the agent of the system that `node` gets will speak to us, at `server`.
async fn offer_agent(change: &mut Change<'_>, node: &Node, server: &str) -> Result<AgentIdentity> {
    let token = Token::new();
    change.offer_token(node.id, token.hash()).await?;
    let (server, token) = (server.to_owned(), token.secret().to_owned());
    Ok(AgentIdentity { server, node: node.id.to_string(), token })
}

/// How Xen is to start on `node`, when it was said what it should be. Where that cannot be, Xen
/// starts as its image has it, and the new system's agent refuses with its reasons.
async fn xen_fragment(
    change: &mut Change<'_>,
    node: &Node,
    inventory: &Inventory,
) -> Result<Option<String>> {
    let given = change.shape(node.id).await?.and_then(|shape| shape.given);
    let Some(given) = &given else { return Ok(None) };
    let desired = configs::read(node, given)?;
    Ok(match xen_line::fragment(&desired, inventory) {
        Ok(fragment) => Some(fragment),
        Err(refusal) => {
            tracing::warn!(node = node.name, "Xen starts as its image has it: {refusal}");
            None
        }
    })
}

/// The deployment, when the bearer's identity is one of it.
fn admit(known: Option<Deployment>, spoken_of: &str) -> Result<Deployment> {
    let Some(deployment) = known else {
        return Err(Refusal::Unproven(
            "the bearer token is of no deployment, or the node has booted again since; the \
             answer to a hello has one"
                .into(),
        )
        .into());
    };
    if deployment.id.to_string() != spoken_of {
        let (mine, other) = (deployment.id, spoken_of.escape_debug());
        let text = format!("the bearer token is good for deployment {mine}, not for `{other}`");
        return Err(Refusal::Forbidden(text).into());
    }
    Ok(deployment)
}

/// As [`Deployment::advance`]; that a deployment is over makes its agent's token worthless.
fn advance(
    deployment: Deployment,
    input: Input<'_>,
    now: Timestamp,
    provisioner: &Provisioner,
) -> Result<(Deployment, Vec<crate::event::Note>)> {
    deployment.advance(input, now, &provisioner.limits).map_err(|refusal| match refusal {
        Refusal::Conflict(text) => Refusal::Forbidden(text).into(),
        other => other.into(),
    })
}

async fn owner(change: &mut Change<'_>, deployment: &Deployment) -> Result<Node> {
    let id = deployment.node.to_string();
    let node = change.node(&id).await?;
    node.ok_or_else(|| anyhow::anyhow!("deployment {} has no node {id}", deployment.id).into())
}
