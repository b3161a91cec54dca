//! The service domain keeps its CPUs to itself.

use proptest::prelude::*;
use xen_config::{CpuSet, pool::Pool};

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

#[test]
fn a_pool_of_somebody_else_is_named() {
    let mut node = Node::booted(4, 1, 1);
    node.xen().pools[0].cpus = CpuSet::first(2);
    let (name, scheduler) = ("rt".to_owned(), "rtds".to_owned());
    node.xen().pools.push(Pool { name, scheduler, cpus: "2-3".parse().unwrap() });
    assert!(refused(&node, "").contains("CPUs 2-3 are in pool rt"));
    node.xen().pools[1].name = "guests".into();
    assert!(refused(&node, "").contains("scheduler rtds"));
}

#[test]
fn a_pinned_stranger_is_named_and_a_free_one_noted() {
    let mut node = Node::booted(4, 1, 1);
    let mut stranger = domain(1, "theirs", 100);
    stranger.vcpus = vcpus_of(1);
    node.xen().domains.push(stranger);
    let plan = settle(&mut node, "");
    assert!(plan.notes[0].contains("theirs is not billet's"), "{:?}", plan.notes);
    let mut node = Node::booted(4, 1, 1);
    let mut stranger = domain(1, "theirs", 100);
    stranger.vcpus = vcpus_of(1);
    stranger.vcpus[0].hard = Some(CpuSet::one(3));
    node.xen().domains.push(stranger);
    assert!(refused(&node, "").contains("theirs"));
}

#[test]
fn two_pools_of_one_cpu_do_not_swap() {
    let mut node = Node::booted(2, 1, 1);
    settle(&mut node, "[[guest]]\nname = \"a\"\nmemory = \"64MiB\"\nboot.loader = \"pygrub\"");
    let swapped = "[service]\nplace = \"1\"\n[[guest]]\nname = \"a\"\nmemory = \"64MiB\"\nboot.loader = \"pygrub\"";
    assert!(refused(&node, swapped).contains("last CPU"));
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
                Err(refused) => prop_assert!(refused.to_string().contains("last CPU"), "{}", refused),
            }
        }
    }
}
