//! A guest as xl reads it: the file for `xl create`, and the words for attaching a device.
//!
//! xl's own grammar (libxlu_cfg): `key = value` a line, a value is a string in quotes or a list
//! of them; in a string a backslash escapes a quote or itself.

use std::fmt::Write as _;

use crate::{
    CpuSet,
    domain::{Boot, Disk, Firmware, Format, Guest, Kind},
    nic::Mac,
};

/// What a guest gets from its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its UUID.
    pub uuid: String,
    /// The pool it starts in, when it is not the first one.
    pub pool: Option<String>,
    /// Where each virtual CPU must run; anywhere in the pool for `None`.
    pub pins: Option<Vec<CpuSet>>,
    /// The hardware address of each NIC.
    pub macs: Vec<Mac>,
}

/// The file that `xl create` reads.
pub fn render(guest: &Guest, place: &Place) -> String {
    let mut file = File::default();
    file.text("name", guest.name.as_str());
    file.text("uuid", &place.uuid);
    file.text("type", guest.kind.name());
    file.number("vcpus", guest.vcpus.into());
    file.number("maxvcpus", guest.most_vcpus().into());
    file.number("memory", guest.memory.mib());
    file.number("maxmem", guest.most_memory().mib());
    file.number("cpu_weight", guest.weight.into());
    file.number("cap", guest.cap.into());
    if let Some(pool) = &place.pool {
        file.text("pool", pool);
    }
    if let Some(pins) = &place.pins {
        file.list("cpus", pins.iter().map(CpuSet::to_string));
    }
    file.boot(&guest.boot);
    file.list("disk", guest.disks.iter().map(disk));
    let nics = guest.nics.iter().zip(&place.macs);
    file.list("vif", nics.map(|(nic, mac)| self::nic(nic, mac).join(",")));
    file.list("pci", guest.pci.iter().map(ToString::to_string));
    if guest.kind == Kind::Hvm {
        // A screen that nobody can reach over the network: the serial port is the console.
        file.number("vnc", 0);
        file.number("sdl", 0);
        file.text("serial", "pty");
    }
    // The agent keeps a guest that ended until it has seen why; `xl create -e` leaves nobody
    // else to act on it.
    for event in ["on_poweroff", "on_reboot", "on_crash", "on_watchdog"] {
        file.text(event, "preserve");
    }
    file.0
}

/// A disk as `xl create` and `xl block-attach` read it. The path comes last, because it takes
/// the rest with all commas.
pub fn disk(disk: &Disk) -> String {
    let format = match disk.format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    };
    let access = if disk.readonly { "ro" } else { "rw" };
    let (device, path) = (disk.device.as_str(), &disk.path);
    format!("format={format},vdev={device},access={access},target={path}")
}

/// A NIC as `xl network-attach` reads it, word by word.
pub fn nic(nic: &crate::nic::Nic, mac: &Mac) -> Vec<String> {
    let mut words = vec![format!("mac={mac}"), format!("bridge={}", nic.bridge)];
    words.extend(nic.rate.map(|rate| format!("rate={rate}")));
    words
}

impl Kind {
    /// As xl spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pv => "pv",
            Kind::Pvh => "pvh",
            Kind::Hvm => "hvm",
        }
    }
}

#[derive(Default)]
struct File(String);

impl File {
    fn text(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{key} = {}", quote(value));
    }

    fn number(&mut self, key: &str, value: u64) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    /// Nothing at all for a list of nothing.
    fn list(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let values: Vec<String> = values.map(|value| quote(&value)).collect();
        if !values.is_empty() {
            let _ = writeln!(self.0, "{key} = [ {} ]", values.join(", "));
        }
    }

    fn boot(&mut self, boot: &Boot) {
        match boot {
            Boot::Kernel { path, ramdisk, line } => {
                self.text("kernel", path);
                if let Some(ramdisk) = ramdisk {
                    self.text("ramdisk", ramdisk);
                }
                self.text("cmdline", line);
            }
            Boot::Loader(program) => self.text("bootloader", program),
            Boot::Firmware(Firmware::Bios) => self.text("bios", "seabios"),
            Boot::Firmware(Firmware::Uefi) => self.text("bios", "ovmf"),
        }
    }
}

