//! What both walls permit outside the tunnel, written once so that they cannot disagree.

use std::net::IpAddr;

use ipnet::IpNet;

use super::dsl::{
    Rule, Words, accept, any_fragment6, any_of, endpoint, header, is, later_fragment4, marked,
    port, prefix, rule, within,
};
use super::rules::Rules;
use super::table::{Content, TableSpec};
use crate::names::PathName;

/// Name of an object that belongs to one path.
pub fn of(path: &Rules, what: &str) -> String {
    named(&path.name, what)
}

pub fn named(path: &PathName, what: &str) -> String {
    format!("{what}_{path}")
}

/// Both families: header, suffix of a set's name, types of the endpoint sets' keys.
struct Family {
    ip: &'static str,
    suffix: &'static str,
    to_port: &'static str,
    marked: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        ip: "ip",
        suffix: "4",
        to_port: "ipv4_addr . inet_service . mark",
        marked: "ipv4_addr . mark",
    },
    Family {
        ip: "ip6",
        suffix: "6",
        to_port: "ipv6_addr . inet_service . mark",
        marked: "ipv6_addr . mark",
    },
];

/// The endpoints of all paths: each with its port and its path's mark, and each with the mark alone.
/// One set for all, so that a packet costs one look-up however many there are. Empty sets too, so
/// that a rule can always name them.
pub fn add_endpoints(spec: &mut TableSpec, paths: &[Rules]) {
    for family in &FAMILIES {
        let (mut ports, mut hosts) = (Vec::new(), Vec::new());
        for path in paths {
            for one in path.endpoints.iter().filter(|one| header(one.ip()) == family.ip) {
                ports.push(endpoint(*one, path.fwmark));
                hosts.push(format!("{} . {:#x}", one.ip(), path.fwmark));
            }
        }
        // Two endpoints may share an address and differ in port or keys only.
        for elements in [&mut ports, &mut hosts] {
            elements.sort();
            elements.dedup();
        }
        spec.set(format!("endpoints{}", family.suffix), family.to_port, Content::Fixed(ports));
        let name = format!("endpoint_hosts{}", family.suffix);
        spec.set(name, family.marked, Content::Fixed(hosts));
    }
}

/// Every configured endpoint of every path, active or not (S2), and only for packets that WireGuard
/// or a probe marked: a program that sends to the endpoint by itself is stopped.
pub fn endpoints() -> Vec<Rule> {
    let mut rules = by_family(|ip, family| {
        let to = format!("{ip} daddr . udp dport . meta mark");
        rule([within(to, &format!("endpoints{family}")), accept()], ENDPOINTS)
    });
    rules.extend(echo_to_endpoints());
    rules
}

const ENDPOINTS: &str =
    "a tunnel's own packets: an endpoint by address, port and mark, active or not";
const ECHO: &str = "the health check's ping to an endpoint, by address and mark";

fn echo_to_endpoints() -> Vec<Rule> {
    by_family(|ip, family| {
        let icmp = if ip == "ip" { "icmp" } else { "icmpv6" };
        let to = within(format!("{ip} daddr . meta mark"), &format!("endpoint_hosts{family}"));
        rule([is(format!("{icmp} type"), "echo-request"), to, accept()], ECHO)
    })
}

/// The same, of one path: for a scoped workload that its own tunnel's daemon is part of.
pub fn own_endpoints(path: &Rules) -> Vec<Rule> {
    let mut rules = endpoints();
    for rule in &mut rules {
        rule.words.insert(0, marked(path.fwmark));
    }
    rules
}

/// The later fragments of a tunnel packet that is larger than the uplink's MTU: they carry the mark
/// and the address, and no port. Only the watch meets them; the killswitch comes before.
pub fn endpoint_fragments() -> Vec<Rule> {
    by_family(|ip, family| {
        let later = if family == "4" { later_fragment4() } else { any_fragment6() };
        let to = within(format!("{ip} daddr . meta mark"), &format!("endpoint_hosts{family}"));
        rule(
            [later, to, accept()],
            "the rest of a tunnel packet that is larger than the link's MTU",
        )
    })
}

/// A match on `field` being in one of these networks, for each family that has some.
///
/// Anonymous sets: nft before 1.1.2 crashes on a named set of a single type that a later one wrote.
pub fn in_nets(nets: &[IpNet], field: impl Fn(&str) -> String) -> Vec<Words> {
    FAMILIES
        .iter()
        .filter_map(|family| {
            let mine: Vec<IpNet> =
                nets.iter().copied().filter(|net| header(net.addr()) == family.ip).collect();
            // nft refuses intervals that overlap.
            let nets: Vec<Words> = IpNet::aggregate(&mine).into_iter().map(prefix).collect();
            (!nets.is_empty()).then(|| is(field(family.ip), any_of(nets)))
        })
        .collect()
}

