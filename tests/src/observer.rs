//! The outside observer: the router counts every frame that arrives from the host under test, by
//! what it is. It knows nothing of the host's own rules and counters.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::Value;

use crate::addresses::{Endpoint, Ns, WIREGUARD_PORT};
use crate::eventually::eventually;
use crate::kinds::Kind;
use crate::leaks::Leak;
use crate::world::World;

/// What the observer tells apart. The first group is what a locked host may send; all of the
/// second is outside the tunnel, counted as [`Class::Outside`] and again by destination and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// `WireGuard` messages to an endpoint's address and port; the message type is looked at, so
    /// that other UDP to that port counts as outside.
    Tunnel,
    Arp,
    Ndp,
    Dhcp,
    /// IGMP and MLD with a hop limit of 1: the kernel's own, they reach the router and no further.
    Membership,
    /// ICMP echo to an endpoint's address, which the exporter may send.
    EndpointEcho,

    /// Every IP packet outside the tunnel, also inside VLAN and `PPPoE` tags.
    Outside,
    WorldBound,
    EndpointBound,
    LanBound,
    Udp4,
    Udp6,
    Tcp4,
    Tcp6,
    Icmp4,
    Icmp6,
    /// IP with another protocol inside.
    OtherIp,
    /// In a tag that the router does not take off.
    Encapsulated,

    /// Frames that carry no IP and are no ARP (LLDP, EAPOL, ...); not part of `Outside`.
    OtherFrames,
}

impl Class {
    pub const ALL: [Self; 19] = [
        Self::Tunnel,
        Self::Arp,
        Self::Ndp,
        Self::Dhcp,
        Self::Membership,
        Self::EndpointEcho,
        Self::Outside,
        Self::WorldBound,
        Self::EndpointBound,
        Self::LanBound,
        Self::Udp4,
        Self::Udp6,
        Self::Tcp4,
        Self::Tcp6,
        Self::Icmp4,
        Self::Icmp6,
        Self::OtherIp,
        Self::Encapsulated,
        Self::OtherFrames,
    ];

    /// The name of its counter in nft.
    pub const fn counter(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Arp => "arp_frames",
            Self::Ndp => "ndp",
            Self::Dhcp => "dhcp",
            Self::Membership => "membership",
            Self::EndpointEcho => "endpoint_echo",
            Self::Outside => "outside",
            Self::WorldBound => "world_bound",
            Self::EndpointBound => "endpoint_bound",
            Self::LanBound => "lan_bound",
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Icmp4 => "icmp4",
            Self::Icmp6 => "icmp6",
            Self::OtherIp => "other_ip",
            Self::Encapsulated => "encapsulated",
            Self::OtherFrames => "other_frames",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.counter())
    }
}

/// Packets by the name of the counter.
pub(crate) type Counts = BTreeMap<String, u64>;

/// How long an ARP request may take to reach the router before the fence gives up: the lock may
/// refuse it, or the uplink be down, and then nothing else is under way either.
const FENCE: Duration = Duration::from_millis(500);

impl World {
    /// Packets that left outside the tunnel since the last [`World::reset_observer`].
    #[track_caller]
    pub fn observed_outside(&self) -> u64 {
        self.observed(Class::Outside)
    }

    /// Packets of one class since the last [`World::reset_observer`]. What was sent before this
    /// call has been counted when it returns.
    #[track_caller]
    pub fn observed(&self, class: Class) -> u64 {
        self.fence();
        self.counted_since_baseline(class)
    }

    /// Every class that was seen since the last reset, for a message.
    #[track_caller]
    pub fn observations(&self) -> BTreeMap<&'static str, u64> {
        self.fence();
        let now = self.counts();
        Class::ALL
            .into_iter()
            .map(|class| (class.counter(), difference(&now, &self.baseline, class)))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }

    /// Counts from here.
    #[track_caller]
    pub fn reset_observer(&mut self) {
        self.fence();
        self.baseline = self.counts();
    }

    pub(crate) fn counted_since_baseline(&self, class: Class) -> u64 {
        difference(&self.counts(), &self.baseline, class)
    }

    pub(crate) fn load_observer(&self) {
        self.nft(Ns::Router, &(rules() + &kinds()));
    }

    /// Packets outside the tunnel by kind, since the observer was loaded. What was sent before
    /// this call has been counted when it returns.
    #[track_caller]
    pub fn observed_kinds(&self) -> BTreeMap<Kind, u64> {
        self.fence();
        let counts = self.counters("kinds");
        let of = |kind: Kind| counts.get(&kind.counter()).copied().unwrap_or(0);
        Kind::by_precedence().into_iter().map(|kind| (kind, of(kind))).collect()
    }

    /// Waits until a frame sent now has been counted, and so every frame sent before it.
    fn fence(&self) {
        let arp = Class::Arp.counter();
        let before = self.counts()[arp];
        let attempts = self.send_outside(Leak::Arp, 1);
        if attempts.sent == 0 {
            return;
        }
        let started = std::time::Instant::now();
        eventually(2 * FENCE, "the fence is counted or given up", || {
            self.counts()[arp] > before || started.elapsed() > FENCE
        });
    }

    fn counts(&self) -> Counts {
        self.counters("observer")
    }

    fn counters(&self, table: &str) -> Counts {
        let text = self
            .exec_ok(Ns::Router, &["nft", "--json", "list", "counters", "table", "netdev", table]);
        let json: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("counters of the observer: {error}: {text}"));
        json["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|object| {
                let counter = object.get("counter")?;
                Some((counter["name"].as_str()?.to_owned(), counter["packets"].as_u64()?))
            })
            .collect()
    }
}

