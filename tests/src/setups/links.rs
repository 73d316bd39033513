//! The observers: at the far end of every link by which the host under test can send, what leaves
//! outside the tunnel is counted by kind and remembered by flow.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::volley::{PACKET_PORT, SERVICE_PORT, TCP_PORT, UDP_PORT};
use crate::addresses::{Endpoint, Ns, WIREGUARD_PORT};
use crate::observer::WIREGUARD_TYPES;
use crate::world::World;

/// The far end of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub ns: Ns,
    pub device: String,
}

impl Port {
    pub fn of_router(device: &str) -> Self {
        Self { ns: Ns::Router, device: device.to_owned() }
    }
}

/// The MAC address of another machine that the host carries: not the host's own traffic.
pub const GUEST_MAC: &str = "02:00:00:00:00:77";
/// The UDP port of a VPN that is not ours, between host and router.
pub const FOREIGN_VPN_PORT: u16 = 41641;

const TABLE: &str = "links";
/// Kinds of a volley, as the observers tell them apart. `other` is of no volley.
pub const KINDS: [&str; 9] =
    ["packet", "answers", "dns", "udp4", "udp6", "tcp4", "tcp6", "icmp4", "icmp6"];
const OTHER: &str = "other";

/// Packets outside the tunnel by kind, and at each port.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub kinds: BTreeMap<String, u64>,
    pub ports: BTreeMap<String, u64>,
    /// Protocol, source, destination and port of some of them.
    pub flows: Vec<String>,
}

impl World {
    /// Loads the observers; counters start at zero.
    #[track_caller]
    pub fn watch_links(&self, ports: &[Port]) {
        for ns in namespaces(ports) {
            let devices: Vec<&str> =
                ports.iter().filter(|port| port.ns == ns).map(|port| &*port.device).collect();
            self.nft(ns, &rules(&devices));
        }
    }

    /// What was seen since the observers were loaded or last asked.
    #[track_caller]
    pub fn take_seen(&self, ports: &[Port]) -> Seen {
        let mut seen = Seen::default();
        for ns in namespaces(ports) {
            let listed = self.exec_ok(ns, &["nft", "--json", "list", "table", "netdev", TABLE]);
            self.exec_ok(ns, &["nft", "reset", "counters", "table", "netdev", TABLE]);
            self.nft(
                ns,
                &format!("flush set netdev {TABLE} flows\nflush set netdev {TABLE} flows6\n"),
            );
            read(&listed, &mut seen);
        }
        seen
    }
}

fn namespaces(ports: &[Port]) -> Vec<Ns> {
    let mut all: Vec<Ns> = ports.iter().map(|port| port.ns).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn read(listed: &str, seen: &mut Seen) {
    let json: Value =
        serde_json::from_str(listed).unwrap_or_else(|error| panic!("{error}: {listed}"));
    for object in json["nftables"].as_array().into_iter().flatten() {
        if let Some(counter) = object.get("counter") {
            let name = counter["name"].as_str().unwrap_or_default();
            let packets = counter["packets"].as_u64().unwrap_or(0);
            if let Some(port) = name.strip_prefix("at_") {
                *seen.ports.entry(port.to_owned()).or_default() += packets;
            } else if packets > 0 && name != "permitted" && name != "guest" {
                *seen.kinds.entry(name.to_owned()).or_default() += packets;
            }
        }
        if let Some(set) = object.get("set") {
            let elements = set["elem"].as_array().into_iter().flatten();
            seen.flows.extend(elements.filter_map(flow));
        }
    }
}

fn flow(element: &Value) -> Option<String> {
    let element = element.pointer("/elem/val").unwrap_or(element);
    let parts = element["concat"].as_array()?.iter();
    let parts: Vec<String> =
        parts.map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned)).collect();
    Some(parts.join(" "))
}

fn rules(devices: &[&str]) -> String {
    let endpoints = Endpoint::ALL.map(|endpoint| endpoint.address().to_string()).join(", ");
    let endpoints_v6 = Endpoint::ALL.map(|endpoint| endpoint.address_v6().to_string()).join(", ");
    let mut text =
        format!("table netdev {TABLE}\ndelete table netdev {TABLE}\ntable netdev {TABLE} {{\n");
    for counter in KINDS.iter().chain(&[OTHER, "permitted", "guest"]) {
        let _ = writeln!(text, "    counter {counter} {{ }}");
    }
    let _ = write!(
        text,
        "    set flows {{ type inet_proto . ipv4_addr . ipv4_addr . inet_service; flags dynamic; size 4096; }}
    set flows6 {{ type inet_proto . ipv6_addr . ipv6_addr . inet_service; flags dynamic; size 4096; }}
    chain kinds {{
        udp dport {PACKET_PORT} counter name packet accept
        meta l4proto {{ tcp, udp }} th sport {SERVICE_PORT} counter name answers accept
        meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} counter name {OTHER} accept
        meta l4proto {{ tcp, udp }} th dport 53 counter name dns accept
        meta protocol ip udp dport {UDP_PORT} counter name udp4 accept
        meta protocol ip6 udp dport {UDP_PORT} counter name udp6 accept
        meta protocol ip tcp dport {TCP_PORT} counter name tcp4 accept
        meta protocol ip6 tcp dport {TCP_PORT} counter name tcp6 accept
        icmp type echo-request counter name icmp4 accept
        icmpv6 type echo-request counter name icmp6 accept
        counter name {OTHER}
    }}
"
    );
    for device in devices {
        let name = counter_name(device);
        let _ = write!(
            text,
            "    counter at_{name} {{ }}
    chain {name} {{
        type filter hook ingress device \"{device}\" priority -450; policy accept;
        ether saddr {GUEST_MAC} counter name guest accept
        meta protocol != {{ ip, ip6 }} accept
        ip daddr {{ {endpoints} }} udp dport {WIREGUARD_PORT} @th,64,32 {{ {WIREGUARD_TYPES} }} counter name permitted accept
        ip6 daddr {{ {endpoints_v6} }} udp dport {WIREGUARD_PORT} @th,64,32 {{ {WIREGUARD_TYPES} }} counter name permitted accept
        ip daddr {{ {endpoints} }} icmp type echo-request counter name permitted accept
        ip6 daddr {{ {endpoints_v6} }} icmpv6 type echo-request counter name permitted accept
        udp dport {FOREIGN_VPN_PORT} udp sport {FOREIGN_VPN_PORT} @th,64,32 {{ {WIREGUARD_TYPES} }} counter name permitted accept
        udp dport {{ 67, 547 }} udp sport {{ 68, 546 }} counter name permitted accept
        ip6 hoplimit 255 icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} accept
        ip daddr 224.0.0.0/4 ip ttl 1 meta l4proto 2 accept
        ip6 daddr ff00::/8 ip6 hoplimit 1 accept
        counter name at_{name}
        meta l4proto {{ tcp, udp }} meta protocol ip add @flows {{ meta l4proto . ip saddr . ip daddr . th dport }}
        meta l4proto icmp add @flows {{ meta l4proto . ip saddr . ip daddr . 0 }}
        meta l4proto {{ tcp, udp }} meta protocol ip6 add @flows6 {{ meta l4proto . ip6 saddr . ip6 daddr . th dport }}
        meta l4proto icmpv6 add @flows6 {{ meta l4proto . ip6 saddr . ip6 daddr . 0 }}
        goto kinds
    }}
"
        );
    }
    text.push_str("}\n");
    text
}

/// Of nft's identifiers.
pub fn counter_name(device: &str) -> String {
    device.replace(['.', '-'], "_")
}
