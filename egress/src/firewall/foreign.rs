//! Where a rule of another program blocks what a path needs: said with its table and chain.
//!
//! Read from the ruleset, nothing is sent and nothing is changed. What is read with certainty
//! *blocks*, what rests on something that is not understood *may block*.

use std::fmt;

use serde_json::Value;

use super::nft::{self, NftError, Ruleset};
use super::reading::{Fact, Facts, Refusal, Table};
use super::rules::Rules;

/// Ours begin like this.
const OURS: &str = "vpn_egress";

const OUT: &[&str] = &["output", "postrouting", "egress"];
const IN: &[&str] = &["ingress", "prerouting", "input"];
const THROUGH: &[&str] = &["prerouting", "forward", "postrouting"];

/// A rule, or a policy, that is in a path's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// What it stops.
    what: String,
    table: String,
    refusal: Refusal,
}

impl Blocked {
    pub fn is_sure(&self) -> bool {
        self.refusal.sure
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { chain, rule, sure } = &self.refusal;
        let verb = if *sure { "blocks" } else { "may block" };
        let by = rule.map_or("policy drop".to_owned(), |handle| format!("rule handle {handle}"));
        write!(
            f,
            "table {}, chain {chain} {verb} {} ({by}): accept it there",
            self.table, self.what
        )
    }
}

/// A packet that has to pass, and the hooks that it passes.
struct Needed {
    what: String,
    hooks: &'static [&'static str],
    facts: Facts,
}

/// What is in the way of `path`, in every table that is not ours. `uplink`: the device that its
/// packets leave by, where there is one only.
pub fn blocked(path: &Rules, uplink: Option<&str>) -> Result<Vec<Blocked>, NftError> {
    let ruleset = Ruleset::of(nft::list(&["ruleset"])?.unwrap_or_default());
    Ok(find(&ruleset, &needed(path, uplink)))
}

fn find(ruleset: &Ruleset, needed: &[Needed]) -> Vec<Blocked> {
    let foreign = |body: &Value| !body["table"].as_str().unwrap_or_default().starts_with(OURS);
    let mut found = Vec::new();
    for (_, base) in ruleset.objects().filter(|(kind, body)| *kind == "chain" && foreign(body)) {
        let text = |key: &str| base[key].as_str().unwrap_or_default();
        let (family, hook) = (text("family"), text("hook"));
        let same_table =
            |body: &Value| ["family", "table"].iter().all(|key| body[key] == base[key]);
        let table = Table::of(ruleset.objects().filter(|(_, body)| same_table(body)));
        for packet in needed.iter().filter(|packet| packet.hooks.contains(&hook)) {
            if !packet.is_of(family) {
                continue;
            }
            // nft 1.0.6 does not say which device a chain of this family is at.
            let sure = family != "netdev";
            let refusals = table.refusals(text("name"), text("policy"), &packet.facts, sure);
            found.extend(refusals.into_iter().map(|refusal| Blocked {
                what: packet.what.clone(),
                table: format!("{family} {}", text("table")),
                refusal,
            }));
        }
    }
    found.sort_by_key(|blocked| !blocked.is_sure());
    found
}

impl Needed {
    fn is_of(&self, family: &str) -> bool {
        let protocol = match self.facts.get("protocol") {
            Some(Fact::Word(word)) => word.as_str(),
            _ => return true,
        };
        ["inet", "netdev", protocol].contains(&family)
    }
}

fn word(word: &str) -> Fact {
    Fact::Word(word.to_owned())
}

