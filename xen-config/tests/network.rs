//! Plans of networks: what they say, and that they lead where they should from wherever they
//! begin and wherever they are broken off.

#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};
use xen_config::{
    link::{Address, BridgeKind, Link, LinkKind, LinkName, Links, Mac, Route},
    link_plan::{plan, restore},
    network::Network,
    vlan::PortVlans,
};

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn card(index: u32, addresses: &[&str]) -> Link {
    Link {
        index,
        mac: Some(Mac([0x52, 0x54, 0, 0, 0, index as u8])),
        permanent: Some(Mac([0x52, 0x54, 0, 0, 0, index as u8])),
        mtu: 1500,
        up: !addresses.is_empty(),
        carrier: true,
        master: None,
        kind: LinkKind::Other(String::new()),
        vlans: None,
        addresses: addresses.iter().map(|text| Address::fixed(text.parse().unwrap())).collect(),
    }
}

fn route(to: &str, via: &str, dev: &str) -> Route {
    Route {
        to: to.parse().unwrap(),
        via: Some(via.parse().unwrap()),
        dev: name(dev),
        metric: 0,
        source: None,
        protocol: 4,
    }
}

/// Four cards, of which the first has an address and leads to everywhere; lo; a foreign bridge
/// with the last card.
fn machine() -> Links {
    let mut links = BTreeMap::new();
    links.insert(name("lo"), card(1, &["127.0.0.1/8"]));
    links.insert(name("eth0"), card(2, &["10.0.0.5/24"]));
    for index in 3..=5 {
        links.insert(name(&format!("eth{}", index - 2)), card(index, &[]));
    }
    let foreign = BridgeKind { vlan_filtering: false, default_pvid: 1, stp: false };
    let bridge = Link {
        kind: LinkKind::Bridge(foreign),
        up: true,
        permanent: None,
        ..card(6, &["10.9.0.1/24"])
    };
    links.insert(name("docker0"), Link { vlans: Some(PortVlans::access(1)), ..bridge });
    let port =
        Link { master: Some(name("docker0")), vlans: Some(PortVlans::access(1)), ..card(7, &[]) };
    links.insert(name("veth9"), Link { kind: LinkKind::Other("veth".to_owned()), ..port });
    Links { links, routes: vec![route("0.0.0.0/0", "10.0.0.1", "eth0")] }
}

fn network(text: &str) -> Network {
    toml::from_str(text).unwrap()
}

fn steps(text: &str, facts: &Links) -> Vec<String> {
    plan(&network(text), facts).unwrap().steps.iter().map(ToString::to_string).collect()
}

const MANAGED: &str = r#"
    management = "eth0"
    [[bridge]]
    name = "br0"
    vlan_filtering = true
    ports = ["eth0", { name = "eth1", vlans = "10,20-30" }]
    [[vlan]]
    name = "br0.10"
    link = "br0"
    id = 10
    addresses = ["10.10.0.5/24"]
"#;

#[test]
fn the_management_address_moves_last() {
    let facts = machine();
    let made = plan(&network(MANAGED), &facts).unwrap();
    assert!(made.guarded);
    assert_eq!(
        steps(MANAGED, &facts),
        [
            "create br0, a VLAN-aware bridge",
            "create br0.10, a VLAN 10 of br0",
            "make eth1 a port of br0",
            "on port eth1, remove 1, set 10,20-30 tagged",
            "on br0 itself, set 10 tagged",
            "take eth1 up",
            "take br0 up",
            "make eth0 a port of br0",
            "remove the route default via 10.0.0.1 dev eth0",
            "take 10.0.0.5/24 from eth0",
            "give br0 the address 10.0.0.5/24",
            "give br0.10 the address 10.10.0.5/24",
            "add the route default via 10.0.0.1 dev br0",
        ]
    );
}

/// udev gives a bond a hardware address of its own, and a bond gives its to its ports.
#[test]
fn a_bond_and_its_bridge_have_the_address_of_the_management_card() {
    let text = "management = \"eth0\"\n[[bond]]\nname = \"bond0\"\nports = [\"eth0\", \"eth1\"]\n\
                [[bridge]]\nname = \"br0\"\nports = [\"bond0\"]\n";
    let mut facts = machine();
    let own = facts.links[&name("eth0")].mac;
    plan(&network(text), &facts).unwrap().steps.iter().for_each(|step| facts.apply(step));
    let has = |facts: &Links, link: &str| facts.links[&name(link)].mac;
    assert_eq!((has(&facts, "bond0"), has(&facts, "br0")), (own, own));
    for link in ["bond0", "eth0", "eth1"] {
        facts.links.get_mut(&name(link)).unwrap().mac = Some(Mac([2, 0, 0, 0, 0, 1]));
    }
    assert_eq!(steps(text, &facts), ["give bond0 the hardware address 52:54:00:00:00:02"]);
    let alone = text.replace("management = \"eth0\"", "own = true");
    assert!(!steps(&alone, &facts).iter().any(|step| step.contains("hardware")));
}

