//! What has to hold after a crash, at whatever step it came.

use std::fs;

use lab::{Leak, Ns, World, eventually};
use serde_json::Value;

use super::SOON;
use super::acts::{Act, Lock};

pub fn stays_inside(world: &World, act: &Act) {
    if act.lock == Lock::NotYetOrNoMore {
        return;
    }
    for kind in Leak::UNPRIVILEGED {
        world.send_outside(kind, 1);
    }
    assert_eq!(world.observed_outside(), 0, "{}: {:?}", act.name, world.observations());
}

/// State file, kernel and status say the same: what status says.
pub fn agree(world: &World, after: &str) -> Value {
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
        if agree { Ok(status) } else { Err(format!("{status}\n{tables}\n{state}")) }
    })
}

/// What was chosen before the crash, and what the crash left on record, holds after it.
pub fn nothing_lost(status: &Value, before: &Value, left: &Value) {
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

pub fn tables(world: &World) -> String {
    world.exec_ok(Ns::Egress, &["nft", "list", "tables"])
}

/// Null where there is none, or none that can be read.
pub fn state(world: &World) -> Value {
    let text = fs::read(world.state_file()).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

pub fn stands(world: &World, standing: &str) {
    eventually(SOON, standing, || {
        let status = world.status();
        if status["standing"] == standing { Ok(()) } else { Err(status.to_string()) }
    });
}
