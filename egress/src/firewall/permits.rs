//! What both walls permit outside the tunnel, written once so that they cannot disagree.

use std::net::IpAddr;

use ipnet::IpNet;
use nftables::schema::SetType;

use super::dsl::{
    Expr, Stmt, accept, address_port, any_of, concat, header, is, l4, marked, numbers,
};
use super::dsl::{any_fragment6, later_fragment4, payload, port, prefix, text, within};
use super::rules::Rules;
use super::table::TableSpec;
use crate::names::PathName;

/// Name of an object that belongs to one path.
pub fn of(path: &Rules, what: &str) -> String {
    named(&path.name, what)
}

pub fn named(path: &PathName, what: &str) -> String {
    format!("{what}_{path}")
}

const FAMILIES: [(&str, SetType); 2] = [("4", SetType::Ipv4Addr), ("6", SetType::Ipv6Addr)];

/// The endpoints, each as address and port. Empty sets too, so that a rule can always name them.
pub fn add_endpoints(spec: &mut TableSpec, path: &Rules) {
    for (family, address) in FAMILIES {
        let mut elements: Vec<Expr> = Vec::new();
        for endpoint in path.endpoints.iter().filter(|one| one.is_ipv4() == (family == "4")) {
            let element = address_port(*endpoint);
            // Two endpoints may share an address and differ in keys only.
            if !elements.contains(&element) {
                elements.push(element);
            }
        }
        let types = [address, SetType::InetService];
        spec.set(&of(path, &format!("endpoints{family}")), &types, false, elements);
    }
}

/// The endpoints' addresses alone.
pub fn add_endpoint_addresses(spec: &mut TableSpec, path: &Rules) {
    let nets: Vec<IpNet> = path.endpoints.iter().map(|one| IpNet::from(one.ip())).collect();
    add_nets(spec, path, "endpoint_addresses", &nets);
}

/// A set of addresses, for example `allow`.
pub fn add_nets(spec: &mut TableSpec, path: &Rules, name: &str, nets: &[IpNet]) {
    for (family, address) in FAMILIES {
        let mine: Vec<IpNet> =
            nets.iter().copied().filter(|net| net.addr().is_ipv4() == (family == "4")).collect();
        // nft refuses intervals that overlap.
        let elements = IpNet::aggregate(&mine).into_iter().map(prefix).collect();
        spec.set(&of(path, &format!("{name}{family}")), &[address], true, elements);
    }
}

/// All sets that the rules of both walls name.
pub fn add_sets(spec: &mut TableSpec, path: &Rules) {
    let ntp: Vec<IpNet> = path.ntp.iter().map(|address| IpNet::from(*address)).collect();
    add_endpoints(spec, path);
    add_nets(spec, path, "allow", &path.allow);
    add_nets(spec, path, "management", &path.management);
    add_nets(spec, path, "ntp", &ntp);
}

/// Every configured endpoint, active or not (S2), and only for packets that WireGuard or a probe
/// marked: a program that sends to the endpoint by itself is stopped.
pub fn endpoints(path: &Rules) -> Vec<Vec<Stmt>> {
    by_family(|ip, family| {
        let to = concat([payload(ip, "daddr"), payload("udp", "dport")]);
        let set = of(path, &format!("endpoints{family}"));
        vec![marked(path.fwmark), within(to, &set), accept()]
    })
}

/// The later fragments of a tunnel packet that is larger than the uplink's MTU: they carry the mark
/// and the address, and no port. Only the watch meets them; the killswitch comes before.
pub fn endpoint_fragments(path: &Rules) -> Vec<Vec<Stmt>> {
    by_family(|ip, family| {
        let set = of(path, &format!("endpoint_addresses{family}"));
        let later = if family == "4" { later_fragment4() } else { any_fragment6() };
        vec![marked(path.fwmark), within(payload(ip, "daddr"), &set), later, accept()]
    })
}

/// Destination in one of the path's address sets.
pub fn to_set(path: &Rules, name: &str, more: &[Stmt], verdict: &[Stmt]) -> Vec<Vec<Stmt>> {
    by_family(|ip, family| {
        let set = of(path, &format!("{name}{family}"));
        let mut rule = vec![within(payload(ip, "daddr"), &set)];
        rule.extend_from_slice(more);
        rule.extend_from_slice(verdict);
        rule
    })
}

pub fn ntp(path: &Rules) -> Vec<Vec<Stmt>> {
    to_set(path, "ntp", &[port("udp", "dport", 123)], &[accept()])
}

/// An address and a router, as narrow as the protocols allow. A lease is renewed by broadcast once
/// its unicast renewals stay unanswered (RFC 2131, 4.4.5), so broadcast is enough.
pub fn dhcp_and_ndp() -> Vec<Vec<Stmt>> {
    let link_local: IpNet = IpNet::new_assert(IpAddr::V6("fe80::".parse().expect("address")), 10);
    let discovery = ["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"];
    vec![
        vec![
            is(payload("ip", "daddr"), text("255.255.255.255")),
            port("udp", "sport", 68),
            port("udp", "dport", 67),
            accept(),
        ],
        vec![
            is(payload("ip6", "saddr"), prefix(link_local)),
            is(payload("ip6", "daddr"), any_of([text("ff02::1:2"), text("ff05::1:3")])),
            port("udp", "sport", 546),
            port("udp", "dport", 547),
            accept(),
        ],
        vec![
            is(payload("icmpv6", "type"), any_of(discovery.map(text))),
            is(payload("icmpv6", "code"), Expr::Number(0)),
            // Never forwarded: a router would have lowered it (RFC 4861, 7.1).
            is(payload("ip6", "hoplimit"), Expr::Number(255)),
            accept(),
        ],
    ]
}

/// DNS and DNS over TLS, over UDP and TCP.
pub fn dns() -> [Vec<Stmt>; 2] {
    ["udp", "tcp"]
        .map(|protocol| vec![l4(protocol), is(payload(protocol, "dport"), numbers(&[53, 853]))])
}

/// The same rule for IPv4 and IPv6; `header` is also the family's nft name.
pub fn by_family(rule: impl Fn(&'static str, &'static str) -> Vec<Stmt>) -> Vec<Vec<Stmt>> {
    let v4 = header(IpAddr::from([0; 4]));
    let v6 = header(IpAddr::from([0; 16]));
    vec![rule(v4, "4"), rule(v6, "6")]
}
