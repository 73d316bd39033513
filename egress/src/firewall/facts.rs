//! What is known of a packet, and whether an expression of somebody else's rule matches it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// Three-valued: an expression that is not understood is *maybe*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    No,
    Maybe,
    Yes,
}

use Truth::{Maybe, No, Yes};

impl Truth {
    pub fn not(self) -> Self {
        match self {
            No => Yes,
            Maybe => Maybe,
            Yes => No,
        }
    }

    pub fn of(known: bool) -> Self {
        if known { Yes } else { No }
    }

    /// Certain where all of several possibilities agree.
    fn of_all(each: impl Iterator<Item = Self>) -> Self {
        let mut each = each;
        let Some(first) = each.next() else { return Maybe };
        if each.all(|one| one == first) { first } else { Maybe }
    }
}

/// Something that is known of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Word(String),
    Number(u64),
    Address(IpAddr),
    /// One of these.
    OneOf(Vec<IpAddr>),
    /// An address of the internet: in none of these networks.
    Outside(Vec<IpNet>),
}

/// What is known, by nft's own names: `oifname`, `daddr`, `dport`, `ct state`.
pub type Facts = BTreeMap<&'static str, Fact>;

/// The name under which [`Facts`] knows what `left` takes from a packet.
pub fn name_of(left: &Value) -> Option<&'static str> {
    if let Some(key) = left["meta"]["key"].as_str() {
        return match key {
            "iif" | "iifname" => Some("iifname"),
            "oif" | "oifname" => Some("oifname"),
            "nfproto" => Some("nfproto"),
            "protocol" => Some("protocol"),
            "l4proto" => Some("l4proto"),
            "mark" => Some("mark"),
            _ => None,
        };
    }
    if let Some(field) = left["payload"]["field"].as_str() {
        let protocol = left["payload"]["protocol"].as_str().unwrap_or_default();
        return match (protocol, field) {
            ("ip", "protocol") | ("ip6", "nexthdr") => Some("l4proto"),
            ("ip" | "ip6", "saddr") => Some("saddr"),
            ("ip" | "ip6", "daddr") => Some("daddr"),
            ("tcp" | "udp" | "th" | "sctp" | "dccp" | "udplite", "sport") => Some("sport"),
            ("tcp" | "udp" | "th" | "sctp" | "dccp" | "udplite", "dport") => Some("dport"),
            _ => None,
        };
    }
    let ct = &left["ct"];
    if ct.get("dir").is_none_or(Value::is_null) {
        match ct["key"].as_str() {
            Some("state") => return Some("ct state"),
            Some("status") => return Some("ct status"),
            Some("mark") => return Some("ct mark"),
            _ => {}
        }
    }
    let fib = &left["fib"];
    let only_destination =
        fib["flags"].as_str() == Some("daddr") || fib["flags"] == serde_json::json!(["daddr"]);
    (fib["result"] == "type" && only_destination).then_some("fib daddr type")
}

/// Whether `left` is of a header that this packet does not have.
pub fn is_other_protocol(facts: &Facts, left: &Value) -> bool {
    let differs = |fact: &str, word: &str| matches!(facts.get(fact), Some(Fact::Word(known)) if known != word);
    match left["payload"]["protocol"].as_str() {
        Some(ip @ ("ip" | "ip6")) => differs("protocol", ip),
        Some("icmpv6") => differs("l4proto", "ipv6-icmp"),
        Some(l4 @ ("udp" | "tcp" | "icmp" | "sctp" | "dccp")) => differs("l4proto", l4),
        _ => false,
    }
}

/// The value of an arithmetic expression over the two marks, as far as it is known.
pub fn number(expression: &Value, mark: Option<u64>, facts: &Facts) -> Option<u64> {
    if let Some(number) = expression.as_u64() {
        return Some(number);
    }
    match name_of(expression) {
        Some("mark") => return mark,
        Some(name) => {
            return match facts.get(name) {
                Some(Fact::Number(number)) => Some(*number),
                _ => None,
            };
        }
        None => {}
    }
    let (operator, operands) = expression.as_object()?.iter().next()?;
    let mut values = operands.as_array()?.iter().map(|one| number(one, mark, facts));
    let first = values.next()??;
    values.try_fold(first, |left, right| {
        let right = right?;
        Some(match operator.as_str() {
            "&" => left & right,
            "|" => left | right,
            "^" => left ^ right,
            "<<" => left.checked_shl(u32::try_from(right).ok()?)?,
            ">>" => left.checked_shr(u32::try_from(right).ok()?)?,
            _ => return None,
        })
    })
}

