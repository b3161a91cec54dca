//! What time does: deadlines, looking whether a new system answers, and going on after a restart.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use protocol::Step;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{Provisioner, Result};
use crate::{
    deployment::{Deployment, Input, after, before},
    event::now,
    live::Sighting,
    wait::Wait,
};

/// The longest sleep of the clock: another server may have set an earlier deadline meanwhile.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a system may take to say who it is.
const BANNER: Duration = Duration::from_secs(3);

/// Ends what has waited too long, for ever.
pub async fn keep_time(provisioner: Arc<Provisioner>) {
    loop {
        let next = provisioner.expire().await.unwrap_or_else(|error| {
            tracing::error!("keeping deadlines: {error:#}");
            Duration::from_secs(1)
        });
        tokio::select! {
            () = sleep(next) => {}
            () = provisioner.alarm.notified() => {}
        }
    }
}

/// Looks every second whether systems that should have started answer, for ever.
pub async fn watch_starts(provisioner: Arc<Provisioner>) {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = provisioner.probe_starts().await {
            tracing::error!("looking for started systems: {error:#}");
        }
    }
}

/// Forgets, every hour, events that are older than `keep`, for ever.
pub async fn tidy(provisioner: Arc<Provisioner>, keep: Duration) {
    let mut tick = interval(Duration::from_secs(3600));
    loop {
        tick.tick().await;
        match provisioner.store.forget_events(before(now(), keep)).await {
            Ok(0) => {}
            Ok(gone) => tracing::info!("{gone} events older than {keep:?} were forgotten"),
            Err(error) => tracing::error!("forgetting old events: {error:#}"),
        }
    }
}

impl Provisioner {
    /// Fills what is not kept from what is kept, when the server starts. No wait ends before the
    /// node had a fair chance to be heard again: nobody listened while the server was down.
    pub async fn resume(&self) -> Result<()> {
        let now = now();
        let open = self.store.open_deployments().await?;
        let mut name = String::new();
        loop {
            let nodes = self.store.nodes(&name, 500).await?;
            let Some(last) = nodes.last() else { break };
            name.clone_from(&last.name);
            for node in &nodes {
                let mine = open.iter().find(|deployment| deployment.node == node.id);
                self.publish(node, mine.is_some_and(Deployment::boots_from_us));
            }
        }
        for lease in self.store.load_leases().await? {
            if lease.until > now.as_second() && self.registry.get(lease.mac).is_some() {
                let sighting = Sighting { address: Some(lease.ip), uuid: None };
                self.live.saw(lease.mac, sighting);
            }
        }
        self.release_ended().await?;
        let fair = after(now, self.limits.silence);
        for mut deployment in open {
            let Some(wait) = deployment.wait.filter(|wait| wait.until < fair) else { continue };
            deployment.wait = Some(Wait { until: fair, ..wait });
            let mut change = self.store.change().await?;
            change.update_deployment(&deployment).await?;
            change.commit().await?;
        }
        self.store.put_off_shapes(fair).await?;
        Ok(())
    }

    /// Images are kept for open deployments only. A hold of a deployment that this database
    /// does not know may be another server's: it stays.
    async fn release_ended(&self) -> Result<()> {
        for held in self.library.held().await? {
            match self.store.deployment(held).await? {
                Some(deployment) if deployment.ended.is_some() => {
                    self.library.release(held).await?;
                }
                Some(_) => {}
                None => tracing::warn!("the store's holds/{held} is of no deployment known here"),
            }
        }
        Ok(())
    }

    /// Lets pass what is due, and says how long nothing more will be.
    async fn expire(&self) -> Result<Duration> {
        let moment = now();
        for due in self.store.open_deployments().await? {
            if due.wait.is_some_and(|wait| wait.until <= moment) {
                self.tell(&due, Input::Overdue).await?;
            }
        }
        for node in self.store.overdue_shapes(moment).await? {
            self.tell_overdue(node).await?;
        }
        let deadlines = [self.store.next_deadline().await?, self.store.next_overdue_shape().await?];
        let Some(next) = deadlines.into_iter().flatten().min() else { return Ok(LONGEST) };
        let left = Duration::try_from(next.duration_since(now())).unwrap_or_default();
        Ok(left.clamp(Duration::from_millis(10), LONGEST))
    }

    async fn probe_starts(&self) -> Result<()> {
        if !self.limits.check_start {
            return Ok(());
        }
        let mut starting = self.store.open_deployments().await?;
        starting.retain(|one| one.step >= Step::Restart && one.written.is_some());
        let probes = starting.iter().map(|deployment| async move {
            let node = self.store.node(&deployment.node.to_string()).await?;
            let known = node.map(|node| [self.address_of(&node), node.reserved]);
            let mut addresses: Vec<Ipv4Addr> = known.into_iter().flatten().flatten().collect();
            addresses.dedup();
            for address in addresses {
                if answers(SocketAddr::from((address, self.ssh_port))).await {
                    return self.tell(deployment, Input::Answered).await;
                }
            }
            Ok(())
        });
        join_all(probes).await.into_iter().collect()
    }

    /// Gives `input` to a deployment as it is now.
    async fn tell(&self, deployment: &Deployment, input: Input<'_>) -> Result<()> {
        let now = now();
        let mut change = self.store.change().await?;
        let Some(before) = change.deployment(deployment.id).await? else { return Ok(()) };
        let Some(mut node) = change.node(&before.node.to_string()).await? else { return Ok(()) };
        if before.ended.is_some() {
            return Ok(());
        }
        let (after, mut notes) = before.clone().advance(input, now, &self.limits)?;
        if after == before {
            return Ok(());
        }
        notes.extend(node.follow(&after, now));
        change.update_deployment(&after).await?;
        change.update_node(&node).await?;
        self.commit(change, &node, Some(&after), notes, now).await
    }
}

/// Whether an SSH server says hello at `address`.
async fn answers(address: SocketAddr) -> bool {
    let greet = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let mut start = [0; 4];
        stream.read_exact(&mut start).await.ok()?;
        Some(start == *b"SSH-")
    };
    timeout(BANNER, greet).await.ok().flatten().unwrap_or(false)
}
