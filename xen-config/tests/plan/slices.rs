//! Slices: carved, given, taken back, in the order that kernels demand. Cases by folder: facts,
//! what is desired, and the plan; `BILLET_REWRITE=1` writes the plans anew.

use std::{fs, path::Path};

use proptest::prelude::*;
use xen_config::{
    Desired, Host, Plan, Step,
    fabric::LinkLayer,
    pci::PciAddress,
    slice::{Held, Identity, SliceId},
    slice_step::{SliceStep, VfChange, VfPlace},
    sriov::{Pf, Sriov, Way},
};

use crate::model::Node;

/// As the agent does: a plan, its steps, and a look, until nothing is left.
const ROUNDS: usize = 4;

impl Node {
    /// A step of a slice, unless the kernel would refuse it.
    pub(crate) fn slice(&mut self, step: &SliceStep) {
        self.allowed(step);
        step.done(&mut self.host.sriov, &mut self.host.held);
        match step {
            SliceStep::Count { pf, .. } => self.appear(pf),
            SliceStep::Vf { at, change: VfChange::Bind { .. }, .. } => {
                let address = self.vf(at).1;
                if let Some(xen) = &mut self.host.xen {
                    xen.assignable.push(address);
                }
            }
            SliceStep::Vf { at, change: VfChange::Unbind { .. }, .. } => {
                let address = self.vf(at).1;
                if let Some(xen) = &mut self.host.xen {
                    xen.assignable.retain(|known| *known != address);
                }
            }
            _ => {}
        }
    }

    /// New VFs are silent, or tell that they have no identity.
    fn appear(&mut self, pf: &PciAddress) {
        let pf = self.host.sriov.pfs.iter_mut().find(|known| known.address == *pf).unwrap();
        let tells = pf.way == Some(Way::Vendor) || pf.way == Some(Way::Netlink) && pf.total != 5;
        let tells = tells && pf.link() == Some(LinkLayer::InfiniBand);
        for vf in &mut pf.vfs {
            vf.says.guids = tells;
        }
    }

    fn vf(&self, at: &VfPlace) -> (Pf, PciAddress) {
        let pf = self.host.sriov.pf(&at.pf).unwrap_or_else(|| panic!("no function {}", at.pf));
        let vf = pf.vf(at.vf).unwrap_or_else(|| panic!("there is no {at}: ENODEV"));
        (pf.clone(), vf.address.clone())
    }

    fn has_function(&self, address: &PciAddress) -> bool {
        let domains = self.host.xen.iter().flat_map(|xen| &xen.domains);
        let mut made = domains.flat_map(|domain| &domain.made);
        made.any(|made| made.pci.contains(address))
    }

    fn allowed(&self, step: &SliceStep) {
        match step {
            SliceStep::Count { pf, count } => {
                let pf = self.host.sriov.pf(pf).unwrap();
                assert!(*count == 0 || pf.count == 0, "{step}: EBUSY");
                assert!(*count <= pf.total, "{step}: ERANGE");
                assert!(pf.autoprobe != Some(true), "{step}: drivers of dom0 would take them");
                let used = pf.vfs.iter().find(|vf| self.has_function(&vf.address));
                assert!(used.is_none(), "{step}: {used:?} is in use");
            }
            SliceStep::Vf { slice, at, change } => self.vf_allowed(slice, at, change, step),
            _ => {}
        }
    }

    fn vf_allowed(&self, slice: &SliceId, at: &VfPlace, change: &VfChange, step: &SliceStep) {
        let (pf, address) = self.vf(at);
        let vf = pf.vf(at.vf).unwrap();
        let holds = |held: &&Held| held.pf == at.pf && held.vf == at.vf;
        let holder = self.host.held.iter().find(holds);
        match change {
            VfChange::Unbind { driver } => {
                assert_eq!(vf.driver.as_ref(), Some(driver), "{step}");
                assert!(!self.has_function(&address), "{step}: it is in use");
            }
            VfChange::Reset => assert!(!self.has_function(&address), "{step}: it is in use"),
            VfChange::Bind { driver } => {
                assert_eq!(vf.only.as_deref(), Some(driver.name()), "{step}: ENODEV");
                assert_eq!(vf.driver, None, "{step}: EBUSY");
                let Some(holder) = holder else { panic!("{step}: nobody is written down") };
                assert_eq!(holder.slice, *slice, "{step}");
                self.is_who_it_should(vf, &holder.identity, step);
            }
            VfChange::Override { .. } => {}
            VfChange::NodeGuid { .. } | VfChange::PortGuid { .. } | VfChange::Policy { .. } => {
                let link = pf.links.iter().any(|link| link.link == LinkLayer::InfiniBand);
                let reached = pf.way != Some(Way::Netlink) || link || self.host.sriov.ipoib;
                assert!(reached, "{step}: EOPNOTSUPP");
                assert!(holder.is_some_and(|it| it.slice == *slice), "{step}: not written down");
            }
            _ => {
                assert!(holder.is_some_and(|it| it.slice == *slice), "{step}: not written down");
            }
        }
    }

