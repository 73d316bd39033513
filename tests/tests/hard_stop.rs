//! A leak stops the path, and nothing else does: S3, S6, S7.

use std::time::{Duration, Instant};

use lab::addresses::WORLD_HOLE;
use lab::programs::{ACTUATOR, EXPORTER, kill, leak, repair, tunnel_down};
use lab::{
    Class, Direction, EgressConfig, Endpoint, Exit, Keepalive, Leak, World, eventually, inside,
};

const SOON: Duration = Duration::from_secs(20);
const ENGAGED: &str = "vpn_egress_actuator_hard_stop_engaged{path=\"media\"}";

fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::quick());
    assert!(world.positive_control() > 0);
    world.actuator_ok(&["converge"]);
}

fn is_down(world: &World) -> bool {
    world.actuator(&["validate"]).out.contains("tunnel-down")
}

fn standing(world: &World) -> String {
    world.status()["standing"].as_str().unwrap_or_default().to_owned()
}

/// Frames past the first wall: the watch drops and counts them.
fn leak_packets(world: &World, count: u64) {
    let before = leaked(world);
    world.send_outside(Leak::Packet, count);
    assert_eq!(leaked(world), before + count, "the watch counts each");
}

fn leaked(world: &World) -> u64 {
    world.status()["leaked_packets"].as_u64().expect("a count")
}

#[test]
fn s3_a_leak_stops_the_path_and_only_release_lifts_it() {
    inside("s3_a_leak_stops_the_path_and_only_release_lifts_it", |world| {
        locked(world);
        let mut actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);

        // An alert of a leak that is not there does nothing (S7).
        assert_eq!(world.notify(&[leak()]), (200, vec!["already_released".into()]));

        // S3: leak and tunnel-down together. The leak wins, in whatever order they come.
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is seen to be down", || is_down(world));
        leak_packets(world, 3);
        let (status, outcomes) = world.notify(&[tunnel_down("primary"), leak()]);
        assert_eq!(
            (status, outcomes),
            (200, vec!["already_stopped".into(), "hard_stopped".into()])
        );
        assert_eq!(world.active_endpoint(), "primary");
        assert_eq!(world.metric(ACTUATOR, ENGAGED), Some(1.0));

        // Nothing of the workload passes, tunnel included.
        world.heal(Endpoint::A);
        world.reset_observer();
        let stopped = Instant::now();
        world.exec_ok(lab::Ns::Egress, &["sleep", "2"]);
        assert_eq!(workload.answers_since(stopped).len(), 0);
        assert_eq!(world.observed(Class::Tunnel), 0);
        assert_eq!(world.observed_outside(), 0);

        // It survives the actuator, also where that ended without a word.
        kill(&mut actuator);
        let _actuator = world.start_actuator();
        assert_eq!(standing(world), "stopped");
        // No alert lifts it, S6.
        for alert in [tunnel_down("primary"), tunnel_down("backup"), leak()] {
            assert_eq!(world.notify(&[alert]), (200, vec!["already_stopped".into()]));
        }
        assert_eq!(world.notify(&[repair()]), (200, vec!["intact".into()]));
        for refused in [&["converge"][..], &["converge", "--force"], &["unlock", "--reason", "x"]] {
            let said = world.actuator(refused);
            assert_eq!(said.exit, 3, "{refused:?}: {said:?}");
            assert!(said.err.contains("actuator release --reason"), "{said:?}");
        }
        assert_eq!(world.actuator(&["validate"]).exit, 3);
        assert_eq!(world.actuator(&["release"]).exit, 64, "a reason is asked for");

        let said = world.actuator_ok(&["release", "--reason", "found the container"]);
        assert!(said.contains("hard stop released (was: leak)"), "{said}");
        let released = Instant::now();
        eventually(SOON, "traffic flows again", || !workload.answers_since(released).is_empty());

        // The same leak, still in the rule's window: released is released.
        assert_eq!(world.notify(&[leak()]), (200, vec!["already_released".into()]));
        // A new one is a new one.
        leak_packets(world, 1);
        assert_eq!(world.notify(&[leak()]), (200, vec!["hard_stopped".into()]));
        assert_eq!(world.observed_outside(), 0);
        let log = std::fs::read_to_string(world.scratch().join("actuator.log")).expect("a log");
        assert!(!log.contains("asked of nft"), "the counter is read by netlink: {log}");
    });
}

