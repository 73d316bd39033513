//! Why a web configuration is refused: file, line where it is known, key, problem and mend.
//!
//! Serde's sentences quote the value that they found. None is passed on as it is (S10).

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {problem}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct WebConfigError {
    pub file: PathBuf,
    pub line: Option<usize>,
    /// Begins with the key where there is one.
    pub problem: String,
}

impl WebConfigError {
    pub(super) fn new(file: &Path, problem: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, problem: problem.into() }
    }

    /// Where no value was looked at.
    pub(super) fn grammar(file: &Path, error: &serde_yaml::Error) -> Self {
        let (line, text) = taken_apart(error);
        let mend = "check the indentation and the quotes";
        Self { line, ..Self::new(file, format!("is not valid YAML: {text}; {mend}")) }
    }

    pub(super) fn value(file: &Path, error: &serde_yaml::Error) -> Self {
        let (line, text) = taken_apart(error);
        Self { line, ..Self::new(file, without_values(&text)) }
    }
}

/// Where it is, and what it says.
fn taken_apart(error: &serde_yaml::Error) -> (Option<usize>, String) {
    let line = error.location().map(|location| location.line());
    let mut text = error.to_string();
    if let (Some(at), Some(_)) = (text.rfind(" at line "), line) {
        text.truncate(at);
    }
    (line, text)
}

/// The message with what serde quotes from the file cut out.
fn without_values(text: &str) -> String {
    for found in ["invalid type: ", "invalid value: "] {
        if let Some(at) = text.find(found) {
            let wanted = text.rsplit(", expected ").next().unwrap_or("something else");
            return format!("{}wants {wanted}; put that there", &text[..at]);
        }
    }
    if let Some((place, rest)) = text.split_once("unknown field `") {
        let (key, rest) = rest.split_once("`, ").unwrap_or((rest, "expected something else"));
        let known = rest.trim_start_matches("expected ").replace('`', "");
        let key = if is_a_word(key) { format!(" {key}") } else { String::new() };
        return format!("{place}unknown key{key}; remove or correct it: {known}");
    }
    text.to_owned()
}

/// What can be the name of a key, and no secret.
fn is_a_word(text: &str) -> bool {
    const LONGEST: usize = 32;
    text.len() <= LONGEST
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-".contains(&byte))
}
