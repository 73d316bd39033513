//! Acts on a path: the only place that writes to the kernel or to state.
//!
//! Runs in the daemon, or in the command line under the same lock where there is no daemon.
//! Order everywhere: what tightens goes to the kernel first, what loosens goes to state first.

mod alert;
mod bring_up;
mod candidate;
mod converge;
#[cfg(test)]
mod documented;
mod evidence;
mod heartbeat;
#[cfg(test)]
mod histories;
mod keep;
mod load;
mod pace;
mod person;
mod screen;
mod status;
mod stay_in;
mod steps;
mod transition;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use egress::config::{Config, ConfigError, Endpoint, PathConfig, Problem};
use egress::device::{self, DeviceError};
use egress::error::chain;
use egress::fault::{self, Point};
use egress::firewall::{self, Guard, NftError, Rules, StopKind, Walls};
use egress::names::{EndpointName, PathName};
use egress::observe::shake_hands;
use egress::pins;
use egress::probe::HandshakeOutcome;
use egress::state::{Act, Latch, PathState, StateError, Store, Timestamp};
use egress::tunnel::TunnelError;

pub use alert::{Outcome, Verdicts};
pub use converge::{Wish, from_elsewhere};
pub use evidence::Latest;
pub use heartbeat::Silence;
pub use keep::Order;
pub use screen::Ink;
pub use status::{PathStatus, Word};

use crate::history::{Decision, History};
use crate::metrics::Metrics;
use crate::removed;
use crate::resolve::Resolver;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error("the watch was loaded, but its leak counter is not there")]
    NoCounter,
    #[error("{0}")]
    Refused(String),
}

pub struct Engine {
    config_file: PathBuf,
    config: Config,
    store: Store,
    history: History,
    metrics: Arc<Metrics>,
    latest: Arc<Latest>,
    /// Paths whose latest failover was asked for with nothing left to fail forward to.
    exhausted: BTreeMap<String, bool>,
    /// Leaks that were seen and not yet acted on: they stay leaks though the counter is removed.
    leaking: BTreeSet<PathName>,
    /// The daemon's: without one, there is nobody to hold a copy of the walls.
    guard: RefCell<Option<Guard>>,
    /// What of it cannot be held, and why, as it was told last.
    guard_trouble: RefCell<BTreeMap<&'static str, String>>,
    heartbeat: heartbeat::Heartbeat,
    /// How often the tunnels have been looked at.
    looks: u32,
    /// Why a tunnel cannot be brought up, by path, as it was told last.
    tunnel_trouble: BTreeMap<String, String>,
    /// Whether the first look is done: what is loaded before it is no repair.
    begun: bool,
}

/// The engine, serialised: alerts, the command line's requests and the daemon's own care take turns.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Engine>>);