#[test]
fn s7_what_is_ordinary_never_latches_the_stop() {
    inside("s7_what_is_ordinary_never_latches_the_stop", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let _exporter = world.start_exporter();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        let harmless = |world: &World, what: &str| {
            assert_eq!(
                leaked(world),
                world.status()["leak_baseline"].as_u64().expect("one"),
                "{what}"
            );
            let (_, outcomes) = world.notify(&[leak()]);
            assert_eq!(outcomes, ["already_released"], "{what}");
            assert_eq!(standing(world), "locked", "{what}");
        };

        // Frames that every host sends, at the watch itself, past the first wall.
        for kind in Leak::ORDINARY {
            world.send_outside(kind, 3);
            harmless(world, &kind.name());
        }
        let others = "vpn_egress_other_frames_total{path=\"media\"}";
        // IGMP, MLD and mDNS were stopped there, three each, and told apart from a leak.
        assert_eq!(world.metric(EXPORTER, others), Some(9.0));

        // A config edit, a reload, a converge.
        let edited = EgressConfig {
            path_lines: vec!["allow: [10.0.0.128/25]".into()],
            ..EgressConfig::quick()
        };
        world.write_config(&edited);
        harmless(world, "a config edit");
        assert_eq!(world.actuator(&["converge", "--check"]).exit, 2);
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("the config has changed"), "{said}");
        harmless(world, "a converge");

        // Everything is flushed, and put back by the daemon. What went out meanwhile is no secret
        // of this test: the observer may have seen it, the stop must not come of it.
        world.flush_ruleset();
        eventually(SOON, "the rules are back", || world.status()["rules_intact"] == true);
        harmless(world, "a flush that was repaired");
        let repaired = "vpn_egress_actuator_repairs_total{path=\"media\",table=\"killswitch\"}";
        eventually(SOON, "the repair is counted", || {
            world.metric(ACTUATOR, repaired).is_some_and(|count| count >= 1.0)
        });
        assert_eq!(world.active_endpoint(), "primary");
    });
}

#[test]
fn s7_packets_that_waited_for_arp_when_the_lock_came_are_no_leak() {
    inside("s7_packets_that_waited_for_arp_when_the_lock_came_are_no_leak", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        // A neighbour that does not answer yet: what is sent to it waits in its queue. Then the
        // lock comes, then the neighbour.
        let nobody = "10.0.0.77";
        world.exec_ok(lab::Ns::Egress, &["ip", "route", "add", "198.18.0.1", "via", nobody]);
        let lab = World::program("lab").display().to_string();
        let send = ["leak", "--kind", "udp4", "--count", "3", "--target", "198.18.0.1:9"];
        let line: Vec<&str> = std::iter::once(lab.as_str()).chain(send).collect();
        let waits = |world: &World| {
            let neighbours = world.exec_ok(lab::Ns::Egress, &["ip", "neigh", "show", nobody]);
            neighbours.contains("INCOMPLETE")
        };
        world.exec_ok(lab::Ns::Egress, &line);
        assert!(waits(world), "the packets wait");
        world.actuator_ok(&["converge"]);
        world.exec_ok(lab::Ns::Router, &["ip", "address", "add", "10.0.0.77/24", "dev", "lan"]);
        // The neighbour is found now, by an ARP request of our own; the queue would be sent.
        world.exec_ok(
            lab::Ns::Egress,
            &["ip", "neigh", "replace", nobody, "lladdr", "02:00:00:00:00:07", "dev", "eth0"],
        );
        let status = world.status();
        assert_eq!(status["leaked_packets"], status["leak_baseline"], "{status}");
        let _actuator = world.start_actuator();
        assert_eq!(world.notify(&[leak()]), (200, vec!["already_released".into()]));
        assert_eq!(standing(world), "locked");
    });
}