    fn is_who_it_should(
        &self,
        vf: &xen_config::sriov::Vf,
        identity: &Identity,
        step: &impl std::fmt::Display,
    ) {
        match identity {
            Identity::InfiniBand { node, port } => {
                let says = (vf.says.node, vf.says.port);
                assert_eq!(says, (Some(*node), Some(*port)), "{step}");
                let others = self.host.sriov.pfs.iter().flat_map(|pf| &pf.vfs);
                let same = others.filter(|vf| vf.says.port == Some(*port)).count();
                assert_eq!(same, 1, "{step}: {port} is there twice");
            }
            Identity::Ethernet { mac } => assert_eq!(vf.says.mac.as_ref(), Some(mac), "{step}"),
        }
    }

    /// What a guest gets is with pciback, and is who it was announced to be.
    pub(crate) fn check_function(&self, address: &PciAddress) {
        let Some((pf, number)) = self.host.sriov.owner(address) else { return };
        let vf = pf.vf(number).unwrap_or_else(|| panic!("there is no {address}"));
        assert_eq!(vf.driver.as_deref(), Some("pciback"), "{address}");
        assert!(!self.has_function(address), "{address} is in use");
        let held = self.host.held.iter().find(|it| it.pf == pf.address && it.vf == number);
        self.is_who_it_should(vf, &held.unwrap().identity, address);
    }
}

/// Two HCAs, one on each of two NUMA nodes, and a node of four CPUs.
fn node() -> Node {
    let mut node = Node::booted(4, 2, 1);
    node.host.sriov = sriov();
    node
}

fn sriov() -> Sriov {
    let hca = |bus: &str, node: u32, name: &str, way: &str| {
        format!(
            r#"{{"address": "0000:{bus}:00.0", "driver": "mlx5_core", "node": {node}, "total": 4, "count": 0,
            "autoprobe": true, "offset": 1, "stride": 1, "way": "{way}", "device": {{ "name": "{name}",
            "guid": "b8:59:9f:03:00:00:00:{bus}", "ports": [{{ "port": 1, "link": "infiniband" }}] }} }}"#
        )
    };
    let igb = r#"{"address": "0000:01:00.0", "driver": "igb", "node": 0, "total": 7, "count": 0,
        "autoprobe": true, "offset": 128, "stride": 2, "way": "netlink",
        "links": [{ "name": "ens1", "link": "ethernet", "down": true }]}"#;
    let (one, other) = (hca("3b", 0, "mlx5_0", "netlink"), hca("86", 1, "mlx5_1", "vendor"));
    serde_json::from_str(&format!("{{\"pfs\": [{igb}, {one}, {other}]}}")).unwrap()
}

const FABRICS: &str = r#"
[[fabric]]
name = "ib0"
pfs = ["mlx5_0", "mlx5_1"]

[[fabric]]
name = "lan"
link = "ethernet"
pfs = ["ens1"]
vfs = 4
"#;

fn guest(name: &str, more: &str) -> String {
    format!(
        "[[guest]]\nname = \"{name}\"\ntype = \"pv\"\nmemory = \"64MiB\"\nboot.loader = \"pygrub\"\n{more}\n"
    )
}

fn sliced(name: &str) -> String {
    guest(name, "slice = { fabric = \"ib0\", pkeys = [\"0x8001:full\"] }")
}

fn plan(node: &Node, text: &str) -> Plan {
    xen_config::plan(&Desired::from_toml(text).unwrap(), &node.host)
        .unwrap_or_else(|refused| panic!("{refused}"))
}

