//! `converge`: makes the host what the config says. The only failback (S6), and never a way
//! around a hard stop.
//!
//! Order, so that no gap opens: config, state, killswitch, watch, then the device, then the record.

use std::net::IpAddr;

use egress::config::PathConfig;
use egress::device::{self, Likeness};
use egress::firewall::StopKind;
use egress::observe::{self, Sight, chain};
use egress::state::{PathState, StateError, Timestamp};

use super::{Engine, EngineError, answers};
use crate::control::Reply;

/// What a person asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Change nothing, only say what would be changed.
    pub check: bool,
    pub force: bool,
    /// The host at the other end of the SSH session that asks.
    pub ssh_peer: Option<IpAddr>,
}

/// What has to be done to one path.
#[derive(Debug)]
struct Plan {
    state: PathState,
    creates_state: bool,
    loads: Option<&'static str>,
    lifts: bool,
    fails_back: bool,
    sets_device: bool,
}

impl Engine {
    pub fn converge(&mut self, wish: Wish) -> Reply {
        if let Err(error) = self.reload() {
            return Reply::config(chain(error));
        }
        let mut lines = Vec::new();
        let mut changed = false;
        for path in self.paths() {
            match self.converge_path(&path, wish, &mut lines) {
                Ok(changes) => changed |= changes,
                Err(error) => {
                    lines.push(format!("{}: {}", path.name, chain(error)));
                    return Reply::refused(lines);
                }
            }
        }
        if changed && wish.check { Reply::would_change(lines) } else { Reply::done(lines) }
    }

    fn converge_path(
        &mut self,
        path: &PathConfig,
        wish: Wish,
        lines: &mut Vec<String>,
    ) -> Result<bool, EngineError> {
        let sight = observe::look(path, &self.store);
        let mut plan = self.plan(path, &sight)?;
        if plan.loads.is_some() && !wish.force {
            stay_in(path, &sight, wish.ssh_peer)?;
        }
        let verb = if wish.check { "would change" } else { "changed" };
        let mut tell = |what: String| lines.push(format!("{}: {verb}: {what}", path.name));
        let primary = path.primary();
        if plan.creates_state {
            tell(format!("state created at {}", self.store.file(&path.name).display()));
        }
        if let Some(why) = plan.loads {
            tell(format!("killswitch and watch loaded ({why})"));
            if !wish.check {
                plan.state.unlocked = None;
                self.load(path, &mut plan.state)?;
            }
        }
        if plan.lifts {
            tell("stop for missing state lifted".to_owned());
            if !wish.check {
                self.lift_in_kernel(path)?;
            }
        }
        if plan.fails_back {
            // A device that is not there is told as such, not as a primary that is dead.
            device::read(&path.interface)?;
            if !wish.check && !wish.force && !answers(path, primary) {
                return Err(EngineError::Refused(format!(
                    "refused: primary {} does not answer a handshake, {} stays; --force overrides",
                    primary.name, plan.state.active
                )));
            }
            tell(format!("endpoint {} -> {} (failback)", plan.state.active, primary.name));
        } else if plan.sets_device {
            tell(format!("interface {} set to endpoint {}", path.interface, primary.name));
        }
        if (plan.fails_back || plan.sets_device) && !wish.check {
            std::thread::sleep(super::evidence::AFTER_PROBE);
            self.switch(path, &mut plan.state, primary)?;
        }
        let changes = plan.changes();
        if !changes {
            lines.push(format!("{}: nothing to change, endpoint {}", path.name, primary.name));
        }
        if !wish.check {
            plan.state.last_converge = Some(Timestamp::now());
            self.store.write(&path.name, &plan.state)?;
            self.exhausted.insert(path.name.to_string(), false);
            tracing::info!(path = %path.name, changes, "converged");
        }
        Ok(changes)
    }

    fn plan(&self, path: &PathConfig, sight: &Sight) -> Result<Plan, EngineError> {
        let walls = sight.walls.as_ref().map_err(|error| EngineError::Refused(chain(error)))?;
        let stop = walls.stop_kind(path);
        let refuse = |why: String| Err(EngineError::Refused(why));
        let (state, creates_state) = match &sight.state {
            Ok(state) if state.latch.is_some() || stop == Some(StopKind::Latched) => {
                return refuse(
                    "refused: a hard stop is latched; `actuator release --reason TEXT` first"
                        .to_owned(),
                );
            }
            Ok(state) => (state.clone(), false),
            Err(StateError::Missing { .. }) if stop == Some(StopKind::Latched) => {
                return refuse(
                    "refused: the kernel's hard stop is engaged and no state says why; \
                     `actuator release --reason TEXT` first"
                        .to_owned(),
                );
            }
            Err(StateError::Missing { .. }) => (PathState::new(path.primary().name.clone()), true),
            Err(error) => return refuse(format!("refused: {}", chain(error))),
        };
        let primary = path.primary();
        let fails_back = state.active != primary.name;
        let sets_device = match &sight.device {
            Ok(view) => {
                view.likeness(primary) != Likeness::Same || view.fwmark != Some(path.fwmark)
            }
            // The lock comes first; what is wrong with the device is said after it.
            Err(_) => true,
        };
        Ok(Plan {
            loads: self.must_load(sight),
            lifts: stop == Some(StopKind::NoState),
            creates_state,
            fails_back,
            sets_device,
            state,
        })
    }

    /// Why the walls have to be loaded, or `None` where they are as the config wants them.
    fn must_load(&self, sight: &Sight) -> Option<&'static str> {
        let state = sight.state.as_ref().ok();
        let Some(intended) = state.and_then(|state| state.intended.as_ref()) else {
            return Some("no load is on record");
        };
        if state.is_some_and(|state| state.unlocked.is_some()) {
            return Some("the lock was taken off");
        }
        if intended.wanted != egress::firewall::wanted(&self.config.paths) {
            return Some("the config has changed");
        }
        if sight.integrity().iter().any(|(_, intact)| !intact) {
            return Some("the loaded rules were not the intended ones");
        }
        let uncovered = sight.coverage().iter().any(|(_, attached)| !attached);
        uncovered.then_some("an uplink was not covered")
    }
}

impl Plan {
    fn changes(&self) -> bool {
        let device = self.fails_back || self.sets_device;
        self.creates_state || self.loads.is_some() || self.lifts || device
    }
}

/// Refuses to cut the session that asks. A path that is locked already has shown that it does not.
fn stay_in(path: &PathConfig, sight: &Sight, peer: Option<IpAddr>) -> Result<(), EngineError> {
    let locked = sight.walls.as_ref().is_ok_and(|walls| walls.killswitch.is_some());
    let Some(peer) = peer.filter(|peer| !locked && !peer.is_loopback()) else {
        return Ok(());
    };
    let known = path.management.iter().chain(&path.allow).any(|net| net.contains(&peer));
    if known {
        return Ok(());
    }
    Err(EngineError::Refused(format!(
        "refused: this would cut your own SSH session from {peer}; add it to `management`, \
         or use --force"
    )))
}
