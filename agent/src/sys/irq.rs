//! The door to interrupts: `/proc/interrupts` tells who they are, `/proc/irq` where they go.

use std::{fs, io, path::PathBuf};

use xen_config::{
    CpuSet,
    irq::{Irq, IrqStep, Irqs},
};

use crate::sysfs::Sysfs;

/// All interrupts that somebody asked for.
pub(crate) fn probe(sysfs: &Sysfs) -> Irqs {
    let text = sysfs.text("proc/interrupts").unwrap_or_default();
    let columns = text.lines().next().unwrap_or_default().split_whitespace().count();
    let irq = |line: &str| {
        let (number, words) = row(line, columns)?;
        let cpus: CpuSet = sysfs.value(format!("proc/irq/{number}/smp_affinity_list"))?;
        // Those of one virtual CPU (timers, wake-ups) belong to it.
        let movable = matches!(words.first(), Some(&chip) if chip != "xen-percpu");
        let name = words.get(1..).unwrap_or_default().join(" ");
        Some(Irq { number, name, cpus, movable })
    };
    let mask = sysfs.text("proc/irq/default_smp_affinity").unwrap_or_default();
    Irqs {
        default: CpuSet::from_mask(&mask).unwrap_or_default(),
        irqs: text.lines().skip(1).filter_map(irq).collect(),
    }
}

/// ` 24:  10  0  xen-pirq  -ioapic-level  eth0`: the number, and what follows the counts.
fn row(line: &str, columns: usize) -> Option<(u32, Vec<&str>)> {
    let (number, rest) = line.trim().split_once(':')?;
    let words = rest.split_whitespace().skip(columns).collect();
    Some((number.parse().ok()?, words))
}

/// Does a step.
///
/// # Errors
/// What the kernel says: EIO for an interrupt that its chip cannot move.
pub(crate) fn apply(step: &IrqStep) -> io::Result<()> {
    match step {
        IrqStep::Default { cpus } => fs::write("/proc/irq/default_smp_affinity", cpus.mask()),
        IrqStep::Move { irq, cpus } => {
            let path: PathBuf = format!("/proc/irq/{irq}/smp_affinity_list").into();
            fs::write(path, cpus.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_domain_with_two_virtual_cpus() {
        let folder = tempfile::tempdir().unwrap();
        let text = "            CPU0       CPU1\n \
             24:        10          0   xen-percpu    -virq      timer0\n \
             31:         5          0  xen-pirq    -ioapic-level  eth0\n \
             40:         5          0   xen-dyn    -event     vif1.0-q0-tx\n\
             NMI:          0          0   Non-maskable interrupts\n";
        for (path, text) in [
            ("proc/interrupts", text),
            ("proc/irq/default_smp_affinity", "ff\n"),
            ("proc/irq/24/smp_affinity_list", "0\n"),
            ("proc/irq/31/smp_affinity_list", "0-7\n"),
            ("proc/irq/40/smp_affinity_list", "0-1\n"),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let irqs = probe(&Sysfs::at(folder.path()));
        let each: Vec<(u32, &str, String, bool)> = irqs
            .irqs
            .iter()
            .map(|irq| (irq.number, irq.name.as_str(), irq.cpus.to_string(), irq.movable))
            .collect();
        assert_eq!(irqs.default, CpuSet::first(8));
        assert_eq!(
            each,
            [
                (24, "-virq timer0", "0".into(), false),
                (31, "-ioapic-level eth0", "0-7".into(), true),
                (40, "-event vif1.0-q0-tx", "0-1".into(), true),
            ]
        );
    }
}
