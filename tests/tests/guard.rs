//! While the daemon lives, nobody's flush opens a gap: S1, and what is tampered with is put back,
//! counted and told. The router counts what got out.

use std::time::{Duration, Instant};

use lab::addresses::SECOND_UPLINK;
use lab::programs::{ACTUATOR, EXPORTER, kill, leak};
use lab::{
    Class, EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, Tampering, World, eventually, inside,
};

const SOON: Duration = Duration::from_secs(20);
/// Promised is one second. The tests share their machine; the figures are those of `make bench`.
const INTACT_WITHIN: Duration = Duration::from_secs(3);
const ENGAGED: &str = "vpn_egress_actuator_hard_stop_engaged{path=\"media\"}";

fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::quick());
    assert!(world.positive_control() > 0);
    world.actuator_ok(&["converge"]);
}

fn guarded(world: &World) -> bool {
    world.status()["guarded"] == true
}

fn await_guard(world: &World) {
    eventually(SOON, "the guard stands", || guarded(world));
}

/// Repairs counted for a table.
fn repairs(world: &World, table: &str) -> f64 {
    let series = format!("vpn_egress_actuator_repairs_total{{path=\"media\",table=\"{table}\"}}");
    world.metric(ACTUATOR, &series).unwrap_or_else(|| panic!("{series} is missing"))
}

#[track_caller]
fn assert_tight(world: &World, when: &str) {
    assert_eq!(world.observed_outside(), 0, "{when}: {:?}", world.observations());
}

#[test]
fn s1_no_tampering_opens_a_gap_while_the_daemon_lives() {
    inside("s1_no_tampering_opens_a_gap_while_the_daemon_lives", |world| {
        locked(world);
        let mut actuator = world.start_actuator();
        let _exporter = world.start_exporter();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        await_guard(world);
        world.reset_observer();
        let leaking = world.start_leaking(&Leak::UNPRIVILEGED);
        for tampering in Tampering::ALL {
            let before = repairs(world, "killswitch");
            let took = world.tamper_and_await(tampering);
            println!("{}: intact again after {} ms", tampering.name(), took.as_millis());
            assert!(took < INTACT_WITHIN, "{tampering:?}: {took:?}");
            assert_tight(world, tampering.name());
            eventually(SOON, "the repair is counted", || {
                repairs(world, "killswitch") >= before + 1.0
            });
        }
        assert!(repairs(world, "watch") >= 2.0, "two of the five took the watch, too");
        assert_eq!(world.metric(ACTUATOR, ENGAGED), Some(0.0), "what was repaired stops nothing");
        assert!(guarded(world));
        let after = Instant::now();
        eventually(SOON, "traffic flows", || !workload.answers_since(after).is_empty());

        // The control: the same flush without a daemon is seen outside by this very observer.
        kill(&mut actuator);
        assert_tight(world, "the daemon was killed");
        world.tamper_with(Tampering::Flush);
        eventually(SOON, "the observer sees the gap", || world.observed_outside() > 0);
        drop(leaking);
    });
}

#[test]
fn s1_frames_past_the_ip_stack_find_no_gap_either() {
    inside("s1_frames_past_the_ip_stack_find_no_gap_either", |world| {
        locked(world);
        let mut actuator = world.start_actuator();
        await_guard(world);
        world.reset_observer();
        // Each is a leak, and stopped all the same; so this ends in a hard stop, as it should (S3).
        let leaking = world.start_leaking(&[Leak::Packet, Leak::Vlan]);
        for tampering in Tampering::ALL {
            world.tamper_and_await(tampering);
            assert_tight(world, tampering.name());
        }
        eventually(SOON, "the hard stop", || world.status()["standing"] == "stopped");
        kill(&mut actuator);
        world.tamper_with(Tampering::Flush);
        eventually(SOON, "the observer sees the gap", || world.observed_outside() > 0);
        drop(leaking);
    });
}

/// The table of the hard stop, and its copy.
const STOP: &str = "vpn_egress_stop";
const STOP_COPY: &str = "vpn_egress_stop_guard";