/// A string of xl's grammar. Control characters cannot occur: [`Text`](crate::text::Text) has
/// none.
fn quote(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Desired;

    /// A second reader of xl's grammar, after libxlu_cfg_l.l: keys with their strings.
    fn read(file: &str) -> Vec<(String, Vec<String>)> {
        file.lines().map(setting).collect()
    }

    fn setting(line: &str) -> (String, Vec<String>) {
        let (key, mut rest) = line.split_once(" = ").unwrap();
        assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        let mut values = Vec::new();
        let list = rest.starts_with("[ ");
        rest = rest.trim_start_matches("[ ");
        loop {
            let (value, after) = value(rest);
            values.push(value);
            rest = after;
            match rest.strip_prefix(", ") {
                Some(more) if list => rest = more,
                _ => break,
            }
        }
        assert_eq!(rest, if list { " ]" } else { "" }, "{line}");
        (key.to_owned(), values)
    }

    /// One number or string, and what is behind it.
    fn value(text: &str) -> (String, &str) {
        let Some(quoted) = text.strip_prefix('"') else {
            let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
            return (text[..end].to_owned(), &text[end..]);
        };
        let (mut value, mut letters) = (String::new(), quoted.char_indices());
        loop {
            match letters.next().expect("the string ends") {
                (_, '\\') => {
                    value.push(letters.next().filter(|(_, it)| "\\\"'".contains(*it)).unwrap().1)
                }
                (at, '"') => return (value, &quoted[at + 1..]),
                (_, letter) => value.push(letter),
            }
        }
    }

    fn place(guest: &Guest) -> Place {
        let mac = |at| guest.name.mac("r1n3", at).parse().unwrap();
        let macs =
            guest.nics.iter().zip(0..).map(|(nic, at)| nic.mac.clone().unwrap_or_else(|| mac(at)));
        let (uuid, pool) = (guest.name.uuid("r1n3"), Some("guests".into()));
        Place { uuid, pool, pins: None, macs: macs.collect() }
    }

    fn guest(text: &str) -> Guest {
        Desired::from_toml(text).unwrap().guests.remove(0)
    }

    #[test]
    fn a_whole_guest() {
        let guest = guest(include_str!("../tests/captures/whole.toml"));
        let pins = Some(vec!["1-3".parse().unwrap(), CpuSet::one(2)]);
        let text = render(&guest, &Place { pins, ..place(&guest) });
        assert_eq!(text, include_str!("../tests/captures/whole.cfg"));
    }

    #[test]
    fn firmware_and_loaders() {
        let hvm = guest(
            "[[guest]]\nname = \"a\"\ntype = \"hvm\"\nmemory = \"1GiB\"\nboot.firmware = \"uefi\"",
        );
        assert!(render(&hvm, &place(&hvm)).contains("bios = \"ovmf\"\n"));
        let pv = guest(
            "[[guest]]\nname = \"a\"\ntype = \"pv\"\nmemory = \"1GiB\"\nboot.loader = \"pygrub\"",
        );
        assert!(render(&pv, &place(&pv)).contains("bootloader = \"pygrub\"\n"));
    }

    proptest! {
        #[test]
        fn nothing_breaks_out(path in "[^\\p{C}]{0,30}", line in "[^\\p{C}]{0,30}") {
            let mut guest = guest(include_str!("../tests/captures/whole.toml"));
            guest.boot = Boot::Kernel {
                path: path.clone().try_into().unwrap(),
                ramdisk: None,
                line: line.clone().try_into().unwrap(),
            };
            guest.disks[0].path = path.clone().try_into().unwrap();
            let settings = read(&render(&guest, &place(&guest)));
            let of = |key: &str| {
                let found: Vec<_> = settings.iter().filter(|(name, _)| name == key).collect();
                assert_eq!(found.len(), 1, "{key}");
                found[0].1.clone()
            };
            prop_assert_eq!(of("kernel"), [path.as_str()]);
            prop_assert_eq!(of("cmdline"), [line.as_str()]);
            let disk = of("disk").remove(0);
            prop_assert_eq!(disk.split_once("target=").unwrap().1, path.as_str());
            prop_assert_eq!(of("name"), ["web"]);
        }

        #[test]
        fn control_characters_are_refused(text in "\\PC{0,5}[\\x00-\\x1f\\x7f]\\PC{0,5}") {
            prop_assert!(crate::text::Text::try_from(text).is_err());
        }
    }
}
