//! Which flows leaked: sets of the watch that its rules fill, bounded in number and in time. They are
//! the kernel's, so what leaked while no program of ours lived is still named.
//!
//! A path is known by the mark: that of its workload, or none of a scoped workload for a whole host.

use super::dsl::{Rule, count, drop, is, rule};
use super::permits::of;
use super::rules::Rules;
use super::table::{Content, TableSpec};

/// Of each set: enough to tell what leaks, and bounded.
const SIZE: u32 = 16;
/// What was not seen again for so long makes room for what is.
const TIMEOUT: &str = "1d";

/// Device, mark, protocol, source, destination and its port, of what has ports.
pub const FLOWS: [(&str, &str, &str); 2] = [
    ("leaks4", "ip", "ifname . mark . inet_proto . ipv4_addr . ipv4_addr . inet_service"),
    ("leaks6", "ip6", "ifname . mark . inet_proto . ipv6_addr . ipv6_addr . inet_service"),
];
/// The same of what has no ports.
pub const HOSTS: [(&str, &str, &str); 2] = [
    ("leak_hosts4", "ip", "ifname . mark . inet_proto . ipv4_addr . ipv4_addr"),
    ("leak_hosts6", "ip6", "ifname . mark . inet_proto . ipv6_addr . ipv6_addr"),
];
/// Who sent to a destination, where that is known: destination, protocol, user.
pub const OWNERS: [(&str, &str, &str); 2] = [
    ("leak_owners4", "ip", "ipv4_addr . inet_proto . uid"),
    ("leak_owners6", "ip6", "ipv6_addr . inet_proto . uid"),
];
/// Source addresses of the frames, by device.
pub const MACS: (&str, &str) = ("leak_macs", "ifname . ether_addr");

pub fn add_sets(spec: &mut TableSpec) {
    let content = || Content::Dynamic { size: SIZE, timeout: TIMEOUT };
    for (name, _, types) in FLOWS.into_iter().chain(HOSTS).chain(OWNERS) {
        spec.set(name, types, content());
    }
    spec.set(MACS.0, MACS.1, content());
}

/// Remembers a packet, counts it and drops it. A rule whose set is full ends there, and the next one
/// goes on; so the verdict has a rule of its own.
pub fn chain(path: &Rules) -> Vec<Rule> {
    const WHY: &str = "what leaked, for status and the log";
    let ported = || is("meta l4proto", "{ tcp, udp }");
    let other = || "meta l4proto != { tcp, udp }".to_owned();
    let update = |set: &str, key: String| format!("update @{set} {{ {key} }}");
    let mut rules = Vec::new();
    for ((flows, ip, _), (hosts, ..)) in FLOWS.into_iter().zip(HOSTS) {
        let key = format!("oifname . meta mark . meta l4proto . {ip} saddr . {ip} daddr");
        let of_family = || is("meta protocol", ip);
        let with_port = update(flows, format!("{key} . th dport"));
        rules.push(rule([of_family(), ported(), with_port], WHY));
        rules.push(rule([of_family(), other(), update(hosts, key)], WHY));
    }
    for (owners, ip, _) in OWNERS {
        let key = format!("{ip} daddr . meta l4proto . meta skuid");
        rules.push(rule([is("meta protocol", ip), update(owners, key)], WHY));
    }
    rules.push(rule([update(MACS.0, "oifname . ether saddr".to_owned())], WHY));
    rules.push(rule([count(&of(path, "leaked")), drop()], "IP outside the tunnel: a leak"));
    rules
}
