//! What a path permits its workload: the chains of one path in the killswitch. The order of the rules
//! is the specification: see `DESIGN.md`, section 5.
//!
//! What is permitted is written once, in `permitted_PATH` for what this host sends and in
//! `forwardable_PATH` for what it forwards. A packet that is not accepted there returns to the chain
//! of its hook: `output_` and `forward_` refuse it with an answer, `leaving_` drops it.

use std::net::IpAddr;

use super::dsl::{
    Rule, Words, accept, any_of, count, drop, is, jump, names, not_opening, out_by, port, prohibit,
    quoted, reset_tcp, rule,
};
use super::permits::{
    dhcp_and_ndp, dhcp6_and_ndp_of_host, dns, in_nets, ntp, of, own_endpoints, to_addresses,
    to_nets,
};
use super::rules::{Probe, Protocol, Rules};
use super::table::TableSpec;
use crate::config::{DnsPolicy, Workload};

const TUNNEL: &str = "into the tunnel: by name, so a recreated device still matches";
const OTHERS_TUNNEL: &str = "another path's tunnel is not this one's to use";
const BRIDGES: &str = "bridges of this host that lead nowhere else";
const ALLOW: &str = "allowed outside the tunnel by the config";
const DNS: &str = "DNS before the allow-list, or a resolver there would carry every name outside";
const REPLIES: &str = "replies to management, by who opened the connection: never one from here";
const SPARE: &str =
    "a management session from before the lock: in silence, its next packet restores it";
const REFUSE: &str = "all else is blocked, and answered at once, so that programs fail fast";
const BLOCKED: &str = "all else is blocked";
const REROUTED: &str = "another table's DNAT has routed it again: judged where its device is final";
const NOT_BACK: &str = "out of the tunnel, and not an answer to this workload: no way through";

/// Adds the chains that the path's workload is sent to.
pub fn add(spec: &mut TableSpec, path: &Rules, paths: &[Rules]) {
    let others: Vec<&Rules> = paths.iter().filter(|other| other.name != path.name).collect();
    let chain = |what: &str| of(path, what);
    spec.chain(&chain("answers"), answers(path));
    match &path.workload {
        // It has a wall of its own inside.
        Workload::Netns(_) => {}
        Workload::Host => {
            spec.chain(&chain("permitted"), host_may(path, &others));
            spec.chain(&chain("forwardable"), forwardable(path, &others));
            spec.chain(&chain("output"), host_sends(path));
            spec.chain(&chain("forward"), refused_unless(path, "forwardable"));
            spec.chain(&chain("leaving"), host_leaves(path));
        }
        Workload::Interfaces(_) => {
            spec.chain(&chain("forwardable"), forwardable(path, &others));
            spec.chain(&chain("forward"), refused_unless(path, "forwardable"));
            spec.chain(&chain("leaving"), blocked_unless(path, "forwardable"));
            spec.chain(&chain("input"), asks_host(path));
        }
        Workload::Users(_) | Workload::Cgroups(_) => {
            spec.chain(&chain("permitted"), scoped_may(path, &others));
            spec.chain(&chain("output"), scoped_sends(path));
            spec.chain(&chain("leaving"), blocked_unless(path, "permitted"));
        }
    }
}

/// What the host may send by the device that it leaves by.
fn host_may(path: &Rules, others: &[&Rules]) -> Vec<Rule> {
    let mut rules = vec![
        rule([out_by("lo"), accept()], "this host to itself"),
        rule([out_by(&path.interface), accept()], TUNNEL),
    ];
    rules.extend(super::permits::endpoints());
    for other in others {
        rules.extend(other.probe.iter().flat_map(|probe| probes(&other.interface, probe)));
    }
    rules.extend(not_by_others(others));
    rules.extend(to_bridges(path));
    rules.extend(dhcp_and_ndp());
    rules.extend(outside(path));
    rules.extend(ntp(path));
    rules.extend(replies_to_management(path));
    rules
}

