//! Every act, how it comes about, and the steps that it goes through.

use std::fs;

use lab::programs::{ACTUATOR, kill, leak, tunnel_down};
use lab::{Direction, EgressConfig, Endpoint, Leak, Ns, Process, World, eventually};
use serde_json::{Value, json};

use super::SOON;
use super::after::{stands, state, tables};

const LOAD: [&str; 5] =
    ["load.due", "load.killswitch", "load.watch", "load.drained", "load.recorded"];
const STATE: [&str; 2] = ["state.written_beside", "state.renamed"];
const SWITCH: [&str; 3] = ["switch.due", "switch.intended", "switch.done"];
const CONVERGE: [&str; 3] = ["converge.due", "converge.steps_done", "converge.recorded"];
const RELEASE: [&str; 4] = ["release.due", "release.loaded", "release.recorded", "release.lifted"];
const UNLOCK: [&str; 4] = ["unlock.due", "unlock.recorded", "unlock.watch_off", "unlock.done"];

/// Whether the lock is in force from before the act until after it.
#[derive(Clone, Copy, PartialEq)]
pub enum Lock {
    Throughout,
    NotYetOrNoMore,
}

/// One act, and all the steps that it goes through.
pub struct Act {
    pub name: &'static str,
    pub steps: &'static [&'static [&'static str]],
    pub lock: Lock,
    /// Without a daemon.
    pub prepare: fn(&mut World),
    /// With the daemon, where it is the one to act.
    pub ready: fn(&World),
    pub carry_out: fn(&World, Option<&mut Process>),
    /// With a daemon that was started again; what was cut short can be done now.
    pub finish: fn(&World),
}

pub const FIRST_CONVERGE: Act = Act {
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

pub const BRINGING_UP: Act = Act {
    name: "converge that brings the tunnel up",
    steps: &[&CONVERGE, &LOAD, &STATE, &["tunnel.intended", "tunnel.device", "tunnel.made"]],
    prepare: |world| {
        reset(world);
        world.forget_tunnel();
    },
    ..FIRST_CONVERGE
};

pub const FAILBACK: Act = Act {
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

pub const OVER_MISSING_STATE: Act = Act {
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

pub const SWITCHING: Act = Act {
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

pub const STOPPING: Act = Act {
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

pub const REPAIRING: Act = Act {
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

pub const RELEASING: Act = Act {
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

pub const RELEASING_DAMAGED: Act = Act {
    name: "release of a damaged state",
    steps: &[&RELEASE, &LOAD, &STATE, &["state.set_aside"]],
    prepare: |world| {
        stopped(world);
        fs::write(world.state_file(), "{").expect("damaged");
    },
    ..RELEASING
};

pub const UNLOCKING: Act = Act {
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

pub const PAUSING: Act = Act {
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

pub const ALL: [&Act; 11] = [
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

/// At the primary, by a state that knows nothing else. What an act before this one left so is taken
/// as it is.
fn locked(world: &mut World) {
    if left_locked(world) {
        return;
    }
    reset(world);
    world.heal(Endpoint::A);
    world.actuator_ok(&["converge", "--force"]);
    assert!(left_locked(world), "{}\n{}", state(world), tables(world));
}

fn left_locked(world: &World) -> bool {
    let (state, tables) = (state(world), tables(world));
    let untouched = ["latch", "unlocked", "paused_until"].iter().all(|what| state[*what].is_null());
    let there = ["inet vpn_egress", "netdev vpn_egress_watch"];
    state["active"] == "primary"
        && untouched
        && there.iter().all(|table| tables.contains(&format!("{table}\n")))
        && !tables.contains("vpn_egress_stop")
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