fn has_table(world: &World, table: &str) -> bool {
    world.exec_ok(Ns::Egress, &["nft", "list", "tables"]).contains(&format!("inet {table}\n"))
}

#[test]
fn s3_no_flush_opens_a_hard_stop_while_the_daemon_lives() {
    inside("s3_no_flush_opens_a_hard_stop_while_the_daemon_lives", |world| {
        locked(world);
        let mut actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        await_guard(world);
        world.send_outside(Leak::Packet, 1);
        assert_eq!(world.notify(&[leak()]).1, ["hard_stopped"]);
        assert!(has_table(world, STOP_COPY), "the copy is there with the stop");

        world.reset_observer();
        let stopped = Instant::now();
        for _ in 0..10 {
            world.flush_ruleset();
            eventually(SOON, "the stop is put back", || has_table(world, STOP));
        }
        assert_eq!(workload.answers_since(stopped).len(), 0, "nothing passed, the tunnel included");
        assert_eq!(world.observed(Class::Tunnel), 0);
        assert_eq!(world.observed_outside(), 0);
        eventually(SOON, "the walls are back", || guarded(world));

        // The copy goes with the stop, and keeps nothing shut.
        world.actuator_ok(&["release", "--reason", "a test"]);
        let released = Instant::now();
        assert!(!has_table(world, STOP) && !has_table(world, STOP_COPY));
        eventually(SOON, "traffic flows", || !workload.answers_since(released).is_empty());

        // The control: without a daemon the same flush opens the tunnel.
        world.send_outside(Leak::Packet, 1);
        assert_eq!(world.notify(&[leak()]).1, ["hard_stopped"]);
        kill(&mut actuator);
        assert!(has_table(world, STOP) && !has_table(world, STOP_COPY), "the plain one stays");
        let flushed = Instant::now();
        world.flush_ruleset();
        eventually(SOON, "traffic flows", || !workload.answers_since(flushed).is_empty());
    });
}

#[test]
fn s1_a_lock_that_cannot_be_repaired_is_a_hard_stop() {
    inside("s1_a_lock_that_cannot_be_repaired_is_a_hard_stop", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        await_guard(world);
        world.reset_observer();
        let leaking = world.start_leaking(&Leak::UNPRIVILEGED);
        // Another program takes our table for its own: from then on we may not write it.
        let pipe = world.scratch().join("thief").display().to_string();
        let thief = "mkfifo $0; exec 3<>$0; echo 'delete table inet vpn_egress; \
                     add table inet vpn_egress { flags owner; }' >&3; exec nft -i <&3";
        let mut thief = world.spawn(Ns::Egress, "thief", &["sh", "-c", thief, &pipe]);
        eventually(SOON, "the path is cut", || {
            let status = world.status();
            if status["standing"] == "stopped" { Ok(()) } else { Err(status.to_string()) }
        });
        let status = world.status().to_string();
        assert!(status.contains("the lock could not be repaired"), "{status}");
        assert_tight(world, "the table is another's");

        // With the table its own again, a person releases it.
        thief.stop();
        eventually(SOON, "it is released", || {
            let said = world.actuator(&["release", "--reason", "the other program is gone"]);
            if said.exit == 0 { Ok(()) } else { Err(said) }
        });
        eventually(SOON, "the lock is whole", || {
            let status = world.status();
            let whole = status["standing"] == "locked" && status["guarded"] == true;
            if whole { Ok(()) } else { Err(status.to_string()) }
        });
        assert_tight(world, "after the release");
        drop(leaking);
    });
}

/// Waits until the watch covers a device, and sends frames by it: they are stopped there.
#[track_caller]
fn assert_covered(world: &World, device: &str, what: &str) {
    let since = Instant::now();
    eventually(SOON, &format!("{what}: {device} is covered"), || {
        let uplinks = world.status()["uplinks"].clone();
        let found = uplinks
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one["device"] == device && one["covered"] == true);
        if found { Ok(()) } else { Err(uplinks.to_string()) }
    });
    println!("{what}: covered after {} ms", since.elapsed().as_millis());
    assert!(since.elapsed() < INTACT_WITHIN, "{what}: {:?}", since.elapsed());
    let attempts = world.send_by(Leak::Packet, 3, device);
    assert_eq!(attempts.sent, 0, "{what}: {attempts:?}");
    assert!(guarded(world), "{what}: the copies cover it, too");
}

