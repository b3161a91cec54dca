//! The command lines of Xen and of the service domain's Linux: rendered, read, compared, and the file
//! by which GRUB learns them.

use std::{fmt, str::FromStr};

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

/// A command line, word by word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine(Vec<String>);

impl CommandLine {
    /// Reads a line as `xl info` or `/proc/cmdline` has it.
    pub fn parse(line: &str) -> CommandLine {
        CommandLine(line.split_whitespace().map(str::to_owned).collect())
    }

    /// Xen's, as `wish` and `service` ask for it on a machine with the NUMA nodes `nodes`.
    pub fn of_xen(wish: &XenWish, service: &ServicePlan, nodes: &CpuSet) -> CommandLine {
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
        CommandLine(words)
    }

    /// The part of Linux's that is this node's own.
    pub fn of_linux(wish: &XenWish) -> CommandLine {
        let mut words = vec!["quiet".to_owned(), "panic=30".to_owned()];
        if wish.consoles().contains(&Console::Vga) {
            words.push("console=tty0".to_owned());
        }
        words.push("console=hvc0".to_owned());
        words.extend(wish.linux.iter().map(Word::to_string));
        CommandLine(words)
    }

    /// All words of one key.
    fn of(&self, name: &str) -> Vec<&str> {
        self.0.iter().map(String::as_str).filter(|word| key(word) == name).collect()
    }

    /// Why `who`, booted with this line, must be booted again to have `wanted`. Words of one key
    /// are compared in their order, the last of which counts; keys stand in any order.
    fn differences(
        &self,
        who: &str,
        wanted: &CommandLine,
        is: impl Fn(&str) -> Compared,
    ) -> Vec<String> {
        let mut keys: Vec<&str> = Vec::new();
        for key in wanted.0.iter().chain(&self.0).map(|word| key(word)) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let mut reasons = Vec::new();
        for key in keys {
            let (had, asked) = (self.of(key), wanted.of(key));
            let same = match is(key) {
                Compared::Whole => had == asked,
                Compared::Asked => asked.iter().all(|word| had.contains(word)),
                Compared::Never => true,
            };
            if same {
                continue;
            }
            let (had, asked) = (had.join(" "), asked.join(" "));
            reasons.push(match (had.as_str(), asked.as_str()) {
                ("", _) => format!("{who} was booted without {asked}"),
                (_, "") => format!("{who} was booted with {had}, which is not wanted"),
                _ => format!("{who} was booted with {had}, {asked} is wanted"),
            });
        }
        reasons
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join(" "))
    }
}

/// Which words of a key make a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// All of them.
    Whole,
    /// Those that are wanted and not there.
    Asked,
    /// None.
    Never,
}

/// What a node was booted with.
#[derive(Debug, Clone, Copy)]
pub struct Booted<'a> {
    /// Xen's line.
    pub xen: &'a str,
    /// Linux's line, where it is known.
    pub linux: Option<&'a str>,
    /// Whether both come from GRUB of the dom0 image: then a word that is not wanted was billet's,
    /// else it is of whoever made that system.
    pub ours: bool,
}

/// What kexec adds to Xen's line: nobody knows what Linux has left of what the BIOS needs.
pub const NO_BIOS: &str = "no-real-mode";

/// Words that GRUB of the dom0 image and kexec have of their own, or Xen hands on to Linux.
const ADDED: [&str; 6] = ["vga", NO_BIOS, "root", "rw", "acpi", "noapic"];

impl Booted<'_> {
    /// Why the node must be booted again to start as `wish` says, where Xen's line is `xen` then.
    pub fn differences(&self, wish: &XenWish, xen: &CommandLine) -> Vec<String> {
        let whole = |key: &str| match ADDED.contains(&key) {
            true => Compared::Asked,
            false => Compared::Whole,
        };
        let strange = |key: &str| match key {
            // Where the console is, only when somebody asked.
            "console" if wish.console.is_none() => Compared::Never,
            "com1" if wish.com1.is_none() => Compared::Never,
            "dom0_vcpus_pin" | "dom0_nodes" => Compared::Whole,
            _ => Compared::Asked,
        };
        let had = CommandLine::parse(self.xen);
        let mut reasons = match self.ours {
            true => had.differences("Xen", xen, whole),
            false => had.differences("Xen", xen, strange),
        };
        if let Some(had) = self.linux.map(CommandLine::parse) {
            reasons.extend(match self.ours {
                true => had.differences("Linux", &CommandLine::of_linux(wish), whole),
                false => {
                    let asked = CommandLine(wish.linux.iter().map(Word::to_string).collect());
                    had.differences("Linux", &asked, |_| Compared::Asked)
                }
            });
        }
        reasons
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
pub fn fragment(xen: &CommandLine, wish: &XenWish) -> String {
    let linux = CommandLine::of_linux(wish);
    format!(
        "# How Xen and Linux start on this node; written by billet.\nset xen_line=\"{xen}\"\nset linux_line=\"{linux}\"\n"
    )
}

/// The lines of such a fragment, for whoever starts Xen without GRUB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// Xen's; the image's own when absent.
    pub xen: Option<CommandLine>,
    /// The part of Linux's that is the node's own; the image's when absent.
    pub linux: Option<CommandLine>,
}

