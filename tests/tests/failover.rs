//! The switch, as an alert asks for it: S2, S5, S8, S9. Alerts are sent by the test, so that each
//! case is exactly the one meant; `story.rs` has the loop with the real rules.

use std::time::{Duration, Instant};

use lab::programs::{ACTUATOR, EXPORTER, kill, tunnel_down};
use lab::{Direction, EgressConfig, Endpoint, Exit, Keepalive, Ns, World, eventually, inside};

const SOON: Duration = Duration::from_secs(20);

/// A locked path at its primary, tunnel up.
fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::quick());
    let said = world.actuator_ok(&["converge"]);
    assert!(said.contains("changed: killswitch and watch loaded"), "{said}");
}

fn is_down(world: &World) -> bool {
    world.actuator(&["validate"]).out.contains("tunnel-down")
}

#[test]
fn s2_s5_a_dead_primary_is_left_once_and_for_good() {
    inside("s2_s5_a_dead_primary_is_left_once_and_for_good", |world| {
        locked(world);
        let mut actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        let rules = world.exec_ok(Ns::Egress, &["nft", "-s", "list", "ruleset"]);

        // S8: an alert while the tunnel works is late or wrong.
        assert_eq!(world.notify(&[tunnel_down("primary")]), (200, vec!["recovered".into()]));

        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is seen to be down", || is_down(world));
        assert_eq!(world.notify(&[tunnel_down("backup")]), (200, vec!["stale_endpoint".into()]));
        assert_eq!(world.notify(&[tunnel_down("primary")]), (200, vec!["switched".into()]));
        workload.wait_for_exit(Exit::B, SOON);
        assert_eq!(world.active_endpoint(), "backup");
        // No interface, route or rule changed.
        assert_eq!(world.exec_ok(Ns::Egress, &["nft", "-s", "list", "ruleset"]), rules);

        // S8: the same notification, twenty times, and one an hour late.
        for _ in 0..20 {
            let again = world.notify(&[tunnel_down("primary")]);
            assert_eq!(again, (200, vec!["stale_endpoint".into()]));
        }
        let series =
            "vpn_egress_actuator_failovers_total{from=\"primary\",path=\"media\",to=\"backup\"}";
        assert_eq!(world.metric(ACTUATOR, series), Some(1.0));

        // S5: the primary heals, everything restarts, and the path stays.
        world.heal(Endpoint::A);
        kill(&mut actuator);
        let _actuator = world.start_actuator();
        assert_eq!(world.active_endpoint(), "backup");
        // As a boot script would bring it up: at the primary. State decides.
        world.delete_tunnel();
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        eventually(SOON, "the device is brought back to the backup", || {
            world.status()["live_endpoint"] == "backup"
        });
        workload.wait_for_exit(Exit::B, SOON);

        // S6: the only way back is a person's.
        let check = world.actuator(&["converge", "--check"]);
        assert_eq!(check.exit, 2, "{check:?}");
        assert_eq!(world.active_endpoint(), "backup");
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("changed: endpoint backup -> primary (failback)"), "{said}");
        workload.wait_for_exit(Exit::A, SOON);
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("nothing to change"), "{said}");
        assert_eq!(world.actuator(&["converge", "--check"]).exit, 0);
    });
}

/// The lines of README's drill, as they stand there, but for `sudo`: a table that makes the primary
/// dead, and its end.
fn drill() -> (Vec<String>, Vec<String>) {
    let readme = include_str!("../../README.md");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("sudo nft "));
    let (end, begin) = lines
        .map(|line| format!("nft {line}"))
        .partition(|line: &String| line.starts_with("nft delete"));
    (begin, end)
}

