//! The domains of a node, as xl's lists say them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    CpuSet, Size,
    made::{Made, MadeError},
};

/// A domain as probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its number; another one after every start.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What it is doing.
    pub state: State,
    /// Why it ended, once it has.
    pub ended: Option<Ending>,
    /// The memory that it has now.
    pub memory: Size,
    /// CPU time that it has used, in milliseconds.
    pub time: u64,
    /// The pool that it is in.
    pub pool: String,
    /// Its virtual CPUs.
    pub vcpus: Vec<Vcpu>,
    /// What it was made of; libxl keeps nothing of domains that are half made or half gone.
    pub made: Option<Made>,
}

impl Domain {
    /// Whether libxl has a name for it, which it writes after it has made a domain and takes away
    /// before it destroys one: what has none is half made or half gone.
    pub fn has_name(&self) -> bool {
        self.name != "(null)"
    }
}

/// The six letters of `xl list`, each there or not, in any combination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// `r`
    pub running: bool,
    /// `b`
    pub blocked: bool,
    /// `p`
    pub paused: bool,
    /// `s`
    pub shutdown: bool,
    /// `c`
    pub crashed: bool,
    /// `d`
    pub dying: bool,
}

/// Why a domain ended (`SHUTDOWN_*` of Xen's public/sched.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It switched itself off.
    PowerOff,
    /// It wants to start again.
    Reboot,
    /// It was saved or migrated.
    Suspend,
    /// It crashed.
    Crash,
    /// Something else, by number.
    Other(u32),
}

/// A virtual CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpu {
    /// Its number within its domain.
    pub vcpu: u32,
    /// Whether it is switched on.
    pub online: bool,
    /// Where it must run; anywhere in its pool for `None`.
    pub hard: Option<CpuSet>,
}

/// A list of xl that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// A line that is no row.
    #[error("`{command}` printed a line that is no row: {line:?}")]
    Row {
        /// What was run.
        command: &'static str,
        /// The line.
        line: String,
    },
    /// JSON that is none.
    #[error(transparent)]
    Made(#[from] MadeError),
}

/// Reads what three commands of one moment printed: `xl list -v -c`, `xl vcpu-list` and
/// `xl list -l`.
///
/// # Errors
/// A row or a document that cannot be read.
pub fn parse(list: &str, vcpus: &str, made: &str) -> Result<Vec<Domain>, ListError> {
    let mut domains = rows("xl list -v -c", list, domain)?;
    for (id, vcpu) in rows("xl vcpu-list", vcpus, vcpu)? {
        if let Some(domain) = domains.iter_mut().find(|domain| domain.id == id) {
            domain.vcpus.push(vcpu);
        }
    }
    for (id, made) in crate::made::parse(made)? {
        if let Some(domain) = domains.iter_mut().find(|domain| domain.id == id) {
            domain.made = Some(made);
        }
    }
    Ok(domains)
}

/// Every line but the first, read.
fn rows<T>(
    command: &'static str,
    text: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ListError> {
    let lines = text.lines().skip(1).filter(|line| !line.trim().is_empty());
    let row = |line: &str| read(line).ok_or_else(|| ListError::Row { command, line: line.into() });
    lines.map(row).collect()
}

/// `pv1  1  160  1  -b----  4.9 <UUID>  -  -  Pool-0`; what stands before the numbers is the
/// name, blanks and all, and newer versions have more columns behind the pool.
fn domain(line: &str) -> Option<Domain> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let uuid = words.iter().rposition(|word| is_uuid(word))?;
    let [id, memory, _vcpus, state, time] = words.get(uuid.checked_sub(5)?..uuid)? else {
        return None;
    };
    let [reason, _label, pool, ..] = words.get(uuid + 1..)? else { return None };
    let seconds: f64 = time.parse().ok()?;
    Some(Domain {
        id: id.parse().ok()?,
        name: words[..uuid - 5].join(" "),
        uuid: words[uuid].to_owned(),
        state: State::parse(state)?,
        ended: u32::from_str_radix(reason, 16).ok().map(Ending::from),
        memory: Size::of_mib(memory.parse().ok()?),
        time: (seconds * 1000.0) as u64,
        pool: (*pool).to_owned(),
        vcpus: Vec::new(),
        made: None,
    })
}

fn is_uuid(word: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    let fits = |(at, byte): (usize, u8)| match dashes.contains(&at) {
        true => byte == b'-',
        false => byte.is_ascii_hexdigit(),
    };
    word.len() == 36 && word.bytes().enumerate().all(fits)
}

/// `Domain-0  0  1  3  -b-  35.9  3 / all`, read from its end.
fn vcpu(line: &str) -> Option<(u32, Vcpu)> {
    let (front, _soft) = line.rsplit_once('/')?;
    let words: Vec<&str> = front.split_whitespace().collect();
    let [.., id, vcpu, cpu, _state, _time, hard] = words[..] else { return None };
    let hard = match hard {
        "all" | "any" => None,
        cpus => Some(cpus.parse().ok()?),
    };
    // A virtual CPU that is switched off is on no CPU.
    Some((id.parse().ok()?, Vcpu { vcpu: vcpu.parse().ok()?, online: cpu != "-", hard }))
}

