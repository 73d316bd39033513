//! A table as the kernel has it: comparable with another listing, and its counters.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use nftables::types::NfFamily;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::netlink;
use super::nft::{self, NftError};

#[derive(Debug, Clone)]
pub struct Listing {
    objects: Arc<Vec<Value>>,
    /// Apart from the objects: they move while the rules stay.
    counters: BTreeMap<String, Count>,
    /// Made when it is first asked for.
    digest: Arc<OnceLock<String>>,
}

impl PartialEq for Listing {
    fn eq(&self, other: &Self) -> bool {
        self.objects == other.objects && self.counters == other.counters
    }
}

/// A named counter's value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

pub fn family_word(family: NfFamily) -> &'static str {
    match family {
        NfFamily::NetDev => "netdev",
        _ => "inet",
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

impl Listing {
    pub fn of(objects: Vec<Value>) -> Self {
        let counters = objects.iter().filter_map(|object| counter(object.get("counter")?));
        let counters = counters.collect();
        Self { objects: Arc::new(objects), counters, digest: Arc::default() }
    }

    /// The same rules, as they have counted since; `None` where these are not the same counters.
    pub fn counted(&self, counters: BTreeMap<String, Count>) -> Option<Self> {
        let same = self.counters.keys().eq(counters.keys());
        same.then(|| Self { counters, ..self.clone() })
    }

    pub fn read(family: NfFamily, table: &str) -> Result<Option<Self>, NftError> {
        let objects = nft::list(&["table", family_word(family), table])?;
        Ok(objects.map(Self::of))
    }

    /// The same of one that mostly is not there: to be told so takes no process.
    pub fn read_if_there(family: NfFamily, table: &str) -> Result<Option<Self>, NftError> {
        match netlink::has_table(family, table) {
            Ok(false) => Ok(None),
            _ => Self::read(family, table),
        }
    }

    /// (kind, body) of every object.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.objects.iter().filter_map(|object| {
            let (kind, body) = object.as_object()?.iter().next()?;
            Some((kind.as_str(), body))
        })
    }

    pub fn has(&self, kind: &str, name: &str) -> bool {
        self.objects().any(|(its, body)| its == kind && body["name"] == name)
    }

    pub fn counter(&self, name: &str) -> Option<Count> {
        self.counters.get(name).copied()
    }

    /// The kernel gives no number twice: another one is a table that was made anew.
    pub fn table_handle(&self) -> Option<u64> {
        let table = self.objects().find(|(kind, _)| *kind == "table");
        table.and_then(|(_, body)| body["handle"].as_u64())
    }

    pub fn has_counters(&self) -> bool {
        !self.counters.is_empty()
    }

    /// SHA-256 over all that makes the rules what they are: not handles, not counts, not the order
    /// in which nft lists a set. Rules keep their order, which decides what they do.
    pub fn digest(&self) -> String {
        self.digest.get_or_init(|| self.compute_digest()).clone()
    }

    fn compute_digest(&self) -> String {
        let mut objects: Vec<String> = Vec::new();
        let mut rules: Vec<(&str, String)> = Vec::new();
        for (kind, body) in self.objects() {
            let text = format!("{kind} {}", normal(body));
            if kind == "rule" {
                rules.push((body["chain"].as_str().unwrap_or_default(), text));
            } else {
                objects.push(text);
            }
        }
        // Within a chain the order counts; between chains nft may list as it likes.
        rules.sort_by_key(|(chain, _)| *chain);
        objects.sort();
        let mut hash = Sha256::new();
        for line in objects.iter().chain(rules.iter().map(|(_, text)| text)) {
            hash.update(line);
            hash.update("\n");
        }
        hex(&hash.finalize())
    }

    pub fn rules(&self) -> usize {
        self.objects().filter(|(kind, _)| *kind == "rule").count()
    }
}

fn counter(body: &Value) -> Option<(String, Count)> {
    let count = Count { packets: body["packets"].as_u64()?, bytes: body["bytes"].as_u64()? };
    Some((body["name"].as_str()?.to_owned(), count))
}

fn normal(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        for moving in ["handle", "packets", "bytes"] {
            fields.remove(moving);
        }
        if let Some(Value::Array(elements)) = fields.get_mut("elem") {
            elements.sort_by_key(ToString::to_string);
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(chain: &str, handle: u32, verdict: &str) -> Value {
        json!({"rule": {"chain": chain, "handle": handle, "expr": [{verdict: null}]}})
    }

    #[test]
    fn s7_what_changes_a_rule_changes_the_digest_and_nothing_else_does() {
        let set = |elements: Value| json!({"set": {"name": "s", "handle": 1, "elem": elements}});
        let counter = |packets: u64| json!({"counter": {"name": "c", "packets": packets}});
        let base = Listing::of(vec![
            set(json!(["1.1.1.1", "2.2.2.2"])),
            counter(0),
            rule("a", 1, "accept"),
            rule("a", 2, "drop"),
            rule("b", 3, "drop"),
        ]);
        let same = Listing::of(vec![
            counter(77),
            set(json!(["2.2.2.2", "1.1.1.1"])),
            rule("b", 9, "drop"),
            rule("a", 10, "accept"),
            rule("a", 11, "drop"),
        ]);
        assert_eq!(base.digest(), same.digest());
        let reordered = Listing::of(vec![
            set(json!(["1.1.1.1", "2.2.2.2"])),
            counter(0),
            rule("a", 1, "drop"),
            rule("a", 2, "accept"),
            rule("b", 3, "drop"),
        ]);
        let widened = Listing::of(vec![
            set(json!(["1.1.1.1", "2.2.2.2", "3.3.3.3"])),
            counter(0),
            rule("a", 1, "accept"),
            rule("a", 2, "drop"),
            rule("b", 3, "drop"),
        ]);
        assert_ne!(base.digest(), reordered.digest());
        assert_ne!(base.digest(), widened.digest());
    }

    #[test]
    fn a_missing_counter_is_not_zero() {
        let listing = Listing::of(vec![
            json!({"counter": {"name": "c", "packets": 5_000_000_000_u64, "bytes": 1}}),
        ]);
        assert_eq!(listing.counter("c"), Some(Count { packets: 5_000_000_000, bytes: 1 }));
        assert_eq!(listing.counter("d"), None);
    }
}