#[test]
fn the_drill_of_the_readme_is_a_failover() {
    inside("the_drill_of_the_readme_is_a_failover", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let run = |lines: &[String]| {
            for line in lines {
                world.exec_ok(Ns::Egress, &["sh", "-c", line]);
            }
        };
        let (begin, end) = drill();
        assert!(begin.len() == 3 && end.len() == 1, "{begin:?} {end:?}");
        eventually(SOON, "the tunnel is up", || world.actuator(&["validate"]).exit == 0);
        run(&begin);
        eventually(SOON, "the primary is seen to be down", || is_down(world));
        assert_eq!(world.notify(&[tunnel_down("primary")]), (200, vec!["switched".into()]));
        run(&end);
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("failback"), "{said}");
    });
}

#[test]
fn s9_no_switch_to_a_dead_backup_until_it_lives() {
    inside("s9_no_switch_to_a_dead_backup_until_it_lives", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        world.stop_server(Endpoint::B);
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is seen to be down", || is_down(world));

        let refused = (503, vec!["no_reachable_standby".to_owned()]);
        assert_eq!(world.notify(&[tunnel_down("primary")]), refused);
        assert_eq!(world.active_endpoint(), "primary");
        let series = "vpn_egress_actuator_failover_failures_total{path=\"media\",reason=\"no_reachable_standby\"}";
        assert_eq!(world.metric(ACTUATOR, series), Some(1.0));

        world.start_server(Endpoint::B);
        eventually(SOON, "the retry finds the backup alive", || {
            world.notify(&[tunnel_down("primary")]) == (200, vec!["switched".into()])
        });
        workload.wait_for_exit(Exit::B, SOON);

        // S5: the last one is the last one.
        world.blackhole(Endpoint::B, Direction::Both);
        eventually(SOON, "the backup is seen to be down", || is_down(world));
        eventually(SOON, "nothing is left to fail forward to", || {
            world.notify(&[tunnel_down("backup")]) == (200, vec!["exhausted".into()])
        });
        assert_eq!(
            world.metric(ACTUATOR, "vpn_egress_actuator_exhausted{path=\"media\"}"),
            Some(1.0)
        );
        assert_eq!(world.active_endpoint(), "backup");
        // A dead primary is not failed back to without force.
        let said = world.actuator(&["converge"]);
        assert_eq!(said.exit, 3, "{said:?}");
        assert!(said.err.contains("does not answer a handshake"), "{said:?}");
    });
}

#[test]
fn s9_dead_candidates_are_skipped_in_order() {
    inside("s9_dead_candidates_are_skipped_in_order", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        // primary, dead, backup, and a last one: the backup's server by its other address.
        let backup = "      - name: backup\n";
        let dead = world.backup_at("dead", "203.0.113.99:51820");
        world.edit_config(backup, &format!("{dead}{backup}"));
        let last = format!("[{}]:51820", Endpoint::B.address_v6());
        let last = world.backup_at("last", &last);
        world.edit_config("    health:\n", &format!("{last}    health:\n"));
        world.actuator_ok(&["converge"]);
        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);

        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is seen to be down", || is_down(world));
        assert_eq!(world.notify(&[tunnel_down("primary")]), (200, vec!["switched".into()]));
        assert_eq!(world.active_endpoint(), "backup", "the dead one is skipped");
        workload.wait_for_exit(Exit::B, SOON);
        for stale in ["primary", "dead", "last"] {
            assert_eq!(world.notify(&[tunnel_down(stale)]).1, ["stale_endpoint"]);
        }

        // By its first address the server is gone; neither that one nor the dead one is gone back to.
        world.block_port(Endpoint::B);
        eventually(SOON, "the backup is seen to be down", || is_down(world));
        eventually(SOON, "the last one is taken", || {
            world.notify(&[tunnel_down("backup")]).1 == ["switched"]
        });
        assert_eq!(world.active_endpoint(), "last");
        let back = Instant::now();
        eventually(SOON, "traffic flows again", || !workload.answers_since(back).is_empty());
        world.stop_server(Endpoint::B);
        eventually(SOON, "the last one is seen to be down", || is_down(world));
        eventually(SOON, "nothing is left", || {
            world.notify(&[tunnel_down("last")]) == (200, vec!["exhausted".into()])
        });
    });
}

