//! Acts on a path: the only place that writes to the kernel or to state.
//!
//! Runs in the daemon, or in the command line under the same lock where there is no daemon.
//! Order everywhere: what tightens goes to the kernel first, what loosens goes to state first.

mod alert;
mod board;
mod bring_up;
mod candidate;
mod converge;
mod cycle;
#[cfg(test)]
mod documented;
mod evidence;
pub mod flows;
mod heartbeat;
#[cfg(test)]
mod histories;
mod keep;
mod load;
mod pace;
mod person;
mod planned;
mod quiet;
mod screen;
mod shared;
mod status;
mod stay_in;
mod steps;
mod stop;
mod transition;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use egress::config::{Config, ConfigError, Endpoint, PathConfig, Problem};
use egress::cut::Way;
use egress::device::{self, DeviceError};
use egress::error::chain;
use egress::fault::{self, Point};
use egress::firewall::{Guard, NftError, Rules, StopKind};
use egress::names::{EndpointName, PathName};
use egress::observe::shake_hands;
use egress::pins;
use egress::probe::HandshakeOutcome;
use egress::state::{Act, Latch, PathState, StateError, Store, Timestamp};
use egress::tunnel::TunnelError;

pub use alert::{Outcome, Verdicts};
pub use board::Board;
use board::View;
pub use converge::{Wish, from_elsewhere};
use evidence::Latest;
pub use heartbeat::Silence;
pub use keep::Order;
pub use screen::Ink;
pub use shared::Shared;
pub use status::{PathStatus, Status, Wanted, Word};
use stop::{Cut, Stops};

use crate::decide::{self, Action, Cause, Hold, Unseen, decide};
use crate::history::{Decision, History};
use crate::metrics::Metrics;
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
    #[error("the path is NOT cut, packets may pass: {0}")]
    NotCut(String),
    #[error("{0}")]
    Refused(String),
}

