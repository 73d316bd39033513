//! Reading a notification without holding what nobody looks at: eight mebibytes of the smallest
//! labels and alerts would be a hundred once they are maps, and of brackets or of one text the
//! parser would keep a copy, or two.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// More alerts than anybody has.
const MOST_ALERTS: usize = 10_000;

/// The labels that a decision may look at; all others are read over.
const LABELS: [&str; 5] = ["action", "endpoint", "host", "instance", "path"];

/// Longer than any name that is valid: its value could match nothing.
const LONGEST: usize = 256;

/// Alertmanager's notifications are four deep; the parser remembers each level that it is in.
const DEEPEST: usize = 32;

/// A text with escapes is copied before it is read over; nobody's annotation is as long.
const LONGEST_TEXT: usize = 64 * 1024;

/// Whether a parser can read it without keeping much: looked at before it is read, for the parser
/// is not to be asked for what it would take to find out.
pub fn is_plain(json: &[u8]) -> bool {
    let (mut depth, mut bytes) = (0_usize, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if !is_short(&mut bytes) => return false,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return false;
        }
    }
    true
}

/// Passes by a text, its closing quote included; one that never ends is short if it is.
fn is_short(bytes: &mut std::slice::Iter<'_, u8>) -> bool {
    let before = bytes.len();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => _ = bytes.next(),
            _ => {}
        }
    }
    before - bytes.len() <= LONGEST_TEXT
}

pub fn alerts<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(Alerts(PhantomData))
}

struct Alerts<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Alerts<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of alerts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut alerts = Vec::new();
        while let Some(alert) = seq.next_element()? {
            if alerts.len() == MOST_ALERTS {
                return Err(A::Error::custom("more alerts than anybody has"));
            }
            alerts.push(alert);
        }
        Ok(alerts)
    }
}

/// Whether a status is that of an alert that fires.
pub fn firing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Cow::<str>::deserialize(deserializer).map(|status| status == "firing")
}

/// Those of an alert's labels that a decision may look at. A map would be ten times as large.
#[derive(Debug, Default, PartialEq)]
pub struct Labels(Vec<(&'static str, Box<str>)>);

impl Labels {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(one, _)| *one == name).map(|(_, value)| &**value)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LabelsVisitor)
    }
}

/// A number, also one that is written as a text; whatever else stands there is read over.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserializer.deserialize_any(Number)
}

struct Number;

impl<'de> Visitor<'de> for Number {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text.parse().ok())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut labels: Vec<(&'static str, Box<str>)> = Vec::new();
        while let Some(name) = map.next_key::<Cow<str>>()? {
            let Some(&known) = LABELS.iter().find(|known| **known == name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: Box<str> = map.next_value()?;
            let value = if value.len() > LONGEST { Box::default() } else { value };
            // Of a name that is said twice, the last counts, as with a map.
            labels.retain(|(one, _)| *one != known);
            labels.reserve_exact(1);
            labels.push((known, value));
        }
        Ok(Labels(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct One {
        labels: Labels,
    }

    #[derive(Deserialize)]
    struct All {
        #[serde(deserialize_with = "alerts")]
        alerts: Vec<One>,
    }

    #[test]
    fn what_is_deep_or_long_is_not_given_to_the_parser() {
        let nested = |depth: usize| format!("{}{}", "[{".repeat(depth / 2), "}]".repeat(depth / 2));
        assert!(is_plain(nested(DEEPEST).as_bytes()));
        assert!(!is_plain(nested(DEEPEST + 2).as_bytes()));
        // Brackets in a text are a text, and what was closed is not deep.
        assert!(is_plain(format!(r#"["\"{}"]"#, "[".repeat(DEEPEST + 1)).as_bytes()));
        assert!(!is_plain(format!(r#"["\\"{}"]"#, "[".repeat(DEEPEST + 1)).as_bytes()));
        assert!(is_plain("[]".repeat(1000).as_bytes()));
        assert!(is_plain("]".repeat(1000).as_bytes()));
        let text = |length: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(length));
        assert!(is_plain(text(LONGEST_TEXT - 1).as_bytes()));
        assert!(!is_plain(text(LONGEST_TEXT).as_bytes()));
        assert!(!is_plain(format!(r#"["{}"#, "x".repeat(LONGEST_TEXT + 1)).as_bytes()));
    }

    #[test]
    fn what_nobody_looks_at_is_not_kept() {
        let long = "x".repeat(LONGEST + 1);
        let text = format!(
            r#"{{"alerts":[{{"labels":
                {{"path":"x","other":"y","n":[1],"endpoint":"{long}","p\u0061th":"media"}}}}]}}"#
        );
        let all: All = serde_json::from_str(&text).expect("read");
        let labels = &all.alerts[0].labels;
        let kept: Vec<(&str, &str)> =
            labels.0.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(kept, [("endpoint", ""), ("path", "media")]);
        assert_eq!(labels.get("path"), Some("media"));
        assert_eq!(labels.get("other"), None);
    }

    #[test]
    fn ten_thousand_alerts_are_read_and_one_more_is_refused() {
        let with = |count: usize| {
            format!(r#"{{"alerts":[{}]}}"#, vec![r#"{"labels":{}}"#; count].join(","))
        };
        let read = |count| serde_json::from_str::<All>(&with(count)).map(|all| all.alerts.len());
        assert_eq!(read(MOST_ALERTS).ok(), Some(MOST_ALERTS));
        assert!(read(MOST_ALERTS + 1).is_err());
    }
}