#[test]
fn what_carries_no_address_needs_no_guard() {
    let text = "[[bridge]]\nname = \"br1\"\nports = [\"eth1\"]\nmtu = 9000\n";
    let made = plan(&network(text), &machine()).unwrap();
    assert!(!made.guarded);
    assert_eq!(
        steps(text, &machine()),
        [
            "create br1, a bridge, mtu 9000",
            "set the mtu of eth1 to 9000",
            "make eth1 a port of br1",
            "take eth1 up",
            "take br1 up",
        ]
    );
}

#[test]
fn what_is_not_named_stays_unless_it_is_owned() {
    let text = "[[bridge]]\nname = \"br1\"\n";
    assert_eq!(steps(text, &machine()), ["create br1, a bridge", "take br1 up"]);
    let owned = format!("own = true\n{text}");
    let steps = steps(&owned, &machine());
    assert_eq!(steps, ["create br1, a bridge", "take br1 up", "delete docker0"]);
}

#[test]
fn a_network_that_cannot_be_is_refused_whole() {
    let bridge = |rest: &str| format!("[[bridge]]\nname = \"br0\"\n{rest}");
    for (text, said) in [
        (
            bridge("ports = [\"eth9\"]"),
            "no link eth9 to be a port of br0: there are br0, docker0, eth0",
        ),
        (bridge("ports = [\"eth0\"]"), "eth0 has 10.0.0.5/24 and is to become a port of br0"),
        (bridge("ports = [\"eth1\", \"eth1\"]"), "eth1 is named as a port of br0 and of br0"),
        (bridge("ports = [\"veth9\"]"), "veth9 is a port of docker0, which is not ours"),
        (bridge("ports = [\"docker0\"]"), "docker0 is a bridge and cannot be a port of br0"),
        (bridge("ports = [{ name = \"eth1\", pvid = 7 }]"), "br0 needs vlan_filtering = true"),
        (bridge("[[vlan]]\nname = \"br0\"\nlink = \"eth1\"\nid = 1"), "br0 is named twice"),
        (bridge("[[vlan]]\nname = \"v\"\nlink = \"nix\"\nid = 1"), "no link nix to carry v"),
        (bridge("[[vlan]]\nname = \"v\"\nlink = \"eth1\"\nid = 4095"), "1 to 4094 is accepted"),
        (
            bridge("[[vlan]]\nname = \"v\"\nlink = \"eth1\"\nid = 5\nmtu = 9000"),
            "more than the 1500 of eth1",
        ),
        (bridge("mtu = 20"), "mtu 20 of br0: 68 to 65535"),
        (
            bridge("ports = [\"br0.1\"]\n[[vlan]]\nname = \"br0.1\"\nlink = \"br0\"\nid = 1"),
            "would lie on itself",
        ),
        (
            bridge("ports = [\"eth1\"]\n[[link]]\nname = \"eth1\"\naddresses = [\"10.1.0.1/24\"]"),
            "br0 can",
        ),
        (bridge("[[route]]\nto = \"default\"\nvia = \"192.168.9.1\""), "needs dev = a link"),
        (
            bridge("[[route]]\nto = \"default\"\ndev = \"nix\""),
            "no link nix for the route to default",
        ),
        (
            "[[bridge]]\nname = \"eth1\"".to_owned(),
            "eth1 cannot be a bridge: it is a network card already",
        ),
        ("management = \"eth9\"".to_owned(), "no link eth9 to be the management link"),
    ] {
        let refusals = plan(&network(&text), &machine()).unwrap_err();
        assert!(refusals.iter().any(|refusal| refusal.contains(said)), "{text}\n{refusals:#?}");
    }
}

/// A bond that only an unnamed VLAN device lies on went, and that device, a port, with it.
#[test]
fn what_a_port_lies_on_is_kept() {
    let mut facts = machine();
    let first = "[[bond]]\nname = \"bond0\"\nports = [\"eth1\"]\n\
                 [[vlan]]\nname = \"v5\"\nlink = \"bond0\"\nid = 5";
    let second = "own = true\nmanagement = \"eth0\"\n\
                  [[bridge]]\nname = \"br0\"\nports = [\"v5\"]";
    for text in [first, second] {
        let network = network(text);
        let made = plan(&network, &facts).unwrap();
        made.steps.iter().for_each(|step| facts.apply(step));
        assert_eq!(plan(&network, &facts).unwrap().steps, []);
    }
    assert!(facts.links.contains_key(&"bond0".parse::<LinkName>().unwrap()));
}

