//! SIGKILL at every step of every act: S1, S3, S5, S7. The programs name their steps
//! (`egress/src/fault.rs`); an act is carried out once to see which it goes through, and then once
//! more for each of them, ended there, by the daemon and by the command line.
//!
//! `CRASH_REPETITIONS` says how often each is tried; once is the default.

#[path = "crash/acts.rs"]
mod acts;
#[path = "crash/after.rs"]
mod after;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::programs::kill;
use lab::{Endpoint, World, inside};

use acts::{
    ALL, Act, BRINGING_UP, FAILBACK, FIRST_CONVERGE, OVER_MISSING_STATE, PAUSING, RELEASING,
    RELEASING_DAMAGED, REPAIRING, STOPPING, SWITCHING, UNLOCKING,
};
use after::{agree, nothing_lost, state, stays_inside};

const SOON: Duration = Duration::from_secs(30);

/// Who carries the act out.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Daemon,
    Command,
}

#[test]
fn every_step_that_is_named_is_tried() {
    let listed = Command::new(World::program("actuator")).arg("fault-points").output();
    let listed = String::from_utf8(listed.expect("run").stdout).expect("text");
    let named: BTreeSet<&str> = listed.lines().collect();
    let tried: BTreeSet<&str> = ALL.iter().flat_map(|act| act.steps.concat()).collect();
    assert_eq!(named, tried, "a step and the act that tries it");
}

#[test]
fn s1_s5_a_converge_that_is_killed_at_any_step() {
    inside("s1_s5_a_converge_that_is_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &FIRST_CONVERGE, By::Command);
        each_step(world, &OVER_MISSING_STATE, By::Daemon);
    });
}

#[test]
fn s1_s5_a_converge_that_brings_the_tunnel_up_is_killed_at_any_step() {
    inside("s1_s5_a_converge_that_brings_the_tunnel_up_is_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &BRINGING_UP, By::Command);
    });
}

#[test]
fn s1_s5_a_failback_by_the_command_is_killed_at_any_step() {
    inside("s1_s5_a_failback_by_the_command_is_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &FAILBACK, By::Command);
    });
}

#[test]
fn s1_s5_a_failback_by_the_daemon_is_killed_at_any_step() {
    inside("s1_s5_a_failback_by_the_daemon_is_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &FAILBACK, By::Daemon);
    });
}

#[test]
fn s1_s3_s5_a_switch_a_stop_and_a_repair_that_are_killed_at_any_step() {
    inside("s1_s3_s5_a_switch_a_stop_and_a_repair_that_are_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &SWITCHING, By::Daemon);
        world.heal(Endpoint::A);
        each_step(world, &STOPPING, By::Daemon);
        each_step(world, &REPAIRING, By::Daemon);
    });
}

#[test]
fn s1_s3_a_release_by_the_command_is_killed_at_any_step() {
    inside("s1_s3_a_release_by_the_command_is_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &RELEASING, By::Command);
    });
}

#[test]
fn s1_s3_a_release_by_the_daemon_is_killed_at_any_step() {
    inside("s1_s3_a_release_by_the_daemon_is_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &RELEASING, By::Daemon);
    });
}

#[test]
fn s1_s3_a_release_of_a_damaged_state_is_killed_at_any_step() {
    inside("s1_s3_a_release_of_a_damaged_state_is_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &RELEASING_DAMAGED, By::Command);
    });
}

#[test]
fn s1_an_unlock_and_a_pause_that_are_killed_at_any_step() {
    inside("s1_an_unlock_and_a_pause_that_are_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        for by in [By::Command, By::Daemon] {
            each_step(world, &UNLOCKING, by);
            each_step(world, &PAUSING, by);
        }
    });
}

/// Carries `act` out once whole, then once to each of its steps.
fn each_step(world: &mut World, act: &Act, by: By) {
    let reached = once(world, act, by, None);
    let seen: BTreeSet<&str> = reached.iter().map(String::as_str).collect();
    let expected: BTreeSet<&str> = act.steps.concat().into_iter().collect();
    assert_eq!(seen, expected, "{}: the steps that it goes through", act.name);
    let repetitions = std::env::var("CRASH_REPETITIONS").ok().and_then(|n| n.parse().ok());
    let repetitions: usize = repetitions.unwrap_or(1);
    for _ in 0..repetitions {
        for nth in 1..=reached.len() {
            let until = once(world, act, by, Some(nth));
            assert_eq!(until, reached[..nth], "{}: killed at step {nth}", act.name);
        }
    }
    let who = if by == By::Daemon { "daemon" } else { "command" };
    println!("{} by the {who}: {} steps, {repetitions} times", act.name, reached.len());
}

/// The steps that were reached. Killed at the `nth`, or not at all.
fn once(world: &mut World, act: &Act, by: By, nth: Option<usize>) -> Vec<String> {
    let (fault, reached) = (world.scratch().join("fault"), world.scratch().join("fault.reached"));
    (act.prepare)(world);
    let mut daemon = (by == By::Daemon).then(|| world.start_actuator());
    (act.ready)(world);
    world.reset_observer();
    let before = state(world);

    fs::write(&fault, nth.map_or("trace".to_owned(), |nth| format!("kill {nth}"))).expect("armed");
    (act.carry_out)(world, daemon.as_mut());
    if let (Some(daemon), Some(_)) = (&mut daemon, nth) {
        assert!(daemon.wait(SOON).is_some(), "{}: it lives on after {nth:?}", act.name);
    }
    fs::remove_file(&fault).expect("disarmed");
    let steps = fs::read_to_string(&reached).expect("steps");
    fs::remove_file(&reached).expect("removed");
    let steps: Vec<String> = steps.lines().map(str::to_owned).collect();

    // As the crash has left it; nothing leaves outside while nobody is there.
    if let Some(daemon) = &mut daemon {
        kill(daemon);
    }
    let left = state(world);
    stays_inside(world, act);
    let mut daemon = world.start_actuator();
    let step = steps.last().map_or("", String::as_str);
    let status = agree(world, &format!("{} until {step}", act.name));
    nothing_lost(&status, &before, &left);
    (act.finish)(world);
    stays_inside(world, act);
    kill(&mut daemon);
    steps
}
