//! What is permitted outside the tunnel, and its nearest neighbours, which are not: S1, S2. Passing
//! and refusal are both the router's word, and it has seen each packet before there was a lock.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::addresses::{ECHO_HOLE, EGRESS, ROUTER, WORLD_HOLE};
use lab::{EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, World, eventually, inside};

const SOON: Duration = Duration::from_secs(20);

/// A packet: what it is, how `lab shot` is asked for it, and how the router knows it.
struct Shot {
    name: &'static str,
    how: &'static str,
    seen_as: &'static str,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
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
const SHOTS: &[Shot] = &[
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

/// Addresses of the router's, so that each of the LAN's packets has somebody to go to.
const LAN: [&str; 9] = [
    "10.0.0.63/24",
    "10.0.0.64/24",
    "10.0.0.127/24",
    "10.0.0.128/24",
    "10.0.0.9/24",
    "203.0.113.9/32",
    "203.0.113.11/32",
    "fd00:0:0:1::40/64",
    "fd00:0:0:1::80/64",
];

fn config(dns: &str) -> EgressConfig {
    EgressConfig {
        path_lines: vec![
            "allow: [10.0.0.64/26, \"fd00:0:0:1::40/122\"]".into(),
            "management: [10.0.0.9]".into(),
            "ntp: [192.0.2.80]".into(),
            format!("dns: {dns}"),
        ],
        ..EgressConfig::quick()
    }
}

/// The router counts each of the packets by itself.
fn observe(world: &World) {
    for address in LAN {
        let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
        let line = [&["ip", "address", "add", address, "dev", "lan"], nodad].concat();
        world.exec_ok(Ns::Router, &line);
    }
    // Or DHCPv6 would be asked from the address that it must not be asked from.
    eventually(SOON, "the uplink's link-local address may be used", || {
        let line = ["ip", "-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative"];
        world.exec_ok(Ns::Egress, &line).contains("fe80:")
    });
    let counters: Vec<String> =
        (0..SHOTS.len()).map(|number| format!("counter shot{number} {{ }}")).collect();
    let rules: Vec<String> = SHOTS
        .iter()
        .enumerate()
        .map(|(number, shot)| format!("{} counter name shot{number}", shot.seen_as))
        .collect();
    world.nft(
        Ns::Router,
        &format!(
            "table netdev shots {{\n{}\nchain lan {{ type filter hook ingress device \"lan\" priority 0;\n{}\n}}\n}}\n",
            counters.join("\n"),
            rules.join("\n")
        ),
    );
}

fn seen(world: &World) -> Vec<bool> {
    // What was sent before has been counted when this returns.
    world.observed_outside();
    let listed =
        world.exec_ok(Ns::Router, &["nft", "list", "counters", "table", "netdev", "shots"]);
    let count = |number: usize| {
        let at = listed.find(&format!("counter shot{number} {{")).expect("a counter");
        let packets = listed[at..].split("packets ").nth(1).and_then(|text| text.split(' ').next());
        packets.and_then(|text| text.parse::<u64>().ok()).expect("a count") > 0
    };
    (0..SHOTS.len()).map(count).collect()
}

fn shoot_all(world: &World) -> Vec<bool> {
    world.exec_ok(Ns::Router, &["nft", "reset", "counters", "table", "netdev", "shots"]);
    let lab = World::program("lab").display().to_string();
    for shot in SHOTS {
        let line: Vec<&str> =
            [&lab, "shot", "--what"].into_iter().chain(shot.how.split(' ')).collect();
        world.exec_ok(Ns::Egress, &line);
    }
    seen(world)
}

#[test]
fn s1_s2_what_is_permitted_passes_and_its_neighbours_do_not() {
    inside("s1_s2_what_is_permitted_passes_and_its_neighbours_do_not", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        observe(world);
        // The first packet to a neighbour waits for its address.
        eventually(SOON, "the router sees each packet while there is no lock", || {
            let seen = shoot_all(world);
            let missed: Vec<&str> =
                SHOTS.iter().zip(&seen).filter(|(_, seen)| !**seen).map(|(s, _)| s.name).collect();
            if missed.is_empty() { Ok(()) } else { Err(missed) }
        });
        for dns in ["refuse", "allow"] {
            world.write_config(&config(dns));
            world.actuator_ok(&["converge"]);
            let seen = shoot_all(world);
            let wrong: Vec<String> = SHOTS
                .iter()
                .zip(seen)
                .filter(|(shot, seen)| {
                    let passes = match shot.verdict {
                        Passes => true,
                        Refused => false,
                        IfDnsIsAllowed => dns == "allow",
                    };
                    passes != *seen
                })
                .map(|(shot, seen)| format!("{}: {:?}, seen: {seen}", shot.name, shot.verdict))
                .collect();
            assert!(wrong.is_empty(), "dns: {dns}: {wrong:#?}");
        }
        // Loopback is nobody's business.
        for target in ["127.0.0.1", "::1", &EGRESS.to_string()] {
            assert!(world.ping(Ns::Egress, target), "{target}");
        }
    });
}

#[test]
fn s1_management_comes_in_and_a_stranger_does_not() {
    inside("s1_management_comes_in_and_a_stranger_does_not", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        for address in ["10.0.0.9/24", "10.0.0.10/24"] {
            world.exec_ok(Ns::Router, &["ip", "address", "add", address, "dev", "lan"]);
        }
        let _service = world.listen(Ns::Egress, 22);
        let reaches = |world: &mut World, source: [u8; 4]| {
            let target = (EGRESS, 22).into();
            world.open_session(Ns::Router, IpAddr::from(source), target).goes_on()
        };
        assert!(reaches(world, [10, 0, 0, 10]), "without a lock anybody does");
        world.write_config(&config("refuse"));
        world.actuator_ok(&["converge"]);
        assert!(reaches(world, [10, 0, 0, 9]), "management is answered");
        assert!(!reaches(world, [10, 0, 0, 10]), "its neighbour is not");
    });
}

