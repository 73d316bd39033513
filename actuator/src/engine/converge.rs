//! `converge`: makes the host what the config says. The only failback (S6), and never a way
//! around a hard stop.
//!
//! Order, so that no gap opens: config, state, killswitch, watch, then the device, then the record.

use std::collections::BTreeMap;

use egress::config::{Config, Endpoint, FailoverTo, PathConfig};
use egress::connections::Connection;
use egress::device;
use egress::fault::{self, Point};
use egress::firewall::{Rules, StopKind};
use egress::names::PathName;
use egress::observe::{self, Sight, chain};
use egress::pins::{self, Pins};
use egress::state::{Act, PathState, StateError, Timestamp};
use egress::tunnel::{Plan, TunnelError};

use serde::{Deserialize, Serialize};

use super::bring_up::list;
use super::person::state_from_device;
use super::stay_in::CutOff;
use super::{Engine, EngineError, answers};
use crate::control::{Reply, exit};
use crate::history::{Decision, NOTHING};
use crate::resolve::{Found, Resolver};

/// What a person asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Change nothing, only say what would be changed.
    pub check: bool,
    pub force: bool,
    /// By which connections the person is here who asks.
    pub sessions: Vec<Connection>,
}

/// One thing that has to be done to a path, in the order in which it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
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

impl Engine {
    pub fn converge(&mut self, wish: &Wish) -> Reply {
        let resolver = Resolver::new(&self.store);
        let lookup = |path: &PathName, host: &str| resolver.lookup(path, host);
        let wanted = match Config::load_for_converge(&self.config_file, &lookup) {
            Ok(config) => config,
            Err(error) => return Reply::config(chain(error)),
        };
        let pinned = resolver.found();
        let before = std::mem::replace(&mut self.config, wanted);
        let reply = self.converge_paths(wish, &before, &pinned);
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

    fn converge_paths(
        &mut self,
        wish: &Wish,
        before: &Config,
        resolved: &BTreeMap<PathName, Found>,
    ) -> Reply {
        let mut told = Told::default();
        if before.watchdog != self.config.watchdog {
            let verb = if wish.check { "would change" } else { "changed" };
            told.lines.push(format!("{verb}: `watchdog` is read again"));
            told.changed = true;
        }
        for path in self.paths() {
            let known = before.path(path.name.as_str());
            let found = resolved.get(&path.name).cloned().unwrap_or_default();
            let outcome = self.converge_path(&path, wish, known, &found, &mut told);
            if !wish.check {
                self.record(&path, told.decision(&path, &outcome));
            }
            if let Err(error) = outcome {
                told.lines.push(format!("{}: {}", path.name, chain(error)));
                // What was done before the refusal is done; a check says the same of itself.
                let exit =
                    if wish.check && told.changed { exit::WOULD_CHANGE } else { exit::REFUSED };
                return told.reply(exit);
            }
        }
        let exit = if wish.check && told.changed { exit::WOULD_CHANGE } else { exit::DONE };
        told.reply(exit)
    }

    fn converge_path(
        &mut self,
        path: &PathConfig,
        wish: &Wish,
        known: Option<&PathConfig>,
        found: &Found,
        told: &mut Told,
    ) -> Result<(), EngineError> {
        let sight = observe::look(path, &self.store);
        let (mut state, mut steps) = plan(path, &sight)?;
        let warnings = found.warnings.iter().map(|why| format!("{}: warning: {why}", path.name));
        told.lines.extend(warnings);
        let pinned = pins::read(&self.store, &path.name);
        if pinned != found.pins {
            steps.insert(0, Step::Pin(pins_changed(&pinned, &found.pins)));
        }
        let tunnel = Self::plan_tunnel(path, &sight, &state);
        let taken_over = add_tunnel(&mut steps, path, tunnel.as_ref());
        // On record with the lock: what a crash leaves undone, the daemon does.
        state.brought_up = match &tunnel {
            None => None,
            Some(Ok(plan)) => Some(plan.becomes.clone()),
            Some(Err(_)) => state.brought_up,
        };
        if known.is_some_and(|known| !is_looked_at_alike(known, path)) {
            steps.push(Step::Health);
        }
        let cut_off = self.would_cut_off(path, &sight, &steps, wish);
        if let Some(refusal) = cut_off.as_ref().and_then(CutOff::refusal).filter(|_| !wish.force) {
            return Err(EngineError::Refused(refusal));
        }
        if !wish.check {
            fault::point(Point::ConvergeDue);
        }
        let verb = if wish.check { "would change" } else { "changed" };
        let made = |step: &Step| matches!(step, Step::BringUp(plan) if plan.makes_device());
        let device = if steps.iter().any(made) { Device::IsMade } else { Device::IsThere };
        for step in &steps {
            let what = self.describe(step, path, &state);
            possible(step, path, wish, device)?;
            if !wish.check {
                self.carry_out(step, path, found, &mut state)?;
            }
            told.lines.push(format!("{}: {verb}: {what}", path.name));
            told.changed = true;
        }
        if let Some(cut_off) = cut_off.and_then(|cut_off| cut_off.listed()) {
            let verb = if wish.check { "would cut off" } else { "cut off" };
            told.lines.push(format!("{}: {verb} {cut_off}", path.name));
        }
        told.lines.extend(taken_over.map(|said| format!("{}: {said}", path.name)));
        if steps.is_empty() {
            told.lines.push(format!("{}: nothing to change, endpoint {}", path.name, state.active));
        }
        if !wish.check {
            fault::point(Point::ConvergeDone);
            let now = Timestamp::now();
            state.chosen.get_or_insert_with(|| Act { reason: "converge".to_owned(), at: now });
            state.last_converge = Some(now);
            self.store.write(&path.name, &state)?;
            fault::point(Point::ConvergeRecorded);
            self.exhausted.insert(path.name.to_string(), false);
            tracing::info!(path = %path.name, ?steps, "converged");
        }
        Ok(())
    }

    /// What a load would cut off, if there is one to do.
    fn would_cut_off(
        &self,
        path: &PathConfig,
        sight: &Sight,
        steps: &[Step],
        wish: &Wish,
    ) -> Option<CutOff> {
        steps.iter().find(|step| matches!(step, Step::Load(_)))?;
        let locked = sight.walls.as_ref().is_ok_and(|walls| walls.holds(&path.name));
        // What lives under a lock that is on shows by that.
        let old = locked.then(|| self.rules(path));
        Some(CutOff::by(&Rules::of(path), old.as_ref(), &wish.sessions))
    }

    fn describe(&self, step: &Step, path: &PathConfig, state: &PathState) -> String {
        let primary = &path.primary().name;
        match step {
            Step::Pin(what) => what.clone(),
            Step::CreateState => {
                format!("state created at {}", self.store.file(&path.name).display())
            }
            Step::Load(why) => format!("killswitch and watch loaded ({why})"),
            Step::LiftStop => "stop for missing state lifted".to_owned(),
            Step::BringUp(plan) => format!("tunnel brought up ({})", list(&plan.pieces)),
            Step::InTheWay(why) => why.clone(),
            Step::FailBack => format!("endpoint {} -> {primary} (failback)", state.active),
            Step::SetDevice => format!("interface {} set to endpoint {primary}", path.interface),
            Step::Health => "`health` is read again".to_owned(),
        }
    }

    fn carry_out(
        &self,
        step: &Step,
        path: &PathConfig,
        found: &Found,
        state: &mut PathState,
    ) -> Result<(), EngineError> {
        let primary = path.primary();
        match step {
            Step::Pin(_) => Ok(pins::write(&self.store, &path.name, &found.pins)?),
            // Written with what the load reads back: a state without a lock would say too much.
            Step::CreateState | Step::Health => Ok(()),
            Step::Load(_) => {
                state.unlocked = None;
                self.load(path, Rules::of(path), state)
            }
            Step::LiftStop => {
                self.lift_in_kernel(path)?;
                fault::point(Point::ConvergeLifted);
                Ok(())
            }
            Step::BringUp(plan) => self.bring_up(path, state, plan),
            Step::InTheWay(why) => Err(EngineError::Refused(why.clone())),
            Step::FailBack => {
                std::thread::sleep(super::evidence::AFTER_PROBE);
                self.switch(path, state, primary, "converge: failback")
            }
            Step::SetDevice => self.switch(path, state, primary, "converge"),
        }
    }
}

/// What a converge has to say.
#[derive(Debug, Default)]
struct Told {
    lines: Vec<String>,
    changed: bool,
}

impl Told {
    fn reply(self, exit: u8) -> Reply {
        Reply { lines: self.lines, exit, changed: self.changed }
    }

