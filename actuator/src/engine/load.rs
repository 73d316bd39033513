//! Loads the walls, reads them back, and records them as intended.

use std::collections::BTreeSet;

use egress::config::PathConfig;
use egress::firewall::{self, Rules, StopKind, Walls};
use egress::neighbours;
use egress::observe::{self, chain};
use egress::state::{Intended, PathState};

use super::alert::Outcome;
use super::{Engine, EngineError};

/// A repair is tried so often before it counts as impossible.
const ATTEMPTS: usize = 3;

impl Engine {
    /// Killswitch first, then the watch, then what waited from before is drained; only then is the
    /// leak counter's baseline taken. What was counted before this load stays a leak.
    pub(super) fn load(
        &self,
        path: &PathConfig,
        rules: Rules,
        state: &mut PathState,
    ) -> Result<(), EngineError> {
        let others = self.config.paths.iter().filter(|other| other.name != path.name);
        let all: Vec<Rules> =
            std::iter::once(rules.clone()).chain(others.map(|other| self.rules(other))).collect();
        let killswitch = firewall::load_killswitch(&all)?;
        let before = firewall::leaked(&path.name)?;
        let recorded = state.intended.as_ref().map(|old| old.uplinks.clone()).unwrap_or_default();
        let uplinks = observe::uplinks(path, &recorded).map_err(EngineError::Uplinks)?;
        let names: BTreeSet<String> =
            uplinks.to_cover.into_iter().map(|device| device.name).collect();
        let names: Vec<String> = names.into_iter().collect();
        let (watch, uplinks) = firewall::load_watch(&all, &names)?;
        for device in &uplinks {
            neighbours::drain(&device.name);
        }
        let after = firewall::leaked(&path.name)?.ok_or(EngineError::NoCounter)?.packets;
        state.leak_baseline = match before {
            Some(before) => {
                // Forgiven is only what this load itself let pass to the watch.
                let waited = after.saturating_sub(before.packets);
                state.leak_baseline.min(before.packets) + waited
            }
            None => after,
        };
        state.intended = Some(Intended {
            killswitch: killswitch.digest(),
            watch: watch.digest(),
            rules,
            uplinks,
        });
        self.store.write(&path.name, state)?;
        Ok(())
    }

    /// Puts back what is missing; where that fails, the path is cut.
    pub(super) fn repair_or_stop(&self, path: &PathConfig, state: &mut PathState) -> Outcome {
        let broken = self.broken_tables(path);
        // As converged, whatever the file on disk says by now.
        let rules = self.rules(path);
        let mut outcome = self.load(path, rules.clone(), state);
        for _ in 1..ATTEMPTS {
            // A machine that is too busy for nft is no reason to cut the path at once.
            outcome = outcome.or_else(|_| self.load(path, rules.clone(), state));
        }
        match outcome {
            Ok(()) => {
                for table in broken.into_iter().filter(|_| self.begun) {
                    let name = path.name.as_str();
                    tracing::warn!(path = name, table, "rules were changed by others: repaired");
                    self.metrics.repairs.with_label_values(&[name, table]).inc();
                }
                Outcome::Repaired
            }
            Err(error) => {
                let why = chain(error);
                match self.hard_stop(path, "the lock could not be repaired", &why) {
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
    let walls = Walls::read().ok();
    walls.and_then(|walls| walls.stop_kind(&path.name)).unwrap_or(StopKind::NoState)
}