fn round(node: &mut Node, text: &str) -> Plan {
    let desired = Desired::from_toml(text).unwrap();
    let plan = plan(node, text);
    plan.steps.iter().for_each(|step| node.apply(step, &desired));
    plan
}

/// All steps that it took.
fn settle(node: &mut Node, text: &str) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..ROUNDS {
        let plan = round(node, text);
        if plan.is_empty() {
            return said;
        }
        said.extend(plan.sentences());
    }
    assert_eq!(plan(node, text).steps, Vec::<Step>::new(), "after {said:#?}");
    said
}

fn refused(node: &Node, text: &str) -> String {
    let desired = Desired::from_toml(text).unwrap();
    xen_config::plan(&desired, &node.host).unwrap_err().to_string()
}

fn place_of(node: &Node, slice: &str) -> (String, u32) {
    let held = node.host.held.iter().find(|held| held.slice.to_string() == slice);
    held.map(|held| (held.pf.to_string(), held.vf)).unwrap_or_else(|| panic!("no {slice}"))
}

#[test]
fn captured_and_written_nodes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slices");
    let entries = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    let mut cases: Vec<_> = entries.filter(|it| it.is_dir()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    for case in cases {
        let read = |name: &str| fs::read_to_string(case.join(name)).unwrap_or_default();
        let host: Host = serde_json::from_str(&read("host.json")).unwrap();
        let desired = Desired::from_toml(&read("desired.toml")).unwrap();
        let said = match xen_config::plan(&desired, &host) {
            Ok(plan) => {
                let notes = plan.notes.iter().map(|note| format!("note: {note}"));
                plan.sentences().into_iter().chain(notes).collect::<Vec<_>>().join("\n")
            }
            Err(refusals) => {
                refusals.0.iter().map(|it| format!("refused: {it}")).collect::<Vec<_>>().join("\n")
            }
        };
        if std::env::var_os("BILLET_REWRITE").is_some() {
            fs::write(case.join("plan.txt"), format!("{said}\n")).unwrap();
        }
        assert_eq!(format!("{said}\n"), read("plan.txt"), "{}", case.display());
    }
}

#[test]
fn near_its_cpus_and_spread() {
    let mut node = node();
    let near = |name: &str, cpus: &str| {
        guest(name, &format!("cpus = \"{cpus}\"\nslice = {{ fabric = \"ib0\" }}"))
    };
    let text = format!("{FABRICS}{}{}", near("far", "2-3"), near("here", "1"));
    settle(&mut node, &text);
    assert_eq!(place_of(&node, "far/0").0, "0000:86:00.0");
    assert_eq!(place_of(&node, "here/0").0, "0000:3b:00.0");
    // One that runs anywhere goes where there is more room; those that are there stay.
    let (far, anywhere) = (
        place_of(&node, "far/0"),
        guest("a", "slice = [{ fabric = \"ib0\" }, { fabric = \"ib0\" }]"),
    );
    let more = format!("{FABRICS}{anywhere}{}{}", near("far", "2-3"), near("here", "1"));
    settle(&mut node, &more);
    assert_eq!(place_of(&node, "far/0"), far);
    assert_ne!(place_of(&node, "a/0").0, place_of(&node, "a/1").0);
}

#[test]
fn a_card_that_is_cut_moves_nobody() {
    let mut node = node();
    let device = |address: &str, node: u32| {
        let json = format!(
            "{{\"address\": \"{address}\", \"class\": \"020700\", \"driver\": null, \"node\": {node}}}"
        );
        serde_json::from_str(&json).unwrap()
    };
    node.host.pci = vec![device("01:00.0", 0), device("3b:00.0", 0), device("86:00.0", 1)];
    settle(&mut node, FABRICS);
    let near = node.host.near();
    let vfs = (1..5).map(|vf| device(&format!("86:00.{vf}"), 1));
    node.host.pci.extend(vfs);
    assert_eq!((node.host.near(), near), (vec![0, 1], vec![0, 1]));
    assert_eq!(plan(&node, FABRICS).sentences(), [""; 0]);
}

