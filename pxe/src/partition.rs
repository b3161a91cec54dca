//! Who is in which partition of an InfiniBand fabric: all nodes' slices, in words of subnet
//! managers. Pure.
//!
//! mlx5 has no partition keys of VFs: the subnet manager gives them by port GUID. GUIDs follow
//! from node and slice, so it can be told before there is a VF.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::{Deserialize, Serialize};
use xen_config::{
    Desired,
    fabric::FabricName,
    guid::Guid,
    pkey::{Membership, Pkey},
    slice::{Identity, slices},
};

use crate::refusal::Refusal;

/// A port in a partition. Their order is the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The partition, and how it is its member.
    pub key: Pkey,
    /// Name of the node.
    pub node: String,
    /// Its slice there.
    pub slice: String,
    /// GUID of its port.
    pub guid: Guid,
}

/// What one node has of fabrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Of which fabric.
    pub fabric: FabricName,
    /// Name of the node.
    pub node: String,
    /// Its slice there.
    pub slice: String,
    /// GUID of its port.
    pub guid: Guid,
    /// Its partitions.
    pub keys: Vec<Pkey>,
}

/// The InfiniBand slices that `desired` asks of the node with the identifier `id`, which GUIDs
/// follow from, and which is called `node`. A guest that is off keeps its partitions: its GUID is
/// nobody else's.
pub fn ports(id: &str, node: &str, desired: &Desired) -> Vec<Port> {
    let port = |slice: xen_config::slice::Slice<'_>| {
        let Identity::InfiniBand { port: guid, .. } = slice.identity else { return None };
        Some(Port {
            fabric: slice.wish.fabric.clone(),
            node: node.to_owned(),
            slice: slice.id.to_string(),
            guid,
            keys: slice.wish.pkeys.clone(),
        })
    };
    slices(desired, id).into_iter().filter_map(port).collect()
}

/// Whether what a node asks for can be beside what the others have.
///
/// # Errors
/// A GUID that another slice has.
pub fn check(asked: &[Port], others: &[Port]) -> Result<(), Refusal> {
    let mut owners: BTreeMap<Guid, &Port> = others.iter().map(|port| (port.guid, port)).collect();
    for port in asked {
        if let Some(owner) = owners.insert(port.guid, port) {
            return Err(Refusal::Conflict(format!(
                "slice {}: GUID {} is that of slice {} of {}: another one, or none, and one is \
                 derived",
                port.slice, port.guid, owner.slice, owner.node
            )));
        }
    }
    Ok(())
}

/// All members of the partitions of `fabric`, in order.
pub fn members(fabric: &FabricName, ports: &[Port]) -> BTreeSet<Member> {
    let ours = ports.iter().filter(|port| port.fabric == *fabric);
    ours.flat_map(|port| {
        port.keys.iter().map(|key| Member {
            key: *key,
            node: port.node.clone(),
            slice: port.slice.clone(),
            guid: port.guid,
        })
    })
    .collect()
}

/// A fragment of OpenSM's partitions.conf (opensm(8), PARTITION CONFIGURATION). Definitions of one
/// partition add up, so each member has a line of its own.
pub fn opensm(fabric: &FabricName, members: &BTreeSet<Member>) -> String {
    let mut text = format!(
        "# Fabric {fabric}, written by billet from the desired states of its nodes: what is\n\
         # changed here is lost.\n"
    );
    for Member { key, node, slice, guid } in members {
        let (partition, how) = (key.partition(), key.membership().name());
        let _ = writeln!(text, "# {slice} of {node}");
        let name = format!("billet_{partition:#06x}");
        let _ = writeln!(text, "{name}={partition:#06x}, ipoib : {}={how} ;", guid.hex());
    }
    text
}

/// A request of UFM's REST API ("PKey GUIDs").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UfmRequest {
    /// `POST` or `DELETE`.
    pub method: &'static str,
    /// Below the server's URL.
    pub path: String,
    /// JSON; nothing for `DELETE`.
    pub body: String,
}

#[derive(Serialize)]
struct Add {
    pkey: String,
    index0: bool,
    ip_over_ib: bool,
    guids: Vec<String>,
    memberships: Vec<&'static str>,
}

