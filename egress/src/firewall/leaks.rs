//! Which flows leaked: sets of the watch that its rules fill, bounded in number and in time. They are
//! the kernel's, so what leaked while no program of ours lived is still named.
//!
//! A key has five parts at most, and none of them is a device's name: nft before 1.1 cannot hold more in
//! a type, and crashes when it lists names. So what is known of a flow is in several sets, which have
//! its destination and protocol in common. A path is known by the mark: that of its workload, or no
//! scoped workload's for a whole host.

use std::time::Duration;

use super::dsl::{Rule, count, drop, is, rule};
use super::permits::of;
use super::rules::Rules;
use super::table::{Content, TableSpec};

/// Of each set: enough to tell what leaks, and bounded.
const SIZE: u32 = 16;
/// What was not seen again for so long makes room for what is.
const TIMEOUT: &str = "1d";
pub const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Names and key types of one address family's sets.
#[derive(Debug)]
pub struct Sets {
    pub ip: &'static str,
    /// Mark, protocol, source, destination and its port.
    pub flows: (&'static str, &'static str),
    /// The same of what has no ports.
    pub hosts: (&'static str, &'static str),
    /// Destination, protocol, and the index of the device that it leaves by.
    pub devices: (&'static str, &'static str),
    /// Destination, protocol, and the user whose socket sent it, where that is known.
    pub owners: (&'static str, &'static str),
}

pub const SETS: [Sets; 2] = [
    Sets {
        ip: "ip",
        flows: ("leaks4", "mark . inet_proto . ipv4_addr . ipv4_addr . inet_service"),
        hosts: ("leak_hosts4", "mark . inet_proto . ipv4_addr . ipv4_addr"),
        devices: ("leak_devices4", "ipv4_addr . inet_proto . iface_index"),
        owners: ("leak_owners4", "ipv4_addr . inet_proto . uid"),
    },
    Sets {
        ip: "ip6",
        flows: ("leaks6", "mark . inet_proto . ipv6_addr . ipv6_addr . inet_service"),
        hosts: ("leak_hosts6", "mark . inet_proto . ipv6_addr . ipv6_addr"),
        devices: ("leak_devices6", "ipv6_addr . inet_proto . iface_index"),
        owners: ("leak_owners6", "ipv6_addr . inet_proto . uid"),
    },
];
/// The frames' own source addresses, by the index of the device.
pub const MACS: (&str, &str) = ("leak_macs", "iface_index . ether_addr");

pub fn add_sets(spec: &mut TableSpec) {
    let content = || Content::Dynamic { size: SIZE, timeout: TIMEOUT };
    for Sets { flows, hosts, devices, owners, .. } in SETS {
        for (name, types) in [flows, hosts, devices, owners] {
            spec.set(name, types, content());
        }
    }
    spec.set(MACS.0, MACS.1, content());
}

/// Remembers a packet, counts it and drops it. A rule whose set is full ends there, and the next one
/// goes on; so the verdict has a rule of its own.
pub fn chain(path: &Rules) -> Vec<Rule> {
    const WHY: &str = "what leaked, for status and the log";
    let update = |set: (&str, &str), key: String| format!("update @{} {{ {key} }}", set.0);
    let mut rules = Vec::new();
    for Sets { ip, flows, hosts, devices, owners } in SETS {
        let of_family = || is("meta protocol", ip);
        let key = format!("meta mark . meta l4proto . {ip} saddr . {ip} daddr");
        let with_port = [
            of_family(),
            is("meta l4proto", "{ tcp, udp }"),
            update(flows, format!("{key} . th dport")),
        ];
        rules.push(rule(with_port, WHY));
        let without = "meta l4proto != { tcp, udp }".to_owned();
        rules.push(rule([of_family(), without, update(hosts, key)], WHY));
        for (set, what) in [(devices, "oif"), (owners, "meta skuid")] {
            let key = format!("{ip} daddr . meta l4proto . {what}");
            rules.push(rule([of_family(), update(set, key)], WHY));
        }
    }
    rules.push(rule([update(MACS, "oif . ether saddr".to_owned())], WHY));
    rules.push(rule([count(&of(path, "leaked")), drop()], "IP outside the tunnel: a leak"));
    rules
}