#[test]
fn s4_an_alert_that_found_the_path_up_switches_on_no_first_look() {
    inside("s4_an_alert_that_found_the_path_up_switches_on_no_first_look", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig { settle: "5s".into(), ..EgressConfig::quick() });
        world.actuator_ok(&["converge"]);
        let _actuator = world.start_actuator();
        let told = |alert| world.notify_once(&[alert]).1;
        // A converge is followed by a time of grace as well.
        let converged = Instant::now();
        eventually(SOON, "its grace is over", || converged.elapsed() > Duration::from_secs(6));
        assert_eq!(world.actuator(&["validate"]).exit, 0);

        // Told by an Alertmanager that has not heard yet that it is over.
        assert_eq!(told(tunnel_down("primary")), ["recovered"]);
        assert_eq!(told(tunnel_down("primary")), ["recovered"]);

        // Told again, and by then it is down anew: what nobody has watched for is no run of cycles.
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "it is down", || is_down(world));
        let down = Instant::now();
        assert_eq!(told(tunnel_down("primary")), ["unclear"]);
        assert_eq!(world.active_endpoint(), "primary");
        // But for as long as it settles only.
        eventually(SOON, "the switch", || told(tunnel_down("primary")) == ["switched"]);
        assert!(down.elapsed() > Duration::from_secs(3), "{:?}", down.elapsed());
        assert_eq!(world.active_endpoint(), "backup");
    });
}

#[test]
fn a_dead_uplink_spends_no_failover() {
    inside("a_dead_uplink_spends_no_failover", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        world.uplink_down();
        eventually(SOON, "the cause is named", || {
            world.actuator(&["validate"]).out.contains("uplink-down")
        });
        let (_, outcomes) = world.notify(&[tunnel_down("primary")]);
        assert_eq!(outcomes, ["uplink_down"]);
        world.uplink_up();
        let back = Instant::now();
        eventually(SOON, "traffic flows again", || !workload.answers_since(back).is_empty());
        assert_eq!(world.active_endpoint(), "primary");
    });
}

#[test]
fn s5_the_end_of_an_outage_of_everything_costs_no_switch() {
    inside("s5_the_end_of_an_outage_of_everything_costs_no_switch", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        // The provider of the uplink is down: nothing answers, though the gateway does.
        world.blackhole(Endpoint::A, Direction::Both);
        world.blackhole(Endpoint::B, Direction::Both);
        eventually(SOON, "the primary is seen to be down", || is_down(world));
        let refused = (503, vec!["no_reachable_standby".to_owned()]);
        eventually(SOON, "nothing answers", || world.notify(&[tunnel_down("primary")]) == refused);
        // Long enough for WireGuard to have given up its session, and to be retrying.
        world.exec_ok(Ns::Egress, &["sleep", "17"]);
        // All is back at once. The device's retry comes up to five seconds after a probe's.
        world.heal(Endpoint::B);
        world.heal(Endpoint::A);
        let back = Instant::now();
        eventually(SOON, "the tunnel is back", || {
            let (_, outcomes) = world.notify_once(&[tunnel_down("primary")]);
            assert_ne!(outcomes, ["switched"], "{:?} after the return", back.elapsed());
            outcomes == ["recovered"]
        });
        assert_eq!(world.active_endpoint(), "primary");
    });
}

