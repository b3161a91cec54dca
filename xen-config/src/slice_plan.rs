//! From slices as they are to slices as they should be.
//!
//! Order is safety here: a VF is written down before it is touched, has its whole identity before
//! a driver may have it, and is reset and made a stranger before it is free again. So a VF whose
//! `driver_override` is ours has its identity, whoever was killed when; and what is written down
//! and not desired goes back, from wherever it was.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Name,
    fabric::LinkLayer,
    nic::{Mac, Vlan},
    pci::PciAddress,
    pkey::Pkey,
    slice::{Held, Identity, Slice, SliceId, slices},
    slice_fit,
    slice_place::{SliceSite, places},
    slice_refusal::SliceRefusal,
    slice_step::{SliceStep, VfChange, VfPlace},
    sriov::{Pf, Policy, Sriov, Vf, VfSays, Way},
};

/// What is to be done for slices, and what guests get of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlicePlan {
    /// The steps: what goes back, what is cut, what is made ready.
    pub steps: Vec<SliceStep>,
    /// The VFs of each guest.
    pub functions: BTreeMap<Name, Vec<PciAddress>>,
    /// Guests whose VFs are not known yet: they start after the next look.
    pub waiting: BTreeSet<Name>,
    /// VFs that are with the binder once the steps are done.
    pub bound: Vec<PciAddress>,
    /// VFs that vanished under a running guest and are back: it must get them anew.
    pub lost: Vec<PciAddress>,
    /// What no step can do.
    pub notes: Vec<String>,
}

/// The steps, or every reason why there are none.
///
/// # Errors
/// Slices that cannot be on this machine; nothing has been done then.
pub fn plan(site: SliceSite<'_>) -> Result<SlicePlan, Vec<SliceRefusal>> {
    let all = slices(site.desired, &site.host.node);
    let refusals = slice_fit::refusals(&all, site);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let up: Vec<&Slice<'_>> = all.iter().filter(|slice| slice.is_up()).collect();
    let (sriov, held) = (site.host.sriov.clone(), site.host.held.clone());
    let mut draft = Draft { site, sriov, held, plan: SlicePlan::default() };
    draft.give_back(&up);
    draft.cut();
    let places = places(&up, site, &draft.sriov, &draft.held);
    for (slice, place) in up.iter().zip(places) {
        match place {
            Some(place) => draft.make_ready(slice, place),
            None => draft.wait(slice, "until another guest has given its VF back"),
        }
    }
    Ok(draft.plan)
}

/// What a VF should be like.
struct Shape<'a> {
    identity: Identity,
    policy: Policy,
    pkeys: Option<&'a [Pkey]>,
    vlan: Option<Vlan>,
    trust: bool,
    megabits: u32,
    /// Whether the device is sure to have what it was made with where it says nothing.
    fresh: bool,
    /// Whether it has this shape already where it says nothing.
    had: bool,
}

struct Draft<'a> {
    site: SliceSite<'a>,
    /// Facts as they are after the steps so far.
    sriov: Sriov,
    held: Vec<Held>,
    plan: SlicePlan,
}