#[test]
fn a_slice_comes_home_and_the_next_owner_is_somebody_else() {
    let mut node = node();
    settle(&mut node, &format!("{FABRICS}{}", sliced("web")));
    let (pf, vf) = place_of(&node, "web/0");
    let before = node.host.sriov.pf(&pf.parse().unwrap()).unwrap().vf(vf).unwrap().says.clone();
    let said = settle(&mut node, FABRICS);
    assert_eq!(
        said[..4],
        [
            "shut web down, and destroy it after 60 s".to_owned(),
            format!("take VF {vf} of {pf} from pciback"),
            format!("let any driver have VF {vf} of {pf}"),
            format!("reset VF {vf} of {pf}"),
        ]
    );
    assert_eq!(said.last().unwrap(), "write down that slice web/0 has no VF");
    assert!(node.host.held.is_empty());
    let idle = node.host.sriov.pf(&pf.parse().unwrap()).unwrap().vf(vf).unwrap().says.clone();
    assert!(idle.port.is_some() && idle.port != before.port && idle.node != before.node);
    settle(&mut node, &format!("{FABRICS}{}", sliced("db")));
    assert_eq!(place_of(&node, "db/0"), (pf.clone(), vf));
    let next = node.host.sriov.pf(&pf.parse().unwrap()).unwrap().vf(vf).unwrap().says.clone();
    assert!(next.port != before.port && next.port != idle.port);
}

#[test]
fn a_node_that_was_booted_again_has_the_same_guids() {
    let mut node = node();
    let text = format!("{FABRICS}{}[slice.vm1]\nfabric = \"ib0\"\n", sliced("web"));
    settle(&mut node, &text);
    let held = node.host.held.clone();
    // Memory stays; VFs, GUIDs and guests do not.
    node.host.sriov = sriov();
    node.xen().domains.retain(|domain| domain.id == 0);
    node.xen().assignable.clear();
    settle(&mut node, &text);
    let ids = |held: &[Held]| {
        let mut ids: Vec<_> =
            held.iter().map(|it| (it.slice.clone(), it.identity.clone())).collect();
        ids.sort_by(|one, other| one.0.cmp(&other.0));
        ids
    };
    assert_eq!(ids(&node.host.held), ids(&held));
}

#[test]
fn a_driver_that_was_loaded_again_gives_the_guest_its_slice_back() {
    let mut node = node();
    let text = format!("{FABRICS}{}", sliced("web"));
    settle(&mut node, &text);
    let (pf, vf) = place_of(&node, "web/0");
    for known in node.host.sriov.pfs.iter_mut().filter(|known| known.address.as_str() == pf) {
        (known.count, known.autoprobe) = (0, Some(true));
        known.vfs.clear();
    }
    let said = settle(&mut node, &text);
    assert!(said.contains(&format!("cut {pf} into 4 VFs")), "{said:#?}");
    let end: Vec<&str> = said.iter().map(|it| it.split(" device").next().unwrap()).collect();
    assert!(end.ends_with(&["take PCI", "give PCI"]), "{said:#?}");
    assert_eq!(place_of(&node, "web/0"), (pf, vf));
}

#[test]
fn a_guest_destroyed_behind_our_back() {
    let mut node = node();
    let text = format!("{FABRICS}{}", sliced("web"));
    settle(&mut node, &text);
    let place = place_of(&node, "web/0");
    node.xen().domains.retain(|domain| domain.id == 0);
    assert_eq!(settle(&mut node, &text), ["create web, paused", "let web run"]);
    assert_eq!(place_of(&node, "web/0"), place);
    node.xen().domains.retain(|domain| domain.id == 0);
    settle(
        &mut node,
        &format!("{FABRICS}{}", sliced("web").replace("memory", "state = \"stopped\"\nmemory")),
    );
    assert!(node.host.held.is_empty());
}

#[test]
fn an_agent_without_memory_finds_what_its_guests_have() {
    let mut node = node();
    let text = format!("{FABRICS}{}", sliced("web"));
    settle(&mut node, &text);
    let place = place_of(&node, "web/0");
    node.host.held.clear();
    let said = settle(&mut node, &text);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert_eq!(place_of(&node, "web/0"), place);
    // What was left behind by guests that are gone is reset before anybody gets it.
    node.host.held.clear();
    node.xen().domains.retain(|domain| domain.id == 0);
    let said = settle(&mut node, &format!("{FABRICS}{}", sliced("db")));
    let (pf, vf) = place_of(&node, "db/0");
    assert_eq!((pf.clone(), vf), place);
    assert!(said.contains(&format!("reset VF {vf} of {pf}")), "{said:#?}");
}

