//! While the daemon lives, nobody's flush opens a gap: S1, and what is tampered with is put back,
//! counted and told. The router counts what got out.

use std::time::{Duration, Instant};

use lab::programs::{ACTUATOR, kill};
use lab::{EgressConfig, Endpoint, Exit, Keepalive, Leak, Tampering, World, eventually, inside};

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
