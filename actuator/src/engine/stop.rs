//! Cuts paths and lifts that again: by the rules, and where `nft` fails, by the tunnel itself.
//!
//! Needs no lock of the engine's: a path is cut though the work on another one goes on. Nothing here
//! counts as cut before the kernel was read and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use egress::bounded::bounded;
use egress::config::{Config, PathConfig};
use egress::cut::{self, Way};
use egress::error::chain;
use egress::firewall::{self, NftError, Rules, StopKind};
use egress::names::PathName;
use egress::process::Patience;
use egress::state::{Latch, Store, Timestamp};
use serde::Serialize;

use crate::removed;

/// How long `nft` may take to cut a path before the tunnel is taken instead. Its transaction takes
/// milliseconds, and a leak goes on meanwhile: here waiting is not safe.
const RULES_LIMIT: Duration = Duration::from_secs(2);

/// How long another change of the stop's table is waited for.
const TURN_LIMIT: Duration = Duration::from_millis(300);

/// Between two looks at whose turn it is.
const PAUSE: Duration = Duration::from_millis(5);

/// Between two tries to add the rules to a path that is cut without them: an `nft` that hangs must
/// not hold up every round.
const RULES_AGAIN: Duration = Duration::from_secs(5);

/// How the kernel was seen to cut a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cut {
    pub by: Way,
    /// Since when that has been seen without a break, by whatever way; of this process.
    pub since: Timestamp,
}

/// The stop's table: the paths that it cuts, and those whose packets it lets pass to the killswitch.
#[derive(Debug, Default)]
pub struct Table {
    pub cut: Vec<(Rules, StopKind)>,
    pub living: Vec<Rules>,
}

