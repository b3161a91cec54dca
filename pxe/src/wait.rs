//! What something waits for, since when, until when, and what happens then.

use std::{fmt, str::FromStr};

use jiff::Timestamp;

use crate::api::WaitView;

/// A wait with its deadline; kept as columns, so that a restarted server waits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The event awaited.
    pub what: Awaited,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// What happens at the deadline.
    pub then: Then,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $word:literal : $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$item])* $variant,)+ }

        impl $name {
            /// Its word in the database.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $text,)+ })
            }
        }

        impl FromStr for $name {
            type Err = NotAWord;

            fn from_str(word: &str) -> Result<Self, NotAWord> {
                match word {
                    $($word => Ok($name::$variant),)+
                    _ => Err(NotAWord(word.to_owned())),
                }
            }
        }
    };
}

words! {
    /// An event that may be awaited.
    Awaited {
        /// The node's firmware asks for its boot script.
        BootRequest = "boot_request": "the node to boot from the network",
        /// The RAM system says hello.
        Hello = "hello": "the RAM system's hello",
        /// The agent says how far it is.
        Progress = "progress": "the agent's next word",
        /// The node comes up from its disk.
        Restart = "restart": "the node to restart into its disk",
        /// The new system answers.
        Answer = "answer": "the new system to answer by SSH",
    }
}

words! {
    /// What happens at a deadline.
    Then {
        /// The deployment fails.
        Fail = "fail": "the deployment fails",
        /// A new boot of the node is awaited.
        AwaitBoot = "await_boot": "a new boot of the node is awaited",
    }
}

/// A word that the database should not hold.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no wait")]
pub struct NotAWord(String);

impl Wait {
    /// As the API shows it.
    pub fn view(&self) -> WaitView {
        WaitView {
            what: self.what.to_string(),
            since: self.since,
            until: self.until,
            then: self.then.to_string(),
        }
    }
}