fn difference(now: &Counts, baseline: &Counts, class: Class) -> u64 {
    let of = |counts: &Counts| counts.get(class.counter()).copied().unwrap_or(0);
    of(now) - of(baseline)
}

/// The observer's table: the same rules at both of the router's ports that the host can be on.
fn rules() -> String {
    let counters = Class::ALL.map(|class| format!("    counter {class} {{ }}")).join("\n");
    let endpoints = v4_endpoints();
    let endpoints_v6 = Endpoint::ALL.map(|endpoint| endpoint.address_v6().to_string()).join(", ");
    let ports = at_ports(-500);
    format!(
        r"table netdev observer {{
{counters}
    chain seen {{
        meta protocol arp counter name arp_frames accept
        ip daddr {{ {endpoints} }} udp dport {WIREGUARD_PORT} @th,64,32 {{ {WIREGUARD_TYPES} }} counter name tunnel accept
        ip6 daddr {{ {endpoints_v6} }} udp dport {WIREGUARD_PORT} @th,64,32 {{ {WIREGUARD_TYPES} }} counter name tunnel accept
        meta protocol ip udp sport 68 udp dport 67 counter name dhcp accept
        meta protocol ip6 udp sport 546 udp dport 547 counter name dhcp accept
        ip6 hoplimit 255 icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect }} counter name ndp accept
        ip daddr 224.0.0.0/4 ip ttl 1 meta l4proto 2 counter name membership accept
        ip6 daddr ff00::/8 ip6 hoplimit 1 icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} counter name membership accept
        ip daddr {{ {endpoints} }} icmp type echo-request counter name endpoint_echo accept

        meta protocol {{ 8021q, 8021ad, 0x8863, 0x8864 }} counter name encapsulated counter name outside accept
        meta protocol != {{ ip, ip6 }} counter name other_frames accept

        counter name outside
        ip daddr 192.0.2.0/24 counter name world_bound
        ip6 daddr fd00:0:0:c::/64 counter name world_bound
        ip daddr {{ {endpoints} }} counter name endpoint_bound
        ip6 daddr {{ {endpoints_v6} }} counter name endpoint_bound
        ip daddr 10.0.0.0/24 counter name lan_bound
        ip6 daddr {{ fd00:0:0:1::/64, fe80::/10 }} counter name lan_bound
        meta protocol ip meta l4proto udp counter name udp4 accept
        meta protocol ip6 meta l4proto udp counter name udp6 accept
        meta protocol ip meta l4proto tcp counter name tcp4 accept
        meta protocol ip6 meta l4proto tcp counter name tcp6 accept
        meta protocol ip meta l4proto icmp counter name icmp4 accept
        meta protocol ip6 meta l4proto icmpv6 counter name icmp6 accept
        counter name other_ip
    }}
{ports}
}}
"
    )
}

/// The same packets by the kinds of the leak matrix.
fn kinds() -> String {
    let endpoints = v4_endpoints();
    let (mut counters, mut rules) = (String::new(), String::new());
    for kind in Kind::by_precedence() {
        let counter = kind.counter();
        let _ = writeln!(counters, "    counter {counter} {{ }}");
        for matched in kind.matches(&endpoints) {
            let _ = writeln!(rules, "        {matched} counter name {counter} accept");
        }
    }
    let ports = at_ports(-400);
    format!(
        "table netdev kinds {{
{counters}
    chain seen {{
        ip daddr {{ {endpoints} }} udp dport {WIREGUARD_PORT} @th,64,32 {{ {WIREGUARD_TYPES} }} accept
{rules}    }}
{ports}
}}
"
    )
}

/// The first four bytes of `WireGuard`'s messages.
pub(crate) const WIREGUARD_TYPES: &str = "0x01000000, 0x02000000, 0x03000000, 0x04000000";

fn v4_endpoints() -> String {
    Endpoint::ALL.map(|endpoint| endpoint.address().to_string()).join(", ")
}

fn at_ports(priority: i32) -> String {
    ["lan", "lan2"]
        .map(|port| {
            format!(
                "    chain {port} {{
        type filter hook ingress device \"{port}\" priority {priority}; policy accept;
        jump seen
    }}"
            )
        })
        .join("\n")
}