#[test]
fn s1_an_uplink_that_appears_is_renamed_or_recreated_is_covered() {
    inside("s1_an_uplink_that_appears_is_renamed_or_recreated_is_covered", |world| {
        locked(world);
        // The control: without a daemon nobody covers it, and the frames get out.
        world.plug_second_uplink();
        let attempts = world.send_by(Leak::Packet, 3, SECOND_UPLINK);
        assert_eq!(attempts.sent, 3, "{attempts:?}");
        assert!(world.observed_outside() >= 3, "{:?}", world.observations());
        let covered = world.status()["uplinks"].clone();
        assert!(covered.to_string().contains("\"covered\":false"), "degraded: {covered}");

        let _actuator = world.start_actuator();
        await_guard(world);
        assert_covered(world, SECOND_UPLINK, "found at the start");
        world.reset_observer();
        world.rename_uplink("wan0");
        assert_covered(world, "wan0", "renamed");
        for what in ["appeared", "recreated"] {
            world.exec_ok(
                Ns::Egress,
                &["ip", "link", "add", "eth7", "type", "veth", "peer", "name", "peer7"],
            );
            for device in ["peer7", "eth7"] {
                world.exec_ok(Ns::Egress, &["ip", "link", "set", device, "up"]);
            }
            world.exec_ok(
                Ns::Egress,
                &["ip", "route", "add", "default", "dev", "eth7", "metric", "900"],
            );
            assert_covered(world, "eth7", what);
            world.exec_ok(Ns::Egress, &["ip", "link", "delete", "eth7"]);
        }
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn s7_with_the_daemon_dead_the_exporter_tells_of_each_tampering() {
    inside("s7_with_the_daemon_dead_the_exporter_tells_of_each_tampering", |world| {
        locked(world);
        let _exporter = world.start_exporter();
        let series = "vpn_egress_killswitch_intact{path=\"media\",table=\"killswitch\"}";
        for tampering in Tampering::ALL {
            assert_eq!(world.metric(EXPORTER, series), Some(1.0), "{tampering:?}: before");
            world.tamper_with(tampering);
            assert_eq!(world.metric(EXPORTER, series), Some(0.0), "{tampering:?}: the next scrape");
            assert_eq!(world.metric(EXPORTER, "vpn_egress_guarded{path=\"media\"}"), Some(0.0));
            world.actuator_ok(&["converge"]);
        }
    });
}

#[test]
fn a_guard_that_cannot_start_is_told_once_and_tried_until_it_can() {
    inside("a_guard_that_cannot_start_is_told_once_and_tried_until_it_can", |world| {
        locked(world);
        let attempts = world.scratch().join("attempts");
        // The guard's nft is started by it.
        let script = format!("#!/bin/sh\necho >> {}\nexit 1\n", attempts.display());
        let setpriv = world.write_file("setpriv", &script, 0o755);
        let path = std::env::var("PATH").expect("a PATH");
        let path = format!("PATH={}:{path}", world.scratch().display());
        let mut line = vec!["env".to_owned(), path];
        line.extend(world.program_line("actuator", &["serve"]));
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let actuator = world.spawn(Ns::Egress, "actuator", &line);
        let tried = || std::fs::read_to_string(&attempts).unwrap_or_default().lines().count();
        eventually(SOON, "it is tried again and again", || tried() >= 5);
        let told = |what: &str| actuator.log().matches(what).count();
        assert_eq!(told("no guard"), 1, "{}", actuator.log());
        assert!(!guarded(world));

        std::fs::remove_file(&setpriv).expect("removed");
        await_guard(world);
        eventually(SOON, "that it is back is told", || told("the guard is back") == 1);
        assert_eq!(told("no guard"), 1, "{}", actuator.log());
    });
}
