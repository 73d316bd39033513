//! Paths that were converged, and that the config names no more. An edit is not the host's before a
//! converge makes it so: until then their lock stays, and their hard stop.

use egress::config::Config;
use egress::error::chain;
use egress::firewall::Rules;
use egress::names::PathName;
use egress::state::{PathState, StateError, Store};

pub struct Removed {
    pub name: PathName,
    pub state: PathState,
}

impl Removed {
    /// What holds it, unless a person took that off.
    pub fn lock(&self) -> Option<&Rules> {
        let intended = self.state.intended.as_ref().filter(|_| self.state.unlocked.is_none());
        intended.map(|intended| &intended.rules)
    }
}

/// By their state files; with those that cannot be read.
pub fn from(config: &Config, store: &Store) -> (Vec<Removed>, Vec<(PathName, StateError)>) {
    let mut names = store.names().unwrap_or_else(|error| {
        tracing::error!(error = chain(&error), "paths that were removed are not known");
        Vec::new()
    });
    names.retain(|name| config.path(name.as_str()).is_none());
    names.sort();
    let (mut removed, mut unreadable) = (Vec::new(), Vec::new());
    for name in names {
        match store.read(&name) {
            Ok(state) => removed.push(Removed { name, state }),
            Err(error) => unreadable.push((name, error)),
        }
    }
    (removed, unreadable)
}

/// What is to be held for a removed path beside those that are held already: a workload is one
/// path's, and the one that is configured is asked.
pub fn left<'a>(lock: &Rules, held: impl IntoIterator<Item = &'a Rules>) -> Option<Rules> {
    let workload = held
        .into_iter()
        .try_fold(lock.workload.clone(), |left, held| left.without(&held.workload))?;
    let mut rules = lock.clone();
    rules.workload = workload;
    Some(rules)
}
