//! What both walls permit outside the tunnel, and that its neighbour is not. S1, S2.

use std::time::Duration;

use lab::addresses::{UPLINK, WORLD};
use lab::programs::EXPORTER;
use lab::{Class, EgressConfig, Endpoint, Keepalive, Leak, Ns, Sender, World, eventually, inside};

const SOON: Duration = Duration::from_secs(20);
/// 51820 is the mark 0xca6c.
const MARK: &str = "51820";
const OTHER_MARK: &str = "51821";
/// On the LAN as the router is, and with this host as its gateway.
const LAN_HOST: &str = "10.0.0.9";

fn count(world: &World, metric: &str) -> f64 {
    let series = format!("vpn_egress_{metric}{{path=\"media\"}}");
    world.metric(EXPORTER, &series).unwrap_or_else(|| panic!("{series} is missing"))
}

/// Whether a packet is let out, by both walls.
fn passes(world: &World, kind: Leak, target: &str, more: &[&str]) -> bool {
    let line = [&["--device", UPLINK, "--target", target], more].concat();
    world.send_as(Sender::Root, kind, 1, &line).sent == 1
}

#[test]
fn s2_an_echo_to_an_endpoint_needs_its_mark_and_its_address() {
    inside("s2_an_echo_to_an_endpoint_needs_its_mark_and_its_address", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        let (endpoint, neighbour) = ("198.51.100.10:0", "198.51.100.11:0");
        assert!(passes(world, Leak::Icmp4, neighbour, &[]), "it is the lock that refuses it below");
        world.actuator_ok(&["converge"]);
        world.reset_observer();
        assert!(passes(world, Leak::Icmp4, endpoint, &["--mark", MARK]));
        eventually(SOON, "it arrives", || world.observed(Class::EndpointEcho) == 1);
        assert!(!passes(world, Leak::Icmp4, endpoint, &[]), "no mark");
        assert!(!passes(world, Leak::Icmp4, endpoint, &["--mark", OTHER_MARK]), "another mark");
        assert!(!passes(world, Leak::Icmp4, neighbour, &["--mark", MARK]), "another address");
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn s1_ip_in_a_tag_or_a_session_is_a_leak_but_for_the_tunnels_own() {
    inside("s1_ip_in_a_tag_or_a_session_is_a_leak_but_for_the_tunnels_own", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        let (endpoint, neighbour) = ("198.51.100.10:51820", "198.51.100.11:51820");
        let wrapped = [Leak::Vlan, Leak::Qinq, Leak::Pppoe];
        for kind in wrapped {
            let before = world.observed_outside();
            assert!(passes(world, kind, endpoint, &[]), "{kind:?}");
            eventually(SOON, "the router sees it", || world.observed_outside() > before);
        }
        world.actuator_ok(&["converge"]);
        let _exporter = world.start_exporter();
        world.reset_observer();
        for (nth, kind) in wrapped.into_iter().enumerate() {
            let leaked = count(world, "leaked_packets_total");
            assert!(!passes(world, kind, endpoint, &[]), "{kind:?}: no mark");
            assert!(!passes(world, kind, endpoint, &["--mark", OTHER_MARK]), "{kind:?}: another");
            assert!(
                !passes(world, kind, neighbour, &["--mark", MARK]),
                "{kind:?}: another address"
            );
            let seen = count(world, "leaked_packets_total") - leaked;
            assert!((seen - 3.0).abs() < 0.1, "{kind:?}: each is a leak: {seen}");
            assert_eq!(world.observed_outside(), nth as u64, "{:?}", world.observations());
            assert!(passes(world, kind, endpoint, &["--mark", MARK]), "{kind:?}: the tunnel's own");
            eventually(SOON, "it arrives", || world.observed_outside() == nth as u64 + 1);
        }
        assert!(count(world, "other_frames_total") < 1.0);
    });
}

#[test]
fn s7_an_answer_to_a_lan_host_that_is_not_allowed_is_blocked_and_no_leak() {
    inside("s7_an_answer_to_a_lan_host_that_is_not_allowed_is_blocked_and_no_leak", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.sysctl(Ns::Egress, "net.ipv4.ip_forward", "1");
        let nat = "table ip lan { chain p { type nat hook postrouting priority 100;\n \
                   oifname wg0 masquerade\n }\n}\n";
        world.nft(Ns::Egress, nat);
        for line in [
            "ip address add 10.0.0.9/24 dev lan",
            "ip rule add from 10.0.0.9 lookup 77",
            "ip route add default via 10.0.0.2 dev lan table 77",
        ] {
            world.exec_ok(Ns::Router, &line.split(' ').collect::<Vec<_>>());
        }
        let target = WORLD.to_string();
        let pings = |world: &World| {
            let line = ["ping", "-n", "-c", "1", "-W", "1", "-I", LAN_HOST, &target];
            world.run(Ns::Router, &line).status.success()
        };
        let allow = |nets: &str| EgressConfig {
            path_lines: vec![format!("allow: [{nets}]")],
            ..EgressConfig::quick()
        };
        world.write_config(&allow("10.0.0.9"));
        world.actuator_ok(&["converge"]);
        let _exporter = world.start_exporter();
        eventually(SOON, "a host that is allowed is answered", || pings(world));
        assert!(world.observed(Class::LanBound) > 0, "the router would see an answer");

        world.write_config(&allow("10.0.0.8"));
        world.actuator_ok(&["converge"]);
        world.reset_observer();
        let blocked = count(world, "blocked_packets_total");
        assert!(!pings(world), "its neighbour is not");
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
        assert!(count(world, "blocked_packets_total") > blocked, "counted as blocked");
        assert!(count(world, "leaked_packets_total") < 1.0, "and not as a leak");
    });
}
