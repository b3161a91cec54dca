//! The door to the kernel's links, addresses and routes: all of them as facts, and steps done.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    route::RouteMessage,
};
use xen_config::{
    link::{LinkKind, LinkName, Links},
    link_step::LinkStep,
};

use super::{
    link_facts::{RawLink, add_address, add_vlans, named, parse_route},
    link_request::{Indices, requests},
    netlink::{Answer, Netlink, Request, u32_at},
};

/// A connection to the kernel, and the numbers of the links that it named.
pub(crate) struct Door {
    netlink: Netlink,
    indices: Indices,
}

impl Door {
    /// Opens it, in the network namespace of this thread.
    pub(crate) fn open() -> Result<Self> {
        Ok(Door { netlink: Netlink::open()?, indices: Indices::default() })
    }

    /// All links, addresses and routes: one dump each.
    pub(crate) fn probe(&mut self) -> Result<Links> {
        let mut raw = BTreeMap::new();
        let message = get_link(AddressFamily::Unspec, LinkExtentMask::SkipStats);
        for body in self.netlink.dump(&message).context("reading the links")? {
            if let Some(link) = RawLink::parse(&body) {
                raw.insert(link.index, link);
            }
        }
        let mut links = named(&raw);
        self.indices = links.links.iter().map(|(name, link)| (name.clone(), link.index)).collect();
        if links.links.values().any(|link| matches!(link.kind, LinkKind::Bridge(_))) {
            let message = get_link(AddressFamily::Bridge, LinkExtentMask::BrvlanCompressed);
            for body in self.netlink.dump(&message).context("reading the bridges' VLANs")? {
                add_vlans(&mut links, &raw, &body);
            }
        }
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for body in self.netlink.dump(&message).context("reading the addresses")? {
            add_address(&mut links, &raw, &body);
        }
        let message = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        for body in self.netlink.dump(&message).context("reading the routes")? {
            links.routes.extend(parse_route(&raw, &body));
        }
        Ok(links)
    }

    /// Does the steps, many in one go; what was done already is no error.
    ///
    /// # Errors
    /// The first step that the kernel refused. Those sent along with it may be done even so.
    pub(crate) fn apply(&mut self, steps: &[LinkStep]) -> Result<()> {
        let mut pending: Vec<(&LinkStep, Request)> = Vec::new();
        for step in steps {
            let made = match requests(step, &self.indices) {
                Ok(made) => made,
                // It was made by a step that is not sent yet: only then has it a number.
                Err(_) => {
                    self.flush(&mut pending)?;
                    self.learn(steps)?;
                    requests(step, &self.indices)
                        .map_err(|name| anyhow!("no link {name} to {step}"))?
                }
            };
            pending.extend(made.into_iter().map(|request| (step, request)));
        }
        self.flush(&mut pending)
    }

    fn flush(&mut self, pending: &mut Vec<(&LinkStep, Request)>) -> Result<()> {
        let (steps, requests): (Vec<_>, Vec<_>) = pending.drain(..).unzip();
        for (step, answer) in steps.into_iter().zip(self.netlink.ask(&requests)?) {
            match answer {
                Answer::Refused(errno, _) if is_done(step, errno) => {}
                Answer::Refused(errno, words) => {
                    return Err(anyhow!("the kernel refused to {step}: {words} ({errno:?})"));
                }
                Answer::Done | Answer::Found(_) => {}
            }
            if let LinkStep::Delete { link } = step {
                self.indices.remove(link);
            }
        }
        Ok(())
    }

    /// The numbers of the links that these steps make and that are there.
    fn learn(&mut self, steps: &[LinkStep]) -> Result<()> {
        let made = steps.iter().filter_map(|step| match step {
            LinkStep::Create { link, .. } if !self.indices.contains_key(link) => Some(link),
            _ => None,
        });
        let names: Vec<&LinkName> = made.collect();
        let ask = |name: &&LinkName| {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::IfName(name.to_string()));
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            Request::question(RouteNetlinkMessage::GetLink(message))
        };
        let questions: Vec<_> = names.iter().map(ask).collect();
        for (name, answer) in names.into_iter().zip(self.netlink.ask(&questions)?) {
            if let Answer::Found(body) = answer
                && let Some(index) = u32_at(&body, 4)
            {
                self.indices.insert(name.clone(), index);
            }
        }
        Ok(())
    }
}

/// What says that a step was done before.
fn is_done(step: &LinkStep, errno: Errno) -> bool {
    match step {
        LinkStep::Delete { .. } => errno == Errno::ENODEV,
        LinkStep::RemoveAddress { .. } => errno == Errno::EADDRNOTAVAIL,
        LinkStep::RemoveRoute { .. } => errno == Errno::ESRCH,
        _ => false,
    }
}

fn get_link(family: AddressFamily, mask: LinkExtentMask) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = family;
    message.attributes.push(LinkAttribute::ExtMask(vec![mask]));
    RouteNetlinkMessage::GetLink(message)
}
