//! SIGKILL at every step of every act: S1, S3, S5, S7. The programs name their steps
//! (`egress/src/fault.rs`); an act is carried out once to see which it goes through, and then once
//! more for each of them, ended there, by the daemon and by the command line.
//!
//! `CRASH_REPETITIONS` says how often each is tried; once is the default.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::programs::{ACTUATOR, kill, leak, tunnel_down};
use lab::{Direction, EgressConfig, Endpoint, Leak, Ns, Process, World, eventually, inside};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

const LOAD: [&str; 5] =
    ["load.due", "load.killswitch", "load.watch", "load.drained", "load.recorded"];
const STATE: [&str; 2] = ["state.written_beside", "state.renamed"];
const SWITCH: [&str; 3] = ["switch.due", "switch.intended", "switch.done"];
const CONVERGE: [&str; 3] = ["converge.due", "converge.steps_done", "converge.recorded"];
const RELEASE: [&str; 4] = ["release.due", "release.loaded", "release.recorded", "release.lifted"];
const UNLOCK: [&str; 4] = ["unlock.due", "unlock.recorded", "unlock.watch_off", "unlock.done"];

/// Who carries the act out.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Daemon,
    Command,
}

/// Whether the lock is in force from before the act until after it.
#[derive(Clone, Copy, PartialEq)]
enum Lock {
    Throughout,
    NotYetOrNoMore,
}

/// One act, and all the steps that it goes through.
struct Act {
    name: &'static str,
    steps: &'static [&'static [&'static str]],
    lock: Lock,
    /// Without a daemon.
    prepare: fn(&mut World),
    /// With the daemon, where it is the one to act.
    ready: fn(&World),
    carry_out: fn(&World, Option<&mut Process>),
    /// With a daemon that was started again; what was cut short can be done now.
    finish: fn(&World),
}

const FIRST_CONVERGE: Act = Act {
    name: "first converge",
    steps: &[&CONVERGE, &LOAD, &STATE, &SWITCH],
    lock: Lock::NotYetOrNoMore,
    prepare: |world| {
        reset(world);
        world.exec_ok(Ns::Egress, &["wg", "set", "wg0", "fwmark", "off"]);
    },
    ready: |_| {},
    carry_out: |world, _| drop(world.actuator(&["converge"])),
    finish: |world| {
        world.actuator_ok(&["converge"]);
        stands(world, "locked");
    },
};

const BRINGING_UP: Act = Act {
    name: "converge that brings the tunnel up",
    steps: &[&CONVERGE, &LOAD, &STATE, &["tunnel.intended", "tunnel.device", "tunnel.made"]],
    prepare: |world| {
        reset(world);
        world.forget_tunnel();
    },
    ..FIRST_CONVERGE
};

const FAILBACK: Act = Act {
    name: "failback",
    steps: &[&CONVERGE, &LOAD, &STATE, &SWITCH],
    lock: Lock::Throughout,
    prepare: |world| {
        reset(world);
        let other = vec![Endpoint::B, Endpoint::A];
        world.write_config(&EgressConfig { endpoints: other, ..EgressConfig::quick() });
        world.actuator_ok(&["converge", "--force"]);
        assert_eq!(world.active_endpoint(), "backup");
        world.write_config(&EgressConfig::quick());
    },
    ready: |_| {},
    carry_out: |world, _| drop(world.actuator(&["converge"])),
    finish: |world| {
        world.actuator_ok(&["converge", "--force"]);
        stands(world, "locked");
        assert_eq!(world.active_endpoint(), "primary");
    },
};

const OVER_MISSING_STATE: Act = Act {
    name: "converge over missing state",
    steps: &[&CONVERGE, &LOAD, &STATE, &["converge.stop_lifted"]],
    lock: Lock::Throughout,
    prepare: |world| {
        locked(world);
        fs::remove_file(world.state_file()).expect("state removed");
    },
    ready: |world| stands(world, "stopped"),
    carry_out: |world, _| drop(world.actuator(&["converge"])),
    finish: |world| {
        world.actuator_ok(&["converge"]);
        stands(world, "locked");
    },
};

const SWITCHING: Act = Act {
    name: "switch",
    steps: &[&SWITCH, &STATE],
    lock: Lock::Throughout,
    prepare: locked,
    ready: |world| {
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is seen to be down", || {
            world.actuator(&["validate"]).out.contains("tunnel-down")
        });
    },
    carry_out: |world, daemon| post_until(world, daemon, &tunnel_down("primary"), &["switched"]),
    finish: |world| {
        post_until(world, None, &tunnel_down("primary"), &["switched", "stale_endpoint"]);
        assert_eq!(world.active_endpoint(), "backup");
        stands(world, "locked");
    },
};

