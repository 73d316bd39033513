//! `converge`: makes the host what the config says. The only failback (S6), and never a way
//! around a hard stop.
//!
//! Order, so that no gap opens: config, state, killswitch, watch, then the tunnel and its device, then
//! the record.

use std::collections::BTreeMap;

use egress::config::{Config, PathConfig};
use egress::connections::Connection;
use egress::device;
use egress::error::chain;
use egress::fault::{self, Point};
use egress::firewall::Rules;
use egress::names::PathName;
use egress::observe;
use egress::pins;
use egress::state::{Act, PathState, Timestamp};

use serde::{Deserialize, Serialize};

use super::bring_up::list;
use super::planned::{Converging, Planned};
use super::steps::{Device, Step, possible};
use super::{Engine, EngineError};
use crate::advice;
use crate::control::{Reply, exit};
use crate::history::{Decision, NOTHING};
use crate::removed::{self, Removed};
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

impl Engine {
    pub fn converge(&mut self, wish: &Wish) -> Reply {
        let resolver = Resolver::new(&self.store);
        let lookup = |path: &PathName, host: &str| resolver.lookup(path, host);
        let devices = match observe::devices() {
            Ok(devices) => devices,
            Err(error) => {
                let why = format!("the devices of this host cannot be listed: {}", chain(error));
                return Reply::refused(vec![why]);
            }
        };
        let host = observe::host(&devices);
        let wanted = match Config::load_for_converge(&self.config_file, &lookup, &host) {
            Ok(config) => config,
            Err(error) => return Reply::config(chain(error)),
        };
        let pinned = resolver.found();
        let before = std::mem::replace(&mut self.config, std::sync::Arc::new(wanted));
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
        let (removed, _) = removed::from(&self.config, &self.store);
        if let Some(stopped) = removed.iter().find(|one| one.state.latch.is_some()) {
            return Reply::refused(vec![format!(
                "{0}: refused: it is stopped, and the config names it no more; put it back, and \
                 `actuator release --path {0} --reason TEXT`",
                stopped.name
            )]);
        }
        if before.watchdog != self.config.watchdog {
            let verb = if wish.check { "would change" } else { "changed" };
            told.lines.push(format!("{verb}: `watchdog` is read again"));
            told.changed = true;
        }
        let paths = self.paths();
        // A path that has to wait keeps no other one open.
        let mut refused = false;
        for Converging { path, told: mut its, outcome } in
            self.plan_paths(&paths, wish, before, resolved)
        {
            let outcome = outcome.and_then(|planned| self.finish(path, wish, planned, &mut its));
            if !wish.check {
                self.record(path, its.decision(path, &outcome));
            }
            told.lines.append(&mut its.lines);
            told.changed |= its.changed;
            if let Err(error) = outcome {
                told.lines.push(format!("{}: {}", path.name, chain(error)));
                refused = true;
            }
        }
        if refused {
            // What was done beside the refusal is done; a check says the same of itself.
            let exit = if wish.check && told.changed { exit::WOULD_CHANGE } else { exit::REFUSED };
            return told.reply(exit);
        }
        if let Err(error) = self.let_go(&removed, wish, &mut told) {
            told.lines.push(chain(error));
            return told.reply(exit::REFUSED);
        }
        let exit = if wish.check && told.changed { exit::WOULD_CHANGE } else { exit::DONE };
        told.reply(exit)
    }

    /// Takes the lock of what was removed from the config off, when all that is in it is locked.
    fn let_go(&self, removed: &[Removed], wish: &Wish, told: &mut Told) -> Result<(), EngineError> {
        if removed.is_empty() {
            return Ok(());
        }
        if !wish.check {
            self.forget(removed)?;
        }
        let verb = if wish.check { "would change" } else { "changed" };
        for one in removed {
            let held: Vec<Rules> = self.config.paths.iter().map(Rules::of).collect();
            let what = match one.lock().and_then(|lock| removed::left(lock, &held)) {
                Some(_) => "lock taken off, the config names it no more",
                None => "forgotten, the config names it no more",
            };
            told.lines.push(format!("{}: {verb}: {what}", one.name));
            if !wish.check {
                let decision = Decision::new("converge", "converge", "converged").seeing(what);
                self.history.record(&one.name, decision);
            }
        }
        told.changed = true;
        Ok(())
    }

    /// Carries out what is planned and not done yet, and records it.
    fn finish(
        &mut self,
        path: &PathConfig,
        wish: &Wish,
        planned: Planned,
        told: &mut Told,
    ) -> Result<(), EngineError> {
        let Planned { found, mut state, steps, cut_off, taken_over, is_loaded } = planned;
        if !is_loaded {
            self.keep_loaded(path, &mut state);
        }
        let verb = if wish.check { "would change" } else { "changed" };
        let made = |step: &Step| matches!(step, Step::BringUp(plan) if plan.makes_device());
        let device = if steps.iter().any(made) { Device::IsMade } else { Device::IsThere };
        // What is written with the load is not told before it.
        let mut with_load = Vec::new();
        for step in &steps {
            let what = self.describe(step, path, &state);
            possible(step, path, wish, device)?;
            let is_done = is_loaded && step.is_done_with_load();
            if !(wish.check || is_done) {
                self.carry_out(step, path, &found, &mut state)?;
            }
            let line = format!("{}: {verb}: {what}", path.name);
            if *step == Step::CreateState {
                with_load.push(line);
                continue;
            }
            told.lines.append(&mut with_load);
            told.lines.push(line);
            told.changed = true;
        }
        if let Some(cut_off) = cut_off.and_then(|cut_off| cut_off.listed()) {
            let verb = if wish.check { "would cut off" } else { "cut off" };
            told.lines.push(format!("{}: {verb} {cut_off}", path.name));
        }
        told.lines.extend(taken_over.map(|said| format!("{}: {said}", path.name)));
        told.lines.extend(advice::half(path).map(|said| format!("{}: {said}", path.name)));
        let left_out = path.workload.subordinate_ids_left_out();
        told.lines.extend(left_out.iter().map(|said| format!("{}: warning: {said}", path.name)));
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

    /// The tables are those of all paths: the load of another one has recorded what was read back for
    /// this one too, since this one was planned.
    fn keep_loaded(&self, path: &PathConfig, state: &mut PathState) {
        if let Ok(recorded) = self.store.read(&path.name) {
            state.intended = recorded.intended;
            state.leak_baseline = recorded.leak_baseline;
            state.guard_baseline = recorded.guard_baseline;
            state.leaks_carried = recorded.leaks_carried;
        }
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

    pub(super) fn carry_out(
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

/// Why a path's device cannot be locked here: it sends from another network namespace. Asked before
/// anything is locked, for the tunnel would carry nothing that these walls see.
pub fn from_elsewhere(path: &PathConfig) -> Option<String> {
    let here = path.workload.netns().is_none();
    let elsewhere = here && device::sends_from_elsewhere(&path.interface).unwrap_or(false);
    elsewhere.then(|| {
        format!(
            "interface {0} was made in another network namespace and moved here: its encrypted \
             packets leave from there, where no rule of this lock sees them, and its mark may not be \
             settable from here. Run vpn-egress there with `workload: {{netns: NAME}}`, which makes \
             the device there and moves it here, or make {0} in this namespace",
            path.interface
        )
    })
}

/// What a converge has to say.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) lines: Vec<String>,
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