fn needed(path: &Rules, uplink: Option<&str>) -> Vec<Needed> {
    let mut needed = Vec::new();
    let mut add = |what: String, hooks, facts: Vec<(&'static str, Option<Fact>)>| {
        let facts = facts.into_iter().filter_map(|(name, fact)| Some((name, fact?)));
        // No packet of these is translated, so none has this status.
        let facts = facts.chain([("status", word("none"))]).collect();
        needed.push(Needed { what, hooks, facts });
    };
    let tunnel = || Some(word(&path.interface));
    for endpoint in &path.endpoints {
        let v4 = endpoint.is_ipv4();
        let common = |ports: &'static str, addresses: &'static str| {
            vec![
                ("protocol", Some(word(if v4 { "ip" } else { "ip6" }))),
                ("nfproto", Some(word(if v4 { "ipv4" } else { "ipv6" }))),
                ("l4proto", Some(word("udp"))),
                (ports, Some(Fact::Number(endpoint.port().into()))),
                (addresses, Some(Fact::Address(endpoint.ip()))),
            ]
        };
        let mut out = common("dport", "daddr");
        out.push(("oifname", uplink.map(word)));
        out.push(("mark", Some(Fact::Number(path.fwmark.into()))));
        out.push(("state", Some(word("new"))));
        add(format!("handshakes to {endpoint}"), OUT, out);
        let mut answers = common("sport", "saddr");
        answers.push(("iifname", uplink.map(word)));
        answers.push(("state", Some(word("established"))));
        add(format!("answers from {endpoint}"), IN, answers);
    }
    // A connection as most are, of the family that every tunnel has.
    let connection = |port: &'static str, state: &str, devices: [Option<Fact>; 2]| {
        let [enters, leaves] = devices;
        vec![
            ("protocol", Some(word("ip"))),
            ("nfproto", Some(word("ipv4"))),
            ("l4proto", Some(word("tcp"))),
            (port, Some(Fact::Number(443))),
            ("state", Some(word(state))),
            ("iifname", enters),
            ("oifname", leaves),
        ]
    };
    let name = &path.interface;
    let into = connection("dport", "new", [None, tunnel()]);
    add(format!("what this host sends into {name}"), OUT, into);
    let answers = connection("sport", "established", [tunnel(), None]);
    add(format!("answers out of {name}"), IN, answers);
    for bridge in path.allow_interfaces.iter().chain(path.workload.interfaces()) {
        let into = connection("dport", "new", [Some(word(bridge)), tunnel()]);
        add(format!("what is forwarded from {bridge} into {name}"), THROUGH, into);
        let answers = connection("sport", "established", [tunnel(), Some(word(bridge))]);
        add(format!("answers forwarded from {name} to {bridge}"), THROUGH, answers);
    }
    needed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A foreign table with one base chain at `hook`, and these rules.
    fn ruleset(hook: &str, policy: &str, rules: &[Value]) -> Ruleset {
        let chain = |name: &str| json!({"family": "inet", "table": "theirs", "name": name});
        let mut base = chain("base");
        for (key, value) in [("type", "filter"), ("hook", hook), ("policy", policy)] {
            base[key] = json!(value);
        }
        let mut objects = vec![json!({"chain": base}), json!({"chain": chain("other")})];
        objects.push(json!({"set": {"family": "inet", "table": "theirs", "name": "s",
            "elem": [{"prefix": {"addr": "198.51.100.0", "len": 24}}]}}));
        for (at, rule) in rules.iter().enumerate() {
            let (chain, expr) = match rule.get("in_other") {
                Some(expr) => ("other", expr),
                None => ("base", rule),
            };
            objects.push(json!({"rule": {"family": "inet", "table": "theirs", "chain": chain,
                "handle": at, "expr": expr}}));
        }
        Ruleset::of(objects)
    }

    fn is(of: &str, key: &str, op: &str, right: &Value) -> Value {
        let left = match of {
            "meta" | "ct" => json!({of: {"key": key}}),
            protocol => json!({"payload": {"protocol": protocol, "field": key}}),
        };
        json!({"match": {"op": op, "left": left, "right": right}})
    }

    /// The handshake's packet, to 198.51.100.10:51820 by eth0.
    fn handshake() -> Needed {
        let facts = [
            ("protocol", word("ip")),
            ("l4proto", word("udp")),
            ("daddr", Fact::Address("198.51.100.10".parse().expect("an address"))),
            ("dport", Fact::Number(51820)),
            ("oifname", word("eth0")),
            ("mark", Fact::Number(51820)),
            ("state", word("new")),
        ];
        Needed { what: "it".into(), hooks: OUT, facts: facts.into() }
    }

    /// Each refusal as (rule, sure); -1 is the policy.
    fn read(policy: &str, rules: &[Value]) -> Vec<(i64, bool)> {
        let found = find(&ruleset("output", policy, rules), &[handshake()]);
        let rule = |refusal: &Refusal| {
            refusal.rule.map_or(-1, |handle| i64::try_from(handle).expect("small"))
        };
        found.iter().map(|one| (rule(&one.refusal), one.refusal.sure)).collect()
    }

    #[test]
    fn what_blocks_is_told_from_what_may_and_what_does_not() {
        let (drop, accept) = (json!({"drop": null}), json!({"accept": null}));
        let port = |port: u32| is("udp", "dport", "==", &json!(port));
        let unknown = is("meta", "skuid", "==", &json!(1000));
        let rules =
            |lines: &[&[&Value]]| -> Vec<Value> { lines.iter().map(|line| json!(line)).collect() };
        let none: &[(i64, bool)] = &[];
        // Ports, ranges, sets, named sets, prefixes, negation, marks, another protocol, another way.
        assert_eq!(read("accept", &rules(&[&[&port(51820), &drop]])), [(0, true)]);
        assert_eq!(read("accept", &rules(&[&[&port(51821), &drop]])), none);
        for (of, key, op, right, hit) in [
            ("udp", "dport", "==", json!({"range": [50000, 60000]}), true),
            ("udp", "dport", "==", json!({"set": [53, 51820]}), true),
            ("udp", "dport", "!=", json!(53), true),
            ("udp", "dport", "!=", json!({"set": [53, 51820]}), false),
            ("tcp", "dport", "!=", json!(53), false),
            ("ip", "daddr", "==", json!("@s"), true),
            ("ip", "daddr", "==", json!({"prefix": {"addr": "10.0.0.0", "len": 8}}), false),
            ("ip6", "daddr", "!=", json!("::1"), false),
            ("meta", "oifname", "==", json!("eth*"), true),
            ("meta", "oif", "==", json!("wg0"), false),
            ("meta", "mark", "==", json!(51820), true),
            ("ct", "state", "in", json!(["established", "related"]), false),
            ("ct", "state", "in", json!("new"), true),
        ] {
            let found = read("accept", &rules(&[&[&is(of, key, op, &right), &drop]]));
            let wanted: &[(i64, bool)] = if hit { &[(0, true)] } else { none };
            assert_eq!(found, wanted, "{of} {key} {op} {right}");
        }
        // The policy, and what comes before it.
        assert_eq!(read("drop", &[]), [(-1, true)]);
        assert_eq!(read("drop", &rules(&[&[&accept]])), none);
        assert_eq!(read("drop", &rules(&[&[&unknown, &accept]])), [(-1, false)]);
        // What is not understood.
        assert_eq!(read("accept", &rules(&[&[&unknown, &drop]])), [(0, false)]);
        assert_eq!(read("accept", &rules(&[&[&json!({"xt": null}), &drop]])), [(0, false)]);
        assert_eq!(
            read("accept", &rules(&[&[&unknown, &accept], &[&port(51820), &drop]])),
            [(1, false)]
        );
    }

    #[test]
    fn jumps_and_maps_are_followed() {
        let (drop, accept) = (json!({"drop": null}), json!({"accept": null}));
        let unknown = is("meta", "skuid", "==", &json!(1000));
        let to = |kind: &str| json!({kind: {"target": "other"}});
        let in_other = |expr: &Value| json!({"in_other": [expr]});
        for kind in ["jump", "goto"] {
            assert_eq!(read("accept", &[json!([to(kind)]), in_other(&drop)]), [(1, true)]);
            assert_eq!(
                read("accept", &[json!([unknown, to(kind)]), in_other(&drop)]),
                [(1, false)]
            );
            let back = [json!([to(kind)]), in_other(&json!({"return": null})), json!([drop])];
            // Back from a jump the rules go on; from a goto the policy is next.
            assert_eq!(read("accept", &back).len(), usize::from(kind == "jump"), "{kind}");
            assert_eq!(read("drop", &[json!([to(kind)]), in_other(&accept)]), []);
        }
        // Gone in or not, it comes out again: the next rule is as certain as before.
        let harmless = [json!([unknown, to("jump")]), in_other(&json!({"counter": null}))];
        assert_eq!(read("drop", &harmless), [(-1, true)]);
        let map = |device: &str, verdict: &Value| {
            let key = json!({"meta": {"key": "oifname"}});
            json!([{"vmap": {"key": key, "data": {"set": [[device, verdict], ["lo", {"drop": null}]]}}}])
        };
        assert_eq!(read("accept", &[map("eth0", &drop)]), [(0, true)]);
        assert_eq!(read("accept", &[map("wg0", &drop)]), []);
        assert_eq!(read("drop", &[map("eth0", &accept)]), []);
        assert_eq!(read("accept", &[map("eth0", &to("jump")), in_other(&drop)]), [(1, true)]);
    }

    #[test]
    fn our_own_tables_are_not_foreign() {
        let ours = json!({"chain": {"family": "inet", "table": "vpn_egress", "name": "output",
            "hook": "output", "policy": "drop"}});
        assert_eq!(find(&Ruleset::of(vec![ours]), &[handshake()]), []);
    }
}
