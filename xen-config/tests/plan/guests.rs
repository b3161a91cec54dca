//! Guests: made, changed live, ended, left alone.

use xen_config::{
    Desired,
    list::{Ending, State},
    pci::{PciAddress, PciDevice},
};

use crate::{
    model::{Node, domain},
    refused, sentences, settle,
};

const POOLS: &str = "[service]\ndedicate = \"none\"\n";

fn web(more: &str) -> String {
    format!(
        "{POOLS}[[guest]]\nname = \"web\"\nmemory = \"512MiB\"\nmax_memory = \"1GiB\"\nmax_vcpus = 2\n\
         boot.kernel = {{ path = \"/k\" }}\n{more}\n"
    )
}

/// A node on which `web` runs.
fn running() -> Node {
    let mut node = Node::booted(4, 1, 1);
    settle(&mut node, &web(""));
    node
}

#[test]
fn a_guest_is_made_paused_and_let_go() {
    let node = Node::booted(4, 1, 1);
    assert_eq!(sentences(&node, &web("")), ["create web, paused", "let web run"]);
    assert_eq!(sentences(&node, &web("state = \"paused\"")), ["create web, paused"]);
    assert_eq!(sentences(&node, &web("state = \"stopped\"")), [""; 0]);
}

#[test]
fn what_can_change_live_does() {
    for (more, said) in [
        ("weight = 512", "give web the weight 512 and no cap"),
        ("cap = 50", "give web the weight 256 and the cap 50"),
        ("vcpus = 2", "give web 2 virtual CPUs"),
        ("state = \"paused\"", "pause web"),
        ("state = \"stopped\"\nshutdown_seconds = 9", "shut web down, and destroy it after 9 s"),
        ("state = \"saved\"", "save web to a file"),
        ("cpus = \"1-2\"", "pin virtual CPU 0 of web to CPUs 1-2"),
        (
            "disk = [{ path = \"/d\", as = \"xvdb\" }]",
            "plug a disk into web: format=raw,vdev=xvdb,access=rw,target=/d",
        ),
    ] {
        let mut node = running();
        assert_eq!(sentences(&node, &web(more))[0], said);
        settle(&mut node, &web(more));
        settle(&mut node, &web(""));
        assert!(node.has("web"), "{more}");
    }
    let mut node = running();
    let more = web("").replace("512MiB", "640MiB");
    assert_eq!(sentences(&node, &more), ["give web 640MiB of memory"]);
    settle(&mut node, &more);
}

#[test]
fn what_cannot_change_live_needs_a_restart() {
    let mut node = running();
    let more = web("").replace("/k", "/other").replace("1GiB", "2GiB").replace("max_vcpus = 2", "");
    let plan = settle(&mut node, &more);
    assert_eq!(plan.notes, ["web needs a restart for its max_memory, max_vcpus, kernel"]);
}

#[test]
fn a_guest_that_nobody_names_is_shut_down_and_a_stranger_is_not() {
    let mut node = running();
    node.xen().domains.push(domain(9, "theirs", 100));
    assert_eq!(sentences(&node, POOLS), ["shut web down, and destroy it after 60 s"]);
    let named = web("").replace("web", "theirs");
    assert!(refused(&node, &named).contains("own = true"));
}

#[test]
fn a_function_that_no_guest_has_any_more_is_noted() {
    let mut node = Node::booted(4, 1, 1);
    let device: PciAddress = "0000:01:00.0".parse().unwrap();
    let class = "020000".to_owned();
    node.host.pci.push(PciDevice { address: device, class, driver: None, node: None });
    let notes = |node: &Node, more| {
        let desired = Desired::from_toml(&web(more)).unwrap();
        xen_config::plan(&desired, &node.host).unwrap().notes
    };
    let (wanted, without) = ("type = \"pv\"\npci = [\"01:00.0\"]", "type = \"pv\"");
    settle(&mut node, &web(wanted));
    assert_eq!(notes(&node, wanted), [""; 0]);
    settle(&mut node, &web(without));
    assert_eq!(
        notes(&node, without),
        ["PCI device 0000:01:00.0 is kept for guests and none has it: \
          `xl pci-assignable-remove -r 0000:01:00.0` gives it back to its driver"]
    );
}