const STOPPING: Act = Act {
    name: "hard stop",
    steps: &[&["hard_stop.due", "hard_stop.cut", "hard_stop.latched"], &STATE],
    lock: Lock::Throughout,
    prepare: locked,
    ready: |world| drop(world.send_outside(Leak::Packet, 2)),
    carry_out: |world, daemon| post_until(world, daemon, &leak(), &["hard_stopped"]),
    finish: |world| {
        stands(world, "stopped");
        assert!(world.status()["stop"]["since"].is_u64(), "{}", world.status());
    },
};

const REPAIRING: Act = Act {
    name: "repair",
    steps: &[&["repair.due", "repair.done"], &LOAD, &STATE],
    lock: Lock::NotYetOrNoMore,
    prepare: locked,
    ready: |_| {},
    carry_out: |world, daemon| {
        let daemon = daemon.expect("its care repairs");
        world.flush_ruleset();
        eventually(SOON, "it is repaired, or cut short", || {
            !daemon.is_alive() || world.status()["rules_intact"] == true
        });
    },
    finish: |world| stands(world, "locked"),
};

const RELEASING: Act = Act {
    name: "release",
    steps: &[&RELEASE, &LOAD, &STATE],
    lock: Lock::Throughout,
    prepare: stopped,
    ready: |_| {},
    carry_out: |world, _| drop(world.actuator(&["release", "--reason", "tried"])),
    finish: |world| {
        world.actuator_ok(&["release", "--reason", "tried again"]);
        stands(world, "locked");
    },
};

const RELEASING_DAMAGED: Act = Act {
    name: "release of a damaged state",
    steps: &[&RELEASE, &LOAD, &STATE, &["state.set_aside"]],
    prepare: |world| {
        stopped(world);
        fs::write(world.state_file(), "{").expect("damaged");
    },
    ..RELEASING
};

const UNLOCKING: Act = Act {
    name: "unlock",
    steps: &[&UNLOCK, &STATE],
    lock: Lock::NotYetOrNoMore,
    prepare: locked,
    ready: |_| {},
    carry_out: |world, _| drop(world.actuator(&["unlock", "--reason", "tried"])),
    finish: |world| {
        world.actuator_ok(&["unlock", "--reason", "tried again"]);
        stands(world, "unlocked");
        assert!(!tables(world).contains("vpn_egress"), "{}", tables(world));
    },
};

const PAUSING: Act = Act {
    name: "pause",
    steps: &[&["pause.due", "pause.recorded"], &STATE],
    lock: Lock::Throughout,
    prepare: locked,
    ready: |_| {},
    carry_out: |world, _| drop(world.actuator(&["pause", "--for", "1h"])),
    finish: |world| {
        world.actuator_ok(&["pause", "--for", "1h"]);
        assert!(world.status()["paused_until"].is_u64());
    },
};

