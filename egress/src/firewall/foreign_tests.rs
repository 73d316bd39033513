//! Rulesets as `nft -j` prints them, and what of them harms a path. Real ones:
//! `tests/tests/interplay.rs`.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::reading::Place;
use super::*;
use crate::config::Workload;

/// A foreign table with one base chain, and these rules.
fn ruleset(
    (family, kind, hook, priority): (&str, &str, &str, i64),
    policy: &str,
    rules: &[Value],
) -> Ruleset {
    let chain = |name: &str| json!({"family": family, "table": "theirs", "name": name});
    let mut base = chain("base");
    for (key, value) in [("type", kind), ("hook", hook), ("policy", policy)] {
        base[key] = json!(value);
    }
    base["prio"] = json!(priority);
    let mut objects = vec![json!({"chain": base}), json!({"chain": chain("other")})];
    objects.push(json!({"set": {"family": family, "table": "theirs", "name": "s",
        "elem": [{"prefix": {"addr": "198.51.100.0", "len": 24}}]}}));
    for (at, rule) in rules.iter().enumerate() {
        let (chain, expr) = match rule.get("in_other") {
            Some(expr) => ("other", expr),
            None => ("base", rule),
        };
        objects.push(json!({"rule": {"family": family, "table": "theirs", "chain": chain,
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

/// The whole host, one endpoint, a bridge.
fn path() -> Rules {
    Rules {
        name: "media".parse().expect("a name"),
        interface: "wg0".to_owned(),
        fwmark: 51820,
        endpoints: vec!["198.51.100.10:51820".parse().expect("an address")],
        allow_interfaces: vec!["docker0".to_owned()],
        allow: vec!["10.0.0.7/32".parse().expect("a network")],
        workload: Workload::Host,
        ..Rules::blank()
    }
}

fn host() -> Addresses {
    let own = [("eth0", "10.0.0.2/24"), ("wg0", "10.64.0.2/32"), ("docker0", "172.17.0.1/16")];
    let net = |(device, net): (&str, &str)| (device.to_owned(), net.parse().expect("a network"));
    Addresses { uplink: Some("eth0".to_owned()), own: own.into_iter().map(net).collect() }
}

/// A host whose mark 0x100, and whose local network, are routed past the tunnel.
struct Lab;

impl Routing for Lab {
    fn leaves_by(&self, to: Option<IpAddr>, mark: u32) -> Option<String> {
        let local = to.is_some_and(|to| to.to_string().starts_with("10.0.0."));
        Some(if mark == 0x100 || local { "eth0" } else { "wg0" }.to_owned())
    }
}

fn found(ruleset: &Ruleset) -> Vec<Blocked> {
    find(ruleset, &XtRules::default(), &path(), &host(), &Lab).blocked
}

/// What is done to the handshake in a chain of output, as (rule, sure); -1 is the policy.
fn read(policy: &str, rules: &[Value]) -> Vec<(i64, bool)> {
    let found = found(&ruleset(("inet", "filter", "output", 0), policy, rules));
    let handshake = found.iter().filter(|one| one.what.starts_with("handshakes"));
    let rule =
        |place: &Place| place.rule.map_or(-1, |handle| i64::try_from(handle).expect("small"));
    handshake.map(|one| (rule(&one.effect.place), one.effect.sure)).collect()
}

/// Each finding in words, without the remedy.
fn said(at: (&str, &str, &str, i64), rules: &[Value]) -> Vec<String> {
    found(&ruleset(at, "accept", rules)).iter().map(ToString::to_string).collect()
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
        ("udp", "dport", "<", json!(1024), false),
        ("th", "dport", ">=", json!(1024), true),
        ("tcp", "dport", "!=", json!(53), false),
        ("ip", "protocol", "==", json!("udp"), true),
        ("ip", "daddr", "==", json!("@s"), true),
        ("ip", "daddr", "==", json!({"prefix": {"addr": "10.0.0.0", "len": 8}}), false),
        ("ip6", "daddr", "!=", json!("::1"), false),
        ("meta", "oifname", "==", json!("eth*"), true),
        ("meta", "oif", "==", json!("wg0"), false),
        ("meta", "mark", "==", json!(51820), true),
        ("ct", "mark", "==", json!(51820), false),
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
        assert_eq!(read("accept", &[json!([unknown, to(kind)]), in_other(&drop)]), [(1, false)]);
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
    assert_eq!(found(&Ruleset::of(vec![ours])), []);
}

/// Nine chains, each of which jumps twelve times to the next: 12^9 ways.
#[test]
fn many_ways_through_few_rules_are_read_in_no_time() {
    let chain = |at: usize| format!("c{at}");
    let mut objects = vec![json!({"chain": {"family": "inet", "table": "theirs", "name": chain(0),
        "type": "filter", "hook": "output", "prio": 0, "policy": "accept"}})];
    for at in 0..9 {
        let to = json!([is("meta", "skuid", "==", &json!(7)), {"jump": {"target": chain(at + 1)}}]);
        for handle in 0..12 {
            objects.push(json!({"rule": {"family": "inet", "table": "theirs", "chain": chain(at),
                "handle": handle, "expr": to}}));
        }
    }
    objects.push(json!({"rule": {"family": "inet", "table": "theirs", "chain": chain(9),
        "handle": 99, "expr": [{"drop": null}]}}));
    let started = Instant::now();
    let found = found(&Ruleset::of(objects));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let handshake: Vec<_> = found.iter().filter(|one| one.what.starts_with("handshakes")).collect();
    assert_eq!(handshake.len(), 1, "each rule is named once: {handshake:?}");
    assert_eq!(handshake[0].effect.place.rule, Some(99));
}

#[test]
fn a_listing_with_a_loop_or_without_end_is_read_to_a_limit() {
    let again = json!([{"jump": {"target": "base"}}]);
    read("accept", &[again.clone(), again]);
    let elements: Vec<Value> = (0..500_000).map(|port| json!(port % 50_000)).collect();
    let rule = json!([is("udp", "dport", "==", &json!({"set": elements})), {"drop": null}]);
    let ruleset = ruleset(("inet", "filter", "output", 0), "accept", &[rule.clone(), rule]);
    let found = find(&ruleset, &XtRules::default(), &path(), &host(), &Lab);
    assert!(found.unread.iter().any(|why| why.contains("too many rules")), "{:?}", found.unread);
}

#[test]
fn a_mark_that_is_lost_is_named_with_its_rule() {
    let route = ("ip", "route", "output", -150);
    let set = |value: Value| json!({"mangle": {"key": {"meta": {"key": "mark"}}, "value": value}});
    let ct = json!({"ct": {"key": "mark"}});
    let mark = json!({"meta": {"key": "mark"}});
    let restored = said(route, &[json!([set(ct.clone())])]);
    assert_eq!(
        restored,
        ["table ip theirs, chain base changes the mark of handshakes to 198.51.100.10:51820 from \
          0xca6c to 0x0 (rule handle 0), and by its mark the lock knows it: leave packets with the \
          mark 0xca6c out there"]
    );
    // None of these harms it.
    for harmless in [
        json!([is("ct", "mark", "!=", &json!(0)), set(ct.clone())]),
        json!([is("meta", "mark", "==", &json!(0)), set(ct.clone())]),
        json!([set(mark.clone())]),
        json!([set(json!({"|": [mark, 0x08]}))]),
        json!([{"mangle": {"key": ct.clone(), "value": mark}}]),
        json!([is("tcp", "dport", "==", &json!(443)), set(json!(1))]),
    ] {
        let found = said(route, std::slice::from_ref(&harmless));
        let tunnel = found.iter().any(|one| one.contains("handshakes"));
        assert!(!tunnel, "{harmless}: {found:?}");
    }
    // What took it away is named, not what set another one later.
    let twice = said(route, &[json!([set(ct.clone())]), json!([set(json!(1))])]);
    assert!(twice[0].contains("from 0xca6c to 0x1 (rule handle 0)"), "{twice:?}");
    // Put back again: nothing is lost.
    let back = [json!([set(json!(7))]), json!([set(json!(51820))])];
    assert!(!said(route, &back).iter().any(|one| one.contains("handshakes")));
    let unknown = json!([is("meta", "skuid", "==", &json!(7)), set(json!(7))]);
    assert!(said(route, &[unknown])[0].contains("may change the mark of handshakes"));
}

#[test]
fn what_routes_the_workload_past_the_tunnel_is_named() {
    let set = |value: u32| json!({"mangle": {"key": {"meta": {"key": "mark"}}, "value": value}});
    let destination = is("ip", "daddr", "==", &json!("203.0.113.9"));
    let tunnel = is("meta", "mark", "==", &json!(51820));
    let leave_out = json!([tunnel, {"return": null}]);
    let route = ("inet", "route", "output", -150);
    let all = said(route, &[leave_out.clone(), json!([set(0x100)])]);
    assert_eq!(
        all,
        ["table inet theirs, chain base gives what this host sends into wg0 the mark 0x100 (rule \
          handle 1), with which it leaves by eth0 and not by wg0, so the lock stops it: leave it out \
          there, or the rule for that mark",]
    );
    let some = said(route, &[leave_out.clone(), json!([destination, set(0x100)])]);
    assert!(some[0].contains("may give what this host sends into wg0 the mark 0x100"), "{some:?}");
    // A mark by which nothing is routed, a chain that does not route again, a private destination.
    assert!(said(route, &[leave_out.clone(), json!([set(0x200)])]).is_empty());
    assert!(
        said(("inet", "filter", "output", -150), &[leave_out.clone(), json!([set(0x100)])])
            .is_empty()
    );
    let private = is("ip", "daddr", "==", &json!({"prefix": {"addr": "10.8.0.0", "len": 16}}));
    assert!(said(route, &[leave_out, json!([private, set(0x100)])]).is_empty());
}

#[test]
fn a_redirection_to_where_the_lock_ends_is_named_and_a_local_one_is_not() {
    let nat = ("ip", "nat", "output", -100);
    let dns = is("udp", "dport", "==", &json!(53));
    let to = |address: &str| json!([dns, {"dnat": {"addr": address, "port": 53}}]);
    assert_eq!(
        said(nat, &[to("10.0.0.9")]),
        ["table ip theirs, chain base redirects questions for names to 10.0.0.9 (rule handle 0), \
          where the lock does not let it: leave it out there"]
    );
    // On this host, in `allow`, in the tunnel.
    for harmless in ["127.0.0.1", "10.0.0.7", "10.64.0.1"] {
        assert!(said(nat, &[to(harmless)]).is_empty(), "{harmless}");
    }
    let all = said(nat, &[json!([{"dnat": {"addr": "10.0.0.9"}}])]);
    assert!(
        all.iter().any(|one| one.contains("redirects handshakes to 198.51.100.10:51820")),
        "{all:?}"
    );
}

#[test]
fn a_flowtable_is_named_and_is_no_certain_block() {
    let flow = json!([{"flow": {"op": "add", "flowtable": "@fast"}}]);
    let found = found(&ruleset(("inet", "filter", "forward", 0), "accept", &[flow]));
    assert!(found.iter().all(|one| !one.is_sure()) && found.len() == 2, "{found:?}");
    assert!(found[0].to_string().contains("docker0 into wg0 to flowtable fast"), "{}", found[0]);
}

/// What Docker 29 loads, by what matters in it: rules about the addresses of its containers.
#[test]
fn dockers_own_rules_cause_no_warning() {
    let container = |op: &str, field: &str| is("ip", field, op, &json!("172.17.0.2"));
    let direct = json!([container("==", "daddr"), is("meta", "iifname", "!=", &json!("docker0")), {"drop": null}]);
    assert_eq!(said(("ip", "filter", "prerouting", -300), &[direct]), [""; 0]);
    let local = json!({"match": {"op": "==",
        "left": {"fib": {"result": "type", "flags": ["daddr"]}}, "right": "local"}});
    let published =
        json!([local, is("tcp", "dport", "==", &json!(443)), {"dnat": {"addr": "172.17.0.2"}}]);
    assert_eq!(said(("ip", "nat", "output", -100), &[published]), [""; 0]);
}

#[test]
fn dockers_resolver_is_found_by_its_redirection() {
    let rule = json!([is("ip", "daddr", "==", &json!("127.0.0.11")), is("udp", "dport", "==", &json!(53)),
        {"dnat": {"addr": "127.0.0.11", "port": 4444}}]);
    let ruleset = ruleset(("ip", "nat", "output", -100), "accept", &[rule]);
    let found = find(&ruleset, &XtRules::default(), &path(), &host(), &Lab);
    assert_eq!(found.docker_resolver.as_deref(), Some("table ip theirs, chain base"));
    assert_eq!(found.blocked, []);
}

#[test]
fn a_rule_that_nft_does_not_show_is_named_and_the_rest_is_read() {
    let shown = json!({"rule": {"family": "ip", "table": "theirs", "chain": "base", "handle": 9}});
    let base = json!({"chain": {"family": "ip", "table": "theirs", "name": "base", "type": "filter",
        "hook": "output", "prio": 0, "policy": "drop"}});
    let found = find(&Ruleset::of(vec![base, shown]), &XtRules::default(), &path(), &host(), &Lab);
    assert_eq!(
        found.unread,
        ["table ip theirs, chain base: nft does not say what rule handle 9 does"]
    );
    assert!(found.blocked.iter().any(Blocked::is_sure));
}
