//! Xen's command line: rendered, read, compared, and the file by which GRUB learns it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    CpuSet,
    service::{Dedicate, ServicePlan},
};

/// `[xen]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct XenWish {
    /// Where Xen and Linux write, in order; `vga` and `com1` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<Vec<Console>>,
    /// The first serial port, `115200,8n1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub com1: Option<Word>,
    /// Whether the IOMMU is used; Xen decides when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommu: Option<bool>,
    /// Whether both threads of a core are used; Xen decides when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smt: Option<bool>,
    /// More words for Xen.
    pub extra: Vec<Word>,
    /// More words for the service domain's Linux.
    pub linux: Vec<Word>,
}

/// A console of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Console {
    /// The screen.
    Vga,
    /// The first serial port.
    Com1,
}

/// A word of a command line: no blank, quote or anything else that GRUB or Xen would read
/// otherwise than as a letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Word(String);

/// A text that is no such word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no word of a command line: letters, digits and any of -_.,:=/+@% are")]
pub struct WordError {
    text: String,
}

impl TryFrom<String> for Word {
    type Error = WordError;

    fn try_from(text: String) -> Result<Word, WordError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,:=/+@%".contains(&byte);
        if text.is_empty() || !text.bytes().all(fits) {
            return Err(WordError { text });
        }
        Ok(Word(text))
    }
}

impl From<Word> for String {
    fn from(word: Word) -> String {
        word.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Xen's command line, word by word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XenLine(Vec<String>);

impl XenLine {
    /// Reads a line as `xl info` has it.
    pub fn parse(line: &str) -> XenLine {
        XenLine(line.split_whitespace().map(str::to_owned).collect())
    }

    /// The line that `wish` and `service` ask for on a machine with the NUMA nodes `nodes`.
    pub fn wanted(wish: &XenWish, service: &ServicePlan, nodes: &CpuSet) -> XenLine {
        let mut words = Vec::new();
        let consoles = wish.consoles();
        words.push(format!(
            "console={}",
            consoles.iter().map(Console::name).collect::<Vec<_>>().join(",")
        ));
        if consoles.contains(&Console::Com1) {
            let com1 = wish.com1.as_ref().map_or("115200,8n1", |word| &word.0);
            words.push(format!("com1={com1}"));
        }
        let mib = service.memory.mib();
        words.push(format!("dom0_mem={mib}M,max:{mib}M"));
        words.push(format!("dom0_max_vcpus={}", service.count()));
        let dedicated = service.dedicate != Dedicate::None;
        if dedicated && nodes.len() > 1 {
            words.push(format!("dom0_nodes={}", each(&service.nodes)));
        }
        // It pins each virtual CPU to the CPU of its own number, and no other.
        if dedicated && service.service == CpuSet::first(service.count()) {
            words.push("dom0_vcpus_pin".to_owned());
        }
        let switch = |name: &str, on: Option<bool>| {
            on.map(|on| format!("{name}={}", if on { "on" } else { "off" }))
        };
        words.extend(switch("iommu", wish.iommu));
        words.extend(switch("smt", wish.smt));
        words.extend(wish.extra.iter().map(Word::to_string));
        XenLine(words)
    }

    /// Why a node that was booted with this line must be booted again to have `wanted`.
    pub fn differences(&self, wish: &XenWish, wanted: &XenLine) -> Vec<String> {
        let mut reasons = Vec::new();
        for word in wanted.0.iter().filter(|word| wish.is_compared(key(word))) {
            let had: Vec<&str> = self.of(key(word));
            if had.contains(&word.as_str()) {
                continue;
            }
            reasons.push(match had.last() {
                Some(had) => format!("Xen was booted with {had}, {word} is wanted"),
                None => format!("Xen was booted without {word}"),
            });
        }
        for key in ["dom0_vcpus_pin", "dom0_nodes"] {
            if let (Some(had), true) = (self.of(key).last(), wanted.of(key).is_empty()) {
                reasons.push(format!("Xen was booted with {had}, which is not wanted"));
            }
        }
        reasons
    }

    /// All words of one key.
    fn of(&self, name: &str) -> Vec<&str> {
        self.0.iter().map(String::as_str).filter(|word| key(word) == name).collect()
    }
}

impl fmt::Display for XenLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join(" "))
    }
}

/// The part of a word before `=`.
fn key(word: &str) -> &str {
    word.split('=').next().unwrap_or(word)
}