/// A line that is none of such a fragment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line:?} is not how Xen starts, {} are", LinesError::ACCEPTED)]
pub struct LinesError {
    /// The line.
    pub line: String,
}

impl LinesError {
    /// What could have been there.
    pub const ACCEPTED: &str =
        "lines that set xen_line or linux_line to plain words, and comments,";
}

impl FromStr for Lines {
    type Err = LinesError;

    /// As GRUB reads it, which would run whatever else it says: the last one of each counts.
    fn from_str(fragment: &str) -> Result<Lines, LinesError> {
        let mut lines = Lines::default();
        for line in fragment.split_inclusive('\n') {
            let wrong = || LinesError { line: line.trim_end().to_owned() };
            let line = line.strip_suffix('\n').ok_or_else(wrong)?;
            let visible = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if line.starts_with('#') && visible {
                continue;
            }
            let set = line.strip_prefix("set ").and_then(|set| set.strip_suffix('"'));
            let (name, words) = set.and_then(|set| set.split_once("=\"")).ok_or_else(wrong)?;
            let is_word = |word: &str| Word::try_from(word.to_owned()).is_ok();
            if !words.split(' ').filter(|word| !word.is_empty()).all(is_word) {
                return Err(wrong());
            }
            let words = Some(CommandLine::parse(words));
            match name {
                "xen_line" => lines.xen = words,
                "linux_line" => lines.linux = words,
                _ => return Err(wrong()),
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Desired, Size, Topology, service};

    fn lines(desired: &str, nodes: u32) -> (XenWish, CommandLine) {
        let desired = Desired::from_toml(desired).unwrap();
        let topology = Topology::even(8, 1, nodes, Size::of_mib(8192));
        let plan =
            service::plan(&desired.service, &topology, &[nodes - 1], &CpuSet::default()).unwrap();
        let line = CommandLine::of_xen(&desired.xen, &plan, &topology.node_numbers());
        (desired.xen, line)
    }

    #[test]
    fn a_line_is_rendered_and_read() {
        let (_, line) = lines("", 1);
        let text = "console=vga,com1 com1=115200,8n1 dom0_mem=1024M,max:1024M dom0_max_vcpus=1 dom0_vcpus_pin";
        assert_eq!(line.to_string(), text);
        assert_eq!(CommandLine::parse(text), line);
        let (_, line) = lines("[xen]\niommu = true\nsmt = false\nextra = [\"loglvl=all\"]", 2);
        assert!(line.to_string().ends_with("dom0_nodes=1 iommu=on smt=off loglvl=all"), "{line}");
    }

    /// Why a node must be booted again, whose lines billet did or did not write.
    fn reasons(xen: &str, linux: Option<&str>, ours: bool, desired: &str) -> Vec<String> {
        let (wish, wanted) = lines(desired, 1);
        Booted { xen, linux, ours }.differences(&wish, &wanted)
    }

    const MEMORY: &str = "[service]\nmemory = \"512MiB\"\n";

    #[test]
    fn a_difference_is_a_reason() {
        let same = "console=com1 dom0_mem=512M,max:512M dom0_max_vcpus=1 dom0_vcpus_pin noreboot";
        assert_eq!(reasons(same, Some("ro quiet"), false, MEMORY), [""; 0]);
        let other = "dom0_mem=1G,max:1G dom0_max_vcpus=1-2 dom0_nodes=0";
        assert_eq!(
            reasons(other, None, false, MEMORY),
            [
                "Xen was booted with dom0_mem=1G,max:1G, dom0_mem=512M,max:512M is wanted",
                "Xen was booted with dom0_max_vcpus=1-2, dom0_max_vcpus=1 is wanted",
                "Xen was booted without dom0_vcpus_pin",
                "Xen was booted with dom0_nodes=0, which is not wanted",
            ]
        );
        let linux = format!("{MEMORY}[xen]\nlinux = [\"a=1\"]");
        assert_eq!(
            reasons(same, Some("ro quiet"), false, &linux),
            ["Linux was booted without a=1"]
        );
    }

    /// A node that was booted as one text says has a reason to be booted again exactly when the
    /// lines of another differ.
    #[test]
    fn every_change_of_a_line_is_a_reason() {
        let texts = [
            "",
            MEMORY,
            "[service]\ncpus = 2",
            "[service]\ndedicate = \"none\"",
            "[service]\nplace = \"3\"",
            "[xen]\niommu = true",
            "[xen]\niommu = false",
            "[xen]\nsmt = false",
            "[xen]\nconsole = [\"com1\"]",
            "[xen]\nconsole = [\"com1\", \"vga\"]",
            "[xen]\ncom1 = \"38400,8n1\"",
            "[xen]\nextra = [\"loglvl=all\"]",
            "[xen]\nextra = [\"loglvl=all\", \"loglvl=error\"]",
            "[xen]\nextra = [\"loglvl=error\", \"loglvl=all\"]",
            "[xen]\nextra = [\"iommu=verbose\"]",
            "[xen]\nlinux = [\"a=1\"]",
            "[xen]\nlinux = [\"a=2\"]",
            "[xen]\nlinux = [\"console=tty1\"]",
        ];
        for booted in texts {
            let (wish, line) = lines(booted, 1);
            let xen = format!("{line} vga=current");
            let linux = format!("root=UUID=0 rw {}", CommandLine::of_linux(&wish));
            for desired in texts {
                let (wanted, now) = lines(desired, 1);
                let same = fragment(&line, &wish) == fragment(&now, &wanted);
                let reasons = reasons(&xen, Some(&linux), true, desired);
                assert_eq!(reasons.is_empty(), same, "{booted:?} -> {desired:?}: {reasons:?}");
            }
        }
        let (xen, linux) = (
            "console=vga,com1 com1=115200,8n1 dom0_mem=1024M,max:1024M \
                             dom0_max_vcpus=1 dom0_vcpus_pin iommu=on vga=current",
            "root=UUID=0 rw quiet panic=30 console=tty0 console=hvc0 a=1",
        );
        assert_eq!(
            reasons(xen, Some(linux), true, ""),
            [
                "Xen was booted with iommu=on, which is not wanted",
                "Linux was booted with a=1, which is not wanted",
            ]
        );
    }

    #[test]
    fn what_kexec_adds_or_leaves_out_is_no_reason() {
        let (wish, line) = lines("", 1);
        let linux = format!("root=UUID=0 rw {}", CommandLine::of_linux(&wish));
        for added in [NO_BIOS, "", "vga=current"] {
            let xen = format!("{line} {added}");
            assert_eq!(reasons(&xen, Some(&linux), true, ""), [""; 0], "{added}");
        }
    }

    #[test]
    fn a_fragment_is_rendered_and_read() {
        for text in ["", "[xen]\niommu = true\nlinux = [\"a=1\"]\nextra = [\"a-_.,:=/+@%9\"]"] {
            let (wish, line) = lines(text, 2);
            let read: Lines = fragment(&line, &wish).parse().unwrap();
            let linux = CommandLine::of_linux(&wish);
            assert_eq!(read, Lines { xen: Some(line), linux: Some(linux) });
        }
        let only: Lines = "# a\nset xen_line=\"a\"\nset xen_line=\"\"\n".parse().unwrap();
        assert_eq!(only, Lines { xen: Some(CommandLine::default()), linux: None });
        for odd in [
            "reboot\n",
            "set xen_line=\"a\"",
            "set xen_line=\"a\"; reboot\n",
            "set xen_line=\"${x}\"\n",
            "set xen_line=a\n",
            "set xen_line=\"a\tb\"\n",
            "set other=\"a\"\n",
            "set xen_line=\"a\"\"\n",
            "# a\u{7}\n",
            "\n",
        ] {
            assert!(odd.parse::<Lines>().is_err(), "{odd:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_fragment_or_an_error(
            text in "(set (xen|linux)_line=|\\PC|[\"# =a\n])*",
        ) {
            let _ = text.parse::<Lines>();
        }
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
