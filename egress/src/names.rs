//! Names that become labels, file names and nft identifiers, so they are narrow from the start.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no {1}: want 1 to {2} characters of a-z, A-Z, 0-9, `_`, `-`, beginning with a letter or digit"
)]
pub struct InvalidName(String, &'static str, usize);

fn check(text: &str, what: &'static str, most: usize) -> Result<(), InvalidName> {
    let narrow = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && text.len() <= most && text.chars().all(narrow) {
        return Ok(());
    }
    Err(InvalidName(text.to_owned(), what, most))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $most:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check(text, $what, $most).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a path: label `path`, and part of its state file's and its nft chains' names.
    PathName, "path name", 32
);
name!(
    /// The configured name of an endpoint: label `endpoint`.
    EndpointName, "endpoint name", 64
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_directory_or_its_table() {
        for text in ["", "../etc", "a/b", "a b", "-a", "a;b", "naïve", &"x".repeat(33)] {
            assert!(text.parse::<PathName>().is_err(), "{text}");
        }
        assert!("media-1_b".parse::<PathName>().is_ok());
    }
}