/// A clock that ran ahead and was set right before a boot looks like one that is behind, until an
/// endpoint that never heard it answers.
#[test]
fn a_clock_that_was_ahead_keeps_nobody_at_a_dead_primary() {
    inside("a_clock_that_was_ahead_keeps_nobody_at_a_dead_primary", |world| {
        locked(world);
        world.blackhole(Endpoint::A, Direction::Both);
        world.blackhole(Endpoint::B, Direction::Both);
        world.delete_tunnel();
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        let file = world.state_file();
        let text = std::fs::read_to_string(&file).expect("the state");
        let mut state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        state["latest_handshake"] = (now + 86_400).into();
        std::fs::write(&file, state.to_string()).expect("written");
        let _actuator = world.start_actuator();
        let is_unsure = |world: &World| world.actuator(&["validate"]).out.contains("clock: ");
        eventually(SOON, "the clock is doubted", || is_unsure(world));
        // While nobody answers it may be behind.
        let (status, outcomes) = world.notify_once(&[tunnel_down("primary")]);
        assert_eq!((status, outcomes), (503, vec!["unclear".to_owned()]));

        world.heal(Endpoint::B);
        eventually(SOON, "the backup has answered by this clock", || is_down(world));
        // A candidate that has just come back is given time, as after an outage of everything.
        eventually(SOON, "the switch", || {
            let (_, outcomes) = world.notify(&[tunnel_down("primary")]);
            let switched = outcomes == ["switched"];
            if switched { Ok(()) } else { Err(outcomes) }
        });
        assert_eq!(world.active_endpoint(), "backup");
    });
}

#[test]
fn a_lost_default_route_is_no_dead_tunnel() {
    inside("a_lost_default_route_is_no_dead_tunnel", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        world.exec_ok(Ns::Egress, &["ip", "route", "del", "default"]);
        world.exec_ok(Ns::Egress, &["ip", "-6", "route", "del", "default"]);
        eventually(SOON, "the cause is named", || {
            world.actuator(&["validate"]).out.contains("uplink-down (no route to ")
        });
        // The watch stays where the route will come back.
        assert_eq!(world.status()["uplinks"][0]["covered"], true);
    });
}

#[test]
fn a_server_that_answers_from_elsewhere_costs_no_switch() {
    inside("a_server_that_answers_from_elsewhere_costs_no_switch", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let _exporter = world.start_exporter();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        let value = |base, series: &str| world.metric(base, series).unwrap_or(0.0);
        let set_back = "vpn_egress_actuator_peers_set_back_total{path=\"media\"}";
        let roamed = "vpn_egress_cycles_total{path=\"media\",verdict=\"roamed\"}";
        let run = "vpn_egress_consecutive_down_cycles{endpoint=\"primary\",path=\"media\"}";

        // Each packet of the server's moves the peer there, where nothing may be sent to.
        world.answer_from(Endpoint::A, "198.51.100.11");
        eventually(
            Duration::from_secs(60),
            "the peer roams, and is set back, again and again",
            || {
                let (_, outcomes) = world.notify_once(&[tunnel_down("primary")]);
                assert_ne!(outcomes, ["switched"]);
                assert!(value(EXPORTER, run) < 3.0, "a run of down cycles");
                value(ACTUATOR, set_back) >= 3.0 && value(EXPORTER, roamed) >= 2.0
            },
        );
        assert_eq!(world.active_endpoint(), "primary");

        world.answer_as_usual(Endpoint::A);
        let back = Instant::now();
        eventually(SOON, "traffic flows again", || !workload.answers_since(back).is_empty());
        eventually(SOON, "the path is well", || {
            let (_, outcomes) = world.notify_once(&[tunnel_down("primary")]);
            assert_ne!(outcomes, ["switched"]);
            outcomes == ["recovered"]
        });
        assert_eq!(world.active_endpoint(), "primary");
    });
}

#[test]
fn a_peer_that_roamed_is_set_back() {
    inside("a_peer_that_roamed_is_set_back", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let key = world.server_public_key(Endpoint::A).to_owned();
        let elsewhere = ["wg", "set", "wg0", "peer", &key, "endpoint", "203.0.113.10:51820"];
        world.exec_ok(Ns::Egress, &elsewhere);
        eventually(SOON, "the peer is set back", || {
            let shown = world.exec_ok(Ns::Egress, &["wg", "show", "wg0", "endpoints"]);
            shown.contains("198.51.100.10:51820")
        });
        let counted = "vpn_egress_actuator_peers_set_back_total{path=\"media\"}";
        assert_eq!(world.metric(ACTUATOR, counted), Some(1.0));
        assert_eq!(world.active_endpoint(), "primary");
    });
}