#[test]
fn s1_flows_from_before_the_lock_die_with_it() {
    inside("s1_flows_from_before_the_lock_die_with_it", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.route_outside(WORLD_HOLE);
        // Both leave by the uplink: TCP to the LAN, UDP by a static route.
        let _service = world.listen(Ns::Router, 7200);
        let mut session = world.open_session(Ns::Egress, EGRESS.into(), (ROUTER, 7200).into());
        let datagrams = world.start_workload_to(ECHO_HOLE);
        assert!(session.goes_on());
        datagrams.wait_for_exit(Exit::Direct, SOON);
        assert!(world.observed_outside() > 0, "the router sees them");

        world.write_config(&config("refuse"));
        world.actuator_ok(&["converge"]);
        world.reset_observer();
        let locked = Instant::now();
        assert!(!session.goes_on(), "the connection is reset");
        world.exec_ok(Ns::Egress, &["sleep", "1"]);
        assert_eq!(datagrams.answers_since(locked).len(), 0);
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn s1_ipv6_is_locked_where_the_tunnel_has_none() {
    inside("s1_ipv6_is_locked_where_the_tunnel_has_none", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        // A tunnel for IPv4 only: nothing leads IPv6 into it.
        world.exec_ok(Ns::Egress, &["ip", "-6", "rule", "del", "lookup", lab::addresses::TABLE]);
        world.exec_ok(Ns::Egress, &["ip", "-6", "address", "flush", "dev", "wg0"]);
        world.add_container();
        let target = lab::addresses::WORLD_V6.to_string();
        for ns in [Ns::Egress, Ns::Container] {
            eventually(SOON, "IPv6 leaves by the uplink", || world.ping(ns, &target));
        }
        assert!(world.observed_outside() >= 2, "{:?}", world.observations());
        world.write_config(&config("refuse"));
        world.actuator_ok(&["converge"]);
        world.reset_observer();
        for ns in [Ns::Egress, Ns::Container] {
            assert!(!world.ping(ns, &target), "{ns}");
        }
        for kind in [Leak::Udp6, Leak::Tcp6, Leak::Icmp6] {
            world.send_outside(kind, 5);
        }
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}