impl Shared {
    pub fn new(engine: Engine) -> Self {
        Self(Arc::new(Mutex::new(engine)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Engine> {
        // All that counts is in the kernel and in state; a panic left nothing half made in here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    pub fn new(config_file: PathBuf, store: Store) -> Result<Self, EngineError> {
        let config = pins::config(&config_file, &store)?;
        Ok(Self::by(config_file, config, store))
    }

    /// For a first converge: hostnames that nothing is pinned for yet are looked up.
    pub fn for_converge(config_file: PathBuf, store: Store) -> Result<Self, EngineError> {
        let config = match pins::config(&config_file, &store) {
            Err(error) if matches!(*error.problem, Problem::NotPinned(_)) => {
                let resolver = Resolver::new(&store);
                Config::load_with(&config_file, &|path, host| resolver.lookup(path, host))?
            }
            other => other?,
        };
        Ok(Self::by(config_file, config, store))
    }

    fn by(config_file: PathBuf, config: Config, store: Store) -> Self {
        Self {
            config_file,
            config,
            history: History::new(store.directory()),
            store,
            metrics: Arc::new(Metrics::new()),
            latest: Arc::new(Latest::default()),
            exhausted: BTreeMap::new(),
            leaking: BTreeSet::new(),
            guard: RefCell::new(None),
            guard_trouble: RefCell::default(),
            heartbeat: heartbeat::Heartbeat::new(),
            looks: 0,
            tunnel_trouble: BTreeMap::new(),
            begun: false,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    pub fn latest(&self) -> Arc<Latest> {
        Arc::clone(&self.latest)
    }

    pub fn config_file(&self) -> &std::path::Path {
        &self.config_file
    }

    /// What a look needs that must not hold the engine up.
    pub fn what_to_look_at(&self) -> (Vec<PathConfig>, Store, Arc<Latest>) {
        (self.paths(), self.store.clone(), self.latest())
    }

    fn paths(&self) -> Vec<PathConfig> {
        self.config.paths.clone()
    }

    /// Adds to the path's history; never fails, for nothing depends on it.
    fn record(&self, path: &PathConfig, decision: Decision) {
        self.history.record(&path.name, decision);
    }

    /// Engages the hard stop: the kernel first, in one transaction; then it is latched in state.
    fn hard_stop(
        &self,
        path: &PathConfig,
        reason: &str,
        evidence: &str,
    ) -> Result<(), EngineError> {
        self.hard_stop_on("care", path, reason, evidence)
    }

    /// The same, on what was asked.
    fn hard_stop_on(
        &self,
        ask: &str,
        path: &PathConfig,
        reason: &str,
        evidence: &str,
    ) -> Result<(), EngineError> {
        fault::point(Point::HardStopDue);
        let cut = self.stop_in_kernel(path, StopKind::Latched);
        fault::point(Point::HardStopCut);
        let latch = Latch {
            reason: reason.to_owned(),
            evidence: evidence.to_owned(),
            at: Timestamp::now(),
        };
        tracing::error!(path = %path.name, reason, evidence, cut = cut.is_ok(), "hard stop");
        let written = self.store.read(&path.name).and_then(|mut state| {
            transition::stopped(&mut state, latch);
            self.store.write(&path.name, &state)
        });
        fault::point(Point::HardStopLatched);
        let outcome = if cut.is_ok() { "hard_stopped" } else { "failed" };
        let decision = Decision::new(ask, "hard stop", outcome).seeing(evidence).because(reason);
        self.record(path, decision);
        cut?;
        // The stop table is in the kernel; it is the latch until state can be written again.
        written.map_err(EngineError::from)
    }

    /// Cuts `path` and leaves every other path as it is, stopped or not.
    fn stop_in_kernel(&self, path: &PathConfig, kind: StopKind) -> Result<(), NftError> {
        let (mut cut, living) = self.others_by_stop(path).unwrap_or_default();
        cut.push((self.rules(path), kind));
        self.set_stop(&cut, &living)
    }

    /// Lifts the stop of `path` and of no other.
    fn lift_in_kernel(&self, path: &PathConfig) -> Result<(), NftError> {
        let (cut, mut living) = self.others_by_stop(path)?;
        living.push(self.rules(path));
        self.set_stop(&cut, &living)
    }

    /// The stop itself, and then its copy: the copy alone would be nobody's latch.
    fn set_stop(&self, cut: &[(Rules, StopKind)], living: &[Rules]) -> Result<(), NftError> {
        firewall::set_stop(cut, living)?;
        self.guard_stop(cut, living);
        Ok(())
    }

    /// The other paths: those that are cut, and those that are not.
    #[allow(clippy::type_complexity)]
    fn others_by_stop(
        &self,
        path: &PathConfig,
    ) -> Result<(Vec<(Rules, StopKind)>, Vec<Rules>), NftError> {
        let walls = Walls::read()?;
        let (mut cut, mut living) = (Vec::new(), Vec::new());
        for other in self.config.paths.iter().filter(|other| other.name != path.name) {
            match walls.stop_kind(&other.name) {
                Some(kind) => cut.push((self.rules(other), kind)),
                None => living.push(self.rules(other)),
            }
        }
        // A stop outlives its path; one that is not stopped is not for the stop to let through.
        for removed in removed::from(&self.config, &self.store).0 {
            let latched = removed.state.latch.is_some().then_some(StopKind::Latched);
            let kind = walls.stop_kind(&removed.name).or(latched);
            let held = cut.iter().map(|(rules, _)| rules).chain(&living);
            let left = removed.lock().and_then(|lock| removed::left(lock, held));
            cut.extend(left.zip(kind));
        }
        Ok((cut, living))
    }

    /// What the path's rules are made from: as converged, or as configured before the first time.
    fn rules(&self, path: &PathConfig) -> Rules {
        let intended = self.store.read(&path.name).ok().and_then(|state| state.intended);
        intended.map_or_else(|| Rules::of(path), |intended| intended.rules)
    }

    /// Whether the config in hand is another one than that which was converged.
    fn drifted(path: &PathConfig, state: &PathState) -> bool {
        state.intended.as_ref().is_some_and(|intended| intended.rules != Rules::of(path))
    }

    /// One device update, after its intent is on record; taken back if the kernel refuses.
    fn switch(
        &self,
        path: &PathConfig,
        state: &mut PathState,
        to: &Endpoint,
        why: &str,
    ) -> Result<(), EngineError> {
        fault::point(Point::SwitchDue);
        let before = state.clone();
        let now = Timestamp::now();
        if state.active != to.name || state.chosen.is_none() {
            state.chosen = Some(Act { reason: why.to_owned(), at: now });
        }
        transition::switched(state, &to.name, now);
        self.store.write(&path.name, state)?;
        fault::point(Point::SwitchIntended);
        if let Err(error) = device::switch(path, path.fwmark, to) {
            *state = before;
            self.store.write(&path.name, state)?;
            return Err(error.into());
        }
        fault::point(Point::SwitchDone);
        Ok(())
    }
}

/// Whether `endpoint` completes a handshake now.
fn answers(path: &PathConfig, endpoint: &Endpoint) -> bool {
    match shake_hands(path, endpoint) {
        Ok(HandshakeOutcome::Completed { .. }) => true,
        Ok(outcome) => {
            tracing::info!(path = %path.name, endpoint = %endpoint.name, ?outcome, "no handshake");
            false
        }
        Err(error) => {
            let error = chain(error);
            tracing::warn!(path = %path.name, endpoint = %endpoint.name, error, "not probed");
            false
        }
    }
}

fn name_at(path: &PathConfig, position: usize) -> &EndpointName {
    &path.endpoints[position].name
}