/// From what UFM was told last to what it should know. Others' members of the same partitions
/// are left alone, so partitions are never set whole.
pub fn ufm(told: &BTreeSet<Member>, wanted: &BTreeSet<Member>) -> Vec<UfmRequest> {
    // UFM knows GUIDs only: the names of who has one may change.
    let plain = |members: &BTreeSet<Member>| {
        let each = members.iter().map(|it| (it.key.partition(), it.guid, it.key.membership()));
        each.collect::<BTreeSet<(u16, Guid, Membership)>>()
    };
    let (told, wanted) = (plain(told), plain(wanted));
    let stays: BTreeSet<(u16, Guid)> = wanted.iter().map(|it| (it.0, it.1)).collect();
    let mut gone: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for (partition, guid, _) in told.iter().filter(|it| !stays.contains(&(it.0, it.1))) {
        gone.entry(*partition).or_default().push(bare(*guid));
    }
    let mut new: BTreeMap<u16, Vec<(Guid, Membership)>> = BTreeMap::new();
    for (partition, guid, how) in wanted.difference(&told) {
        new.entry(*partition).or_default().push((*guid, *how));
    }
    let remove = gone.into_iter().map(|(partition, guids)| UfmRequest {
        method: "DELETE",
        path: format!("/ufmRest/resources/pkeys/{partition:#x}/guids/{}", guids.join(",")),
        body: String::new(),
    });
    let add = new.into_iter().map(|(partition, guids)| {
        let add = Add {
            pkey: format!("{partition:#x}"),
            index0: false,
            ip_over_ib: true,
            guids: guids.iter().map(|(guid, _)| bare(*guid)).collect(),
            memberships: guids.iter().map(|(_, how)| how.name()).collect(),
        };
        let body = serde_json::to_string(&add).unwrap_or_default();
        UfmRequest { method: "POST", path: "/ufmRest/resources/pkeys".into(), body }
    });
    remove.chain(add).collect()
}

/// Sixteen digits.
fn bare(guid: Guid) -> String {
    format!("{:016x}", guid.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(slices: &str) -> Desired {
        let text = format!(
            "[[fabric]]\nname = \"ib0\"\npfs = [\"mlx5_0\"]\n[[fabric]]\nname = \"lan\"\n\
             link = \"ethernet\"\npfs = [\"ens1\"]\n{slices}"
        );
        Desired::from_toml(&text).unwrap()
    }

    fn all() -> Vec<Port> {
        let one = "[slice.b]\nfabric = \"ib0\"\nguid = \"02:00:00:00:00:00:00:0b\"\n\
                   pkeys = [\"0x8001:full\", \"0x0002:limited\"]\n\
                   [slice.a]\nfabric = \"ib0\"\nguid = \"02:00:00:00:00:00:00:0a\"\n\
                   pkeys = [\"0x8001:full\"]\n[slice.e]\nfabric = \"lan\"\n";
        let two = "[slice.a]\nfabric = \"ib0\"\nguid = \"02:00:00:00:00:00:00:0c\"\n\
                   pkeys = [\"0x0001:limited\"]\n[slice.none]\nfabric = \"ib0\"\n";
        [ports("2", "n2", &desired(two)), ports("1", "n1", &desired(one))].concat()
    }

    fn ib0() -> FabricName {
        "ib0".parse().unwrap()
    }

    #[test]
    fn a_fragment_for_opensm() {
        let text = opensm(&ib0(), &members(&ib0(), &all()));
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "# a of n2",
                "billet_0x0001=0x0001, ipoib : 0x020000000000000c=limited ;",
                "# a of n1",
                "billet_0x0001=0x0001, ipoib : 0x020000000000000a=full ;",
                "# b of n1",
                "billet_0x0001=0x0001, ipoib : 0x020000000000000b=full ;",
                "# b of n1",
                "billet_0x0002=0x0002, ipoib : 0x020000000000000b=limited ;",
            ]
        );
        let mut turned = all();
        turned.reverse();
        assert_eq!(opensm(&ib0(), &members(&ib0(), &turned)), text);
    }

    #[test]
    fn ufm_is_told_what_changed() {
        let before = members(&ib0(), &all());
        assert_eq!(ufm(&before, &before), []);
        let fewer: Vec<Port> = all().into_iter().filter(|port| port.slice != "b").collect();
        let after = members(&ib0(), &fewer);
        let paths: Vec<String> = ufm(&before, &after).into_iter().map(|it| it.path).collect();
        assert_eq!(
            paths,
            [
                "/ufmRest/resources/pkeys/0x1/guids/020000000000000b",
                "/ufmRest/resources/pkeys/0x2/guids/020000000000000b",
            ]
        );
        let requests = ufm(&BTreeSet::new(), &after);
        assert_eq!(requests.len(), 1);
        assert_eq!(
            requests[0].body,
            "{\"pkey\":\"0x1\",\"index0\":false,\"ip_over_ib\":true,\
             \"guids\":[\"020000000000000a\",\"020000000000000c\"],\
             \"memberships\":[\"full\",\"limited\"]}"
        );
        // Another membership is set over the old one, and nothing is taken away in between.
        let mut limited = fewer.clone();
        limited.iter_mut().for_each(|port| {
            port.keys = port.keys.iter().map(|_| "0x0001:limited".parse().unwrap()).collect();
        });
        let requests = ufm(&after, &members(&ib0(), &limited));
        assert_eq!((requests.len(), requests[0].method), (1, "POST"));
    }

    #[test]
    fn a_guid_of_another_node_is_refused() {
        let asked = ports(
            "3",
            "n3",
            &desired("[slice.x]\nfabric = \"ib0\"\nguid = \"02:00:00:00:00:00:00:0c\"\n"),
        );
        let said = check(&asked, &all()).unwrap_err().to_string();
        assert!(said.contains("is that of slice a of n2"), "{said}");
        assert!(
            check(&ports("3", "n3", &desired("[slice.x]\nfabric = \"ib0\"\n")), &all()).is_ok()
        );
    }
}
