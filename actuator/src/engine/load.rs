//! Loads the walls, reads them back, and records them as intended.

use std::collections::BTreeMap;
use std::time::Duration;

use egress::config::PathConfig;
use egress::cut;
use egress::error::chain;
use egress::fault::{self, Point};
use egress::firewall::{self, Count, Counters, Coverage, NftError, Rules, StopKind, cgroup};
use egress::names::PathName;
use egress::neighbours;
use egress::observe;
use egress::process::Patience;
use egress::state::{Intended, PathState, StateError};

use super::alert::Outcome;
use super::{Engine, EngineError};
use crate::decide::{Cause, Hold};
use crate::removed::{self, Removed};

/// A repair is tried so often before it counts as impossible.
const ATTEMPTS: usize = 3;

/// How long an `nft` may take to put the lock back before the path is cut instead: meanwhile only the
/// guard's copies hold.
const REPAIR_LIMIT: Duration = Duration::from_secs(10);

impl Engine {
    /// Loads the rules of one path, with those of every other path that is locked.
    pub(super) fn load(
        &self,
        path: &PathConfig,
        rules: Rules,
        state: &mut PathState,
    ) -> Result<(), EngineError> {
        let mut due = [Due { path, rules, state: state.clone() }];
        let loaded = self.load_all(&mut due);
        let [due] = due;
        *state = due.state;
        loaded
    }

