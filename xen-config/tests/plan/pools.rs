//! The service domain keeps its CPUs to itself.

use proptest::prelude::*;
use xen_config::{CpuSet, list::Domain, pool::Pool};

use crate::{
    model::{Node, domain, vcpus_of},
    refused, sentences, settle,
};

#[test]
fn a_machine_that_was_just_booted() {
    let mut node = Node::booted(4, 1, 1);
    assert_eq!(
        sentences(&node, ""),
        [
            "take CPUs 1-3 out of pool Pool-0",
            "make pool guests of CPUs 1-3",
            "pin virtual CPU 0 of Domain-0 to CPUs 0",
        ]
    );
    settle(&mut node, "");
}

#[test]
fn pins_that_hold_a_cpu_back_go_first() {
    let mut node = Node::booted(4, 2, 2);
    for vcpu in &mut node.domain("Domain-0").vcpus {
        vcpu.hard = Some(CpuSet::one(vcpu.vcpu + 2));
    }
    let steps = sentences(&node, "[service]\ncpus = 2");
    assert_eq!(steps[0], "unpin virtual CPU 0 of Domain-0");
    settle(&mut node, "[service]\ncpus = 2");
}

#[test]
fn pins_that_xl_forgot_come_back() {
    let mut node = Node::booted(4, 1, 1);
    settle(&mut node, "");
    node.domain("Domain-0").vcpus[0].hard = None;
    assert_eq!(sentences(&node, ""), ["pin virtual CPU 0 of Domain-0 to CPUs 0"]);
}

#[test]
fn affinity_makes_no_pool() {
    let mut node = Node::booted(4, 1, 1);
    let plan = settle(&mut node, "[service]\ndedicate = \"affinity\"");
    assert_eq!(plan.sentences(), ["pin virtual CPU 0 of Domain-0 to CPUs 0"]);
    settle(&mut node, "");
    settle(&mut node, "[service]\ndedicate = \"none\"");
    assert!(node.xen().pool("guests").unwrap().cpus.is_empty(), "it is kept, empty");
    settle(&mut node, "");
}

#[test]
fn more_virtual_cpus_than_booted_need_a_reboot() {
    let mut node = Node::booted(8, 1, 2);
    node.xen().command_line = "dom0_mem=1024M,max:1024M dom0_max_vcpus=2".into();
    let plan = settle(&mut node, "[service]\ncpus = 4\nmemory = \"1GiB\"");
    let said = "Xen was booted with dom0_max_vcpus=2, dom0_max_vcpus=4 is wanted";
    assert!(plan.reboot.contains(&said.to_owned()), "{:?}", plan.reboot);
    let plan = settle(&mut node, "[service]\ncpus = 1");
    assert_eq!(plan.sentences()[0], "give the service domain 1 virtual CPUs");
}

/// Guests have CPUs, and nobody else's.
const GUEST: &str = "[[guest]]\nname = \"a\"\nmemory = \"64MiB\"\nboot.loader = \"pygrub\"\n";

/// Xen with the pool `name` of CPUs 2-3, which somebody made; a domain of theirs lives there.
fn with_pool(cpus: u32, name: &str) -> Node {
    let mut node = Node::booted(cpus, 1, 1);
    let theirs: CpuSet = "2-3".parse().unwrap();
    let xen = node.xen();
    xen.pools[0].cpus = xen.pools[0].cpus.without(&theirs);
    let (name, scheduler) = (name.to_owned(), "rtds".to_owned());
    xen.pools.push(Pool { name: name.clone(), scheduler, cpus: theirs });
    let mut stranger = Domain { pool: name, vcpus: vcpus_of(1), ..domain(1, "theirs", 100) };
    stranger.vcpus[0].hard = Some(CpuSet::one(2));
    xen.domains.push(stranger);
    node
}

#[test]
fn a_pool_of_somebody_else_is_left_alone() {
    let mut node = with_pool(4, "rt");
    let plan = settle(&mut node, GUEST);
    let noted =
        "CPUs 2-3 are left to pool rt, which is not billet's: to have them, put them into Pool-0";
    assert_eq!(plan.notes, [noted]);
    let pools: Vec<String> =
        node.xen().pools.iter().map(|pool| format!("{} {}", pool.name, pool.cpus)).collect();
    assert_eq!(pools, ["Pool-0 0", "rt 2-3", "guests 1"]);
    let theirs = "CPUs 3 asked for the service domain are in pool rt";
    assert!(refused(&node, "[service]\nplace = \"0,3\"").contains(theirs));
    assert!(refused(&node, "[service]\ncpus = 2").contains("at most 1"));
    // One CPU is left: nothing can be dedicated, and nothing is refused for that.
    let mut node = with_pool(3, "rt");
    node.xen().pools[0].cpus = CpuSet::one(0);
    node.xen().pools[1].cpus = "1-2".parse().unwrap();
    settle(&mut node, GUEST);
}

#[test]
fn affinity_keeps_guests_off_where_their_pool_cannot_be() {
    let mut node = with_pool(4, "guests");
    let plan = settle(&mut node, GUEST);
    assert!(plan.notes[1].starts_with("guests have no pool, but hard affinity keeps billet's on CPUs 1: pool guests has the scheduler rtds"), "{:?}", plan.notes);
    let guest = node.domain("a");
    assert_eq!((guest.pool.as_str(), guest.vcpus[0].hard.clone()), ("Pool-0", "1".parse().ok()));
    assert_eq!(node.xen().pool("guests").unwrap().cpus, "2-3".parse().unwrap());
    // What is asked for is done or refused, and what is advised is possible.
    let pool = format!("[service]\ndedicate = \"pool\"\n{GUEST}");
    assert!(refused(&node, &pool).contains("dedicate = \"affinity\""));
    settle(&mut node, &pool.replace("pool", "affinity"));
    settle(&mut node, &pool.replace("pool", "none"));
}

