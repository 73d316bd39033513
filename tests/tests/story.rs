//! The whole loop on real parts, with the rules, the configuration and the intervals as shipped:
//! kernel, exporter, Prometheus, Alertmanager, actuator, kernel.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::addresses::{ECHO_HOLE, WORLD_HOLE};
use lab::programs::{ACTUATOR, EXPORTER, kill};
use lab::{
    Direction, EgressConfig, Endpoint, Exit, Instances, Keepalive, Ns, Process, World, eventually,
    inside,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
/// Three cycles, a probe's timeout, a scrape, an evaluation, and a busy machine.
const FAILOVER: Duration = Duration::from_secs(60);
const SWITCHES: &str =
    "vpn_egress_actuator_failovers_total{from=\"primary\",path=\"media\",to=\"backup\"}";
const ENGAGED: &str = "vpn_egress_actuator_hard_stop_engaged{path=\"media\"}";

fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::default());
    assert!(world.positive_control() > 0);
    world.actuator_ok(&["converge"]);
}

fn down_cycles(world: &World) -> Option<f64> {
    let series = "vpn_egress_consecutive_down_cycles{endpoint=\"primary\",path=\"media\"}";
    world.metric(EXPORTER, series)
}

fn cycles(world: &World) -> f64 {
    let series = "vpn_egress_cycles_total{path=\"media\",verdict=\"up\"}";
    world.metric(EXPORTER, series).unwrap_or(0.0)
}

/// Alerts of an action that reached the actuator and had this outcome.
fn outcomes(world: &World, action: &str, outcome: &str) -> f64 {
    let series =
        format!("vpn_egress_actuator_alerts_total{{action=\"{action}\",outcome=\"{outcome}\"}}");
    world.metric(ACTUATOR, &series).unwrap_or(0.0)
}

/// Lets so many more good cycles pass.
fn await_good_cycles(world: &World, number: f64) {
    let from = cycles(world);
    eventually(FAILOVER, "good cycles", || cycles(world) >= from + number);
}

/// S10: no secret of this world anywhere that a program of ours writes to.
#[track_caller]
fn assert_no_secret_shown(world: &World) {
    let mut shown =
        vec![("ps".to_owned(), world.exec_ok(Ns::Egress, &["ps", "-eww", "-o", "args"]))];
    for base in [EXPORTER, ACTUATOR] {
        let page = world.http_get(&format!("{base}/metrics")).expect("a page").body;
        shown.push((base.to_owned(), page));
    }
    for command in [&["status"][..], &["status", "--json"], &["validate"], &["converge", "--check"]]
    {
        shown.push((format!("{command:?}"), format!("{:?}", world.actuator(command))));
    }
    for name in ["exporter.log", "actuator.log"] {
        let log = std::fs::read_to_string(world.scratch().join(name)).expect("a log");
        assert!(log.contains("listening"), "{name} is the log of a program that ran");
        shown.push((name.to_owned(), log));
    }
    let state = std::fs::read_to_string(world.state_file()).expect("state");
    shown.push(("state".to_owned(), state));
    let secrets = world.secrets();
    assert!(secrets.len() >= 3, "private keys and a preshared key, each in more than one writing");
    let hex = |secret: &String| lab::hex(&STANDARD.decode(secret).expect("base64"));
    for (place, text) in shown {
        for secret in &secrets {
            assert!(!text.contains(secret.trim_end_matches('=')), "S10: a key is shown in {place}");
            let text = text.to_lowercase();
            assert!(!text.contains(&hex(secret)), "S10: a key is shown in hex in {place}");
        }
    }
}

#[test]
fn s4_s5_s8_n_cycles_switch_once_and_the_path_stays() {
    inside("s4_s5_s8_n_cycles_switch_once_and_the_path_stays", |world| {
        locked(world);
        let mut parts = world.start_loop(Instances::Two);
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        await_good_cycles(world, 3.0);

        // N-1 down cycles: nothing.
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(FAILOVER, "two down cycles", || down_cycles(world) == Some(2.0));
        world.heal(Endpoint::A);
        await_good_cycles(world, 4.0);
        assert_eq!(world.metric(ACTUATOR, SWITCHES), Some(0.0));
        assert!(outcomes(world, "failover", "recovered") < 1.0, "no alert was sent at all");

        // N: one switch, though two Alertmanagers tell of it again and again.
        world.blackhole(Endpoint::A, Direction::Both);
        let fault = Instant::now();
        workload.wait_for_exit(Exit::B, FAILOVER);
        println!("fault to traffic flowing again: {:.1} s", fault.elapsed().as_secs_f64());
        eventually(SOON, "the switch is counted", || world.metric(ACTUATOR, SWITCHES) == Some(1.0));

        // S5: the primary heals, both programs restart, and the path stays.
        world.heal(Endpoint::A);
        kill(&mut parts.exporter);
        kill(&mut parts.actuator);
        parts.exporter = world.start_exporter();
        parts.actuator = world.start_loops_actuator();
        await_good_cycles(world, 4.0);
        assert_eq!(world.active_endpoint(), "backup");
        assert_eq!(world.metric(ACTUATOR, SWITCHES), Some(0.0), "a new process, no new switch");

        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("changed: endpoint backup -> primary"), "{said}");
        workload.wait_for_exit(Exit::A, SOON);
        assert!(world.actuator_ok(&["converge"]).contains("nothing to change"));
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
        assert_no_secret_shown(world);
        eventually(SOON, "the watchdog is heard", || {
            let heartbeat = "vpn_egress_actuator_last_heartbeat_timestamp_seconds";
            world.metric(ACTUATOR, heartbeat).is_some_and(|at| at > 0.0)
        });
    });
}