#[test]
fn s7_missing_or_damaged_state_means_stopped() {
    inside("s7_missing_or_damaged_state_means_stopped", |world| {
        locked(world);
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        let whole = std::fs::read(world.state_file()).expect("state");

        for damage in [&b""[..], &whole[..whole.len() / 2], b"{\"version\":99}"] {
            std::fs::write(world.state_file(), damage).expect("written");
            let mut actuator = world.start_actuator();
            assert_eq!(standing(world), "stopped");
            let stopped = Instant::now();
            let (_, outcomes) = world.notify(&[tunnel_down("primary")]);
            assert_eq!(outcomes, ["hard_stopped"]);
            assert_eq!(world.actuator(&["converge"]).exit, 3);
            assert_eq!(workload.answers_since(stopped).len(), 0);
            world.actuator_ok(&["release", "--reason", "damaged by hand"]);
            assert_eq!(standing(world), "locked");
            kill(&mut actuator);
        }

        // Missing is stopped too; what creates a state is `converge`, and nothing else.
        std::fs::remove_file(world.state_file()).expect("removed");
        let _actuator = world.start_actuator();
        assert_eq!(standing(world), "stopped");
        assert!(!world.state_file().exists());
        world.actuator_ok(&["converge"]);
        assert_eq!(standing(world), "locked");
        // But never over a latch whose state was removed.
        leak_packets(world, 1);
        assert_eq!(world.notify(&[leak()]), (200, vec!["hard_stopped".into()]));
        std::fs::remove_file(world.state_file()).expect("removed");
        assert_eq!(world.actuator(&["converge"]).exit, 3);
        world.actuator_ok(&["release", "--reason", "state was removed"]);
        assert_eq!(standing(world), "locked");
    });
}

#[test]
fn s3_a_hole_in_the_killswitch_is_stopped_by_the_watch() {
    inside("s3_a_hole_in_the_killswitch_is_stopped_by_the_watch", |world| {
        locked(world);
        // No daemon: nobody repairs, the hole stays.
        let _through = world.start_workload_to(lab::addresses::ECHO_HOLE);
        world.punch_hole(WORLD_HOLE);
        eventually(SOON, "the watch counts", || leaked(world) > 0);
        assert_eq!(world.actuator(&["validate"]).exit, 2, "a leak is exit 2");
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
        let _actuator = world.start_actuator();
        // A leak from before the daemon was there is not forgotten.
        assert_eq!(standing(world), "stopped");
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn s3_a_leak_whose_counter_is_removed_stays_a_leak() {
    inside("s3_a_leak_whose_counter_is_removed_stays_a_leak", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        leak_packets(world, 2);
        // No alert has come yet; the daemon looks every second, and says so once.
        eventually(SOON, "the daemon has seen the leak", || {
            let log = std::fs::read_to_string(world.scratch().join("actuator.log"));
            log.is_ok_and(|log| log.contains("a leak is counted"))
        });
        assert_eq!(standing(world), "locked");
        world.flush_ruleset();
        eventually(SOON, "the hard stop", || standing(world) == "stopped");
        let reason = world.status()["stop"]["evidence"].to_string();
        assert!(reason.contains("counter was removed"), "{reason}");
    });
}

#[test]
fn s3_a_counter_that_began_anew_hides_no_leak() {
    inside("s3_a_counter_that_began_anew_hides_no_leak", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        leak_packets(world, 50);
        assert_eq!(world.notify(&[leak()]), (200, vec!["hard_stopped".into()]));
        world.actuator_ok(&["release", "--reason", "dealt with"]);
        // Counters are reset by others, rules untouched.
        world.exec_ok(lab::Ns::Egress, &["nft", "reset", "counters"]);
        assert_eq!(world.notify(&[leak()]), (200, vec!["already_released".into()]));
        world.send_outside(Leak::Packet, 3);
        assert_eq!(world.notify(&[leak()]), (200, vec!["hard_stopped".into()]));
    });
}

#[test]
fn s7_tunnel_packets_larger_than_the_uplinks_mtu_are_no_leak() {
    inside("s7_tunnel_packets_larger_than_the_uplinks_mtu_are_no_leak", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        // An LTE or PPPoE uplink below a tunnel of the usual MTU: WireGuard's packets are fragmented.
        world.exec_ok(lab::Ns::Egress, &["ip", "link", "set", "eth0", "mtu", "1300"]);
        world.exec_ok(lab::Ns::Router, &["ip", "link", "set", "lan", "mtu", "1300"]);
        // Some may be lost until the server has learnt of the smaller MTU.
        let ping = ["ping", "-c", "10", "-i", "0.3", "-W", "1", "-s", "1392", "10.64.0.1"];
        world.exec_ok(lab::Ns::Egress, &ping);
        assert_eq!(leaked(world), 0);
        assert_eq!(world.notify(&[leak()]), (200, vec!["already_released".into()]));
    });
}

