//! What a ruleset of somebody else's does with one packet, as far as that can be read from it.
//!
//! Three answers: yes, no, maybe. What is not understood is *maybe*, and makes everything after it
//! no more certain than that.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    No,
    Maybe,
    Yes,
}

use Truth::{Maybe, No, Yes};

impl Truth {
    fn not(self) -> Self {
        match self {
            No => Yes,
            Maybe => Maybe,
            Yes => No,
        }
    }

    fn of(known: bool) -> Self {
        if known { Yes } else { No }
    }
}

/// Something that is known of a packet.
#[derive(Debug, Clone)]
pub enum Fact {
    Word(String),
    Number(u64),
    Address(IpAddr),
}

/// What is known, by the words of nft: `oifname`, `daddr`, `dport`, `state`.
pub type Facts = BTreeMap<&'static str, Fact>;

/// The verdict of a chain, and whether a rule or the chain's policy gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub chain: String,
    /// Handle of the rule; `None`: the policy.
    pub rule: Option<u64>,
    pub sure: bool,
}

/// How a packet comes out of a chain.
#[derive(PartialEq, Eq)]
enum Way {
    /// By a verdict, of whatever kind.
    Ended,
    /// To where the chain was called from.
    Back,
}

/// One table, with its chains and sets.
pub struct Table<'ruleset> {
    rules: BTreeMap<&'ruleset str, Vec<&'ruleset Value>>,
    sets: BTreeMap<&'ruleset str, &'ruleset Value>,
}

/// A walk of one packet through one table.
struct Walk<'walk> {
    table: &'walk Table<'walk>,
    facts: &'walk Facts,
    sure: bool,
    /// Whether it may have been accepted or refused on the way.
    may_have_ended: bool,
    found: Vec<Refusal>,
    /// Jumps deep: nft allows no loop, a listing that has one is not followed for ever.
    depth: usize,
}

/// The kernel's own limit (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

impl<'ruleset> Table<'ruleset> {
    /// `objects`: (kind, body) of this table alone.
    pub fn of(objects: impl Iterator<Item = (&'ruleset str, &'ruleset Value)>) -> Self {
        let mut table = Self { rules: BTreeMap::new(), sets: BTreeMap::new() };
        for (kind, body) in objects {
            match (kind, body["chain"].as_str(), body["name"].as_str()) {
                ("rule", Some(chain), _) => table.rules.entry(chain).or_default().push(body),
                ("set" | "map", _, Some(name)) => drop(table.sets.insert(name, &body["elem"])),
                _ => {}
            }
        }
        table
    }

    /// What refuses the packet in a base chain, or may. `sure`: whether it comes there at all.
    pub fn refusals(&self, chain: &str, policy: &str, facts: &Facts, sure: bool) -> Vec<Refusal> {
        let mut walk =
            Walk { table: self, facts, sure, may_have_ended: false, found: Vec::new(), depth: 0 };
        if walk.chain(chain) == Way::Back && policy == "drop" {
            walk.refuse(chain, None, Yes);
        }
        walk.found
    }

    /// The elements of a set, by its name too.
    fn elements<'set>(&'set self, set: &'set Value) -> Vec<&'set Value> {
        let named = set.as_str().and_then(|name| self.sets.get(name.strip_prefix('@')?));
        let list = named.copied().or_else(|| set.get("set")).unwrap_or(set);
        list.as_array().into_iter().flatten().collect()
    }
}