#[test]
fn s4_a_prometheus_that_was_away_spends_no_failover_on_what_it_saw_before() {
    inside("s4_a_prometheus_that_was_away_spends_no_failover_on_what_it_saw_before", |world| {
        locked(world);
        let mut parts = world.start_loop(Instances::One);
        await_good_cycles(world, 3.0);

        let back = |prometheus: &mut Process| {
            prometheus.kill(Signal::SIGCONT);
            let fresh = "time() - timestamp(vpn_egress_consecutive_down_cycles) < 4";
            eventually(SOON, "it is back", || !world.query(fresh).is_empty());
            await_good_cycles(world, 3.0);
            assert!(!world.fires("VpnEgressTunnelDown"));
            assert_eq!(world.metric(ACTUATOR, SWITCHES), Some(0.0));
            assert_eq!(world.active_endpoint(), "primary");
        };
        // An outage begins and ends unseen.
        parts.prometheus.kill(Signal::SIGSTOP);
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(FAILOVER, "enough to fire", || down_cycles(world) >= Some(4.0));
        world.heal(Endpoint::A);
        await_good_cycles(world, 1.0);
        back(&mut parts.prometheus);
        assert!(outcomes(world, "failover", "recovered") < 1.0, "no alert was sent at all");

        // Nothing answers, so the alert is out and no switch can be made; then nobody watches.
        world.blackhole(Endpoint::A, Direction::Both);
        world.blackhole(Endpoint::B, Direction::Both);
        eventually(FAILOVER, "the alert fires", || world.fires("VpnEgressTunnelDown"));
        parts.prometheus.kill(Signal::SIGSTOP);
        world.heal(Endpoint::A);
        world.heal(Endpoint::B);
        // Alertmanager goes on telling of it, and the actuator looks itself.
        eventually(FAILOVER, "it is found recovered", || {
            outcomes(world, "failover", "recovered") > 0.0
        });
        back(&mut parts.prometheus);
    });
}

#[test]
fn s3_a_leak_is_stopped_by_the_alert_path_and_released_once() {
    inside("s3_a_leak_is_stopped_by_the_alert_path_and_released_once", |world| {
        locked(world);
        let mut parts = world.start_loop(Instances::One);
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        await_good_cycles(world, 2.0);

        // A hole with traffic through it is closed by the guard before a packet passes.
        let _through = world.start_workload_to(ECHO_HOLE);
        world.punch_hole(WORLD_HOLE);
        eventually(FAILOVER, "the hole is told of", || world.fires("VpnEgressKillswitchTampered"));
        assert_eq!(world.metric(ACTUATOR, ENGAGED), Some(0.0));

        // Leak and tunnel-down together: frames past the IP stack, and a dead primary.
        world.blackhole(Endpoint::A, Direction::Both);
        world.send_outside(lab::Leak::Packet, 3);
        let hole = Instant::now();
        eventually(FAILOVER, "the hard stop is engaged", || {
            world.metric(ACTUATOR, ENGAGED) == Some(1.0)
        });
        println!("leak to hard stop: {:.1} s", hole.elapsed().as_secs_f64());
        world.unroute_outside(WORLD_HOLE);
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());

        // No switch, neither now nor while the primary stays dead.
        eventually(FAILOVER, "people are told", || world.fires("VpnEgressHardStopEngaged"));
        assert_eq!(world.metric(ACTUATOR, SWITCHES), Some(0.0));
        world.heal(Endpoint::A);

        world.actuator_ok(&["release", "--reason", "the program is gone"]);
        let released = Instant::now();
        eventually(SOON, "traffic flows again", || !workload.answers_since(released).is_empty());

        // The same leak is still in the rule's window, and is told again.
        eventually(FAILOVER, "the old leak is told again", || {
            outcomes(world, "hard-stop", "already_released") >= 1.0
        });
        // And seen by a Prometheus that has no memory of it.
        kill(&mut parts.prometheus);
        std::fs::remove_dir_all(world.scratch().join("prometheus")).expect("its memory");
        parts.prometheus = world.start_shipped_prometheus(&parts.alertmanagers);
        let page = format!(
            "http://{}/api/v1/query?query=vpn_egress_leaked_packets_total",
            World::PROMETHEUS
        );
        eventually(SOON, "the new Prometheus sees the counter", || {
            world.http_get(&page).is_ok_and(|response| response.body.contains("\"path\":\"media\""))
        });
        await_good_cycles(world, 2.0);
        assert_eq!(world.metric(ACTUATOR, ENGAGED), Some(0.0));

        // A new leak is a new leak.
        world.send_outside(lab::Leak::Packet, 1);
        eventually(FAILOVER, "a new leak stops again", || {
            world.metric(ACTUATOR, ENGAGED) == Some(1.0)
        });
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
        assert_no_secret_shown(world);
    });
}

#[test]
fn s9_a_dead_backup_is_told_of_and_taken_when_it_lives() {
    inside("s9_a_dead_backup_is_told_of_and_taken_when_it_lives", |world| {
        locked(world);
        let _parts = world.start_loop(Instances::One);
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        world.stop_server(Endpoint::B);
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(FAILOVER, "the failover is refused", || {
            outcomes(world, "failover", "no_reachable_standby") >= 1.0
        });
        let alert = "VpnEgressNoReachableStandby";
        eventually(Duration::from_secs(150), "people are told why", || world.fires(alert));
        assert_eq!(world.active_endpoint(), "primary");
        world.start_server(Endpoint::B);
        workload.wait_for_exit(Exit::B, FAILOVER);
        assert_eq!(world.metric(ACTUATOR, SWITCHES), Some(1.0));
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}