/// A card that was large enough for a VLAN device becomes a port of a bond that is not.
#[test]
fn a_port_of_a_bond_is_as_large_as_the_bond() {
    let mut facts = machine();
    let large = network("[[link]]\nname = \"eth1\"\nmtu = 9000");
    plan(&large, &facts).unwrap().steps.iter().for_each(|step| facts.apply(step));
    let text = "[[bond]]\nname = \"bond0\"\nports = [\"eth1\"]\n\
                [[vlan]]\nname = \"v5\"\nlink = \"eth1\"\nid = 5\nmtu = 9000";
    let refusals = plan(&network(text), &facts).unwrap_err();
    assert_eq!(refusals, ["mtu 9000 of v5 is more than the 1500 of eth1"]);
}

/// Without what no step sets.
fn visible(mut links: Links) -> Links {
    for link in links.links.values_mut() {
        (link.index, link.carrier, link.mac) = (0, false, None);
        link.addresses.sort_by_key(|address| address.net);
    }
    links.routes.sort_by_key(|route| (route.to, route.metric));
    links.routes.iter_mut().for_each(|route| route.protocol = 0);
    links
}

fn port() -> impl Strategy<Value = String> {
    let words = select(vec!["", ", pvid = 5", ", vlans = \"5-9,11\"", ", pvid = 7, vlans = \"7\""]);
    (select(vec!["eth0", "eth1", "eth2", "eth3", "bond0", "v5"]), words)
        .prop_map(|(name, words)| format!("{{ name = \"{name}\"{words} }}"))
}

/// A network that is often possible.
fn any_network() -> impl Strategy<Value = Network> {
    let bridge = (
        vec(port(), 0..3),
        any::<bool>(),
        select(vec![0, 1, 5]),
        select(vec![None, Some(1400), Some(9000)]),
    );
    let bond = (select(vec!["eth1", "eth2", "eth3"]), any::<bool>());
    let vlan = (select(vec!["eth0", "eth1", "bond0", "br0"]), any::<bool>());
    let flags = (any::<bool>(), any::<bool>());
    (vec(bridge, 0..3), proptest::option::of(bond), proptest::option::of(vlan), flags).prop_map(
        |(bridges, bond, vlan, (own, up))| {
            let mut text = format!("management = \"eth0\"\nown = {own}\n");
            for (number, (ports, filtering, pvid, mtu)) in bridges.iter().enumerate() {
                text += &format!(
                    "[[bridge]]\nname = \"br{number}\"\nvlan_filtering = {filtering}\n\
                     default_pvid = {pvid}\nports = [{}]\naddresses = [\"10.{}.0.1/24\"]\nup = {up}\n",
                    ports.join(", "),
                    number + 20,
                );
                text += &mtu.map_or(String::new(), |mtu: u32| format!("mtu = {mtu}\n"));
            }
            if let Some((port, up)) = bond {
                text += &format!("[[bond]]\nname = \"bond0\"\nports = [\"{port}\"]\nup = {up}\n");
            }
            if let Some((parent, up)) = vlan {
                text += &format!("[[vlan]]\nname = \"v5\"\nlink = \"{parent}\"\nid = 5\nup = {up}\n");
            }
            text += "[[route]]\nto = \"10.99.0.0/16\"\nvia = \"10.0.0.77\"\n";
            network(&text)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    /// From the bare machine to one network, and from there to another.
    #[test]
    fn a_plan_that_was_done_leaves_nothing_to_do(first in any_network(), second in any_network()) {
        let mut facts = machine();
        for network in [first, second] {
            let Ok(made) = plan(&network, &facts) else { continue };
            made.steps.iter().for_each(|step| facts.apply(step));
            let again = plan(&network, &facts);
            let again = again.map_err(TestCaseError::fail_all)?;
            prop_assert_eq!(again.steps, vec![], "after {:#?}", made.steps);
        }
    }

    /// Broken off after any step, the former state comes back and no trace is left.
    #[test]
    fn every_beginning_of_a_plan_can_be_taken_back(first in any_network(), second in any_network()) {
        let mut before = machine();
        if let Ok(made) = plan(&first, &before) {
            made.steps.iter().for_each(|step| before.apply(step));
        }
        let Ok(made) = plan(&second, &before) else { return Ok(()) };
        let mut now = before.clone();
        for (number, step) in made.steps.iter().enumerate() {
            now.apply(step);
            let mut back = now.clone();
            let undo = restore(&before, &made.touched, &now);
            undo.iter().for_each(|step| back.apply(step));
            let (back, before) = (visible(back), visible(before.clone()));
            prop_assert_eq!(back, before, "step {} of {:#?}, undone by {:#?}", number, made.steps, undo);
        }
    }
}

/// Says all refusals.
trait FailAll {
    fn fail_all(refusals: Vec<String>) -> Self;
}

impl FailAll for TestCaseError {
    fn fail_all(refusals: Vec<String>) -> Self {
        TestCaseError::fail(refusals.join("; "))
    }
}