/// What is known of the hard stops beside state and kernel.
#[derive(Debug)]
pub struct Stops {
    store: Store,
    /// One change of the table at a time: it is that of all paths.
    turn: Mutex<()>,
    seen: Mutex<BTreeMap<PathName, Cut>>,
    /// Latches that could not be written to state yet.
    pending: Mutex<BTreeMap<PathName, Latch>>,
    /// Devices that were set down by us.
    set_down: Mutex<BTreeSet<PathName>>,
    /// When the rules were last tried without success.
    tried: Mutex<BTreeMap<PathName, Instant>>,
    /// What was logged last of each path.
    logged: Mutex<BTreeMap<PathName, String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries are replaced whole, so a panic elsewhere cannot have left one half made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stops {
    pub fn new(store: Store) -> Self {
        Self {
            store,
            turn: Mutex::default(),
            seen: Mutex::default(),
            pending: Mutex::default(),
            set_down: Mutex::default(),
            tried: Mutex::default(),
            logged: Mutex::default(),
        }
    }

    /// Reads whether the kernel cuts the path.
    pub fn look(&self, path: &PathConfig) -> Option<Cut> {
        let way = cut::seen(path);
        self.note(&path.name, way)
    }

    /// What the last look at it saw.
    pub fn known(&self, path: &PathName) -> Option<Cut> {
        locked(&self.seen).get(path).copied()
    }

    fn note(&self, path: &PathName, way: Option<Way>) -> Option<Cut> {
        let mut seen = locked(&self.seen);
        let Some(by) = way else {
            seen.remove(path);
            return None;
        };
        let since = seen.get(path).map_or_else(Timestamp::now, |cut| cut.since);
        let cut = Cut { by, since };
        seen.insert(path.clone(), cut);
        Some(cut)
    }

    /// Adds the path to those that the rules cut, within [`RULES_LIMIT`], and reads the kernel back.
    /// Returns the table as it was written, for the guard's copy.
    ///
    /// # Errors
    ///
    /// Why the rules are not seen to cut it.
    pub fn by_rules(
        &self,
        config: &Config,
        path: &PathConfig,
        kind: StopKind,
    ) -> Result<Table, String> {
        let _turn = self.turn()?;
        let mut table = self.others(config, path);
        table.cut.push((self.rules(path), kind));
        let (cut, living) = (table.cut.clone(), table.living.clone());
        let patience = Patience::from(RULES_LIMIT);
        let stop = move || patience.during(|| firewall::set_stop(&cut, &living));
        let done = bounded("hard stop", RULES_LIMIT, stop);
        if cut::by_own_rules(&path.name).is_some() {
            self.note(&path.name, Some(Way::Nftables));
            locked(&self.tried).remove(&path.name);
            return Ok(table);
        }
        locked(&self.tried).insert(path.name.clone(), Instant::now());
        Err(match done {
            Ok(Ok(())) => "nft said that it was done, and the kernel has no such rules".to_owned(),
            Ok(Err(error)) => chain(error),
            Err(late) => format!("nft: {late}"),
        })
    }

    /// Whether the rules failed so lately that they are not tried again yet.
    pub fn rules_failed_lately(&self, path: &PathName) -> bool {
        locked(&self.tried).get(path).is_some_and(|at| at.elapsed() < RULES_AGAIN)
    }

    /// Takes the tunnel from the path.
    ///
    /// # Errors
    ///
    /// Why it still carries.
    pub fn by_tunnel(&self, path: &PathConfig) -> Result<Cut, String> {
        let way = cut::tunnel(path).map_err(chain)?;
        if way == Way::Link {
            locked(&self.set_down).insert(path.name.clone());
        }
        let since = Timestamp::now();
        Ok(self.note(&path.name, Some(way)).unwrap_or(Cut { by: way, since }))
    }

    /// Both, for where nothing else has to be done in between.
    ///
    /// # Errors
    ///
    /// Every way that was tried, each with why it does not cut.
    pub fn engage(
        &self,
        config: &Config,
        path: &PathConfig,
        kind: StopKind,
    ) -> Result<Cut, String> {
        match self.by_rules(config, path, kind) {
            Ok(_) => Ok(self
                .known(&path.name)
                .unwrap_or(Cut { by: Way::Nftables, since: Timestamp::now() })),
            Err(rules) => {
                self.by_tunnel(path).map_err(|tunnel| format!("nftables: {rules}; {tunnel}"))
            }
        }
    }

    /// Takes the path out of the stop's table, and leaves every other one as it is.
    ///
    /// # Errors
    ///
    /// The kernel's rules are as they were then.
    pub fn lift(&self, config: &Config, path: &PathConfig) -> Result<Table, NftError> {
        let _turn = locked(&self.turn);
        let mut table = self.others(config, path);
        table.living.push(self.rules(path));
        firewall::set_stop(&table.cut, &table.living)?;
        Ok(table)
    }

    /// The table as it is, for its copy.
    pub fn table(&self, config: &Config, path: &PathConfig, kind: StopKind) -> Table {
        let mut table = self.others(config, path);
        table.cut.push((self.rules(path), kind));
        table
    }

    /// The other paths: those that are cut, and those that are not.
    fn others(&self, config: &Config, path: &PathConfig) -> Table {
        let mut table = Table::default();
        for other in config.paths.iter().filter(|other| other.name != path.name) {
            let latched = || {
                let state = self.store.read(&other.name).ok()?;
                state.latch.map(|_| StopKind::Latched)
            };
            match cut::by_rules(&other.name).or_else(latched) {
                Some(kind) => table.cut.push((self.rules(other), kind)),
                None => table.living.push(self.rules(other)),
            }
        }
        // A stop outlives its path; one that is not stopped is not for the stop to let through.
        for removed in removed::from(config, &self.store).0 {
            let latched = removed.state.latch.is_some().then_some(StopKind::Latched);
            let kind = cut::by_rules(&removed.name).or(latched);
            let held = table.cut.iter().map(|(rules, _)| rules).chain(&table.living);
            let left = removed.lock().and_then(|lock| removed::left(lock, held));
            table.cut.extend(left.zip(kind));
        }
        table
    }

    /// What the path's rules are made from: as converged, or as configured before the first time.
    pub fn rules(&self, path: &PathConfig) -> Rules {
        let intended = self.store.read(&path.name).ok().and_then(|state| state.intended);
        intended.map_or_else(|| Rules::of(path), |intended| intended.rules)
    }

    /// Keeps a latch until it is in state.
    pub fn keep_pending(&self, path: &PathName, latch: Latch) {
        locked(&self.pending).entry(path.clone()).or_insert(latch);
    }

    pub fn pending(&self, path: &PathName) -> Option<Latch> {
        locked(&self.pending).get(path).cloned()
    }

    pub fn recorded(&self, path: &PathName) {
        locked(&self.pending).remove(path);
    }

    /// Whether the path's device was set down by us, and is not up again by [`Stops::set_up`].
    pub fn has_set_down(&self, path: &PathName) -> bool {
        locked(&self.set_down).contains(path)
    }

    /// Sets the device up again.
    ///
    /// # Errors
    ///
    /// What `ip` said.
    pub fn set_up(&self, path: &PathConfig) -> Result<(), String> {
        cut::link_up(path)?;
        locked(&self.set_down).remove(&path.name);
        Ok(())
    }

    /// A person released it: nothing of it is remembered.
    pub fn forget(&self, path: &PathName) {
        locked(&self.pending).remove(path);
        locked(&self.seen).remove(path);
        locked(&self.tried).remove(path);
        locked(&self.logged).remove(path);
    }

    /// Whether this is another thing to say of the path than the last one.
    pub fn is_news(&self, path: &PathName, text: &str) -> bool {
        let before = locked(&self.logged).insert(path.clone(), text.to_owned());
        before.as_deref() != Some(text)
    }

    fn turn(&self) -> Result<MutexGuard<'_, ()>, String> {
        let started = Instant::now();
        loop {
            match self.turn.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(std::sync::TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
                Err(std::sync::TryLockError::WouldBlock) if started.elapsed() < TURN_LIMIT => {
                    thread::sleep(PAUSE);
                }
                Err(std::sync::TryLockError::WouldBlock) => {
                    return Err("the stop's table is being written for another path".to_owned());
                }
            }
        }
    }
}
