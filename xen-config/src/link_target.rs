//! Where a plan leads: what each link should be, whoever wishes it so. It is made of the desired
//! network and the facts, or of former facts that are to be again.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cidr::Cidr,
    link::{Link, LinkKind, LinkName, Links, Mac, Route},
    vlan::PortVlans,
};

/// Everything that is to be, in the order in which it can be made.
#[derive(Debug, Default)]
pub(crate) struct Target {
    /// What carries others comes before them.
    pub links: Vec<Wanted>,
    /// What is to go.
    pub absent: BTreeSet<LinkName>,
    /// What is to be.
    pub routes: Vec<Route>,
    /// What is not to be.
    pub gone_routes: Vec<Route>,
}

/// One link; what is `None` may stay as it is.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub name: LinkName,
    /// To be made or changed into this; `None` is there already and stays what it is.
    pub kind: Option<LinkKind>,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub up: Option<bool>,
    pub master: Option<Option<LinkName>>,
    pub vlans: Option<PortVlans>,
    pub addresses: Vec<Cidr>,
    pub gone: Vec<Cidr>,
}

impl Wanted {
    /// Nothing but a name.
    pub(crate) fn named(name: &LinkName) -> Self {
        Wanted {
            name: name.clone(),
            kind: None,
            mac: None,
            mtu: None,
            up: None,
            master: None,
            vlans: None,
            addresses: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Just as it was.
    fn like(name: &LinkName, was: &Link, now: Option<&Link>) -> Self {
        let made = !matches!(was.kind, LinkKind::Other(_));
        let had = |net: &Cidr| was.addresses.iter().any(|address| address.net == *net);
        let has = now.into_iter().flat_map(|link| &link.addresses).map(|address| address.net);
        Wanted {
            kind: made.then(|| was.kind.clone()),
            // Other kinds get theirs back by themselves.
            mac: was.mac.filter(|_| matches!(was.kind, LinkKind::Bridge(_) | LinkKind::Bond(_))),
            mtu: Some(was.mtu),
            up: Some(was.up),
            master: Some(was.master.clone()),
            vlans: was.vlans.clone(),
            addresses: was.addresses.iter().map(|address| address.net).collect(),
            gone: has.filter(|net| !had(net)).collect(),
            ..Wanted::named(name)
        }
    }
}

impl Target {
    /// The `touched` links as they were `before`, and all routes by them.
    pub(crate) fn former(before: &Links, touched: &BTreeSet<LinkName>, now: &Links) -> Self {
        let mut target = Target::default();
        for name in before.lower_first() {
            if touched.contains(&name)
                && let Some(was) = before.get(&name)
            {
                target.links.push(Wanted::like(&name, was, now.get(&name)));
            }
        }
        let is_new = |name: &&LinkName| before.get(name).is_none();
        let made = |name: &&LinkName| {
            now.get(name).is_some_and(|link| !matches!(link.kind, LinkKind::Other(_)))
        };
        target.absent = touched.iter().filter(is_new).filter(made).cloned().collect();
        let by_touched = |route: &&Route| touched.contains(&route.dev);
        target.routes = before.routes.iter().filter(by_touched).cloned().collect();
        let stays = |route: &&Route| before.routes.iter().any(|old| old.leads_like(route));
        let gone = now.routes.iter().filter(by_touched).filter(|route| !stays(route));
        target.gone_routes = gone.cloned().collect();
        target
    }
}

impl Links {
    /// All names, each after what it lies on: ports before their master, parents before VLANs.
    pub(crate) fn lower_first(&self) -> Vec<LinkName> {
        let mut lower: BTreeMap<&LinkName, Vec<&LinkName>> = BTreeMap::new();
        for (name, link) in &self.links {
            if let LinkKind::Vlan { parent: Some(parent), .. } = &link.kind {
                lower.entry(name).or_default().push(parent);
            }
            if let Some(master) = &link.master {
                lower.entry(master).or_default().push(name);
            }
        }
        let names: Vec<&LinkName> = self.links.keys().collect();
        sort(&names, &lower).into_iter().cloned().collect()
    }
}

/// `names`, each after its `lower` ones. What lies on itself comes anywhere.
pub(crate) fn sort<'a>(
    names: &[&'a LinkName],
    lower: &BTreeMap<&'a LinkName, Vec<&'a LinkName>>,
) -> Vec<&'a LinkName> {
    fn visit<'a>(
        name: &'a LinkName,
        lower: &BTreeMap<&'a LinkName, Vec<&'a LinkName>>,
        seen: &mut BTreeSet<&'a LinkName>,
        sorted: &mut Vec<&'a LinkName>,
    ) {
        if seen.insert(name) {
            for below in lower.get(name).into_iter().flatten() {
                visit(below, lower, seen, sorted);
            }
            sorted.push(name);
        }
    }
    let (mut seen, mut sorted) = (BTreeSet::new(), Vec::new());
    for name in names {
        visit(name, lower, &mut seen, &mut sorted);
    }
    sorted
}