    fn decision(&self, path: &PathConfig, outcome: &Result<(), EngineError>) -> Decision {
        let prefix = format!("{}: changed: ", path.name);
        let done: Vec<&str> =
            self.lines.iter().filter_map(|line| line.strip_prefix(&prefix)).collect();
        let action = if done.is_empty() { NOTHING } else { "converge" };
        let outcome = outcome.as_ref().map_or_else(chain, |()| "converged".to_owned());
        Decision::new("converge", action, outcome).seeing(done.join("; "))
    }
}

/// Whether there is a device for a step to be done on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    IsThere,
    /// By an earlier step.
    IsMade,
}

/// Puts what is to be made of the tunnel after the lock, and before its device is set. Says what is
/// taken over from others, or left to them.
fn add_tunnel(
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
fn pins_changed(old: &Pins, new: &Pins) -> String {
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
fn possible(
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
        device::read(&path.interface)?;
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
fn is_looked_at_alike(one: &PathConfig, other: &PathConfig) -> bool {
    let same = |endpoint: &Endpoint| {
        let known = one.endpoint(&endpoint.name);
        known.is_none_or(|known| known.probe_interval == endpoint.probe_interval)
    };
    one.health == other.health && other.endpoints.iter().all(same)
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
    let in_place = device::is_set(&path.interface, path.fwmark, primary).unwrap_or(false);
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