const ALL: [&Act; 11] = [
    &FIRST_CONVERGE,
    &BRINGING_UP,
    &FAILBACK,
    &OVER_MISSING_STATE,
    &SWITCHING,
    &STOPPING,
    &REPAIRING,
    &RELEASING,
    &RELEASING_DAMAGED,
    &UNLOCKING,
    &PAUSING,
];

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
fn s1_s5_a_failback_that_is_killed_at_any_step() {
    inside("s1_s5_a_failback_that_is_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &FAILBACK, By::Command);
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
fn s1_s3_a_release_that_is_killed_at_any_step() {
    inside("s1_s3_a_release_that_is_killed_at_any_step", |world| {
        assert!(world.positive_control() > 0);
        each_step(world, &RELEASING, By::Command);
        each_step(world, &RELEASING, By::Daemon);
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
    agree(world, &format!("{} until {step}", act.name));
    nothing_lost(world, &before, &left);
    (act.finish)(world);
    stays_inside(world, act);
    kill(&mut daemon);
    steps
}

fn stays_inside(world: &World, act: &Act) {
    if act.lock == Lock::NotYetOrNoMore {
        return;
    }
    for kind in Leak::UNPRIVILEGED {
        world.send_outside(kind, 1);
    }
    assert_eq!(world.observed_outside(), 0, "{}: {:?}", act.name, world.observations());
}

/// State file, kernel and status say the same.
fn agree(world: &World, after: &str) {
    eventually(SOON, after, || {
        let (status, tables, state) = (world.status(), tables(world), state(world));
        let there = |table: &str| tables.contains(&format!("{table}\n"));
        let (killswitch, watch) = (there("inet vpn_egress"), there("netdev vpn_egress_watch"));
        let stop = there("inet vpn_egress_stop");
        let latched = !state["latch"].is_null();
        let agree = match status["standing"].as_str() {
            Some("locked") => {
                let place = &status["active_endpoint"];
                killswitch
                    && watch
                    && !stop
                    && !latched
                    && state["unlocked"].is_null()
                    && status["rules_intact"] == true
                    && *place == state["active"]
                    && *place == status["live_endpoint"]
            }
            Some("stopped") => stop && (latched || state.is_null()),
            Some("unlocked") => {
                let told = status["problems"].to_string().contains("cut short");
                !state["unlocked"].is_null() && !stop && told == (killswitch || watch)
            }
            _ => false,
        };
        if agree { Ok(()) } else { Err(format!("{status}\n{tables}\n{state}")) }
    });
}

/// What was chosen before the crash, and what the crash left on record, holds after it.
fn nothing_lost(world: &World, before: &Value, left: &Value) {
    let status = world.status();
    for state in [before, left] {
        if !state["paused_until"].is_null() {
            assert!(status["paused_until"].is_u64(), "{status}\n{state}");
        }
    }
    if !left["active"].is_null() {
        assert_eq!(status["active_endpoint"], left["active"], "{left}");
    }
    if !left["latch"].is_null() {
        assert_eq!(status["standing"], "stopped", "{left}");
        assert_eq!(status["stop"]["reason"], left["latch"]["reason"]);
    }
}

fn tables(world: &World) -> String {
    world.exec_ok(Ns::Egress, &["nft", "list", "tables"])
}

/// Null where there is none, or none that can be read.
fn state(world: &World) -> Value {
    let text = fs::read(world.state_file()).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn stands(world: &World, standing: &str) {
    eventually(SOON, standing, || {
        let status = world.status();
        if status["standing"] == standing { Ok(()) } else { Err(status.to_string()) }
    });
}

/// A host that never had a lock, and its config.
fn reset(world: &mut World) {
    let directory = world.state_file();
    let directory = directory.parent().expect("a directory");
    if directory.exists() {
        fs::remove_dir_all(directory).expect("state removed");
    }
    world.flush_ruleset();
    world.write_config(&EgressConfig::quick());
}

fn locked(world: &mut World) {
    reset(world);
    world.heal(Endpoint::A);
    world.actuator_ok(&["converge", "--force"]);
    assert_eq!(world.active_endpoint(), "primary");
}

/// By a leak, with no daemon left.
fn stopped(world: &mut World) {
    locked(world);
    world.send_outside(Leak::Packet, 2);
    let mut daemon = world.start_actuator();
    stands(world, "stopped");
    kill(&mut daemon);
}

/// Sends an alert until it has one of these outcomes, or the daemon is dead.
fn post_until(world: &World, mut daemon: Option<&mut Process>, alert: &Value, outcomes: &[&str]) {
    let body = json!({"version": "4", "alerts": [alert]}).to_string();
    eventually(SOON, "the alert is acted on", || {
        let reply = world.http_post(&format!("{ACTUATOR}/api/v1/alerts"), &body, None);
        let said = reply.map_or_else(|error| error, |reply| reply.body);
        let dead = daemon.as_mut().is_some_and(|daemon| !daemon.is_alive());
        let done = outcomes.iter().any(|outcome| said.contains(outcome));
        if dead || done { Ok(()) } else { Err(said) }
    });
}
