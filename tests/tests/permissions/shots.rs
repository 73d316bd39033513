//! The packets that `permissions.rs` sends: each that is permitted, and its nearest neighbours.

/// A packet: what it is, how `lab shot` is asked for it, and how the router knows it.
pub struct Shot {
    pub name: &'static str,
    pub how: &'static str,
    pub seen_as: &'static str,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passes,
    Refused,
    /// With `dns: allow` it passes, without it is refused.
    IfDnsIsAllowed,
}
use Verdict::{IfDnsIsAllowed, Passes, Refused};

const fn shot(
    verdict: Verdict,
    name: &'static str,
    how: &'static str,
    seen_as: &'static str,
) -> Shot {
    Shot { name, how, seen_as, verdict }
}

/// In groups: what passes, then its neighbours. 51820 is the mark 0xca6c.
pub const SHOTS: &[Shot] = &[
    // The endpoints: address, port, protocol and mark, all four.
    shot(
        Passes,
        "endpoint",
        "udp --to 203.0.113.10:51820 --mark 51820",
        "ip daddr 203.0.113.10 udp dport 51820 udp length 12",
    ),
    shot(
        Refused,
        "endpoint, other port",
        "udp --to 203.0.113.10:51821 --mark 51820",
        "ip daddr 203.0.113.10 udp dport 51821",
    ),
    shot(
        Refused,
        "endpoint, port before",
        "udp --to 203.0.113.10:51819 --mark 51820",
        "ip daddr 203.0.113.10 udp dport 51819",
    ),
    shot(
        Refused,
        "endpoint, next address",
        "udp --to 203.0.113.11:51820 --mark 51820",
        "ip daddr 203.0.113.11 udp dport 51820",
    ),
    shot(
        Refused,
        "endpoint, address before",
        "udp --to 203.0.113.9:51820 --mark 51820",
        "ip daddr 203.0.113.9 udp dport 51820",
    ),
    shot(
        Refused,
        "endpoint, no mark",
        "udp --to 203.0.113.10:51820 --source-port 7001",
        "udp sport 7001",
    ),
    shot(
        Refused,
        "endpoint, other mark",
        "udp --to 203.0.113.10:51820 --mark 51821 --source-port 7002",
        "udp sport 7002",
    ),
    shot(
        Refused,
        "endpoint, TCP",
        "tcp --to 203.0.113.10:51820 --mark 51820",
        "ip daddr 203.0.113.10 tcp dport 51820",
    ),
    shot(
        Refused,
        "endpoint, DNS",
        "udp --to 203.0.113.10:53 --mark 51820",
        "ip daddr 203.0.113.10 udp dport 53",
    ),
    // The health check's ping.
    shot(
        Passes,
        "echo to an endpoint",
        "icmp --to 203.0.113.10:0 --mark 51820 --kind 8",
        "ip daddr 203.0.113.10 icmp type echo-request",
    ),
    shot(
        Refused,
        "echo to its neighbour",
        "icmp --to 203.0.113.11:0 --mark 51820 --kind 8",
        "ip daddr 203.0.113.11 icmp type echo-request",
    ),
    shot(
        Refused,
        "echo, no mark",
        "icmp --to 198.51.100.10:0 --kind 8",
        "ip daddr 198.51.100.10 icmp type echo-request",
    ),
    shot(
        Refused,
        "echo reply to an endpoint",
        "icmp --to 203.0.113.10:0 --mark 51820 --kind 0",
        "ip daddr 203.0.113.10 icmp type echo-reply",
    ),
    shot(
        Refused,
        "timestamp to an endpoint",
        "icmp --to 203.0.113.10:0 --mark 51820 --kind 13",
        "ip daddr 203.0.113.10 icmp type timestamp-request",
    ),
    // DHCP: by broadcast, between its two ports.
    shot(
        Passes,
        "DHCP",
        "udp --to 255.255.255.255:67 --source-port 68",
        "ip daddr 255.255.255.255 udp sport 68 udp dport 67",
    ),
    shot(
        Refused,
        "DHCP, other source port",
        "udp --to 255.255.255.255:67 --source-port 69",
        "udp sport 69 udp dport 67",
    ),
    shot(
        Refused,
        "DHCP, other port",
        "udp --to 255.255.255.255:68 --source-port 68",
        "udp sport 68 udp dport 68",
    ),
    shot(
        Refused,
        "DHCP, unicast",
        "udp --to 10.0.0.1:67 --source-port 68",
        "ip daddr 10.0.0.1 udp dport 67",
    ),
    shot(
        Refused,
        "DHCP, the LAN's broadcast",
        "udp --to 10.0.0.255:67 --source-port 68",
        "ip daddr 10.0.0.255 udp dport 67",
    ),
    shot(
        Refused,
        "DHCP, to the world",
        "udp --to 192.0.2.80:67 --source-port 68",
        "ip daddr 192.0.2.80 udp dport 67",
    ),
    // DHCPv6: from a link-local address to its two groups.
    shot(
        Passes,
        "DHCPv6",
        "udp --to [ff02::1:2]:547 --source-port 546 --hop-limit 1",
        "ip6 daddr ff02::1:2 udp sport 546 udp dport 547",
    ),
    shot(
        Refused,
        "DHCPv6, other source port",
        "udp --to [ff02::1:2]:547 --source-port 545",
        "udp sport 545 udp dport 547",
    ),
    shot(
        Refused,
        "DHCPv6, other port",
        "udp --to [ff02::1:2]:546 --source-port 546",
        "ip6 daddr ff02::1:2 udp dport 546",
    ),
    shot(
        Refused,
        "DHCPv6, other group",
        "udp --to [ff02::1:3]:547 --source-port 546",
        "ip6 daddr ff02::1:3 udp dport 547",
    ),
    shot(
        Refused,
        "DHCPv6, unicast",
        "udp --to [fd00:0:0:1::1]:547 --source-port 546",
        "ip6 daddr fd00:0:0:1::1 udp dport 547",
    ),
    shot(
        Refused,
        "DHCPv6, from a global address",
        "udp --to [ff05::1:3]:547 --source-port 546 --from fd00:0:0:1::2",
        "ip6 saddr fd00:0:0:1::2 udp dport 547",
    ),
    // Neighbour discovery: type, code, hop limit, address.
    shot(
        Passes,
        "neighbour solicitation",
        "icmp6 --to [ff02::1:ff00:99]:0 --kind 135 --hop-limit 255",
        "ip6 daddr ff02::1:ff00:99 icmpv6 type nd-neighbor-solicit",
    ),
    shot(
        Passes,
        "router solicitation",
        "icmp6 --to [ff02::2]:0 --kind 133 --hop-limit 255",
        "icmpv6 type nd-router-solicit",
    ),
    shot(
        Passes,
        "neighbour advertisement",
        "icmp6 --to [fd00:0:0:1::1]:0 --kind 136 --hop-limit 255",
        "icmpv6 type nd-neighbor-advert ip6 daddr fd00:0:0:1::1 ip6 length 24",
    ),
    shot(
        Refused,
        "advertisement, to a global address",
        "icmp6 --to [2001:db8::1]:0 --kind 136 --hop-limit 255",
        "icmpv6 type nd-neighbor-advert ip6 daddr 2001:db8::1",
    ),
    shot(
        Refused,
        "router solicitation, to a router",
        "icmp6 --to [fd00:0:0:1::1]:0 --kind 133 --hop-limit 255",
        "icmpv6 type nd-router-solicit ip6 daddr fd00:0:0:1::1",
    ),
    shot(
        Refused,
        "solicitation, other code",
        "icmp6 --to [ff02::1:ff00:98]:0 --kind 135 --code 1 --hop-limit 255",
        "ip6 daddr ff02::1:ff00:98 icmpv6 type nd-neighbor-solicit",
    ),
    shot(
        Refused,
        "solicitation, forwarded",
        "icmp6 --to [ff02::1:ff00:97]:0 --kind 135 --hop-limit 254",
        "ip6 daddr ff02::1:ff00:97 icmpv6 type nd-neighbor-solicit",
    ),
    shot(
        Refused,
        "router advertisement",
        "icmp6 --to [ff02::1]:0 --kind 134 --hop-limit 255",
        "icmpv6 type nd-router-advert",
    ),
    shot(
        Refused,
        "redirect",
        "icmp6 --to [fd00:0:0:1::1]:0 --kind 137 --hop-limit 255",
        "icmpv6 type nd-redirect",
    ),
    shot(
        Refused,
        "echo by IPv6",
        "icmp6 --to [ff02::1]:0 --kind 128 --hop-limit 255",
        "ip6 daddr ff02::1 icmpv6 type echo-request",
    ),
    // ARP, and what looks like it.
    shot(Passes, "ARP", "frame --ethertype 2054", "ether type arp ether daddr 02:00:00:00:00:01"),
    shot(Refused, "reverse ARP", "frame --ethertype 32821", "ether type 0x8035"),
    shot(Refused, "the ethertype before", "frame --ethertype 2053", "ether type 0x0805"),
    // The allow-list, 10.0.0.64/26 and fd00:0:0:1::40/122, and its edges.
    shot(Passes, "allowed, first", "udp --to 10.0.0.64:9", "ip daddr 10.0.0.64 udp dport 9"),
    shot(Passes, "allowed, last", "udp --to 10.0.0.127:9", "ip daddr 10.0.0.127 udp dport 9"),
    shot(Passes, "allowed, TCP", "tcp --to 10.0.0.64:80", "ip daddr 10.0.0.64 tcp dport 80"),
    shot(
        Passes,
        "allowed, ping",
        "icmp --to 10.0.0.64:0 --kind 8",
        "ip daddr 10.0.0.64 icmp type echo-request",
    ),
    shot(Refused, "before the allowed", "udp --to 10.0.0.63:9", "ip daddr 10.0.0.63 udp dport 9"),
    shot(Refused, "after the allowed", "udp --to 10.0.0.128:9", "ip daddr 10.0.0.128 udp dport 9"),
    shot(
        Refused,
        "after the allowed, TCP",
        "tcp --to 10.0.0.128:80",
        "ip daddr 10.0.0.128 tcp dport 80",
    ),
    shot(
        Passes,
        "allowed by IPv6",
        "udp --to [fd00:0:0:1::40]:9",
        "ip6 daddr fd00:0:0:1::40 udp dport 9",
    ),
    shot(
        Refused,
        "after the allowed by IPv6",
        "udp --to [fd00:0:0:1::80]:9",
        "ip6 daddr fd00:0:0:1::80 udp dport 9",
    ),
    shot(
        IfDnsIsAllowed,
        "allowed, DNS",
        "udp --to 10.0.0.64:53",
        "ip daddr 10.0.0.64 udp dport 53",
    ),
    shot(
        IfDnsIsAllowed,
        "allowed, DNS by TCP",
        "tcp --to 10.0.0.64:53",
        "ip daddr 10.0.0.64 tcp dport 53",
    ),
    shot(
        IfDnsIsAllowed,
        "allowed, DoT",
        "tcp --to 10.0.0.64:853",
        "ip daddr 10.0.0.64 tcp dport 853",
    ),
    shot(
        IfDnsIsAllowed,
        "allowed, DoQ",
        "udp --to 10.0.0.64:853",
        "ip daddr 10.0.0.64 udp dport 853",
    ),
    shot(
        IfDnsIsAllowed,
        "allowed, DNS by IPv6",
        "udp --to [fd00:0:0:1::40]:53",
        "ip6 daddr fd00:0:0:1::40 udp dport 53",
    ),
    shot(
        Refused,
        "after the allowed, DNS",
        "udp --to 10.0.0.128:53",
        "ip daddr 10.0.0.128 udp dport 53",
    ),
    // A time server.
    shot(Passes, "time", "udp --to 192.0.2.80:123", "ip daddr 192.0.2.80 udp dport 123"),
    shot(
        Refused,
        "time, other port",
        "udp --to 192.0.2.80:124",
        "ip daddr 192.0.2.80 udp dport 124",
    ),
    shot(Refused, "time, TCP", "tcp --to 192.0.2.80:123", "ip daddr 192.0.2.80 tcp dport 123"),
    shot(
        Refused,
        "time, next address",
        "udp --to 192.0.2.81:123",
        "ip daddr 192.0.2.81 udp dport 123",
    ),
    // Management may come; nobody goes there.
    shot(Refused, "to management", "tcp --to 10.0.0.9:22", "ip daddr 10.0.0.9 tcp dport 22"),
    shot(
        Refused,
        "to management, from its port",
        "tcp --to 10.0.0.9:40000 --source-port 22",
        "ip daddr 10.0.0.9 tcp sport 22",
    ),
    shot(Refused, "to management, UDP", "udp --to 10.0.0.9:9", "ip daddr 10.0.0.9 udp dport 9"),
    shot(
        Refused,
        "to management, ping",
        "icmp --to 10.0.0.9:0 --kind 8",
        "ip daddr 10.0.0.9 icmp type echo-request",
    ),
];