#[test]
fn s6_an_edited_config_is_nobodys_before_a_converge() {
    inside("s6_an_edited_config_is_nobodys_before_a_converge", |world| {
        locked(world);
        let mut actuator = world.start_actuator();
        let _exporter = world.start_exporter();
        let state = || std::fs::read(world.state_file()).expect("state");
        let kernel = || {
            let endpoints = world.exec_ok(lab::Ns::Egress, &["wg", "show", "wg0", "endpoints"]);
            (world.walls(), endpoints)
        };
        let (before, rules) = (state(), kernel());
        let edited = EgressConfig {
            endpoints: vec![Endpoint::B, Endpoint::A],
            path_lines: vec!["ntp: [192.0.2.123]".into(), "allow: [192.0.2.0/24]".into()],
            ..EgressConfig::quick()
        };
        world.write_config(&edited);
        let check = world.actuator(&["converge", "--check"]);
        assert_eq!(check.exit, 2, "{check:?}");
        assert!(check.out.contains("would change: endpoint primary -> backup"), "{check:?}");
        // Restarted with the edit on disk: still nobody's.
        kill(&mut actuator);
        let _actuator = world.start_actuator();
        world.exec_ok(lab::Ns::Egress, &["sleep", "2"]);
        assert_eq!(kernel(), rules);
        assert_eq!(state(), before);
        // Rules that are lost meanwhile are put back as they were converged, not as edited.
        world.flush_ruleset();
        eventually(SOON, "the rules are back", || world.status()["rules_intact"] == true);
        assert_eq!(kernel(), rules);
        // Nor is the edited order a list to fail forward in.
        assert_eq!(world.notify_once(&[tunnel_down("primary")]), (503, vec!["unclear".into()]));
        let drift = "vpn_egress_config_drift{path=\"media\"}";
        assert_eq!(world.metric(EXPORTER, drift), Some(1.0));

        world.actuator_ok(&["converge"]);
        assert_eq!(world.active_endpoint(), "backup");
        assert_eq!(world.metric(EXPORTER, drift), Some(0.0));
        // A config that is wrong changes nothing either.
        world.write_file("egress.yml", "paths: [", 0o644);
        let (before, rules) = (state(), kernel());
        let said = world.actuator(&["converge"]);
        assert_eq!(said.exit, 78, "{said:?}");
        assert!(said.err.contains("egress.yml"), "{said:?}");
        assert_eq!((state(), kernel()), (before, rules));
    });
}