/// Before routing is final: refused at once, unless it may still become something else.
fn host_sends(path: &Rules) -> Vec<Rule> {
    let mut rules = vec![
        rule(["ct status dnat".to_owned(), accept()], REROUTED),
        rule([jump(&of(path, "permitted"))], "what the host may send"),
    ];
    rules.extend(spare_management(path));
    rules.extend(refuse(path));
    rules
}

/// The verdict on what the host sends and forwards. What has no input device was sent here; discovery
/// comes first, for the kernel names a device there.
fn host_leaves(path: &Rules) -> Vec<Rule> {
    let mut rules = dhcp_and_ndp();
    rules.push(rule([is("iif", 0), jump(&of(path, "permitted"))], "what the host may send"));
    rules.push(rule([jump(&of(path, "forwardable"))], "what it may forward"));
    rules.push(rule([count(&of(path, "blocked")), drop()], BLOCKED));
    rules
}

fn probes(tunnel: &str, probe: &Probe) -> Vec<Rule> {
    let asks = |to: Words| {
        let question = match probe {
            Probe::Echo(IpAddr::V4(_)) => is("icmp type", "echo-request"),
            Probe::Echo(IpAddr::V6(_)) => is("icmpv6 type", "echo-request"),
            Probe::Port { protocol: Protocol::Tcp, to } => port("tcp dport", to.port()),
            Probe::Port { protocol: Protocol::Udp, to } => port("udp dport", to.port()),
        };
        let why = "the health check of another path, through its own tunnel";
        rule([out_by(tunnel), to, question, accept()], why)
    };
    to_addresses(&[probe.target()]).into_iter().map(asks).collect()
}

/// What the sockets of some users or cgroups may send by the device that it leaves by.
fn scoped_may(path: &Rules, others: &[&Rules]) -> Vec<Rule> {
    let mut rules = vec![rule([out_by(&path.interface), accept()], TUNNEL)];
    rules.extend(own_endpoints(path));
    rules.extend(not_by_others(others));
    rules.extend(to_bridges(path));
    rules.extend(outside(path));
    rules.extend(ntp(path));
    rules.extend(replies_to_management(path));
    rules
}

/// Before routing is final: their own marks route them again, and this hook still shows the device of
/// before. Only what stays on this host is refused here, where its owner is known.
fn scoped_sends(path: &Rules) -> Vec<Rule> {
    let mut rules = to_resolvers(path);
    for mut refused in dns(
        &[count(&of(path, "blocked")), prohibit()],
        "a resolver on this host is not locked in: it would carry every name outside",
    ) {
        refused.words.insert(0, out_by("lo"));
        rules.push(refused);
    }
    rules.push(rule([accept()], "judged where its device is final"));
    rules
}

/// What may be forwarded for the workload: into the tunnel, between its own bridges, to the allow-list.
fn forwardable(path: &Rules, others: &[&Rules]) -> Vec<Rule> {
    let mut rules = vec![rule([out_by(&path.interface), accept()], TUNNEL)];
    rules.extend(not_by_others(others));
    rules.extend(within_workload(path));
    rules.extend(to_bridges(path));
    rules.extend(outside(path));
    // A published port of a container: what a management host asked for is answered.
    rules.extend(replies_to_management(path));
    rules
}

/// What is not accepted in `chain` is refused with an answer.
fn refused_unless(path: &Rules, chain: &str) -> Vec<Rule> {
    let mut rules = vec![rule([jump(&of(path, chain))], "what is permitted")];
    rules.extend(refuse(path));
    rules
}

/// What is not accepted in `chain` is dropped: behind routing nothing can be answered.
fn blocked_unless(path: &Rules, chain: &str) -> Vec<Rule> {
    vec![
        rule([jump(&of(path, chain))], "what is permitted"),
        rule([count(&of(path, "blocked")), drop()], BLOCKED),
    ]
}

