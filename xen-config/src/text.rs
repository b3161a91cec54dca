//! Text of an operator that ends in a file of xl: paths and command lines.

use std::{fmt, ops::Deref};

use serde::{Deserialize, Serialize};

/// Any text without control characters. Quotes, blanks and backslashes are welcome: whoever
/// renders it escapes them.
///
/// Control characters are refused because xl's reader does not undo numeric escapes (it reads
/// past them, libxlu_cfg.c), and its reader of disks ends at a newline.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(String);

/// A text with control characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} has control characters: one line of plain text is wanted")]
pub struct TextError {
    text: String,
}

impl TryFrom<String> for Text {
    type Error = TextError;

    fn try_from(text: String) -> Result<Text, TextError> {
        if text.chars().any(char::is_control) { Err(TextError { text }) } else { Ok(Text(text)) }
    }
}

impl From<Text> for String {
    fn from(text: Text) -> String {
        text.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
