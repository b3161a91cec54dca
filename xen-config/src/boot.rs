//! Xen's command line.

use std::fmt;

use serde::{Deserialize, Serialize};

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
