//! Which texts may be quoted in a message.
//!
//! Must never let one through that may be a key or half of one (S10).

use std::fmt;

/// A text from a file that is safe to print: short, on one line, and nothing that may be a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(Option<String>);

impl Shown {
    /// A key is 43 characters and a `=`; half of one is still too much to print.
    const LONGEST_RUN: usize = 20;
    const MOST: usize = 80;

    pub(super) fn of(text: &str) -> Self {
        let printable = text.len() <= Self::MOST && !text.chars().any(char::is_control);
        let harmless = longest_base64_run(text) < Self::LONGEST_RUN;
        Self((printable && harmless).then(|| text.to_owned()))
    }

    pub(super) fn hidden() -> Self {
        Self(None)
    }

    pub(super) fn is_hidden(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => write!(f, "`{text}`"),
            None => f.write_str("the text (not shown)"),
        }
    }
}

fn longest_base64_run(text: &str) -> usize {
    let foreign = |c: char| !(c.is_ascii_alphanumeric() || c == '+' || c == '/');
    text.split(foreign).map(str::len).max().unwrap_or(0)
}

/// Whether the text may be, or hold, most of a key. An absolute path is none, however
/// long its run of letters and slashes, unless it has exactly a key's length.
pub(super) fn looks_like_a_key(text: &str) -> bool {
    const MOST_OF_A_KEY: usize = 30;
    const UNPADDED: usize = 43;
    let text = text.trim();
    let path = text.starts_with('/') && !text.contains('=') && text.len() != UNPADDED;
    longest_base64_run(text) >= MOST_OF_A_KEY && !path
}
