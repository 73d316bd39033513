//! The lab itself: the world comes up, its observer sees, its workload tells the truth.

use std::time::{Duration, Instant};

use lab::addresses::{
    ECHO_HOLE, ECHO_V6, TUNNEL_SERVER, TUNNEL_SERVER_V6, WORLD, WORLD_HOLE, WORLD_V6,
};
use lab::{Class, EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, World, eventually};

const SOON: Duration = Duration::from_secs(10);

/// The least that can be called a killswitch, to have something to punch holes in.
const LOCK: &str = r#"
table inet vpn_egress {
    chain output {
        type filter hook output priority 0; policy drop;
        oifname { "lo", "wg0" } accept
        meta mark 0xca6c udp dport 51820 accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
    chain forward { type filter hook forward priority 0; policy drop; }
}
"#;

/// The least that can be called a watch.
const WATCH: &str = r#"
table netdev watch {
    chain egress {
        type filter hook egress device "eth0" priority 0; policy drop;
        meta protocol arp accept
        meta mark 0xca6c udp dport 51820 accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
"#;

#[test]
fn traffic_flows_by_exit_a_and_nothing_beside_it() {
    lab::inside("traffic_flows_by_exit_a_and_nothing_beside_it", |world| {
        let workload = world.start_workload();
        let workload_v6 = world.start_workload_to(ECHO_V6);
        workload.wait_for_exit(Exit::A, SOON);
        workload_v6.wait_for_exit(Exit::A, SOON);
        for target in [
            TUNNEL_SERVER.to_string(),
            TUNNEL_SERVER_V6.to_string(),
            WORLD.to_string(),
            WORLD_V6.to_string(),
        ] {
            assert!(world.ping(Ns::Egress, &target), "{target} answers");
        }
        assert!(world.latest_handshake().is_some());
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
        assert!(world.observed(Class::Tunnel) > 0);
    });
}

#[test]
fn the_tunnel_moves_to_b_and_the_workload_says_so() {
    lab::inside("the_tunnel_moves_to_b_and_the_workload_says_so", |world| {
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        let moved = Instant::now();
        world.switch_tunnel(Endpoint::B, Keepalive::every(1));
        workload.wait_for_exit(Exit::B, SOON);
        assert_eq!(workload.last_exit(), Some(Exit::B));
        assert!(workload.longest_gap_since(moved) < SOON);
        assert!(!workload.answers_since(moved).is_empty());
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn the_observer_sees_every_kind_of_leak() {
    lab::inside("the_observer_sees_every_kind_of_leak", |world| {
        let seen = world.positive_control();
        assert!(seen >= 3 * Leak::ALL.len() as u64, "{seen} packets seen");
        assert_eq!(world.observed_outside(), 0, "counts from zero again");
    });
}

#[test]
fn the_observer_sees_what_gets_past_a_lock_and_nothing_else() {
    lab::inside("the_observer_sees_what_gets_past_a_lock_and_nothing_else", |world| {
        world.positive_control();
        world.nft(Ns::Egress, LOCK);
        for leak in [Leak::Udp4, Leak::Udp6, Leak::Tcp4, Leak::Icmp4, Leak::Endpoint] {
            let attempts = world.send_outside(leak, 2);
            assert_eq!(attempts.sent + attempts.errors.values().sum::<u64>(), 2);
            assert_eq!(world.observed_outside(), 0, "{leak:?}");
        }
        world.send_outside(Leak::Packet, 2);
        assert_eq!(world.observed(Class::Udp4), 2, "past the IP stack");

        world.nft(Ns::Egress, WATCH);
        world.reset_observer();
        for leak in Leak::ALL {
            world.send_outside(leak, 2);
        }
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn a_punched_hole_leaks() {
    lab::inside("a_punched_hole_leaks", |world| {
        world.nft(Ns::Egress, LOCK);
        let leaking = world.start_workload_to(ECHO_HOLE);
        let locked = world.start_workload();
        leaking.wait_for_exit(Exit::A, SOON);
        world.reset_observer();

        world.route_outside(WORLD_HOLE);
        let since = Instant::now();
        eventually(SOON, "the other workload goes on for a while", || {
            locked.answers_since(since).len() >= 10
        });
        assert!(leaking.answers_since(since).is_empty(), "the lock holds");
        assert_eq!(world.observed_outside(), 0);

        world.punch_hole(WORLD_HOLE);
        leaking.wait_for_exit(Exit::Direct, SOON);
        assert!(world.observed(Class::WorldBound) > 0);
        locked.wait_for_exit(Exit::A, SOON);

        world.unroute_outside(WORLD_HOLE);
        leaking.wait_for_exit(Exit::A, SOON);
        world.delete_table("inet", "vpn_egress");
        world.nft(Ns::Egress, LOCK);
        world.flush_ruleset();
        assert_eq!(world.exec_ok(Ns::Egress, &["nft", "list", "ruleset"]), "");
    });
}

#[test]
fn the_config_names_files_that_exist_and_only_root_reads() {
    lab::inside("the_config_names_files_that_exist_and_only_root_reads", |world: &mut World| {
        let file = world.write_config(&EgressConfig {
            interval: "1s".into(),
            path_lines: vec!["management: [10.0.0.1]".into()],
            ..EgressConfig::default()
        });
        let text = world.exec_ok(Ns::Egress, &["cat", &file.to_string_lossy()]);
        assert!(text.contains("interval: 1s\n"));
        assert!(text.contains("\n    management: [10.0.0.1]\n"));
        for (name, secret) in [("a.conf", 0), ("b.key", 2), ("b.psk", 4)] {
            let path = world.scratch().join(name);
            let path = path.to_string_lossy();
            assert!(text.contains(path.as_ref()), "{name} is named");
            let mode = world.exec_ok(Ns::Egress, &["stat", "-c", "%a", &path]);
            assert_eq!(mode.trim(), "600", "{name}");
            let content = world.exec_ok(Ns::Egress, &["cat", &path]);
            assert!(content.contains(&world.secrets()[secret]), "{name}");
        }
        for secret in world.secrets() {
            assert!(!text.contains(&secret), "no key in the config itself");
        }
    });
}

#[test]
fn a_container_is_forwarded_as_the_host_is_routed() {
    lab::inside("a_container_is_forwarded_as_the_host_is_routed", |world: &mut World| {
        world.add_container();
        let by_v4 = || world.ping(Ns::Container, &WORLD.to_string());
        eventually(SOON, "the container reaches the world", by_v4);
        eventually(SOON, "by IPv6", || world.ping(Ns::Container, &WORLD_V6.to_string()));
        assert_eq!(world.observed_outside(), 0, "by the tunnel: {:?}", world.observations());
        world.route_outside(WORLD_HOLE);
        assert!(world.ping(Ns::Container, &WORLD_HOLE.to_string()));
        assert_eq!(world.observed(Class::Icmp4), 1);

        world.stop_container();
        assert!(!world.ping(Ns::Container, &WORLD.to_string()), "it has ended");
        world.start_container();
        eventually(SOON, "the container is back", by_v4);
    });
}