#[test]
fn an_identity_is_not_changed_under_a_guest() {
    let mut node = node();
    let text = format!("{FABRICS}{}", sliced("web"));
    settle(&mut node, &text);
    let before = node.host.held.clone();
    let other = text.replace("pkeys", "guid = \"02:00:00:00:00:00:00:99\", pkeys");
    let plan = plan(&node, &other);
    assert_eq!(plan.sentences(), [""; 0]);
    assert!(plan.notes[0].contains("and GUID 02:00:00:00:00:00:00:99 after a restart"));
    settle(&mut node, &other.replace("memory", "state = \"stopped\"\nmemory"));
    settle(&mut node, &other);
    assert_ne!(node.host.held[0].identity, before[0].identity);
}

#[test]
fn counts_change_only_while_nobody_uses_a_vf() {
    let mut node = node();
    let lan =
        guest("web", "slice = { fabric = \"lan\", vlan = 7, trust = true, rate = \"100Mb/s\" }");
    let text = format!("{FABRICS}{lan}");
    let said = settle(&mut node, &text);
    for step in [
        "put VF 0 of 0000:01:00.0 into VLAN 7",
        "trust VF 0 of 0000:01:00.0",
        "limit VF 0 of 0000:01:00.0 to 100Mb/s",
    ] {
        assert!(said.contains(&step.to_owned()), "{said:#?}");
    }
    let more = text.replace("vfs = 4", "vfs = 6");
    let reason = refused(&node, &more);
    assert!(
        reason.contains("has 4 VFs and 6 are asked for")
            && reason.contains("VF 0 (guest web): vfs = 4"),
        "{reason}"
    );
    let stopped = more.replace("memory", "state = \"stopped\"\nmemory");
    let round_one = refused(&node, &stopped);
    assert!(round_one.contains("VF 0 (guest web)"), "{round_one}");
    settle(&mut node, &text.replace("memory", "state = \"stopped\"\nmemory"));
    let said = settle(&mut node, &more);
    assert_eq!(said[..2], ["take away all VFs of 0000:01:00.0", "cut 0000:01:00.0 into 6 VFs"]);
}

#[test]
fn refusals_have_numbers_and_say_what_would_fit() {
    let node = node();
    let one = |more: &str| format!("{FABRICS}{}", guest("web", more));
    for (text, said) in [
        (
            FABRICS.replace("vfs = 4", "vfs = 8"),
            "8 VFs asked of 0000:01:00.0, its firmware offers 7: vfs = 7",
        ),
        (format!("{FABRICS}vfs = 9").replace("vfs = 4\nvfs", "vfs"), "9 VFs asked"),
        (
            FABRICS.replace("\"mlx5_1\"", "\"mlx5_7\""),
            "mlx5_7 can not be cut into VFs; there are ens1 (0000:01:00.0)",
        ),
        (
            FABRICS.replace("\"ens1\"", "\"mlx5_0\""),
            "0000:3b:00.0 is in fabric ib0 and in fabric lan",
        ),
        (
            FABRICS.replace("link = \"ethernet\"", ""),
            "0000:01:00.0 is Ethernet and not InfiniBand: link = \"ethernet\"",
        ),
        (
            FABRICS.replace("name = \"ib0\"", "name = \"ib0\"\nlink = \"ethernet\""),
            "set LINK_TYPE_P1=2",
        ),
        (one("slice = { fabric = \"ib1\" }"), "there is no fabric ib1; there are ib0, lan"),
        (one("slice = { fabric = \"ib0\", rate = \"1Gb/s\" }"), "limit it at the subnet manager"),
        (
            one("slice = { fabric = \"lan\", pkeys = [\"0x8001\"] }"),
            "pkeys is for slices of InfiniBand: vlan parts",
        ),
        (one("slice = { fabric = \"lan\", rate = \"1500Kb/s\" }"), "whole megabits: 1Mb/s"),
        (
            one("slice = { fabric = \"ib0\", pkeys = [\"0x8001\", \"0x0001:limited\"] }"),
            "partition 0x0001 is named twice",
        ),
        (
            one("slice = { fabric = \"ib0\", guid = \"b8:59:9f:03:00:00:00:86\" }"),
            "is that of mlx5_1",
        ),
        (
            one(
                "slice = [{ fabric = \"ib0\", guid = \"02:00:00:00:00:00:00:01\" }, { fabric = \"ib0\", guid = \"02:00:00:00:00:00:00:01\" }]",
            ),
            "is that of slice web/0",
        ),
        (one("slice = { fabric = \"ib0\" }").replace("\"pv\"", "\"pvh\""), "this is \"pvh\""),
        (one("state = \"saved\"\nslice = { fabric = \"ib0\" }"), "cannot be saved"),
    ] {
        let reason = refused(&node, &text);
        assert!(reason.contains(said), "{said}: {reason}");
    }
    let many = ["{ fabric = \"ib0\" }"; 9].join(", ");
    let reason = refused(&node, &one(&format!("slice = [{many}]")));
    assert_eq!(reason, "9 slices of fabric ib0 asked, 8 is what it has for them");
}

