//! The YAML text as a tree, and the line of any node of it.
//!
//! The tree keeps no marks. A line is found by walking the same text again to the same node and
//! failing there on purpose: the parser then names the place itself. So a line is either the
//! parser's or absent, never a guess. The parser's messages about *values* quote them, and are
//! never passed on (S10).

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess,
    VariantAccess as _, Visitor,
};
use serde::{Deserialize, de};

use super::error::{ConfigError, Place, Problem};

/// Any honest configuration is far smaller.
const MOST: u64 = 256 * 1024;

/// A configuration's text and where it came from.
pub(super) struct Source {
    pub file: PathBuf,
    pub text: String,
    /// The files that it names and that were read with it.
    pub named: RefCell<Vec<PathBuf>>,
}

impl Source {
    pub fn of(file: impl Into<PathBuf>, text: String) -> Self {
        Self { file: file.into(), text, named: RefCell::default() }
    }

    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let place = || Place::file(file);
        let refused = |cause: io::Error| {
            let problem = match cause.kind() {
                io::ErrorKind::NotFound => Problem::NoConfig,
                _ => Problem::UnreadableConfig,
            };
            place().with_cause(problem, cause)
        };
        let mut bytes = Vec::new();
        let opened = crate::file::open(file).map_err(refused)?;
        opened.take(MOST + 1).read_to_end(&mut bytes).map_err(refused)?;
        if bytes.len() as u64 > MOST {
            return Err(place().with(Problem::TooBig(MOST)));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + good.split(|byte| *byte == b'\n').skip(1).count();
            Place::line(file, Some(line)).with(Problem::NotUtf8)
        })?;
        Ok(Self::of(file, text))
    }

    pub fn tree(&self) -> Result<Node, ConfigError> {
        // The first pass looks at no value, so what it complains of is grammar, in words that
        // quote nothing. The second one may quote; only its place is used.
        let at = |error: &serde_yaml::Error| {
            Place::line(&self.file, error.location().map(|location| location.line()))
        };
        serde_yaml::from_str::<IgnoredAny>(&self.text)
            .map_err(|error| at(&error).with(Problem::Syntax(error.to_string())))?;
        serde_yaml::from_str(&self.text).map_err(|error| at(&error).with(Problem::OddYaml))
    }

    /// Where the node at the end of the trail stands.
    pub fn locate(&self, trail: &[Step], part: Part) -> Option<Spot> {
        let walk = Walk { trail, part };
        let stop = walk.deserialize(serde_yaml::Deserializer::from_str(&self.text)).err()?;
        let location = stop.location()?;
        Some(Spot { line: location.line(), index: location.index() })
    }
}

/// A place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// Counted from 1.
    pub line: usize,
    /// Bytes from the start.
    pub index: usize,
}

/// One step down the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The nth entry of a mapping, and its key.
    Entry(usize, &'static str),
    /// The nth item of a sequence.
    Item(usize),
}

/// Which half of a mapping's entry is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Value,
    /// The key of this entry of the mapping at the end of the trail.
    Key(usize),
}

/// YAML without surprises. No Debug on purpose: a value may be a key in the wrong place.
pub(super) enum Node {
    Null,
    Bool,
    Integer(u64),
    /// Negative, huge or fractional.
    OtherNumber,
    Text(String),
    List(Vec<Node>),
    /// In the order written; keys may repeat.
    Map(Vec<(String, Node)>),
    Tagged,
}

impl Node {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool => "true or false",
            Self::Integer(_) | Self::OtherNumber => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
            Self::Tagged => "a YAML tag",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Bool)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Integer(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::OtherNumber)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::OtherNumber)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::OtherNumber)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::OtherNumber)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Node, A::Error> {
        let (_, value) = tagged.variant::<IgnoredAny>()?;
        value.newtype_variant::<IgnoredAny>()?;
        Ok(Node::Tagged)
    }
}

/// Goes down the trail and fails at its end, so that the parser names the place.
struct Walk<'a> {
    trail: &'a [Step],
    part: Part,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    // Whatever is not visited below fails by itself: at the end of the trail that is the aim.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the trail")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let Some((Step::Item(nth), trail)) = self.trail.split_first() {
            for _ in 0..*nth {
                seq.next_element::<IgnoredAny>()?;
            }
            seq.next_element_seed(Walk { trail, ..self })?;
        }
        Err(here())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (nth, rest) = match (self.trail.split_first(), self.part) {
            (Some((Step::Entry(nth, _), rest)), _) => (*nth, Some(rest)),
            (None, Part::Key(nth)) => (nth, None),
            _ => return Err(here()),
        };
        for _ in 0..nth {
            map.next_entry::<IgnoredAny, IgnoredAny>()?;
        }
        if let Some(trail) = rest {
            map.next_key::<IgnoredAny>()?;
            map.next_value_seed(Walk { trail, ..self })?;
        } else {
            map.next_key_seed(Walk { trail: &[], part: Part::Value })?;
        }
        Err(here())
    }
}

fn here<E: de::Error>() -> E {
    E::custom("here")
}