    /// Killswitch first, then the watch, then what waited from before is drained; only then is the
    /// leak counters' baseline taken. What was counted before this load stays a leak.
    ///
    /// The tables are those of all paths: however many are due, each table is one transaction, and what
    /// was read back is recorded for each path that is in it.
    pub(super) fn load_all(&self, due: &mut [Due<'_>]) -> Result<(), EngineError> {
        fault::point(Point::LoadDue);
        let mut loaded = self.others_loaded(due)?;
        loaded.extend(
            due.iter().map(|due| Loaded::of(due.path, due.rules.clone(), Some(due.state.clone()))),
        );
        // The same rules whichever path they are loaded for.
        loaded.sort_by(|one, other| one.name.cmp(&other.name));
        let all: Vec<Rules> = loaded.iter().map(|one| one.rules.clone()).collect();
        let cgroups = cgroups_of(&all);
        let killswitch = firewall::load_killswitch(&all)?;
        fault::point(Point::LoadKillswitch);
        let before = Counters::of_watch()?;
        let (watch, coverage) = firewall::load_watch(&all)?;
        fault::point(Point::LoadWatch);
        neighbours::drain();
        self.guard(&all, &coverage);
        fault::point(Point::LoadDrained);
        let after = Counters::of_watch()?;
        for one in loaded {
            let packets = |counters: &Counters| -> Option<u64> {
                counters.leaked(&one.name).map(|Count { packets, .. }| packets)
            };
            let after = packets(&after).ok_or(EngineError::NoCounter)?;
            let before = packets(&before);
            let Some(mut new) = one.state else { continue };
            new.leak_baseline = match before {
                Some(before) => {
                    // Forgiven is only what this load itself let pass to the watch.
                    let waited = after.saturating_sub(before);
                    new.leak_baseline.min(before) + waited
                }
                None => after,
            };
            let ids = |name: &String| Some((name.clone(), *cgroups.get(name)?));
            new.intended = Some(Intended {
                killswitch: killswitch.digest().to_owned(),
                watch: watch.digest().to_owned(),
                cgroups: one.rules.cgroups().iter().filter_map(ids).collect(),
                rules: one.rules,
                coverage: coverage.clone(),
            });
            self.store.write(&one.name, &new)?;
            if let Some(due) = due.iter_mut().find(|due| due.path.name == one.name) {
                due.state = new;
            }
        }
        fault::point(Point::LoadRecorded);
        Ok(())
    }

    /// The other paths whose rules belong into the tables: all but those that a person unlocked, and
    /// those that were never converged. A state that cannot be read takes no lock off. `due` is what
    /// is loaded with them.
    fn others_loaded(&self, due: &[Due<'_>]) -> Result<Vec<Loaded<'_>>, EngineError> {
        self.others_loaded_beside(
            |name| due.iter().any(|due| due.path.name == *name),
            &due.iter().map(|due| &due.rules).collect::<Vec<_>>(),
        )
    }

    /// The same of all paths that are not `left_out`, where `due` is loaded with them.
    fn others_loaded_beside(
        &self,
        left_out: impl Fn(&PathName) -> bool,
        due: &[&Rules],
    ) -> Result<Vec<Loaded<'_>>, EngineError> {
        let killswitch = Counters::of_killswitch()?;
        let others = self.config.paths.iter().filter(|other| !left_out(&other.name));
        let loaded = others.filter_map(|other| {
            let (rules, state) = match self.store.read(&other.name) {
                Ok(state) if state.unlocked.is_some() => return None,
                Ok(state) => match &state.intended {
                    Some(intended) => (intended.rules.clone(), Some(state)),
                    None => return None,
                },
                Err(StateError::Missing { .. }) if !killswitch.holds(&other.name) => return None,
                Err(_) => (Rules::of(other), None),
            };
            Some(Loaded::of(other, rules, state))
        });
        let mut loaded: Vec<Loaded> = loaded.collect();
        let (removed, unreadable) = removed::from(&self.config, &self.store);
        if let Some((name, error)) = unreadable.into_iter().find(|(name, _)| killswitch.holds(name))
        {
            return Err(EngineError::Refused(format!(
                "path {name} is not in the config, and its lock must stay, but: {}",
                chain(error)
            )));
        }
        for one in removed {
            let held = loaded.iter().map(|one| &one.rules).chain(due.iter().copied());
            if let Some(rules) = one.lock().and_then(|lock| removed::left(lock, held)) {
                let (name, state) = (one.name, Some(one.state));
                loaded.push(Loaded { name, path: None, rules, state });
            }
        }
        Ok(loaded)
    }

    /// From now on a converge that goes by the config is what counts: what was removed from it is let
    /// go, the record first.
    pub(super) fn forget(&self, removed: &[Removed]) -> Result<(), EngineError> {
        for one in removed {
            self.store.set_aside(&one.name)?;
        }
        let Some(path) = self.config.paths.first() else { return Ok(()) };
        let mut state = self.store.read(&path.name)?;
        self.load(path, self.rules(path), &mut state)
    }

    /// Takes the lock of one path off and leaves the others'.
    pub(super) fn unload(&self, path: &PathConfig) -> Result<(), EngineError> {
        let mut others = self.others_loaded_beside(|name| *name == path.name, &[])?;
        let readable = |one: &Loaded| one.state.is_some() && one.path.is_some();
        let Some(readable) = others.iter().position(readable) else {
            return match others.first() {
                None => {
                    self.unguard();
                    Ok(firewall::unlock()?)
                }
                Some(other) => Err(EngineError::Refused(format!(
                    "refused: the lock of path {} must stay, and its {} cannot be read; {} first",
                    other.name,
                    if other.path.is_some() { "state" } else { "configuration" },
                    if other.path.is_some() {
                        "`actuator release --reason TEXT`"
                    } else {
                        "`actuator converge`, or put it back into the config,"
                    },
                ))),
            };
        };
        let one = others.swap_remove(readable);
        let (Some(mut state), Some(path)) = (one.state, one.path) else { return Ok(()) };
        self.load(path, one.rules, &mut state)
    }

    /// The copies follow the walls and never come first: a packet needs the leave of both, so that
    /// no order opens a gap. Without them the walls hold all the same.
    pub(super) fn guard(&self, rules: &[Rules], coverage: &Coverage) {
        if let Some(guard) = &mut *self.guard.borrow_mut() {
            let held = firewall::hold(guard, rules, coverage);
            match held {
                Ok(()) => self.board.guard_holds(),
                Err(_) => self.board.guard_failed(),
            }
            self.tell_of_guard("walls", held);
        }
    }

    /// The same of the hard stop, whose copy comes and goes with it.
    pub(super) fn guard_stop(&self, cut: &[(Rules, StopKind)], living: &[Rules]) {
        if let Some(guard) = &mut *self.guard.borrow_mut() {
            self.tell_of_guard("hard stop", firewall::hold_stop(guard, cut, living));
        }
    }

    /// It is tried again at each look, and told when it becomes another.
    fn tell_of_guard(&self, copy_of: &'static str, held: Result<(), NftError>) {
        let trouble = held.err().map(chain);
        let mut told = self.guard_trouble.borrow_mut();
        if told.get(copy_of) == trouble.as_ref() {
            return;
        }
        if let Some(error) = trouble {
            tracing::warn!(copy_of, error, "no guard: the rules are alone");
            told.insert(copy_of, error);
        } else {
            tracing::info!(copy_of, "the guard is back");
            told.remove(copy_of);
        }
    }

    /// The guard's nft was ended, or this is the first look.
    pub(super) fn guard_again(&self, path: &PathConfig, state: &PathState) {
        let Some(intended) = &state.intended else { return };
        let rules = intended.rules.clone();
        let beside = self.others_loaded_beside(|name| *name == path.name, &[&rules]);
        let Ok(mut loaded) = beside else { return };
        loaded.push(Loaded::of(path, rules, None));
        loaded.sort_by(|one, other| one.name.cmp(&other.name));
        let rules: Vec<Rules> = loaded.into_iter().map(|one| one.rules).collect();
        self.guard(&rules, &intended.coverage);
    }

    /// Puts back what is missing; where that fails, the path is cut.
    pub(super) fn repair_or_stop(&self, path: &PathConfig, state: &mut PathState) -> Outcome {
        fault::point(Point::RepairDue);
        let broken = self.broken_tables(path);
        // As converged, whatever the file on disk says by now.
        let rules = self.rules(path);
        let mut load =
            || Patience::from(REPAIR_LIMIT).during(|| self.load(path, rules.clone(), state));
        let mut outcome = load();
        for _ in 1..ATTEMPTS {
            // A machine that is too busy for nft is no reason to cut the path at once. An nft that hangs
            // would only hang again.
            if matches!(outcome, Ok(()) | Err(EngineError::Nft(NftError::Hung(_)))) {
                break;
            }
            outcome = load();
        }
        match outcome {
            Ok(()) => {
                fault::point(Point::RepairDone);
                for table in broken.into_iter().filter(|_| self.begun) {
                    let name = path.name.as_str();
                    tracing::warn!(path = name, table, "rules were changed by others: repaired");
                    self.metrics.repairs.with_label_values(&[name, table]).inc();
                }
                Outcome::Repaired
            }
            Err(error) => {
                let why = chain(error);
                let latched = state.latch.is_some();
                let hold = match self.stops.look(path) {
                    Some(_) if latched => return Outcome::Failed(why),
                    None if latched => Hold::NotCut,
                    _ => Hold::None,
                };
                match self.stop_for(Cause::RepairFailed, path, hold, &why) {
                    Ok(()) => Outcome::HardStopped,
                    Err(error) => Outcome::Failed(chain(error)),
                }
            }
        }
    }

    fn broken_tables(&self, path: &PathConfig) -> Vec<&'static str> {
        let sight = observe::look(path, &self.store);
        sight
            .integrity()
            .into_iter()
            .filter(|(_, intact)| !intact)
            .map(|(table, _)| table)
            .collect()
    }
}

/// The mark on a stop that is engaged because state cannot be read: a stop that was latched for a
/// leak keeps its own.
pub(super) fn kind_of_unknown(path: &PathConfig) -> StopKind {
    cut::by_rules(&path.name).unwrap_or(StopKind::NoState)
}

/// A path whose rules are in the tables.
struct Loaded<'a> {
    name: PathName,
    /// `None`: it was converged, and has been removed from the config since.
    path: Option<&'a PathConfig>,
    rules: Rules,
    /// `None`: it cannot be read; nothing is recorded then.
    state: Option<PathState>,
}

/// A path whose rules are to be loaded, and the state that is recorded with them.
pub(super) struct Due<'a> {
    pub path: &'a PathConfig,
    pub rules: Rules,
    /// Once they are loaded, with what was read back.
    pub state: PathState,
}

impl<'a> Loaded<'a> {
    fn of(path: &'a PathConfig, rules: Rules, state: Option<PathState>) -> Self {
        Self { name: path.name.clone(), path: Some(path), rules, state }
    }
}

/// Read before the load: where one changes meanwhile, the next look sees it.
fn cgroups_of(all: &[Rules]) -> BTreeMap<String, u64> {
    let names = all.iter().flat_map(Rules::cgroups);
    names.filter_map(|name| Some((name.clone(), cgroup::id(name)?))).collect()
}
