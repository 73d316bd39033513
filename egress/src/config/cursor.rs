//! A node of the tree together with the way to it, so that what is wrong with it has a place.
//!
//! Must never hand out a text that looks like a key, except where a public key is expected (S10).

use std::path::Path;

use super::error::{ConfigError, Place, Problem};
use super::nearest::nearest;
use super::shown::{Shown, looks_like_a_key};
use super::yaml::{Node, Part, Source, Spot, Step};

#[derive(Clone)]
pub(super) struct Cursor<'a> {
    source: &'a Source,
    node: &'a Node,
    trail: Vec<Step>,
}

/// A mapping whose keys have been checked.
pub(super) struct Fields<'a> {
    at: Cursor<'a>,
    entries: &'a [(String, Node)],
    known: &'static [&'static str],
}

impl<'a> Cursor<'a> {
    pub fn root(source: &'a Source, node: &'a Node) -> Self {
        Self { source, node, trail: Vec::new() }
    }

    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// The directory that relative names in this file are meant from.
    pub fn directory(&self) -> &'a Path {
        self.source.file.parent().unwrap_or(Path::new(""))
    }

    pub fn file(&self) -> &'a Path {
        &self.source.file
    }

    /// Notes that a file belongs to what is read here.
    pub fn note(&self, file: &Path) {
        self.source.named.borrow_mut().push(file.to_owned());
    }

    fn down(&self, node: &'a Node, step: Step) -> Self {
        let trail = self.trail.iter().cloned().chain([step]).collect();
        Self { source: self.source, node, trail }
    }

    /// As in `paths[0].endpoints[1].name`.
    fn key(&self) -> String {
        let part = |step: &Step| match step {
            Step::Entry(_, name) => format!(".{name}"),
            Step::Item(nth) => format!("[{nth}]"),
        };
        let key: String = self.trail.iter().map(part).collect();
        key.trim_start_matches('.').to_owned()
    }

    fn spot(&self, part: Part) -> Option<Spot> {
        self.source.locate(&self.trail, part)
    }

    fn place(&self, part: Part) -> Place {
        let line = self.spot(part).map(|spot| spot.line);
        Place { file: self.source.file.clone(), line, key: self.key() }
    }

    pub fn line(&self) -> Option<usize> {
        self.place(Part::Value).line
    }

    pub fn error(&self, problem: Problem) -> ConfigError {
        self.place(Part::Value).with(problem)
    }

    /// Where it stands.
    pub fn blame(&self) -> Place {
        self.place(Part::Value)
    }

    /// An error that concerns this node in the light of an earlier one. Where both are the same
    /// text (a YAML alias), its line would mislead and is left out.
    pub fn error_after(&self, first: &Self, problem: Problem) -> ConfigError {
        let mut place = self.place(Part::Value);
        if self.spot(Part::Value) == first.spot(Part::Value) {
            place.line = None;
        }
        place.with(problem)
    }

    fn wants(&self, want: &'static str) -> ConfigError {
        self.error(Problem::Type { want, found: self.node.kind() })
    }

    /// A text, whatever it looks like: for public keys only.
    pub fn any_text(&self) -> Result<&'a str, ConfigError> {
        match self.node {
            Node::Text(text) => Ok(text),
            Node::List(_) | Node::Map(_) | Node::Tagged => Err(self.wants("text")),
            _ => Err(self.wants("text (put it in quotes)")),
        }
    }

    pub fn text(&self) -> Result<&'a str, ConfigError> {
        let text = self.any_text()?;
        if looks_like_a_key(text) {
            return Err(self.error(Problem::KeyInWrongPlace));
        }
        Ok(text)
    }

    /// A text that means something.
    pub fn value<T>(&self, parse: impl Fn(&str) -> Result<T, Problem>) -> Result<T, ConfigError> {
        parse(self.text()?).map_err(|problem| self.error(problem))
    }

    pub fn items(&self) -> Result<Vec<Self>, ConfigError> {
        let Node::List(items) = self.node else {
            return Err(self.wants("a list"));
        };
        Ok(items.iter().enumerate().map(|(nth, node)| self.down(node, Step::Item(nth))).collect())
    }

    pub fn values<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<Vec<T>, ConfigError> {
        self.items()?.iter().map(|item| item.value(&parse)).collect()
    }

    /// The mapping, if every key of it is known and given once.
    pub fn fields(&self, known: &'static [&'static str]) -> Result<Fields<'a>, ConfigError> {
        let Node::Map(entries) = self.node else {
            return Err(self.wants("a mapping"));
        };
        for (nth, (key, _)) in entries.iter().enumerate() {
            let problem = match known.iter().find(|name| *name == key) {
                None => unknown(key, known),
                Some(name) if entries[..nth].iter().any(|(earlier, _)| earlier == key) => {
                    Problem::KeyTwice(name)
                }
                Some(_) => continue,
            };
            return Err(self.place(Part::Key(nth)).with(problem));
        }
        Ok(Fields { at: self.clone(), entries, known })
    }
}

fn unknown(key: &str, known: &'static [&'static str]) -> Problem {
    let bare: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    match bare.to_ascii_lowercase().as_str() {
        "privatekey" => Problem::InlineSecret("private_key_file"),
        "presharedkey" => Problem::InlineSecret("preshared_key_file"),
        _ => Problem::UnknownKey { key: Shown::of(key), nearest: nearest(key, known), known },
    }
}

impl<'a> Fields<'a> {
    /// The value of a key; one left empty counts as left out.
    pub fn get(&self, key: &str) -> Option<Cursor<'a>> {
        let nth = self.entries.iter().position(|(name, _)| name == key)?;
        let name = self.known.iter().find(|name| **name == key)?;
        let node = &self.entries[nth].1;
        (!matches!(node, Node::Null)).then(|| self.at.down(node, Step::Entry(nth, name)))
    }

    pub fn need(&self, key: &'static str) -> Result<Cursor<'a>, ConfigError> {
        self.get(key).ok_or_else(|| self.at.error(Problem::Missing(key)))
    }

    /// The value of a key, read, or what holds where it is left out.
    pub fn read<T>(
        &self,
        key: &str,
        otherwise: T,
        read: impl FnOnce(&Cursor<'a>) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        self.get(key).map_or(Ok(otherwise), |cursor| read(&cursor))
    }

    pub fn at(&self) -> &Cursor<'a> {
        &self.at
    }
}