/// What comes out of the tunnel and is not for this host: to its workload, or nowhere. Any other
/// device could lead outside, in clear.
fn answers(path: &Rules) -> Vec<Rule> {
    let blocked = count(&of(path, "blocked"));
    let mut rules = Vec::from_iter(within_workload(path));
    rules.extend(to_bridges(path));
    if path.workload == Workload::Host {
        let unasked = is("ct state", "!= { established, related }");
        rules.push(rule([unasked, blocked.clone(), drop()], NOT_BACK));
        rules.extend(to_nets(&path.allow, ALLOW));
        rules.extend(to_nets(&path.management, ALLOW));
    }
    rules.push(rule([blocked, drop()], NOT_BACK));
    rules
}

fn within_workload(path: &Rules) -> Option<Rule> {
    let own = path.workload.interfaces();
    let words = || [is("oifname", names(own)), accept()];
    (!own.is_empty()).then(|| rule(words(), "within the workload"))
}

/// What a workload asks of this host itself. Its resolvers and proxies are not locked in.
fn asks_host(path: &Rules) -> Vec<Rule> {
    let lease = [port("udp sport", 68), port("udp dport", 67), accept()];
    let mut rules = vec![rule(lease, "DHCP: an address from this host")];
    rules.extend(dhcp6_and_ndp_of_host());
    rules.extend(to_resolvers(path));
    let words = [is("ct direction", "reply"), is("ct state", "established,related"), accept()];
    rules.push(rule(words, "an answer to what this host opened"));
    rules.extend(refuse(path));
    rules
}

/// Resolvers on this host that the config says are locked in themselves.
fn to_resolvers(path: &Rules) -> Vec<Rule> {
    let to = to_addresses(&path.resolvers);
    let dns = |to: &Words| {
        ["udp", "tcp"].map(|protocol| {
            let words = [to.clone(), port(&format!("{protocol} dport"), 53), accept()];
            rule(words, "a resolver that is locked in itself, by the config")
        })
    };
    to.iter().flat_map(dns).collect()
}

/// In a chain that has accepted its own tunnel's already.
fn not_by_others(others: &[&Rules]) -> Option<Rule> {
    let tunnels = others.iter().map(|other| quoted(&other.interface));
    let words = || [is("oifname", any_of(tunnels)), "return".to_owned()];
    (!others.is_empty()).then(|| rule(words(), OTHERS_TUNNEL))
}

fn to_bridges(path: &Rules) -> Option<Rule> {
    let bridges = &path.allow_interfaces;
    (!bridges.is_empty()).then(|| rule([is("oifname", names(bridges)), accept()], BRIDGES))
}

/// Outside the tunnel, by the config.
fn outside(path: &Rules) -> Vec<Rule> {
    let mut rules = Vec::new();
    if path.dns == DnsPolicy::Refuse && !path.allow.is_empty() {
        rules.extend(dns(&["return".to_owned()], DNS));
    }
    rules.extend(to_nets(&path.allow, ALLOW));
    rules
}

/// A management session from before the lock has no conntrack entry yet, so its next packet from
/// here does not look like a reply. Dropped in silence, not reset: the client's next packet makes
/// the entry the right way round, and the session goes on.
fn spare_management(path: &Rules) -> Vec<Rule> {
    let to = in_nets(&path.management, |ip| format!("{ip} daddr"));
    let spare = |to| rule([to, not_opening(), count(&of(path, "blocked")), drop()], SPARE);
    to.into_iter().map(spare).collect()
}

/// Replies to connections that a management host opened to this host, by their original direction:
/// neither the host nor a container can open one towards it.
pub fn replies_to_management(path: &Rules) -> Vec<Rule> {
    let from = in_nets(&path.management, |ip| format!("ct original {ip} saddr"));
    let to = in_nets(&path.management, |ip| format!("{ip} daddr"));
    let reply = |(from, to)| rule([is("ct direction", "reply"), from, to, accept()], REPLIES);
    from.into_iter().zip(to).map(reply).collect()
}

/// Counted, then refused with an answer, so that programs fail at once instead of waiting for a timeout.
fn refuse(path: &Rules) -> Vec<Rule> {
    let blocked = count(&of(path, "blocked"));
    vec![
        rule([is("meta l4proto", "tcp"), blocked.clone(), reset_tcp()], REFUSE),
        rule([blocked, prohibit()], REFUSE),
    ]
}