pub struct Engine {
    config_file: PathBuf,
    config: Arc<Config>,
    board: Arc<Board>,
    store: Store,
    history: History,
    metrics: Arc<Metrics>,
    latest: Arc<Latest>,
    /// Paths whose latest failover was asked for with nothing left to fail forward to.
    exhausted: BTreeMap<String, bool>,
    /// Leaks that were seen and not yet acted on: they stay leaks though the counter is removed.
    leaking: BTreeSet<PathName>,
    stops: Arc<Stops>,
    /// The daemon's: without one, there is nobody to hold a copy of the walls.
    guard: RefCell<Option<Guard>>,
    /// What of it cannot be held, and why, as it was told last.
    guard_trouble: RefCell<BTreeMap<&'static str, String>>,
    heartbeat: heartbeat::Heartbeat,
    /// Why a tunnel cannot be brought up, by path, as it was reported last.
    tunnel_trouble: BTreeMap<PathName, String>,
    /// Whether the first look is done: what is loaded before it is no repair.
    begun: bool,
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
        let config = Arc::new(config);
        let heartbeat = heartbeat::Heartbeat::new();
        let view = View {
            config: Arc::clone(&config),
            exhausted: BTreeMap::new(),
            heartbeat,
            begun: false,
            unsettled: BTreeSet::new(),
        };
        let board = Arc::new(Board::new(config_file.clone(), store.clone(), view));
        Self {
            config_file,
            config,
            history: board.history.clone(),
            stops: Arc::clone(&board.stops),
            metrics: Arc::clone(&board.metrics),
            latest: Arc::clone(&board.latest),
            board,
            store,
            exhausted: BTreeMap::new(),
            leaking: BTreeSet::new(),
            guard: RefCell::new(None),
            guard_trouble: RefCell::default(),
            heartbeat,
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

    /// What is shown of the engine from now on.
    fn view(&self) -> View {
        View {
            config: Arc::clone(&self.config),
            exhausted: self.exhausted.clone(),
            heartbeat: self.heartbeat,
            begun: self.begun,
            unsettled: self.leaking.iter().chain(self.tunnel_trouble.keys()).cloned().collect(),
        }
    }

    fn paths(&self) -> Vec<PathConfig> {
        self.config.paths.clone()
    }

    /// Adds to the path's history; never fails, for nothing depends on it.
    fn record(&self, path: &PathConfig, decision: Decision) {
        self.history.record(&path.name, decision);
    }

    /// Decides what is to be done about what the daemon has found itself, and does it.
    fn stop_for(
        &self,
        cause: Cause,
        path: &PathConfig,
        hold: Hold,
        evidence: &str,
    ) -> Result<(), EngineError> {
        let active =
            self.store.read(&path.name).ok().and_then(|state| path.position(&state.active));
        let standing = decide::Standing { endpoints: path.endpoints.len(), active, hold };
        match decide(cause, standing, &mut Unseen) {
            Action::HardStop => self.hard_stop(cause, path, evidence).map(|_| ()),
            Action::Nothing(_) | Action::Switch { .. } | Action::Repair => Ok(()),
        }
    }

    /// Engages the hard stop: the rules first, in one transaction; then it is latched in state; then,
    /// where the rules failed, the tunnel is taken. An error says that the path is not cut.
    fn hard_stop(
        &self,
        cause: Cause,
        path: &PathConfig,
        evidence: &str,
    ) -> Result<Cut, EngineError> {
        fault::point(Point::HardStopDue);
        let reason = cause.reason();
        let rules = self.stop_by_rules(path, StopKind::Latched);
        fault::point(Point::HardStopCut);
        // Only now that nothing waits for it.
        let named = flows::with_flows(path, &self.config.paths, evidence);
        let evidence = if cause.is_leak() { named.as_str() } else { evidence };
        let latch = |by| Latch {
            reason: reason.to_owned(),
            evidence: evidence.to_owned(),
            at: Timestamp::now(),
            by,
        };
        let mut written = self.latch(path, latch(rules.is_ok().then_some(Way::Nftables)));
        let cut = rules.or_else(|rules| match self.stops.by_tunnel(path) {
            Ok(cut) => {
                written = self.latch(path, latch(Some(cut.by)));
                Ok((cut, Some(rules)))
            }
            Err(tunnel) => Err(format!("nftables: {rules}; {tunnel}")),
        });
        fault::point(Point::HardStopLatched);
        let (outcome, seen) = match &cut {
            Ok((Cut { by: Way::Nftables, .. }, _)) => ("hard_stopped", evidence.to_owned()),
            Ok((cut, rules)) => {
                let why = rules.as_deref().unwrap_or_default();
                (
                    "hard_stopped",
                    format!("{evidence}; cut: {}; nftables: {why}", cut.by.explained()),
                )
            }
            Err(why) => ("failed", format!("{evidence}; NOT cut: {why}")),
        };
        let cut_by = cut.as_ref().map_or("nothing", |(cut, _)| cut.by.word());
        tracing::error!(path = %path.name, reason, evidence = seen, cut_by, "hard stop");
        // What the next round finds is no other thing to say.
        self.stops.is_news(&path.name, &format!("cut by {cut_by}"));
        let decision =
            Decision::new(cause.word(), "hard stop", outcome).seeing(seen).because(reason);
        self.record(path, decision);
        let (cut, _) = cut.map_err(EngineError::NotCut)?;
        // By the rules the kernel itself is the latch until state can be written again; else this
        // process is.
        written.map(|()| cut)
    }

    /// Cuts `path` by the rules, and leaves every other path as it is, stopped or not.
    #[allow(clippy::type_complexity)]
    fn stop_by_rules(
        &self,
        path: &PathConfig,
        kind: StopKind,
    ) -> Result<(Cut, Option<String>), String> {
        let table = self.stops.by_rules(&self.config, path, kind)?;
        // The stop itself first, then its copy: the copy alone is not a latch.
        self.guard_stop(&table.cut, &table.living);
        let since = Timestamp::now();
        Ok((self.stops.known(&path.name).unwrap_or(Cut { by: Way::Nftables, since }), None))
    }

    /// Cuts `path` by the rules, or else by its tunnel.
    fn engage(&self, path: &PathConfig, kind: StopKind) -> Result<Cut, String> {
        match self.stop_by_rules(path, kind) {
            Ok((cut, _)) => Ok(cut),
            Err(rules) => {
                let cut = self.stops.by_tunnel(path);
                cut.map_err(|tunnel| format!("nftables: {rules}; {tunnel}"))
            }
        }
    }

    /// Writes a latch to state; what cannot be written is kept in mind until it can.
    fn latch(&self, path: &PathConfig, latch: Latch) -> Result<(), EngineError> {
        self.stops.keep_pending(&path.name, latch.clone());
        let mut state = self.store.read(&path.name)?;
        transition::stopped(&mut state, latch);
        self.store.write(&path.name, &state)?;
        self.stops.recorded(&path.name);
        Ok(())
    }

    /// Writes a latch to state that could not be written when the path was cut, or that was made
    /// without the engine. Says whether there was one.
    fn settle_latch(&self, path: &PathConfig, state: &mut PathState) -> Option<Latch> {
        let latch = self.stops.pending(&path.name)?;
        transition::stopped(state, latch.clone());
        match self.store.write(&path.name, state) {
            Ok(()) => self.stops.recorded(&path.name),
            Err(error) => {
                let error = chain(error);
                if self.stops.is_news(&path.name, &error) {
                    tracing::error!(path = %path.name, error, "latch not recorded");
                }
            }
        }
        Some(latch)
    }

    /// Lifts the stop of `path` and of no other.
    fn lift_in_kernel(&self, path: &PathConfig) -> Result<(), NftError> {
        let table = self.stops.lift(&self.config, path)?;
        self.guard_stop(&table.cut, &table.living);
        Ok(())
    }

    /// What the path's rules are made from: as converged, or as configured before the first time.
    fn rules(&self, path: &PathConfig) -> Rules {
        self.stops.rules(path)
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