impl Draft<'_> {
    fn step(&mut self, step: SliceStep) {
        step.done(&mut self.sriov, &mut self.held);
        self.plan.steps.push(step);
    }

    fn change(&mut self, slice: &SliceId, at: &VfPlace, change: VfChange) {
        self.step(SliceStep::Vf { slice: slice.clone(), at: at.clone(), change });
    }

    fn vf(&self, at: &VfPlace) -> Option<(Pf, Vf)> {
        let pf = self.sriov.pf(&at.pf)?;
        Some((pf.clone(), pf.vf(at.vf)?.clone()))
    }

    fn wait(&mut self, slice: &Slice<'_>, why: &str) {
        self.plan.waiting.extend(slice.guest.map(|guest| guest.name.clone()));
        self.plan.notes.push(format!("slice {} waits {why}", slice.id));
    }

    /// What is written down and not desired, or not of its fabric any more.
    fn give_back(&mut self, up: &[&Slice<'_>]) {
        let site = self.site;
        let stays = |held: &Held| {
            let slice = up.iter().find(|slice| slice.id == held.slice);
            let fabric = site.fabric_of(&held.pf).map(|fabric| &fabric.name);
            slice.is_some_and(|slice| fabric == Some(&slice.wish.fabric))
        };
        let back: Vec<Held> = self.held.iter().filter(|held| !stays(held)).cloned().collect();
        for held in back {
            let at = VfPlace { pf: held.pf.clone(), vf: held.vf };
            if let Some((pf, vf)) = self.vf(&at) {
                // Its guest has it still: it is taken from it first.
                if self.site.user(&vf.address).is_some() {
                    continue;
                }
                self.let_go(&held.slice, &at, &vf);
                self.change(&held.slice, &at, VfChange::Reset);
                let link = pf.link().unwrap_or_default();
                let identity = Identity::idle(link, &self.site.host.node, &pf.address, at.vf);
                let shape = Shape {
                    identity,
                    policy: Policy::Down,
                    pkeys: Some(&[]),
                    vlan: None,
                    trust: false,
                    megabits: 0,
                    fresh: false,
                    had: false,
                };
                self.shape(&held.slice, &at, &pf, &vf.says, &shape);
            }
            self.step(SliceStep::Free { slice: held.slice, at });
        }
    }

    /// No driver has it, and any may.
    fn let_go(&mut self, slice: &SliceId, at: &VfPlace, vf: &Vf) {
        if let Some(driver) = vf.driver.clone() {
            self.change(slice, at, VfChange::Unbind { driver });
        }
        if vf.only.is_some() {
            self.change(slice, at, VfChange::Override { driver: None });
        }
    }

    fn cut(&mut self) {
        for fabric in &self.site.desired.fabrics {
            for pf in fabric.pfs_of(&self.site.host.sriov) {
                let needs_link = fabric.link == LinkLayer::InfiniBand
                    && pf.way == Some(Way::Netlink)
                    && pf.links.iter().all(|link| link.link != LinkLayer::InfiniBand);
                if needs_link && !self.sriov.ipoib {
                    self.step(SliceStep::Ipoib);
                }
                let address = &pf.address;
                let off = pf.links.first().filter(|link| link.down);
                if let (LinkLayer::Ethernet, Some(link)) = (fabric.link, off) {
                    let (pf, link) = (address.clone(), link.name.clone());
                    self.step(SliceStep::Up { pf, link });
                }
                if pf.autoprobe == Some(true) {
                    self.step(SliceStep::Autoprobe { pf: address.clone() });
                }
                let count = fabric.vfs_of(pf);
                if pf.count != 0 && pf.count != count {
                    self.step(SliceStep::Count { pf: address.clone(), count: 0 });
                }
                if pf.count != count && count != 0 {
                    self.step(SliceStep::Count { pf: address.clone(), count });
                }
            }
        }
    }

    fn make_ready(&mut self, slice: &Slice<'_>, at: VfPlace) {
        let Some((pf, vf)) = self.vf(&at) else {
            return self.wait(slice, &format!("until {} is cut", at.pf));
        };
        let (id, binder) = (&slice.id, self.site.binder());
        let guest = slice.guest.map(|guest| &guest.name);
        let user = self.site.user(&vf.address);
        let live = user.is_some_and(|domain| guest.is_some_and(|it| it.as_str() == domain.name));
        let (identity, known) = self.hold(slice, &at, &pf, &vf, live);
        let only = (known || live).then_some(vf.only.as_deref()).flatten();
        let shape = Shape {
            identity,
            policy: Policy::Follow,
            pkeys: (!slice.wish.pkeys.is_empty()).then_some(&slice.wish.pkeys),
            vlan: slice.wish.vlan,
            trust: slice.wish.trust,
            megabits: slice.wish.rate.and_then(|rate| rate.megabits()).unwrap_or(0),
            fresh: true,
            had: only == Some(binder.name()),
        };
        self.shape(id, &at, &pf, &vf.says, &shape);
        if only != Some(binder.name()) {
            self.change(id, &at, VfChange::Override { driver: Some(binder) });
        }
        let driver = (known || live).then(|| vf.driver.clone()).flatten();
        if driver.as_deref() != Some(binder.name()) {
            if let Some(driver) = driver {
                self.change(id, &at, VfChange::Unbind { driver });
            }
            self.change(id, &at, VfChange::Bind { driver: binder });
            self.plan.lost.extend(live.then(|| vf.address.clone()));
        }
        self.plan.bound.push(vf.address.clone());
        if let Some(guest) = guest {
            self.plan.functions.entry(guest.clone()).or_default().push(vf.address);
        }
    }

    /// Writes down that the slice has a VF, unless that is known; then nobody else's traces are on it.
    /// Gives who it is, and whether it was known.
    fn hold(
        &mut self,
        slice: &Slice<'_>,
        at: &VfPlace,
        pf: &Pf,
        vf: &Vf,
        live: bool,
    ) -> (Identity, bool) {
        let id = &slice.id;
        let had = self.held.iter().find(|held| held.slice == *id);
        let had = had.filter(|held| held.pf == at.pf && held.vf == at.vf).cloned();
        let mut identity = slice.identity.clone();
        if let Some(had) = had.as_ref().filter(|had| live && had.identity != identity) {
            self.plan.notes.push(format!(
                "slice {id} has {}, and {identity} after a restart of its guest",
                had.identity
            ));
            identity = had.identity.clone();
        }
        let known = had.is_some_and(|had| had.identity == identity);
        if !known && !live {
            self.let_go(id, at, vf);
            if self.was_used(at, pf, vf, &identity) {
                self.change(id, at, VfChange::Reset);
            }
        }
        if !known {
            let (slice, pf, identity) = (id.clone(), at.pf.clone(), identity.clone());
            self.step(SliceStep::Hold { held: Held { slice, pf, vf: at.vf, identity } });
        }
        (identity, known)
    }

    /// Whether a VF that nobody has bears traces of somebody.
    fn was_used(&self, at: &VfPlace, pf: &Pf, vf: &Vf, next: &Identity) -> bool {
        let link = pf.link().unwrap_or_default();
        let idle = Identity::idle(link, &self.site.host.node, &pf.address, at.vf);
        let is = |identity: &Identity| match identity {
            Identity::InfiniBand { port, .. } => vf.says.port.is_none_or(|had| had == *port),
            Identity::Ethernet { mac } => vf.says.mac.as_ref().is_none_or(|had| had == mac),
        };
        vf.driver.is_some() || !is(&idle) && !is(next)
    }

    fn shape(&mut self, id: &SliceId, at: &VfPlace, pf: &Pf, says: &VfSays, shape: &Shape<'_>) {
        match &shape.identity {
            Identity::InfiniBand { node, port } => {
                let differs = |said: Option<_>, wanted| match says.guids {
                    true => said != Some(wanted),
                    false => !shape.had,
                };
                // mlx4 has alias GUIDs of ports only.
                if pf.way != Some(Way::Mlx4) && differs(says.node, *node) {
                    self.change(id, at, VfChange::NodeGuid { guid: *node });
                }
                if differs(says.port, *port) {
                    self.change(id, at, VfChange::PortGuid { guid: *port });
                }
                let policy = shape.policy;
                let differs = says.policy.map_or(!shape.had, |said| said != policy);
                // mlx4 has none on InfiniBand: a port without a GUID is down.
                if differs && pf.way != Some(Way::Mlx4) {
                    self.change(id, at, VfChange::Policy { policy });
                }
                if let Some(keys) = shape.pkeys.filter(|_| pf.way == Some(Way::Mlx4)) {
                    self.pkeys(id, at, pf, says, keys);
                }
            }
            Identity::Ethernet { mac } => self.ethernet(id, at, says, mac, shape),
        }
    }

    fn ethernet(
        &mut self,
        id: &SliceId,
        at: &VfPlace,
        says: &VfSays,
        mac: &Mac,
        shape: &Shape<'_>,
    ) {
        if says.mac.as_ref().map_or(!shape.had, |said| said != mac) {
            self.change(id, at, VfChange::Mac { mac: mac.clone() });
        }
        // Where nothing is said a VF that was just made has none of these.
        let silent = |usual: bool| !(shape.had || shape.fresh && usual);
        let vlan = shape.vlan.map_or(0, |vlan| vlan.number().into());
        if says.vlan.map_or(silent(vlan == 0), |said| said != vlan) {
            self.change(id, at, VfChange::Vlan { vlan: shape.vlan });
        }
        let trust = shape.trust;
        if says.trust.map_or(silent(!trust), |said| said != trust) {
            self.change(id, at, VfChange::Trust { trust });
        }
        let megabits = shape.megabits;
        if says.rate.map_or(silent(megabits == 0), |said| said != megabits) {
            self.change(id, at, VfChange::Rate { megabits });
        }
    }

    /// mlx4 shows a VF chosen places of the port's own table.
    fn pkeys(&mut self, id: &SliceId, at: &VfPlace, pf: &Pf, says: &VfSays, keys: &[Pkey]) {
        let table = pf.port().map_or(&[][..], |port| &port.pkeys);
        let length = says.pkeys.len().max(keys.len());
        for own in 0..length {
            let key = keys.get(own);
            let place = key.and_then(|key| table.iter().position(|had| had.as_ref() == Some(key)));
            let place = place.map(|place| place as u32);
            if let (Some(key), None) = (key, place) {
                let port = pf.called();
                self.plan.notes.push(format!(
                    "slice {id} is without partition key {key} until the subnet manager gives it to {port}"
                ));
            }
            if says.pkeys.get(own).copied().flatten() != place {
                let own = own as u32;
                self.change(id, at, VfChange::Pkey { at: own, place });
            }
        }
    }
}
