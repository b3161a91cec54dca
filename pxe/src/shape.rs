//! What a node should be: the text that an operator gave, numbered. Pure.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use protocol::host_report::GUESTS;
use xen_config::{Desired, desired::DesiredError};

use crate::refusal::Refusal;

/// Bytes of the longest text.
pub const LONGEST: usize = 1 << 20;

/// The desired state of a node, as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Grows with every change, from 1.
    pub generation: u64,
    /// What was given; nothing once nobody wants anything of the node any more.
    pub given: Option<Given>,
    /// When that was.
    pub since: Timestamp,
    /// Who gave it.
    pub by: String,
    /// Until when the node's agent should have reached it; nothing when it has answered, or when
    /// there is none that could.
    pub until: Option<Timestamp>,
}

/// A desired state as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// In which language.
    pub format: Format,
    /// The text.
    pub text: String,
}

/// A language for desired states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML, which people write.
    Toml,
    /// JSON, which programs write.
    Json,
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Format::Toml => "toml",
            Format::Json => "json",
        })
    }
}

/// A word that names no language.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no language for desired states; toml and json are")]
pub struct NotAFormat(String);

impl FromStr for Format {
    type Err = NotAFormat;

    fn from_str(word: &str) -> Result<Format, NotAFormat> {
        match word {
            "toml" => Ok(Format::Toml),
            "json" => Ok(Format::Json),
            _ => Err(NotAFormat(word.to_owned())),
        }
    }
}

/// Which state of things a change was made for, so that two people cannot undo each other's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// Whatever there is.
    Anything,
    /// Any desired state (`If-Match: *`).
    Something,
    /// None (`If-None-Match: *`).
    Nothing,
    /// One of these generations (`If-Match: "7"`).
    Generations(Vec<u64>),
}

impl Given {
    /// What it says.
    ///
    /// # Errors
    /// When it is no desired state; names the line and the nearest key.
    pub fn parse(&self) -> Result<Desired, DesiredError> {
        match self.format {
            Format::Toml => Desired::from_toml(&self.text),
            Format::Json => Desired::from_json(&self.text),
        }
    }

    /// As [`Given::parse`], for a text that somebody just gave.
    ///
    /// # Errors
    /// Also when it asks for more guests than a node can report.
    pub fn read(&self) -> Result<Desired, Refusal> {
        let refused = |error: DesiredError| {
            Refusal::Invalid(format!("the desired state cannot be read: {error}"))
        };
        let desired = self.parse().map_err(refused)?;
        let asked = desired.guests.len();
        if asked > GUESTS {
            return Err(Refusal::Invalid(format!(
                "{asked} guests asked, a node has {GUESTS} at most"
            )));
        }
        Ok(desired)
    }
}

impl Over {
    /// Whether what there is, is what the change was made for.
    ///
    /// # Errors
    /// When it is not; says what there is.
    pub fn check(&self, node: &str, there: Option<&Shape>) -> Result<(), Refusal> {
        let given = there.filter(|shape| shape.given.is_some());
        let fits = match self {
            Over::Anything => true,
            Over::Something => given.is_some(),
            Over::Nothing => given.is_none(),
            Over::Generations(wanted) => {
                given.is_some_and(|shape| wanted.contains(&shape.generation))
            }
        };
        if fits {
            return Ok(());
        }
        Err(Refusal::Stale(match given {
            Some(Shape { generation, by, since, .. }) => format!(
                "the desired state of {node} is generation {generation} now, set by {by} at \
                 {since:.0}: look at it and change it again, with If-Match: \"{generation}\""
            ),
            None => format!("{node} has no desired state; without If-Match one is accepted"),
        }))
    }
}

impl Shape {
    /// The first or next one.
    pub fn after(
        there: Option<&Shape>,
        given: Option<Given>,
        by: String,
        now: Timestamp,
        until: Option<Timestamp>,
    ) -> Shape {
        let generation = there.map_or(0, |shape| shape.generation) + 1;
        let until = until.filter(|_| given.is_some());
        Shape { generation, given, since: now, by, until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(generation: u64, text: Option<&str>) -> Shape {
        let given = text.map(|text| Given { format: Format::Toml, text: text.to_owned() });
        Shape { generation, given, since: Timestamp::UNIX_EPOCH, by: "me".into(), until: None }
    }

    #[test]
    fn a_change_is_made_for_what_there_is() {
        let (set, unset) = (shape(7, Some("")), shape(8, None));
        for (over, there, fits) in [
            (Over::Anything, None, true),
            (Over::Anything, Some(&set), true),
            (Over::Something, Some(&set), true),
            (Over::Something, Some(&unset), false),
            (Over::Nothing, None, true),
            (Over::Nothing, Some(&unset), true),
            (Over::Nothing, Some(&set), false),
            (Over::Generations(vec![6, 7]), Some(&set), true),
            (Over::Generations(vec![6]), Some(&set), false),
            (Over::Generations(vec![8]), Some(&unset), false),
        ] {
            assert_eq!(over.check("one", there).is_ok(), fits, "{over:?} over {there:?}");
        }
        let refusal = Over::Generations(vec![6]).check("one", Some(&set)).unwrap_err().to_string();
        assert!(refusal.contains("generation 7 now, set by me"), "{refusal}");
    }

    #[test]
    fn generations_go_on_after_there_was_none() {
        let (next, now) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let until = Some(next);
        let first = Shape::after(None, shape(1, Some("")).given, "me".into(), now, until);
        assert_eq!((first.generation, first.until), (1, until));
        let unset = Shape::after(Some(&first), None, "me".into(), now, until);
        assert_eq!((unset.generation, unset.until), (2, None));
    }

    #[test]
    fn too_many_guests_are_refused() {
        let guest = "[[guest]]\nname = \"a\"\nmemory = \"64MiB\"\nboot.loader = \"pygrub\"\n";
        let given = |many| Given { format: Format::Toml, text: guest.repeat(many) };
        assert!(given(GUESTS).read().is_ok());
        let refusal = given(GUESTS + 1).read().unwrap_err().to_string();
        assert_eq!(refusal, "1025 guests asked, a node has 1024 at most");
    }
}
