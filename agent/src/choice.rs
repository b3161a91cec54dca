//! The one disk that an operator's hints mean, or a refusal that shows what there is.

use std::fmt;

use protocol::{Disk, DiskHints};

/// No disk, or more than one, is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct NotOne {
    fitting: Vec<Disk>,
    others: Vec<Disk>,
}

/// The disk among `disks` that fits `hints` and can be written. There must be exactly one:
/// guessing would cost somebody their data. The image's size is no hint: that the other disk
/// is too small does not mean that this one was meant.
pub(crate) fn choose(disks: &[Disk], hints: &DiskHints) -> Result<Disk, NotOne> {
    let fits = |disk: &&Disk| hints.fit(disk) && !disk.read_only;
    let (fitting, others): (Vec<&Disk>, Vec<&Disk>) = disks.iter().partition(fits);
    match fitting[..] {
        [one] => Ok(one.clone()),
        _ => Err(NotOne {
            fitting: fitting.into_iter().cloned().collect(),
            others: others.into_iter().cloned().collect(),
        }),
    }
}

impl NotOne {
    /// Whether waiting may bring the disk that is missing.
    pub(crate) fn is_none(&self) -> bool {
        self.fitting.is_empty()
    }

    /// Hints that would tell the fitting disks apart: those whose values all differ.
    fn deciding(&self) -> Vec<String> {
        let hint = |name: &str, value: fn(&Disk) -> Option<String>| {
            let mut values: Vec<String> = self.fitting.iter().filter_map(value).collect();
            let all = values.len() == self.fitting.len();
            values.sort();
            values.dedup();
            let tells_apart = all && values.len() == self.fitting.len();
            tells_apart.then(|| format!("{name} {}", values.join(" or ")))
        };
        [
            hint("serial", |disk| disk.serial.clone()),
            hint("wwn", |disk| disk.wwn.clone()),
            hint("model", |disk| disk.model.clone()),
            hint("bus", |disk| Some(disk.bus.clone())),
            hint("min_size or max_size", |disk| Some(disk.size.to_string())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl fmt::Display for NotOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fitting.is_empty() {
            write!(f, "no disk fits: a writable one is wanted, as the hints say")?;
            return write_disks(f, "; there is", &self.others);
        }
        write!(f, "{} disks fit, one is wanted", self.fitting.len())?;
        match self.deciding()[..] {
            [] => write!(f, "; no hint tells them apart")?,
            ref hints => write!(f, "; one of these hints decides: {}", hints.join("; "))?,
        }
        write_disks(f, "; fitting", &self.fitting)
    }
}

/// One disk a line.
fn write_disks(f: &mut fmt::Formatter<'_>, title: &str, disks: &[Disk]) -> fmt::Result {
    if disks.is_empty() {
        return write!(f, "{title} none");
    }
    write!(f, "{title}:")?;
    disks.iter().try_for_each(|disk| write!(f, "\n  {}", row(disk)))
}

/// A disk as one row of a table.
pub(crate) fn row(disk: &Disk) -> String {
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
    let marks = [
        (disk.read_only, " read-only"),
        (disk.removable, " removable"),
        (disk.rotational, " rotational"),
    ];
    let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
    format!(
        "{:<8} {:<6} {:>15} bytes  model {}  serial {}  wwn {}{marks}",
        disk.name,
        disk.bus,
        disk.size,
        word(&disk.model),
        word(&disk.serial),
        word(&disk.wwn)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(name: &str, serial: Option<&str>, size: u64) -> Disk {
        Disk {
            name: name.to_owned(),
            size,
            sector_size: 512,
            bus: "sata".to_owned(),
            model: Some("X".to_owned()),
            serial: serial.map(str::to_owned),
            wwn: None,
            rotational: false,
            removable: false,
            read_only: false,
        }
    }

    #[test]
    fn one_disk_needs_no_hint() {
        let disks = [disk("sda", None, 100)];
        assert_eq!(choose(&disks, &DiskHints::default()), Ok(disks[0].clone()));
    }

    #[test]
    fn two_disks_are_refused_with_what_would_decide() {
        let disks = [disk("sda", Some("A"), 100), disk("sdb", Some("B"), 100)];
        let refusal = choose(&disks, &DiskHints::default()).unwrap_err().to_string();
        assert!(refusal.contains("2 disks fit"), "{refusal}");
        assert!(refusal.contains("hints decides: serial A or B; fitting"), "{refusal}");
        let hints = DiskHints { serial: Some("B".to_owned()), ..DiskHints::default() };
        assert_eq!(choose(&disks, &hints), Ok(disks[1].clone()));
    }

    #[test]
    fn a_read_only_disk_is_shown_and_not_chosen() {
        let locked = Disk { read_only: true, ..disk("sdb", Some("B"), 200) };
        let refusal = choose(&[locked], &DiskHints::default()).unwrap_err();
        assert!(refusal.is_none());
        assert!(refusal.to_string().ends_with(" read-only"), "{refusal}");
    }

    #[test]
    fn a_machine_without_disks_says_so() {
        let refusal = choose(&[], &DiskHints::default()).unwrap_err().to_string();
        assert!(refusal.ends_with("there is none"), "{refusal}");
    }

    proptest! {
        #[test]
        fn what_is_chosen_fits_and_is_alone(
            sizes in prop::collection::vec((0_u64..4, any::<bool>(), any::<bool>()), 0..6),
            least in proptest::option::of(0_u64..4),
        ) {
            let disks: Vec<Disk> = sizes.iter().enumerate().map(|(n, (size, ro, pulled))| Disk {
                read_only: *ro, removable: *pulled, ..disk(&format!("sd{n}"), None, *size)
            }).collect();
            let hints = DiskHints { min_size: least, ..DiskHints::default() };
            let fits = |disk: &&Disk| hints.fit(disk) && !disk.read_only;
            let fitting: Vec<&Disk> = disks.iter().filter(fits).collect();
            match choose(&disks, &hints) {
                Ok(disk) => prop_assert_eq!(fitting, vec![&disk]),
                Err(refusal) => {
                    prop_assert_ne!(fitting.len(), 1);
                    prop_assert!(!refusal.to_string().is_empty());
                }
            }
        }
    }
}