/// Numbers one by one: Xen's `dom0_nodes` knows no ranges.
fn each(numbers: &CpuSet) -> String {
    numbers.iter().map(|number| number.to_string()).collect::<Vec<_>>().join(",")
}

impl XenWish {
    fn consoles(&self) -> Vec<Console> {
        self.console.clone().unwrap_or_else(|| vec![Console::Vga, Console::Com1])
    }

    /// Whether a difference in this key is worth a reboot: where the console is, only when
    /// somebody asked.
    fn is_compared(&self, key: &str) -> bool {
        match key {
            "console" => self.console.is_some(),
            "com1" => self.com1.is_some(),
            _ => true,
        }
    }

    /// The part of Linux's command line that is this node's own.
    pub fn linux_line(&self) -> String {
        let mut words = vec!["quiet".to_owned(), "panic=30".to_owned()];
        if self.consoles().contains(&Console::Vga) {
            words.push("console=tty0".to_owned());
        }
        words.push("console=hvc0".to_owned());
        words.extend(self.linux.iter().map(Word::to_string));
        words.join(" ")
    }
}

impl Console {
    fn name(&self) -> &'static str {
        match self {
            Console::Vga => "vga",
            Console::Com1 => "com1",
        }
    }
}

/// What GRUB of the dom0 image reads from `billet/xen.cfg` of the seed partition.
///
/// Neither line can end its quotes: every word is a [`Word`] or made here.
pub fn fragment(xen: &XenLine, wish: &XenWish) -> String {
    let linux = wish.linux_line();
    format!(
        "# How Xen and Linux start on this node; written by billet.\nset xen_line=\"{xen}\"\nset linux_line=\"{linux}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Desired, Size, Topology, service};

    fn lines(desired: &str, nodes: u32) -> (XenWish, XenLine) {
        let desired = Desired::from_toml(desired).unwrap();
        let topology = Topology::even(8, 1, nodes, Size::of_mib(8192));
        let plan = service::plan(&desired.service, &topology, &[nodes - 1]).unwrap();
        let line = XenLine::wanted(&desired.xen, &plan, &topology.node_numbers());
        (desired.xen, line)
    }

    #[test]
    fn a_line_is_rendered_and_read() {
        let (_, line) = lines("", 1);
        let text = "console=vga,com1 com1=115200,8n1 dom0_mem=1024M,max:1024M dom0_max_vcpus=1 dom0_vcpus_pin";
        assert_eq!(line.to_string(), text);
        assert_eq!(XenLine::parse(text), line);
        let (_, line) = lines("[xen]\niommu = true\nsmt = false\nextra = [\"loglvl=all\"]", 2);
        assert!(line.to_string().ends_with("dom0_nodes=1 iommu=on smt=off loglvl=all"), "{line}");
    }

    #[test]
    fn a_difference_is_a_reason() {
        let (wish, wanted) = lines("[service]\nmemory = \"512MiB\"", 1);
        let same = XenLine::parse(
            "console=com1 dom0_mem=512M,max:512M dom0_max_vcpus=1 dom0_vcpus_pin noreboot",
        );
        assert_eq!(same.differences(&wish, &wanted), Vec::<String>::new());
        let other = XenLine::parse("dom0_mem=1G,max:1G dom0_max_vcpus=1-2 dom0_nodes=0");
        assert_eq!(
            other.differences(&wish, &wanted),
            [
                "Xen was booted with dom0_mem=1G,max:1G, dom0_mem=512M,max:512M is wanted",
                "Xen was booted with dom0_max_vcpus=1-2, dom0_max_vcpus=1 is wanted",
                "Xen was booted without dom0_vcpus_pin",
                "Xen was booted with dom0_nodes=0, which is not wanted",
            ]
        );
    }

    #[test]
    fn nothing_breaks_out_of_the_fragment() {
        for text in ["a b", "a\"", "$(x)", "${x}", "a\nb", "a\\", "`x`", "", "a;b", "a'b"] {
            let text = format!("[xen]\nextra = [{}]", serde_json::to_string(text).unwrap());
            assert!(Desired::from_toml(&text).is_err(), "{text}");
        }
        let (wish, line) = lines("[xen]\nlinux = [\"no_timer_check\"]", 1);
        let text = fragment(&line, &wish);
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.contains("linux_line=\"quiet panic=30 console=tty0 console=hvc0 no_timer_check\"")
        );
    }
}
