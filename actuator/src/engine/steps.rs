//! What a converge has to do to a path, in the order in which it does it. Looks, and changes nothing.

use egress::config::{Endpoint, FailoverTo, PathConfig};
use egress::device;
use egress::error::chain;
use egress::firewall::{Rules, StopKind};
use egress::observe::Sight;
use egress::pins::Pins;
use egress::state::{PathState, StateError};
use egress::tunnel::{Plan, TunnelError};

use super::converge::Wish;
use super::person::state_from_device;
use super::{EngineError, answers};

/// One thing that has to be done to a path, in the order in which it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Hostnames, each with the address it stands for from now on.
    Pin(String),
    CreateState,
    /// The walls, with the reason.
    Load(&'static str),
    /// A stop that was engaged for want of a state.
    LiftStop,
    /// What is missing of the tunnel.
    BringUp(Box<Plan>),
    /// What keeps it from being brought up.
    InTheWay(String),
    /// From a backup to the primary.
    FailBack,
    /// The device is not as the primary has it, though state says so.
    SetDevice,
    /// What touches neither kernel nor state: how often is looked, and when a tunnel is silent.
    Health,
}

impl Step {
    /// Whether it is done where the rules of several paths are loaded at once.
    pub(super) fn is_done_with_load(&self) -> bool {
        matches!(self, Self::Pin(_) | Self::CreateState | Self::Load(_))
    }
}

/// Whether there is a device for a step to be done on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    IsThere,
    /// By an earlier step.
    IsMade,
}

/// Puts what is to be made of the tunnel after the lock, and before its device is set. Says what is
/// taken over from others, or left to them.
pub(super) fn add_tunnel(
    steps: &mut Vec<Step>,
    path: &PathConfig,
    tunnel: Option<&Result<Plan, TunnelError>>,
) -> Option<String> {
    let before_device = |step: &Step| matches!(step, Step::FailBack | Step::SetDevice);
    let at = steps.iter().position(before_device).unwrap_or(steps.len());
    match tunnel? {
        Err(error) => {
            steps.insert(at, Step::InTheWay(chain(error)));
            None
        }
        Ok(plan) => {
            if plan.makes_device() {
                // It is made at the endpoint that state names.
                steps.retain(|step| *step != Step::SetDevice);
            }
            if !plan.pieces.is_empty() {
                steps.insert(at, Step::BringUp(Box::new(plan.clone())));
            }
            let by = plan.taken_over?;
            Some(format!("{} is there, brought up by {by}: taken over", path.interface))
        }
    }
}

/// What a lookup has changed: `de1.example.net: 198.51.100.1 -> 203.0.113.1`.
pub(super) fn pins_changed(old: &Pins, new: &Pins) -> String {
    let changed = new.iter().filter_map(|(host, pin)| match old.get(host) {
        Some(before) if before.address == pin.address => None,
        Some(before) => Some(format!("{host}: {} -> {}", before.address, pin.address)),
        None => Some(format!("{host}: {}", pin.address)),
    });
    let gone = old.keys().filter(|host| !new.contains_key(*host));
    let all: Vec<String> = changed.chain(gone.map(|host| format!("{host}: forgotten"))).collect();
    format!("hostnames pinned: {}", all.join(", "))
}

/// What would keep a step from being done, seen without doing it: so that a check is exact.
pub(super) fn possible(
    step: &Step,
    path: &PathConfig,
    wish: &Wish,
    device: Device,
) -> Result<(), EngineError> {
    let primary = path.primary();
    if let Step::InTheWay(why) = step {
        return Err(EngineError::Refused(why.clone()));
    }
    if let (Step::FailBack | Step::SetDevice, Device::IsThere) = (step, device) {
        // A device that is not there is told as such, not as a primary that is dead.
        device::read(path)?;
    }
    let ask = !wish.force && path.health.failover_to == FailoverTo::Answering;
    if *step == Step::FailBack && ask && !answers(path, primary) {
        return Err(EngineError::Refused(format!(
            "refused: primary {} does not answer a handshake, the endpoint stays; \
             --force overrides",
            primary.name
        )));
    }
    Ok(())
}

/// Whether both say the same of how often is looked, and when a tunnel is silent.
pub(super) fn is_looked_at_alike(one: &PathConfig, other: &PathConfig) -> bool {
    let same = |endpoint: &Endpoint| {
        let known = one.endpoint(&endpoint.name);
        known.is_none_or(|known| known.probe_interval == endpoint.probe_interval)
    };
    one.health == other.health && other.endpoints.iter().all(same)
}

pub(super) fn plan(
    path: &PathConfig,
    sight: &Sight,
) -> Result<(PathState, Vec<Step>), EngineError> {
    let walls = sight.walls.as_ref().map_err(|error| EngineError::Refused(chain(error)))?;
    let stop = walls.stop_kind(&path.name);
    let refuse = |why: &str| Err(EngineError::Refused(format!("refused: {why}")));
    let mut steps = Vec::new();
    let state = match &sight.state {
        Ok(state) if state.latch.is_some() || stop == Some(StopKind::Latched) => {
            return refuse("a hard stop is latched; `actuator release --reason TEXT` first");
        }
        Ok(state) => PathState::clone(state),
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
    let in_place = device::is_set(path, path.fwmark, primary).unwrap_or(false);
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
    let uncovered = !sight.is_covered();
    uncovered.then_some("an uplink was not covered")
}