#[test]
fn endings_and_what_follows() {
    for (reason, restart, again) in [
        (Ending::PowerOff, "never", false),
        (Ending::PowerOff, "on-failure", false),
        (Ending::PowerOff, "always", true),
        (Ending::Crash, "never", false),
        (Ending::Crash, "on-failure", true),
        (Ending::Reboot, "never", true),
        (Ending::Other(4), "on-failure", true),
    ] {
        let mut node = running();
        let web = web(&format!("restart = \"{restart}\""));
        let ended = node.domain("web");
        ended.state =
            State { shutdown: true, crashed: reason == Ending::Crash, ..State::default() };
        ended.ended = Some(reason);
        let plan = settle(&mut node, &web);
        assert_eq!(plan.sentences()[0], format!("clear web away, which {reason}"));
        assert_eq!(node.has("web"), again, "{reason:?} {restart}");
        assert_eq!(plan.notes.is_empty(), again);
    }
}

#[test]
fn a_guest_that_is_being_saved_or_is_dying_is_waited_for() {
    let mut node = running();
    node.domain("web").ended = Some(Ending::Suspend);
    node.domain("web").state = State { shutdown: true, ..State::default() };
    assert_eq!(sentences(&node, &web("")), [""; 0]);
    node.domain("web").state = State { dying: true, ..State::default() };
    assert_eq!(sentences(&node, &web("")), [""; 0]);
    assert_eq!(sentences(&node, POOLS), [""; 0]);
}

#[test]
fn a_saved_guest_goes_on_once() {
    let mut node = running();
    settle(&mut node, &web("state = \"saved\""));
    assert!(!node.has("web") && node.host.saved.len() == 1);
    assert_eq!(
        sentences(&node, &web("")),
        [
            "restore web from its file, paused",
            "remove the file of web, which goes on already",
            "let web run",
        ]
    );
    settle(&mut node, &web(""));
    assert!(node.host.saved.is_empty());
    node.domain("web").state.paused = true;
    let saved = web("state = \"saved\"");
    assert_eq!(sentences(&node, &saved), ["let web run", "save web to a file"]);
    // Killed between the two: the guest is there, and so is its file.
    node.host.saved.push("web".parse().unwrap());
    assert_eq!(sentences(&node, &web(""))[0], "remove the file of web, which goes on already");
}

#[test]
fn a_desired_state_that_cannot_be_says_what_would_fit() {
    let node = Node::booted(4, 1, 1);
    for (more, said) in [
        ("vcpus = 9\nmax_vcpus = 9", "9 virtual CPUs asked, guests have 4 CPUs"),
        ("cpus = \"3-5\"", "there are no CPUs 4-5 for guest web: 0-3 are there"),
        ("nic = [{ bridge = \"br7\" }]", "there is no bridge br7"),
        (
            "nic = [{ bridge = \"br1\", vlan = 7 }]\n[[network.bridge]]\nname = \"br1\"",
            "VLAN 7 on bridge br1, which filters none",
        ),
        ("pci = [\"01:00.0\"]", "no PCI device 0000:01:00.0"),
        ("cap = 300", "at most 200 for 2 CPUs"),
        ("type = \"hvm\"\ndisk = [{ path = \"d\", as = \"xvda\" }]", "a path from /"),
        ("pins = [\"1\"]", "one for each of 2"),
    ] {
        // TOML takes no key twice.
        let plain = if more.contains("max_vcpus") { "" } else { "max_vcpus = 2" };
        let web = web(more).replacen("max_vcpus = 2\n", &format!("{plain}\n"), 1);
        let reason = refused(&node, &web);
        assert!(reason.contains(said), "{reason}");
    }
    let large = web("").replace("512MiB", "9GiB").replace("1GiB", "9GiB");
    assert!(refused(&node, &large).starts_with("9GiB asked for guests, 69"));
    let twice = format!("{}{}", web(""), web("").replace(POOLS, ""));
    assert!(refused(&node, &twice).contains("the name web is asked for twice"));
}

#[test]
fn all_reasons_come_at_once() {
    let node = Node::booted(4, 1, 1);
    // The fourth: Xen gives no PCI function to a PVH guest.
    let text = web("nic = [{ bridge = \"br7\" }]\npci = [\"01:00.0\"]\ncpus = \"7\"");
    assert_eq!(
        xen_config::plan(&Desired::from_toml(&text).unwrap(), &node.host).unwrap_err().0.len(),
        4
    );
}

#[test]
fn nothing_at_all_without_xen() {
    let node = Node { host: xen_config::Host::default() };
    assert_eq!(sentences(&node, ""), [""; 0]);
    assert!(refused(&node, &web("")).contains("does not run Xen"));
}