impl State {
    /// Reads the six letters. The fifth is the reason of an ending, of which `c` is a crash.
    pub fn parse(letters: &str) -> Option<State> {
        let [r, b, p, s, c, d] = *letters.as_bytes() else { return None };
        let known = [(r, "r"), (b, "b"), (p, "p"), (s, "s"), (c, "rscwS?"), (d, "d")];
        let fits =
            |(byte, letters): &(u8, &str)| *byte == b'-' || letters.as_bytes().contains(byte);
        known.iter().all(fits).then_some(State {
            running: r == b'r',
            blocked: b == b'b',
            paused: p == b'p',
            shutdown: s == b's',
            crashed: c == b'c',
            dying: d == b'd',
        })
    }

    /// Whether it is a guest that runs or could run: neither ended nor about to vanish.
    pub fn is_up(self) -> bool {
        !self.shutdown && !self.crashed && !self.dying
    }
}

impl From<u32> for Ending {
    fn from(number: u32) -> Ending {
        match number {
            0 => Ending::PowerOff,
            1 => Ending::Reboot,
            2 => Ending::Suspend,
            3 => Ending::Crash,
            other => Ending::Other(other),
        }
    }
}

/// How it is said in a sentence: "it ...".
impl fmt::Display for Ending {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::PowerOff => out.write_str("switched itself off"),
            Ending::Reboot => out.write_str("wants to start again"),
            Ending::Suspend => out.write_str("was suspended"),
            Ending::Crash => out.write_str("crashed"),
            Ending::Other(number) => write!(out, "ended for reason {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: &str = "\
Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label         Cpupool
Domain-0                                     0   512     1     r-----      31.7 00000000-0000-0000-0000-000000000000        -                -          Pool-0
pv1                                          1   160     1     -b----       4.9 21404e20-e50c-11f1-8637-4ad08e8dcdb7        -                -          Pool-0
a b                                          2   160     1     --ps--       0.0 317d8744-e50c-11f1-a10b-feffffffffff        0                -          guests
";

    #[test]
    fn three_lists_make_domains() {
        let vcpus = include_str!("../tests/captures/xl-vcpu-list-2guests.txt");
        let made = include_str!("../tests/captures/xl-list-l-2guests.json");
        let domains = parse(LIST, vcpus, made).unwrap();
        let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
        assert_eq!(names, ["Domain-0", "pv1", "a b"]);
        assert_eq!(domains[1].vcpus[0].hard, "1-3".parse().ok());
        assert_eq!(domains[1].time, 4900);
        assert!(domains[1].made.is_some());
        assert_eq!(
            (domains[2].ended, domains[2].pool.as_str()),
            (Some(Ending::PowerOff), "guests")
        );
    }

    #[test]
    fn a_newer_xl_has_more_columns() {
        let header = "Name ... Cpupool Capabilities";
        let row = "web 3 160 1 ---sc- 1.0 317d8744-e50c-11f1-a10b-feffffffffff 3 - guests -";
        let domains = parse(&format!("{header}\n{row}\n"), "", "").unwrap();
        assert_eq!((domains[0].ended, domains[0].state.crashed), (Some(Ending::Crash), true));
    }

    #[test]
    fn pins_of_the_service_domain() {
        let text = include_str!("../tests/captures/numa-xl-vcpu-list-2.txt");
        let pins = rows("", text, vcpu).unwrap();
        assert_eq!(pins[1], (0, Vcpu { vcpu: 1, online: true, hard: Some(CpuSet::one(3)) }));
        let off = "web  4  1  -  --p  0.0  0,2-3 / all";
        let (_, off) = vcpu(off).unwrap();
        assert_eq!((off.online, off.hard), (false, "0,2-3".parse().ok()));
    }

    #[test]
    fn states_combine() {
        for (letters, up, paused) in [
            ("-bp---", true, true),
            ("--p---", true, true),
            ("r-----", true, false),
            ("------", true, false),
            ("---s--", false, false),
            ("----c-", false, false),
            ("---sc-", false, false),
            ("---sr-", false, false),
            ("---ss-", false, false),
            ("-----d", false, false),
            ("--ps-d", false, true),
        ] {
            let state = State::parse(letters).unwrap();
            assert_eq!((state.is_up(), state.paused), (up, paused), "{letters}");
        }
        for letters in ["", "r----", "x-----", "r------", "-r----"] {
            assert_eq!(State::parse(letters), None, "{letters}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "\\PC{0,80}") {
            let _ = (domain(&line), vcpu(&line));
        }

        #[test]
        fn every_combination_is_read(flags in 0_u8..64) {
            let letters: String = "rbpscd".chars().enumerate()
                .map(|(at, letter)| if flags >> at & 1 == 1 { letter } else { '-' }).collect();
            prop_assert!(State::parse(&letters).is_some());
        }
    }
}