impl Fact {
    pub fn is(&self, right: &Value) -> Truth {
        match (self, right) {
            (Self::Address(address), right) => is_address(*address, right),
            (Self::OneOf(addresses), right) => {
                Truth::of_all(addresses.iter().map(|address| is_address(*address, right)))
            }
            (Self::Outside(networks), right) => is_outside(networks, right),
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

    /// Whether the number is below, or above, `limit`.
    pub fn compares(&self, operator: &str, limit: &Value) -> Truth {
        let (Self::Number(number), Some(limit)) = (self, limit.as_u64()) else {
            return Maybe;
        };
        match operator {
            "<" => Truth::of(*number < limit),
            "<=" => Truth::of(*number <= limit),
            ">" => Truth::of(*number > limit),
            ">=" => Truth::of(*number >= limit),
            _ => Maybe,
        }
    }
}

fn network(right: &Value) -> Option<IpNet> {
    let prefix = &right["prefix"];
    if let (Some(net), Some(length)) = (prefix["addr"].as_str(), prefix["len"].as_u64()) {
        return IpNet::new(net.parse().ok()?, u8::try_from(length).ok()?).ok();
    }
    Some(IpNet::from(right.as_str()?.parse::<IpAddr>().ok()?))
}

fn is_outside(networks: &[IpNet], right: &Value) -> Truth {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    let range = parse(&right["range"][0]).zip(parse(&right["range"][1]));
    let within = |low: IpAddr, high: IpAddr| {
        networks.iter().any(|net| net.contains(&low) && net.contains(&high))
    };
    match (network(right), range) {
        (Some(net), _) if net.prefix_len() == 0 => Yes,
        (Some(net), _) if within(net.network(), net.broadcast()) => No,
        (None, Some((low, high))) if within(low, high) => No,
        _ => Maybe,
    }
}

fn is_address(address: IpAddr, right: &Value) -> Truth {
    if let Some(net) = network(right) {
        return Truth::of(net.contains(&address));
    }
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    match (parse(&right["range"][0]), parse(&right["range"][1])) {
        (Some(low), Some(high)) => Truth::of((low..=high).contains(&address)),
        _ => Maybe,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_compared_as_far_as_they_are_known() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let lan: IpNet = "10.0.0.0/8".parse().expect("a network");
        let outside = Fact::Outside(vec![lan]);
        let two = Fact::OneOf(vec![address("10.0.0.2"), address("192.0.2.1")]);
        let prefix = |addr: &str, len: u8| json!({"prefix": {"addr": addr, "len": len}});
        for (fact, right, truth) in [
            (&outside, json!("10.1.2.3"), No),
            (&outside, prefix("10.1.0.0", 16), No),
            (&outside, json!({"range": ["10.0.0.1", "10.0.0.9"]}), No),
            (&outside, prefix("0.0.0.0", 0), Yes),
            (&outside, json!("198.51.100.1"), Maybe),
            (&outside, json!({"range": ["10.0.0.1", "11.0.0.1"]}), Maybe),
            (&two, prefix("0.0.0.0", 0), Yes),
            (&two, json!("10.0.0.2"), Maybe),
            (&two, json!("10.0.0.3"), No),
        ] {
            assert_eq!(fact.is(&right), truth, "{fact:?} {right}");
        }
    }

    #[test]
    fn an_expression_over_marks_is_calculated_where_all_of_it_is_known() {
        let (mark, ct) = (json!({"meta": {"key": "mark"}}), json!({"ct": {"key": "mark"}}));
        let facts = Facts::from([("ct mark", Fact::Number(0x0f))]);
        for (expression, value) in [
            (json!(7), Some(7)),
            (mark.clone(), Some(0xca6c)),
            (ct.clone(), Some(0x0f)),
            (json!({"&": [mark, 0xff]}), Some(0x6c)),
            (json!({"|": [{"&": [mark, 0xff00]}, 1]}), Some(0xca01)),
            (json!({"^": [ct, 1]}), Some(0x0e)),
            (json!({"<<": [1, 70]}), None),
            (json!({"&": [{"meta": {"key": "skuid"}}, 1]}), None),
            (json!({"map": {"key": mark, "data": "@m"}}), None),
        ] {
            assert_eq!(number(&expression, Some(0xca6c), &facts), value, "{expression}");
        }
    }
}
