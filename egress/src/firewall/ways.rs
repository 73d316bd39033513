//! The ways that a path leaves its workload: the chains of one path in the killswitch. The order of
//! the rules is the specification: see `DESIGN.md`, section 5.

use std::net::IpAddr;

use super::dsl::{
    Rule, Words, accept, carries, count, drop, is, is_not, names, not_opening, out_by, port,
    prohibit, quoted, reset_tcp, rule, within,
};
use super::permits::{
    by_family, dhcp_and_ndp, dhcp6_and_ndp_of_host, dns, endpoints, ntp, of, own_endpoints,
    to_addresses, to_set,
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
    "a management session from before the lock: in silence, its next packet mends it";
const REFUSE: &str = "all else is blocked, and told at once, so that programs fail fast";
const ROUTED_AGAIN: &str =
    "routed again by its mark, and this hook still shows the way before: held behind routing";
const HELD: &str = "all else is blocked; nothing can be refused behind routing";
const NOT_BACK: &str = "out of the tunnel, and no answer to this workload: there is no way through";

/// The set of all tunnels.
pub const TUNNELS: &str = "tunnels";

/// Adds the chains that the path's workload is sent to.
pub fn add(spec: &mut TableSpec, path: &Rules, paths: &[Rules]) {
    let others: Vec<&Rules> = paths.iter().filter(|other| other.name != path.name).collect();
    spec.chain(&of(path, "answers"), answers(path));
    match &path.workload {
        Workload::Host => {
            spec.chain(&of(path, "output"), host_sends(path, &others));
            spec.chain(&of(path, "forward"), forwards(path, &others));
        }
        Workload::Interfaces(_) => {
            spec.chain(&of(path, "forward"), forwards(path, &others));
            spec.chain(&of(path, "input"), asks_host(path));
        }
        Workload::Users(_) => spec.chain(&of(path, "output"), scoped_sends(path, &others)),
        Workload::Cgroups(_) => {
            spec.chain(&of(path, "output"), scoped_sends(path, &others));
            spec.chain(&of(path, "routed"), routed(path, &others));
        }
    }
}

fn host_sends(path: &Rules, others: &[&Rules]) -> Vec<Rule> {
    let mut rules = vec![
        rule([out_by("lo"), accept()], "this host to itself"),
        rule([out_by(&path.interface), accept()], TUNNEL),
    ];
    rules.extend(endpoints());
    for other in others {
        rules.extend(other.probe.iter().flat_map(|probe| probes(&other.interface, probe)));
    }
    rules.extend(not_by_others(path, others));
    rules.extend(to_bridges(path));
    rules.extend(dhcp_and_ndp());
    rules.extend(outside(path));
    rules.extend(ntp(path));
    rules.extend(replies_to_management(path));
    rules.extend(spare_management(path));
    rules.extend(refuse(path));
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

/// What the sockets of some users or cgroups send. What the kernel sends for itself is not theirs.
fn scoped_sends(path: &Rules, others: &[&Rules]) -> Vec<Rule> {
    let mut rules = vec![rule([out_by(&path.interface), accept()], TUNNEL)];
    rules.extend(own_endpoints(path));
    if matches!(path.workload, Workload::Cgroups(_)) {
        let marked = carries("meta mark", path.workload_mark);
        rules.push(rule([is_not("oifname", quoted("lo")), marked, accept()], ROUTED_AGAIN));
    }
    rules.extend(not_by_others(path, others));
    rules.extend(to_resolvers(path));
    for mut refused in dns(
        &[count(&of(path, "blocked")), prohibit()],
        "a resolver on this host is not locked in: it would carry every name outside",
    ) {
        refused.words.insert(0, out_by("lo"));
        rules.push(refused);
    }
    rules.push(rule([out_by("lo"), accept()], "this host to itself"));
    rules.extend(to_bridges(path));
    rules.extend(outside(path));
    rules.extend(ntp(path));
    rules.extend(replies_to_management(path));
    rules.extend(refuse(path));
    rules
}

/// What a cgroup's sockets send, once it is known which way it goes.
fn routed(path: &Rules, others: &[&Rules]) -> Vec<Rule> {
    let mut rules = vec![rule([out_by(&path.interface), accept()], TUNNEL)];
    rules.extend(own_endpoints(path));
    rules.push(rule([out_by("lo"), accept()], "this host to itself: seen before routing"));
    rules.extend(not_by_others(path, others));
    rules.extend(to_bridges(path));
    rules.extend(outside(path));
    rules.extend(ntp(path));
    rules.extend(replies_to_management(path));
    for rule in &mut rules {
        rule.words.iter_mut().filter(|word| **word == prohibit()).for_each(|word| *word = drop());
    }
    rules.push(rule([count(&of(path, "blocked")), drop()], HELD));
    rules
}

/// What is forwarded for the workload: into the tunnel, between its own bridges, to the allow-list.
fn forwards(path: &Rules, others: &[&Rules]) -> Vec<Rule> {
    let mut rules = vec![rule([out_by(&path.interface), accept()], TUNNEL)];
    rules.extend(not_by_others(path, others));
    rules.extend(within_workload(path));
    rules.extend(to_bridges(path));
    rules.extend(outside(path));
    // A published port of a container: what a management host asked for is answered.
    rules.extend(replies_to_management(path));
    rules.extend(refuse(path));
    rules
}

/// What comes out of the tunnel and is not for this host: to its workload, or nowhere.
fn answers(path: &Rules) -> Vec<Rule> {
    let blocked = count(&of(path, "blocked"));
    let mut rules = Vec::from_iter(within_workload(path));
    rules.extend(to_bridges(path));
    if path.workload == Workload::Host {
        let unasked = is("ct state", "!= { established, related }");
        rules.push(rule([unasked, blocked.clone(), drop()], NOT_BACK));
        rules.extend(to_set(path, "allow", &[], ALLOW));
        rules.extend(to_set(path, "management", &[], ALLOW));
        let words = [within("oifname", "uplinks"), blocked, drop()];
        rules.push(rule(words, "an answer to a LAN host that is not allowed would go in clear"));
        rules.push(rule([accept()], "an answer to a network behind this host"));
    } else {
        rules.push(rule([blocked, drop()], NOT_BACK));
    }
    rules
}

fn within_workload(path: &Rules) -> Option<Rule> {
    let own = path.workload.interfaces();
    let words = [is("oifname", names(own)), accept()];
    (!own.is_empty()).then(|| rule(words, "within the workload"))
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

/// In a chain that has let its own tunnel's pass already.
fn not_by_others(path: &Rules, others: &[&Rules]) -> Option<Rule> {
    let words = [within("oifname", TUNNELS), count(&of(path, "blocked")), prohibit()];
    (!others.is_empty()).then(|| rule(words, OTHERS_TUNNEL))
}

fn to_bridges(path: &Rules) -> Option<Rule> {
    let bridges = &path.allow_interfaces;
    (!bridges.is_empty()).then(|| rule([is("oifname", names(bridges)), accept()], BRIDGES))
}

/// Outside the tunnel, by the config.
fn outside(path: &Rules) -> Vec<Rule> {
    let mut rules = Vec::new();
    if path.dns == DnsPolicy::Refuse {
        rules.extend(dns(&[count(&of(path, "blocked")), prohibit()], DNS));
    }
    rules.extend(to_set(path, "allow", &[], ALLOW));
    rules
}

/// A management session from before the lock has no conntrack entry yet, so its next packet from
/// here does not look like a reply. Dropped in silence, not reset: the client's next packet makes
/// the entry the right way round, and the session goes on.
fn spare_management(path: &Rules) -> Vec<Rule> {
    by_family(|ip, family| {
        let set = of(path, &format!("management{family}"));
        let to = within(format!("{ip} daddr"), &set);
        rule([to, not_opening(), count(&of(path, "blocked")), drop()], SPARE)
    })
}

/// Replies to connections that a management host opened to this host, by their original direction:
/// neither the host nor a container can open one towards it.
pub fn replies_to_management(path: &Rules) -> Vec<Rule> {
    by_family(|ip, family| {
        let set = of(path, &format!("management{family}"));
        let words = [
            is("ct direction", "reply"),
            within(format!("ct original {ip} saddr"), &set),
            within(format!("{ip} daddr"), &set),
            accept(),
        ];
        rule(words, REPLIES)
    })
}

/// Counted, then refused loudly, so that programs fail at once instead of waiting for a timeout.
fn refuse(path: &Rules) -> Vec<Rule> {
    let blocked = count(&of(path, "blocked"));
    vec![
        rule([is("meta l4proto", "tcp"), blocked.clone(), reset_tcp()], REFUSE),
        rule([blocked, prohibit()], REFUSE),
    ]
}