#[test]
fn strangers_keep_what_they_have() {
    let mut node = node();
    settle(&mut node, FABRICS);
    let igb = node.host.sriov.pfs.iter_mut().find(|pf| pf.total == 7).unwrap();
    igb.vfs[0].driver = Some("igbvf".into());
    let text = format!("{FABRICS}{}", guest("web", "slice = { fabric = \"lan\" }"));
    settle(&mut node, &text);
    assert_eq!(place_of(&node, "web/0").1, 1);
    let four = ["{ fabric = \"lan\" }"; 4].join(", ");
    let reason =
        refused(&node, &format!("{FABRICS}{}", guest("web", &format!("slice = [{four}]"))));
    assert!(
        reason.starts_with("4 slices of fabric lan asked, 3 is what it has for them; of the others, ens1: VF 0 (0000:01:10.0, driver igbvf)"),
        "{reason}"
    );
    let pci = format!("{FABRICS}{}", guest("web", "pci = [\"01:10.4\"]"));
    assert!(refused(&node, &pci).contains("is a VF of fabric lan: slice = { fabric = \"lan\" }"));
}

#[test]
fn a_host_without_xen_has_vfio() {
    let mut node = node();
    node.host.xen = None;
    let text = format!("{FABRICS}[slice.vm1]\nfabric = \"ib0\"\n");
    assert!(refused(&node, &text).contains("intel_iommu=on"));
    for pf in &mut node.host.sriov.pfs {
        pf.iommu_group = Some(7);
    }
    let said = settle(&mut node, &text);
    assert!(said.contains(&"give VF 0 of 0000:3b:00.0 to vfio-pci".to_owned()), "{said:#?}");
    settle(&mut node, FABRICS);
    assert!(node.host.held.is_empty());
}

proptest! {
    /// Killed after any step, and asked for something else then: whatever is desired is so in the
    /// end, and nothing is left over of what is not.
    #[test]
    fn killed_anywhere_a_slice_is_whole_or_free(
        wishes in proptest::collection::vec((0_u8..16, 0_usize..40, any::<bool>()), 1..6),
    ) {
        let mut node = node();
        for (wish, dies, boots) in wishes {
            let mut text = FABRICS.to_owned();
            for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
                if wish >> at & 1 == 1 {
                    text += &sliced(name);
                }
            }
            if wish & 8 != 0 {
                text += "[slice.vm]\nfabric = \"lan\"\nvlan = 9\n";
            }
            let desired = Desired::from_toml(&text).unwrap();
            let plan = plan(&node, &text);
            plan.steps.iter().take(dies).for_each(|step| node.apply(step, &desired));
            if boots {
                node.host.sriov = sriov();
                node.xen().domains.retain(|domain| domain.id == 0);
                node.xen().assignable.clear();
                node.xen().pools.truncate(1);
                let all = node.xen().topology.all();
                node.xen().pools[0].cpus = all;
                node.domain("Domain-0").vcpus[0].hard = None;
            }
            settle(&mut node, &text);
            let wanted = wish.count_ones() as usize;
            prop_assert_eq!(node.host.held.len(), wanted);
            let bound = node.host.sriov.pfs.iter().flat_map(|pf| &pf.vfs);
            prop_assert_eq!(bound.filter(|vf| vf.driver.is_some()).count(), wanted);
        }
    }
}