/// Packets to these networks are accepted.
pub fn to_nets(nets: &[IpNet], why: &'static str) -> Vec<Rule> {
    let to = in_nets(nets, |ip| format!("{ip} daddr"));
    to.into_iter().map(|to| rule([to, accept()], why)).collect()
}

pub fn ntp(path: &Rules) -> Vec<Rule> {
    let accept = |to| rule([to, port("udp dport", 123), accept()], "time servers of the config");
    to_addresses(&path.ntp).into_iter().map(accept).collect()
}

/// An address and a router, as narrow as the protocols allow. A lease is renewed by broadcast once
/// its unicast renewals stay unanswered (RFC 2131, 4.4.5), so broadcast is enough.
///
/// Of neighbours only those that no router forwards to outside: a solicitation made by hand could
/// carry anything to a global address. A neighbour with such an address is found by multicast.
pub fn dhcp_and_ndp() -> Vec<Rule> {
    let near = ["ff02::1", "ff02::1:ff00:0/104", "fe80::/10", "fc00::/7"];
    vec![
        rule(
            [
                is("ip daddr", "255.255.255.255"),
                port("udp sport", 68),
                port("udp dport", 67),
                accept(),
            ],
            "DHCP: an address and its renewal, by broadcast",
        ),
        dhcp6(),
        rule(
            [
                is("ip6 daddr", "ff02::2"),
                is("icmpv6 type", "nd-router-solicit"),
                is("icmpv6 code", 0),
                is("ip6 hoplimit", 255),
                accept(),
            ],
            "router solicitation, by its multicast address",
        ),
        rule(
            [
                is("ip6 daddr", any_of(near)),
                is("icmpv6 type", any_of(NEIGHBOURS)),
                is("icmpv6 code", 0),
                is("ip6 hoplimit", 255),
                accept(),
            ],
            "neighbour discovery, to addresses that no router outside forwards to",
        ),
    ]
}

const NEIGHBOURS: [&str; 2] = ["nd-neighbor-solicit", "nd-neighbor-advert"];

fn dhcp6() -> Rule {
    rule(
        [
            is("ip6 saddr", "fe80::/10"),
            is("ip6 daddr", any_of(["ff02::1:2", "ff05::1:3"])),
            port("udp sport", 546),
            port("udp dport", 547),
            accept(),
        ],
        "DHCPv6, by its multicast addresses",
    )
}

/// The same, asked of this host itself, which may have any address.
pub fn dhcp6_and_ndp_of_host() -> [Rule; 2] {
    let discovery = ["nd-router-solicit"].into_iter().chain(NEIGHBOURS);
    let words = [
        is("icmpv6 type", any_of(discovery)),
        is("icmpv6 code", 0),
        is("ip6 hoplimit", 255),
        accept(),
    ];
    [dhcp6(), rule(words, "neighbour discovery; the hop limit shows that it was not forwarded")]
}

/// DNS and DNS over TLS, over UDP and TCP, with what is to be done about it.
pub fn dns(verdict: &[Words], why: &'static str) -> Vec<Rule> {
    ["udp", "tcp"]
        .map(|protocol| {
            let mut words = vec![is(format!("{protocol} dport"), any_of([53, 853]))];
            words.extend_from_slice(verdict);
            rule(words, why)
        })
        .into()
}

/// The same rule for IPv4 and IPv6; the first word is also the family's nft name.
pub fn by_family(rule: impl Fn(&'static str, &'static str) -> Rule) -> Vec<Rule> {
    FAMILIES.iter().map(|family| rule(family.ip, family.suffix)).collect()
}

/// Those of the addresses that a header holds, as a match on its destination.
pub fn to_addresses(addresses: &[IpAddr]) -> Vec<Words> {
    with_addresses(addresses, "daddr")
}

/// The same as a match on its source.
pub fn from_addresses(addresses: &[IpAddr]) -> Vec<Words> {
    with_addresses(addresses, "saddr")
}

fn with_addresses(addresses: &[IpAddr], field: &str) -> Vec<Words> {
    FAMILIES
        .iter()
        .filter_map(|family| {
            let mine: Vec<&IpAddr> =
                addresses.iter().filter(|one| header(**one) == family.ip).collect();
            (!mine.is_empty()).then(|| is(format!("{} {field}", family.ip), any_of(mine)))
        })
        .collect()
}
