//! `converge`: makes the host what the config says. The only failback (S6), and never a way
//! around a hard stop.
//!
//! Order, so that no gap opens: config, state, killswitch, watch, then the device, then the record.

use std::net::IpAddr;

use egress::config::{Config, PathConfig};
use egress::device::{self, Likeness};
use egress::firewall::{Rules, StopKind};
use egress::observe::{self, Sight, chain};
use egress::state::{PathState, StateError, Timestamp};

use super::person::state_from_device;
use super::{Engine, EngineError, answers};
use crate::control::{Reply, exit};

/// What a person asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Change nothing, only say what would be changed.
    pub check: bool,
    pub force: bool,
    /// The host at the other end of the SSH session that asks.
    pub ssh_peer: Option<IpAddr>,
}

/// One thing that has to be done to a path, in the order in which it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    CreateState,
    /// The walls, with the reason.
    Load(&'static str),
    /// A stop that was engaged for want of a state.
    LiftStop,
    /// From a backup to the primary.
    FailBack,
    /// The device is not at the primary, though state says so.
    SetDevice,
}

impl Engine {
    pub fn converge(&mut self, wish: Wish) -> Reply {
        let wanted = match Config::load(&self.config_file) {
            Ok(config) => config,
            Err(error) => return Reply::config(chain(error)),
        };
        let before = std::mem::replace(&mut self.config, wanted);
        let reply = self.converge_paths(wish);
        // What was not carried out is not in force: the daemon goes on by the config it had. Where
        // the rules of the new one are loaded already, it is the new one.
        let in_force = reply.exit == exit::DONE || self.is_loaded();
        if wish.check || !in_force {
            self.config = before;
        }
        reply
    }

    fn is_loaded(&self) -> bool {
        self.config.paths.iter().all(|path| self.rules(path) == Rules::of(path))
    }

    fn converge_paths(&mut self, wish: Wish) -> Reply {
        let mut lines = Vec::new();
        let mut changed = false;
        for path in self.paths() {
            match self.converge_path(&path, wish, &mut lines) {
                Ok(differs) => changed |= differs,
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
        let (mut state, steps) = plan(path, &sight)?;
        if steps.iter().any(|step| matches!(step, Step::Load(_))) && !wish.force {
            stay_in(path, &sight, wish.ssh_peer)?;
        }
        let verb = if wish.check { "would change" } else { "changed" };
        for &step in &steps {
            let what = self.describe(step, path, &state);
            if !wish.check {
                self.carry_out(step, path, &mut state, wish.force)?;
            }
            lines.push(format!("{}: {verb}: {what}", path.name));
        }
        if steps.is_empty() {
            lines.push(format!("{}: nothing to change, endpoint {}", path.name, state.active));
        }
        if !wish.check {
            state.last_converge = Some(Timestamp::now());
            self.store.write(&path.name, &state)?;
            self.exhausted.insert(path.name.to_string(), false);
            tracing::info!(path = %path.name, ?steps, "converged");
        }
        Ok(!steps.is_empty())
    }

    fn describe(&self, step: Step, path: &PathConfig, state: &PathState) -> String {
        let primary = &path.primary().name;
        match step {
            Step::CreateState => {
                format!("state created at {}", self.store.file(&path.name).display())
            }
            Step::Load(why) => format!("killswitch and watch loaded ({why})"),
            Step::LiftStop => "stop for missing state lifted".to_owned(),
            Step::FailBack => format!("endpoint {} -> {primary} (failback)", state.active),
            Step::SetDevice => format!("interface {} set to endpoint {primary}", path.interface),
        }
    }

    fn carry_out(
        &self,
        step: Step,
        path: &PathConfig,
        state: &mut PathState,
        force: bool,
    ) -> Result<(), EngineError> {
        let primary = path.primary();
        match step {
            // Written with what the load reads back: a state without a lock would say too much.
            Step::CreateState => Ok(()),
            Step::Load(_) => {
                state.unlocked = None;
                self.load(path, Rules::of(path), state)
            }
            Step::LiftStop => Ok(self.lift_in_kernel(path)?),
            Step::FailBack => {
                // A device that is not there is told as such, not as a primary that is dead.
                device::read(&path.interface)?;
                if !force && !answers(path, primary) {
                    return Err(EngineError::Refused(format!(
                        "refused: primary {} does not answer a handshake, {} stays; \
                         --force overrides",
                        primary.name, state.active
                    )));
                }
                std::thread::sleep(super::evidence::AFTER_PROBE);
                self.switch(path, state, primary)
            }
            Step::SetDevice => self.switch(path, state, primary),
        }
    }
}

fn plan(path: &PathConfig, sight: &Sight) -> Result<(PathState, Vec<Step>), EngineError> {
    let walls = sight.walls.as_ref().map_err(|error| EngineError::Refused(chain(error)))?;
    let stop = walls.stop_kind(&path.name);
    let refuse = |why: &str| Err(EngineError::Refused(format!("refused: {why}")));
    let mut steps = Vec::new();
    let state = match &sight.state {
        Ok(state) if state.latch.is_some() || stop == Some(StopKind::Latched) => {
            return refuse("a hard stop is latched; `actuator release --reason TEXT` first");
        }
        Ok(state) => state.clone(),
        Err(StateError::Missing { .. }) if stop == Some(StopKind::Latched) => {
            return refuse(
                "the kernel's hard stop is engaged and no state says why; \
                 `actuator release --reason TEXT` first",
            );
        }
        Err(StateError::Missing { .. }) => {
            steps.push(Step::CreateState);
            // Where the device is at a backup, going to the primary is a failback like any.
            state_from_device(path)
        }
        Err(error) => return refuse(&chain(error)),
    };
    steps.extend(must_load(path, sight).map(Step::Load));
    if stop == Some(StopKind::NoState) {
        steps.push(Step::LiftStop);
    }
    let primary = path.primary();
    // The lock comes first; what is wrong with the device is said after it.
    let in_place = sight.device.as_ref().is_ok_and(|view| {
        view.likeness(primary) == Likeness::Same && view.fwmark == Some(path.fwmark)
    });
    if state.active != primary.name {
        steps.push(Step::FailBack);
    } else if !in_place {
        steps.push(Step::SetDevice);
    }
    Ok((state, steps))
}

/// Why the walls have to be loaded, or `None` where they are as the config wants them.
fn must_load(path: &PathConfig, sight: &Sight) -> Option<&'static str> {
    let state = sight.state.as_ref().ok();
    let Some(intended) = state.and_then(|state| state.intended.as_ref()) else {
        return Some("no load is on record");
    };
    if state.is_some_and(|state| state.unlocked.is_some()) {
        return Some("the lock was taken off");
    }
    if intended.rules != Rules::of(path) {
        return Some("the config has changed");
    }
    if sight.integrity().iter().any(|(_, intact)| !intact) {
        return Some("the loaded rules were not the intended ones");
    }
    let uncovered = sight.coverage().iter().any(|(_, attached)| !attached);
    uncovered.then_some("an uplink was not covered")
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
