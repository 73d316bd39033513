//! What a converge has to do to each path, by one reading of the kernel; and the load of all the rules
//! that are due, at once.

use std::collections::BTreeMap;
use std::time::Duration;

use egress::config::{Config, PathConfig};
use egress::error::chain;
use egress::fault::{self, Point};
use egress::firewall::{NftError, Rules};
use egress::names::PathName;
use egress::observe::{self, Sight};
use egress::pins;
use egress::state::PathState;

use super::converge::{Told, Wish, from_elsewhere};
use super::load::Due;
use super::stay_in::CutOff;
use super::steps::{Step, add_tunnel, is_looked_at_alike, pins_changed, plan};
use super::{Engine, EngineError};
use crate::resolve::Found;

/// How long the kernel is read for before a converge is refused: nothing is at stake meanwhile.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// A path, what there is to report of it, and what has to be done or why it cannot be.
pub(super) struct Converging<'a> {
    pub path: &'a PathConfig,
    pub told: Told,
    pub outcome: Result<Planned, EngineError>,
}

/// What has to be done to a path.
pub(super) struct Planned {
    pub found: Found,
    pub state: PathState,
    pub steps: Vec<Step>,
    pub cut_off: Option<CutOff>,
    pub taken_over: Option<String>,
    /// Its rules are in the kernel, and on record; so are its pins.
    pub is_loaded: bool,
}

impl Engine {
    /// Compares every path with what one reading of the kernel shows, and loads the rules of all that
    /// are due in one transaction for each table. What a path cannot have is its own outcome.
    pub(super) fn plan_paths<'a>(
        &mut self,
        paths: &'a [PathConfig],
        wish: &Wish,
        before: &Config,
        resolved: &BTreeMap<PathName, Found>,
    ) -> Vec<Converging<'a>> {
        let looked =
            observe::look_at_all(paths, &self.store, &self.board.kernel, READ_LIMIT).sights;
        let plan = |(path, sight): (&'a PathConfig, Sight)| {
            let known = before.path(path.name.as_str());
            let found = resolved.get(&path.name).cloned().unwrap_or_default();
            let mut told = Told::default();
            let outcome = self.plan_path((path, &sight), wish, known, found, &mut told);
            Converging { path, told, outcome }
        };
        let mut all: Vec<Converging> = paths.iter().zip(looked).map(plan).collect();
        if !wish.check && paths.len() > 1 {
            self.load_together(&mut all);
        }
        all
    }

    /// Loads the rules of all paths that are due at once. Where that fails, each is loaded by itself
    /// later: one bad rule must not keep the other paths open.
    fn load_together(&self, all: &mut [Converging<'_>]) {
        let is_due = |one: &Converging| {
            let steps = one.outcome.as_ref().map_or(&[][..], |planned| &planned.steps);
            steps.iter().any(|step| matches!(step, Step::Load(_)))
        };
        if all.iter().filter(|one| is_due(one)).count() < 2 {
            return;
        }
        let mut planned: Vec<(&PathConfig, &mut Planned)> = Vec::new();
        for one in all.iter_mut().filter(|one| is_due(one)) {
            // Pinned before the rules that the pins make.
            let pinned = one.outcome.as_ref().map_or(Ok(()), |planned| {
                let mut pins = planned.steps.iter().filter(|step| matches!(step, Step::Pin(_)));
                let mut state = planned.state.clone();
                pins.try_for_each(|step| self.carry_out(step, one.path, &planned.found, &mut state))
            });
            if let Err(error) = pinned {
                one.outcome = Err(error);
            }
            if let Ok(plan) = &mut one.outcome {
                planned.push((one.path, plan));
            }
        }
        let due = planned.iter().map(|(path, plan)| {
            let mut state = plan.state.clone();
            state.unlocked = None;
            Due { path, rules: Rules::of(path), state }
        });
        let mut due: Vec<Due> = due.collect();
        match self.load_all(&mut due) {
            Ok(()) => {
                for ((_, plan), due) in planned.iter_mut().zip(due) {
                    plan.state = due.state;
                    plan.is_loaded = true;
                }
            }
            // It would only hang again, once for each path.
            Err(EngineError::Nft(NftError::Hung(late))) => {
                for one in all.iter_mut().filter(|one| is_due(one)) {
                    one.outcome = Err(NftError::Hung(late).into());
                }
            }
            Err(error) => {
                let error = chain(error);
                tracing::warn!(error, "the paths could not be locked at once: each by itself");
            }
        }
    }

    /// Compares one path with what was seen of it. Changes nothing.
    fn plan_path(
        &self,
        (path, sight): (&PathConfig, &Sight),
        wish: &Wish,
        known: Option<&PathConfig>,
        found: Found,
        told: &mut Told,
    ) -> Result<Planned, EngineError> {
        if let Some(why) = from_elsewhere(path) {
            return Err(EngineError::Refused(format!("refused: {why}")));
        }
        let (mut state, mut steps) = plan(path, sight)?;
        let warnings = found.warnings.iter().map(|why| format!("{}: warning: {why}", path.name));
        told.lines.extend(warnings);
        let pinned = pins::read(&self.store, &path.name);
        if pinned != found.pins {
            steps.insert(0, Step::Pin(pins_changed(&pinned, &found.pins)));
        }
        let tunnel = Self::plan_tunnel(path, &state);
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
        let cut_off = self.would_cut_off(path, sight, &steps, wish);
        if let Some(refusal) = cut_off.as_ref().and_then(CutOff::refusal).filter(|_| !wish.force) {
            return Err(EngineError::Refused(refusal));
        }
        if !wish.check {
            fault::point(Point::ConvergeDue);
        }
        Ok(Planned { found, state, steps, cut_off, taken_over, is_loaded: false })
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
}
