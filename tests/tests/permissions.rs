//! What is permitted outside the tunnel, and its nearest neighbours, which are not: S1, S2. Passing
//! and refusal are both the router's word, and it has seen each packet before there was a lock.

#[path = "permissions/shots.rs"]
mod shots;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::addresses::{ECHO_HOLE, EGRESS, ROUTER, WORLD_HOLE};
use lab::{EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, World, eventually, inside};

use shots::SHOTS;
use shots::Verdict::{IfDnsIsAllowed, Passes, Refused};

const SOON: Duration = Duration::from_secs(20);

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
        // The provider's file has an address of IPv6 too, which was taken off the device on purpose.
        let mut config = config("refuse");
        config.path_lines.push("bring_up: off".into());
        world.write_config(&config);
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
