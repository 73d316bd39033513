//! The IPS setting as the controller gave it, what one entry more makes of it, and how two of them
//! differ. Pure; kept raw, so that what this version does not know is not lost.

use std::net::IpAddr;

use egress::config::ids::Direction;
use serde_json::{Map, Value, json};

use crate::unknown::{Unknown, printable};

const SUPPRESSION: &str = "suppression";
const WHITELIST: &str = "whitelist";

/// Whose values may be printed. The rest of a setting may hold what is nobody's business.
const SHOWN: &[&str] = &[
    "ips_mode",
    "advanced_filtering_preference",
    "enabled_networks",
    "enabled_categories",
    "honeypot",
    "honeypot_enabled",
    "memory_optimized",
    "restrict_torrents",
    "content_filtering_blocking_page_enabled",
    SUPPRESSION,
];

/// This host's entry in the controller's allow list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exemption {
    pub address: IpAddr,
    pub direction: Direction,
}

impl Exemption {
    pub fn entry(&self) -> Value {
        let Self { address, direction } = self;
        json!({"direction": direction.word(), "mode": "ip", "value": address.to_string()})
    }

    /// Whether an entry exempts this host as much as wanted, or more.
    fn is_met_by(&self, entry: &Value) -> bool {
        let text = |key| entry.get(key).and_then(Value::as_str);
        let address = text("value").and_then(|value| value.parse::<IpAddr>().ok());
        let directions = ["both", self.direction.word()];
        text("mode") == Some("ip")
            && address.is_some_and(|address| address.to_canonical() == self.address)
            && text("direction").is_some_and(|direction| directions.contains(&direction))
    }
}

/// What stands under the key `ips`.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting(Map<String, Value>);

impl Setting {
    /// Takes it out of the envelope `{"meta": {"rc": "ok"}, "data": [{...}]}`.
    pub fn from_answer(answer: &Value) -> Result<Self, Unknown> {
        let shape = |what: &str| Unknown::Shape(what.to_owned());
        let data = answer.get("data").and_then(Value::as_array);
        let data = data.ok_or_else(|| shape("no list `data`"))?;
        let [one] = data.as_slice() else {
            return Err(if data.is_empty() {
                Unknown::Empty
            } else {
                shape("more than one setting in `data`")
            });
        };
        let one = one.as_object().ok_or_else(|| shape("`data` holds no object"))?;
        if one.get("key").and_then(Value::as_str) != Some("ips") {
            return Err(shape("the setting is not `ips`"));
        }
        Self::new(one.clone())
    }

    fn new(setting: Map<String, Value>) -> Result<Self, Unknown> {
        let shape = |what: &str| Err(Unknown::Shape(what.to_owned()));
        if !setting.get("ips_mode").is_some_and(Value::is_string) {
            return shape("no `ips_mode`");
        }
        match setting.get(SUPPRESSION) {
            None => {}
            Some(Value::Object(suppression)) => match suppression.get(WHITELIST) {
                None => {}
                Some(Value::Array(list)) if list.iter().all(Value::is_object) => {}
                Some(_) => return shape("`suppression.whitelist` is no list of entries"),
            },
            Some(_) => return shape("`suppression` is no object"),
        }
        Ok(Self(setting))
    }

    /// `ids`, `ips`, `ipsInline` or `disabled`.
    pub fn mode(&self) -> String {
        self.0.get("ips_mode").and_then(Value::as_str).map(printable).unwrap_or_default()
    }

    pub fn has(&self, exemption: &Exemption) -> bool {
        self.whitelist().iter().any(|entry| exemption.is_met_by(entry))
    }

    /// The whole `suppression` with one entry more: a nested object is replaced as a whole, so all
    /// that is in it has to be sent again.
    pub fn suppression_with(&self, exemption: &Exemption) -> Value {
        let there = self.0.get(SUPPRESSION).and_then(Value::as_object);
        let mut suppression = there.cloned().unwrap_or_default();
        let mut list = self.whitelist().to_vec();
        list.push(exemption.entry());
        suppression.insert(WHITELIST.to_owned(), Value::Array(list));
        Value::Object(suppression)
    }

    fn whitelist(&self) -> &[Value] {
        let suppression = self.0.get(SUPPRESSION);
        let list = suppression.and_then(|suppression| suppression.get(WHITELIST));
        list.and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// All but the whitelist, which has an order of its own.
    fn rest(&self) -> Map<String, Value> {
        let mut rest = self.0.clone();
        let suppression = rest.remove(SUPPRESSION);
        let mut suppression = match suppression {
            Some(Value::Object(suppression)) => suppression,
            _ => Map::new(),
        };
        suppression.remove(WHITELIST);
        // One that holds nothing is as good as none: the first entry makes it.
        if suppression.get("alerts").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            suppression.remove("alerts");
        }
        rest.insert(SUPPRESSION.to_owned(), Value::Object(suppression));
        rest
    }
}

/// The entries of `after` that were not in `before`.
pub fn added(before: &Setting, after: &Setting) -> Vec<Value> {
    let mut more = after.whitelist().to_vec();
    for entry in before.whitelist() {
        if let Some(nth) = more.iter().position(|other| other == entry) {
            more.remove(nth);
        }
    }
    more
}

/// What `after` has different from `before`, but for the one entry that was to be added; a line for
/// each. No field is left out of the comparison: none is known to change by itself.
pub fn differences(before: &Setting, after: &Setting, wanted: &Exemption) -> Vec<String> {
    let mut lines = Vec::new();
    for lost in added(after, before) {
        lines.push(format!("suppression.whitelist: lost {lost}"));
    }
    let mut ours = 0;
    for more in added(before, after) {
        ours += usize::from(wanted.is_met_by(&more));
        if !wanted.is_met_by(&more) || ours > 1 {
            lines.push(format!("suppression.whitelist: added {more}"));
        }
    }
    let (old, new) = (Value::Object(before.rest()), Value::Object(after.rest()));
    compare("", &old, &new, &mut lines);
    lines
}

fn compare(at: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    if old == new {
        return;
    }
    if let (Value::Object(olds), Value::Object(news)) = (old, new) {
        let more = news.keys().filter(|key| !olds.contains_key(*key));
        for key in olds.keys().chain(more) {
            let (one, other) = (olds.get(key), news.get(key));
            let at =
                if at.is_empty() { printable(key) } else { format!("{at}.{}", printable(key)) };
            compare(&at, one.unwrap_or(&Value::Null), other.unwrap_or(&Value::Null), lines);
        }
        return;
    }
    let top = at.split('.').next().unwrap_or(at);
    if SHOWN.contains(&top) {
        lines.push(format!("{at}: {old} -> {new}"));
    } else {
        lines.push(format!("{at}: changed (values not shown)"));
    }
}

#[cfg(test)]
#[path = "setting_tests.rs"]
mod tests;
