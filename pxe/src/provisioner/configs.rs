//! What an operator says that a node should be.

use jiff::Timestamp;
use xen_config::{Desired, Refusals, plan};

use super::{Provisioner, Result, unknown_node};
use crate::{
    api::{ConfigView, GuestsView, PlanView},
    deployment::after,
    event::{Note, now},
    node::{Node, State},
    refusal::Refusal,
    shape::{Given, Over, Shape},
    shape_view,
    store::Change,
};

/// A change of what a node should be.
#[derive(Debug, Clone)]
struct Wish {
    /// What it should be, as written; nothing when nobody wants anything of it any more.
    given: Option<Given>,
    /// On top of what.
    over: Over,
    /// Who says so.
    by: String,
}

impl Provisioner {
    /// What a node should be.
    pub async fn config(&self, key: &str) -> Result<ConfigView> {
        let node = self.node(key).await?;
        let shape = self.store.shape(node.id).await?;
        self.config_view(&node, shape).await
    }

    /// Says what a node should be from now on; the same text again changes nothing.
    pub async fn set_config(
        &self,
        key: &str,
        given: Given,
        over: Over,
        by: String,
    ) -> Result<ConfigView> {
        let desired = given.read()?;
        self.check_slices(key, &desired).await?;
        let (node, shape) = self.change_config(key, Wish { given: Some(given), over, by }).await?;
        let mut view = self.config_view(&node, Some(shape)).await?;
        if let Some(host) = self.store.host(node.id).await? {
            let refusals = plan(&desired, &host).err().map(|refusals| refusals.0);
            view.warnings = refusals.iter().flatten().map(ToString::to_string).collect();
        }
        Ok(view)
    }

    /// Nobody wants anything of a node any more; what stands is left as it is.
    pub async fn unset_config(&self, key: &str, over: Over, by: String) -> Result<()> {
        self.change_config(key, Wish { given: None, over, by }).await.map(drop)
    }

    async fn change_config(&self, key: &str, wish: Wish) -> Result<(Node, Shape)> {
        let now = now();
        let mut change = self.store.change().await?;
        let node = change.node(key).await?.ok_or_else(|| unknown_node(key))?;
        let there = change.shape(node.id).await?;
        wish.over.check(&node.name, there.as_ref())?;
        let old = match there {
            Some(shape) if shape.given == wish.given => return Ok((node, shape)),
            None if wish.given.is_none() => return Err(no_config(&node).into()),
            other => other,
        };
        // Before there is a system with an agent there is nobody to wait for.
        let until = (node.state == State::Deployed).then(|| after(now, self.apply));
        let shape = Shape::after(old.as_ref(), wish.given, wish.by, now, until);
        let old = old.map_or(0, |shape| shape.generation);
        change.set_shape(node.id, old, &shape).await?;
        let note = change_note(&node, &shape);
        self.commit_config(change, &node, vec![note], now).await?;
        Ok((node, shape))
    }

    /// Commits a change that is not one of a deployment, though one may be open.
    pub(super) async fn commit_config(
        &self,
        mut change: Change<'_>,
        node: &Node,
        notes: Vec<Note>,
        now: Timestamp,
    ) -> Result<()> {
        let open = change.open_deployment(node.id).await?;
        self.commit(change, node, open.as_ref(), notes, now).await
    }

    /// The steps from what a node was when its agent spoke last to what `given` says.
    pub async fn try_config(&self, key: &str, given: &Given, over: &Over) -> Result<PlanView> {
        let desired = given.read()?;
        self.check_slices(key, &desired).await?;
        let node = self.node(key).await?;
        over.check(&node.name, self.store.shape(node.id).await?.as_ref())?;
        let heard = self.store.agent(node.id).await?.and_then(|agent| agent.heard);
        let host = self.store.host(node.id).await?;
        let (Some(heard), Some(host)) = (heard, host) else {
            return Err(no_facts(&node).into());
        };
        let age = now().duration_since(heard.at).as_secs().max(0).unsigned_abs();
        let plan = plan(&desired, &host).map_err(|refusals| impossible(&node, &refusals, age))?;
        Ok(PlanView {
            node: node.name,
            facts: heard.at,
            age,
            steps: plan.steps.iter().map(ToString::to_string).collect(),
            reboot: plan.reboot,
            notes: plan.notes,
        })
    }

    /// The guests of a node.
    pub async fn guests(&self, key: &str) -> Result<GuestsView> {
        let node = self.node(key).await?;
        let shape = self.store.shape(node.id).await?;
        let desired = match shape.and_then(|shape| shape.given) {
            Some(given) => read(&node, &given)?,
            None => Desired::default(),
        };
        let agent = self.store.agent(node.id).await?;
        let reported = self.store.guests(node.id).await?.unwrap_or_default();
        Ok(GuestsView {
            node: node.name,
            heard: agent.and_then(|agent| agent.heard).map(|heard| heard.at),
            items: shape_view::guests(reported, &desired),
        })
    }

    /// An agent has not reached what its node should be in its time.
    pub(super) async fn tell_overdue(&self, id: crate::node::NodeId) -> Result<()> {
        let now = now();
        let mut change = self.store.change().await?;
        let Some(node) = change.node(&id.to_string()).await? else { return Ok(()) };
        let due = change.shape(id).await?;
        let Some(shape) = due.filter(|shape| shape.until.is_some_and(|until| until <= now)) else {
            return Ok(());
        };
        change.await_shape(id, None).await?;
        let (name, generation) = (&node.name, shape.generation);
        let text = format!(
            "{name} has not applied generation {generation} within {:?}; `billet node config {name} \
             show` says how far it is",
            self.apply
        );
        self.commit_config(change, &node, vec![Note::new("config.overdue", text)], now).await
    }

    async fn config_view(&self, node: &Node, shape: Option<Shape>) -> Result<ConfigView> {
        let Some((shape, given)) = shape.and_then(|shape| Some((shape.clone(), shape.given?)))
        else {
            return Err(no_config(node).into());
        };
        let agent = self.store.agent(node.id).await?;
        let desired = read(node, &given)?;
        Ok(shape_view::config(&node.name, &shape, &given, desired, agent.as_ref()))
    }
}

/// What is kept was read when it was given: that it cannot be read now is this program's fault.
pub(super) fn read(node: &Node, given: &Given) -> anyhow::Result<Desired> {
    let context = format!("reading the desired state of {} that is kept", node.name);
    given.parse().map_err(|error| anyhow::Error::new(error).context(context))
}

fn change_note(node: &Node, shape: &Shape) -> Note {
    let (name, Shape { generation, by, .. }) = (&node.name, shape);
    match &shape.given {
        Some(_) => Note::new(
            "config.changed",
            format!("{name} should be as generation {generation} says, set by {by}"),
        ),
        None => {
            Note::new("config.unset", format!("nothing is wanted of {name} any more, said {by}"))
        }
    }
}

fn no_config(node: &Node) -> Refusal {
    let name = &node.name;
    Refusal::Unknown(format!(
        "{name} has no desired state; `billet node config {name} set FILE` gives it one"
    ))
}

fn no_facts(node: &Node) -> Refusal {
    let name = &node.name;
    Refusal::Conflict(format!(
        "nothing is known of {name} to plan with: no agent of a system that billet deployed has \
         reported yet; a desired state can be set all the same"
    ))
}

fn impossible(node: &Node, refusals: &Refusals, age: u64) -> Refusal {
    let name = &node.name;
    Refusal::Invalid(format!("{name} cannot be so: {refusals} (by its facts of {age}s ago)"))
}