#[test]
fn a_free_stranger_is_noted() {
    let mut node = Node::booted(4, 1, 1);
    node.xen().domains.push(Domain { vcpus: vcpus_of(1), ..domain(1, "theirs", 100) });
    let plan = settle(&mut node, "");
    assert!(plan.notes[0].contains("theirs is not billet's"), "{:?}", plan.notes);
}

#[test]
fn a_pinned_stranger_stays_where_it_is() {
    let mut node = Node::booted(4, 1, 1);
    let mut stranger = Domain { vcpus: vcpus_of(1), ..domain(1, "theirs", 100) };
    stranger.vcpus[0].hard = Some(CpuSet::one(3));
    node.xen().domains.push(stranger);
    let pool = format!("[service]\ndedicate = \"pool\"\n{GUEST}");
    let said = refused(&node, &pool);
    assert!(said.contains("domain theirs") && said.contains("dedicate = \"affinity\""), "{said}");
    let plan = settle(&mut node, GUEST);
    assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
    assert!(
        plan.notes[0].contains("keeps billet's on CPUs 1-3: domain theirs"),
        "{:?}",
        plan.notes
    );
    assert_eq!(node.domain("a").vcpus[0].hard, "1-3".parse().ok());
    // It goes, and the pool comes.
    node.xen().domains.retain(|domain| domain.name != "theirs");
    assert_eq!(settle(&mut node, GUEST).notes, [""; 0]);
    assert_eq!(node.domain("a").pool, "guests");
}

#[test]
fn what_the_booted_lines_have_too_much_is_a_reason() {
    let mut node = Node::booted(4, 1, 1);
    node.xen().command_line = "console=vga,com1 com1=115200,8n1 dom0_mem=1024M,max:1024M \
                               dom0_max_vcpus=1 dom0_vcpus_pin iommu=on vga=current"
        .into();
    node.host.command_line =
        Some("root=UUID=0 rw quiet panic=30 console=tty0 console=hvc0 a=1".into());
    node.host.fragment = Some(String::new());
    let wanted = "[xen]\niommu = true\nlinux = [\"a=1\"]";
    let plan = settle(&mut node, wanted);
    assert_eq!(plan.reboot, [""; 0]);
    let plan = settle(&mut node, "");
    let said = [
        "Xen was booted with iommu=on, which is not wanted",
        "Linux was booted with a=1, which is not wanted",
    ];
    assert_eq!(plan.reboot, said);
    // It is said until the node is booted, not only when the line is written.
    assert_eq!(settle(&mut node, "").reboot, said);
}

#[test]
fn a_machine_of_no_known_cpus_is_refused() {
    let mut node = Node::booted(2, 1, 1);
    node.xen().topology.cpus.clear();
    let said = refused(&node, GUEST);
    assert!(said.contains("xl info -n") && !said.contains("CPU 0"), "{said}");
}

#[test]
fn without_cpu_0_the_service_domain_has_no_pool_of_its_own() {
    let mut node = Node::booted(2, 1, 1);
    settle(&mut node, GUEST);
    assert_eq!(node.domain("a").pool, "guests");
    let moved = format!("[service]\nplace = \"1\"\n{GUEST}");
    let plan = settle(&mut node, &moved);
    assert!(plan.notes[0].contains("Xen keeps CPU 0 in Pool-0"), "{:?}", plan.notes);
    assert_eq!(node.domain("a").vcpus[0].hard, "0".parse().ok());
    let pool = format!("[service]\nplace = \"1\"\ndedicate = \"pool\"\n{GUEST}");
    let said = refused(&node, &pool);
    assert!(said.contains("CPU 0 among them") && said.contains("\"affinity\""), "{said}");
}

proptest! {
    /// Whatever the service domain had, it gets what is asked for now.
    #[test]
    fn every_change_of_place_settles(
        cpus in 2_u32..9,
        places in proptest::collection::vec((proptest::collection::btree_set(0_u32..8, 1..5), 0_usize..3), 1..4),
        guest: bool,
    ) {
        let mut node = Node::booted(cpus, 1, 3);
        for (place, how) in places {
            let place: CpuSet = place.into_iter().filter(|cpu| *cpu < cpus).collect();
            if place.is_empty() || place.len() == cpus as usize {
                continue;
            }
            let how = ["pool", "affinity", "none"][how];
            let mut text = format!("[service]\nplace = \"{place}\"\ndedicate = \"{how}\"\n");
            if guest {
                text += "[[guest]]\nname = \"a\"\nmemory = \"64MiB\"\nboot.loader = \"pygrub\"\n";
            }
            let desired = xen_config::Desired::from_toml(&text).unwrap();
            match xen_config::plan(&desired, &node.host) {
                Ok(_) => { settle(&mut node, &text); }
                Err(refused) => prop_assert!(
                    how == "pool" && !place.contains(0) && refused.to_string().contains("CPU 0"),
                    "{}",
                    refused
                ),
            }
        }
    }
}