impl Walk<'_> {
    fn chain(&mut self, name: &str) -> Way {
        let rules = self.table.rules.get(name).map(Vec::as_slice).unwrap_or_default();
        if self.depth == DEPTH {
            return Way::Back;
        }
        self.depth += 1;
        let mut way = Way::Back;
        for rule in rules {
            if let Some(ended) = self.rule(name, rule) {
                way = ended;
                break;
            }
        }
        self.depth -= 1;
        way
    }

    /// `None`: on to the next rule.
    fn rule(&mut self, chain: &str, rule: &Value) -> Option<Way> {
        let mut meets = Yes;
        for statement in rule["expr"].as_array().into_iter().flatten() {
            let Some((kind, body)) = statement.as_object().and_then(|object| object.iter().next())
            else {
                continue;
            };
            match kind.as_str() {
                "match" => meets = meets.min(self.matches(body)),
                "vmap" => return self.by_map(chain, rule, body, meets),
                // A rate, a quota, an xtables match: who knows.
                "limit" | "quota" | "xt" | "connlimit" => meets = meets.min(Maybe),
                _ => {
                    let way = self.verdict(chain, rule, (kind, body), meets);
                    if way.is_some() {
                        return way;
                    }
                }
            }
            if meets == No {
                return None;
            }
        }
        None
    }

    /// `None`: no verdict, or one that does not end the way here. A verdict is a rule's last word.
    fn verdict(
        &mut self,
        chain: &str,
        rule: &Value,
        (kind, body): (&str, &Value),
        meets: Truth,
    ) -> Option<Way> {
        let ends = match kind {
            "drop" | "reject" => {
                self.refuse(chain, rule["handle"].as_u64(), meets);
                Way::Ended
            }
            "accept" | "queue" | "dnat" | "snat" | "masquerade" | "redirect" => Way::Ended,
            "return" => Way::Back,
            "jump" | "goto" => return self.call(kind, body["target"].as_str()?, meets),
            _ => return None,
        };
        if meets == Yes {
            return Some(ends);
        }
        // It may have ended here, so what follows is no more certain.
        self.sure = false;
        self.may_have_ended |= ends == Way::Ended;
        None
    }

    fn call(&mut self, kind: &str, target: &str, meets: Truth) -> Option<Way> {
        let (sure, before) = (self.sure, std::mem::take(&mut self.may_have_ended));
        self.sure &= meets == Yes;
        let way = self.chain(target);
        let ends_in_there = self.may_have_ended || way == Way::Ended;
        self.may_have_ended |= before;
        if meets == Yes {
            return (kind == "goto" || way == Way::Ended).then_some(way);
        }
        // Gone in or not, where it comes out again what follows is as certain as before.
        self.sure = sure && kind == "jump" && !ends_in_there;
        self.may_have_ended |= ends_in_there;
        None
    }

    fn by_map(&mut self, chain: &str, rule: &Value, body: &Value, meets: Truth) -> Option<Way> {
        let table = self.table;
        for pair in table.elements(&body["data"]) {
            let key = self.same(&body["key"], &pair[0]).min(meets);
            let verdict = pair[1].as_object().and_then(|object| object.iter().next());
            if let (Yes | Maybe, Some((kind, body))) = (key, verdict) {
                let way = self.verdict(chain, rule, (kind, body), key);
                if way.is_some() {
                    return way;
                }
            }
        }
        None
    }

    fn refuse(&mut self, chain: &str, rule: Option<u64>, meets: Truth) {
        let sure = self.sure && meets == Yes;
        self.found.push(Refusal { chain: chain.to_owned(), rule, sure });
    }

    fn matches(&self, body: &Value) -> Truth {
        // A rule on another protocol's header does not match, whatever it asks of it.
        if self.is_other_protocol(&body["left"]) {
            return No;
        }
        let same = self.same(&body["left"], &body["right"]);
        match body["op"].as_str() {
            Some("==" | "in") => same,
            Some("!=") => same.not(),
            _ => Maybe,
        }
    }

    fn is_other_protocol(&self, left: &Value) -> bool {
        let differs = |fact: &str, word: &str| matches!(self.facts.get(fact), Some(Fact::Word(known)) if known != word);
        match left["payload"]["protocol"].as_str() {
            Some(ip @ ("ip" | "ip6")) => differs("protocol", ip),
            Some("icmpv6") => differs("l4proto", "ipv6-icmp"),
            Some(l4 @ ("udp" | "tcp" | "icmp" | "sctp" | "dccp")) => differs("l4proto", l4),
            _ => false,
        }
    }

    /// Whether what `left` takes from the packet is `right`, or among it.
    fn same(&self, left: &Value, right: &Value) -> Truth {
        let several = matches!(right, Value::Array(_))
            || right.get("set").is_some()
            || right.as_str().is_some_and(|name| name.starts_with('@'));
        if several {
            let each = self.table.elements(right).into_iter().map(|one| self.same(left, one));
            return each.max().unwrap_or(No);
        }
        if let Some(value) = right["elem"].get("val") {
            return self.same(left, value);
        }
        if let (Some(lefts), Some(rights)) = (left["concat"].as_array(), right["concat"].as_array())
        {
            let parts = lefts.iter().zip(rights);
            return parts.map(|(left, right)| self.same(left, right)).min().unwrap_or(Maybe);
        }
        let name = |of: &str, key: &str| left[of][key].as_str();
        let name = name("meta", "key").or(name("payload", "field")).or(name("ct", "key"));
        let name = name.map(|name| match name {
            "iif" => "iifname",
            "oif" => "oifname",
            other => other,
        });
        name.and_then(|name| self.facts.get(name)).map_or(Maybe, |fact| fact.is(right))
    }
}

impl Fact {
    fn is(&self, right: &Value) -> Truth {
        match (self, right) {
            (Self::Address(address), right) => is_address(*address, right),
            (Self::Number(number), Value::Number(wanted)) => {
                Truth::of(wanted.as_u64() == Some(*number))
            }
            (Self::Number(number), right) => {
                let limit = |at: usize| right["range"][at].as_u64();
                let (low, high) = (limit(0), limit(1));
                low.zip(high).map_or(Maybe, |(low, high)| Truth::of((low..=high).contains(number)))
            }
            (Self::Word(word), Value::String(wanted)) => {
                let start = wanted.strip_suffix('*');
                Truth::of(start.map_or(word == wanted, |start| word.starts_with(start)))
            }
            (Self::Word(_), _) => Maybe,
        }
    }
}

fn is_address(address: IpAddr, right: &Value) -> Truth {
    let prefix = &right["prefix"];
    if let (Some(net), Some(length)) = (prefix["addr"].as_str(), prefix["len"].as_u64()) {
        let net = net.parse().ok().zip(u8::try_from(length).ok());
        let net = net.and_then(|(net, length)| IpNet::new(net, length).ok());
        return net.map_or(Maybe, |net| Truth::of(net.contains(&address)));
    }
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    if let (Some(low), Some(high)) = (parse(&right["range"][0]), parse(&right["range"][1])) {
        return Truth::of((low..=high).contains(&address));
    }
    parse(right).map_or(Maybe, |wanted| Truth::of(wanted == address))
}
