//! The health cycles: one timer per path, however often and by however many it is scraped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use egress::config::{Config, PathConfig};
use egress::health::Verdict;
use egress::names::EndpointName;
use egress::observe::{self, Cycle};
use egress::probe::HandshakeOutcome;
use egress::run::Run;
use egress::state::{Store, Timestamp};

use crate::standby::Standbys;

/// What the cycles of one path have shown so far.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// `None` until the first cycle has ended.
    pub last: Option<(Timestamp, Cycle)>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Consecutive tunnel-down cycles, by endpoint.
    pub down: BTreeMap<EndpointName, u32>,
    /// The latest handshake probe of each endpoint; `None`: could not be tried.
    pub reachable: BTreeMap<EndpointName, Option<HandshakeOutcome>>,
    /// Bytes received by the tunnel per endpoint are the device's; nothing of it is kept here.
    pub probe_took: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct Cycles {
    shown: BTreeMap<String, Arc<Mutex<Shown>>>,
}

/// One path's cycle, and what it keeps between two.
struct Worker {
    path: PathConfig,
    store: Store,
    run: Run,
    standbys: Standbys,
    shown: Arc<Mutex<Shown>>,
}

impl Cycles {
    /// A thread per path, which ends with the process.
    pub fn start(config: &Config, store: &Store) -> Self {
        let (cycles, workers) = Self::prepare(config, store);
        for mut worker in workers {
            thread::spawn(move || {
                loop {
                    let started = Instant::now();
                    worker.cycle();
                    thread::sleep(worker.path.health.interval.saturating_sub(started.elapsed()));
                }
            });
        }
        cycles
    }

    /// One cycle of every path, for `--once`.
    pub fn once(config: &Config, store: &Store) -> Self {
        let (cycles, workers) = Self::prepare(config, store);
        for mut worker in workers {
            worker.cycle();
        }
        cycles
    }

    pub fn of(&self, path: &PathConfig) -> Shown {
        self.shown.get(path.name.as_str()).map(|shown| locked(shown).clone()).unwrap_or_default()
    }

    /// Whether every path has had a cycle.
    pub fn ready(&self) -> bool {
        self.shown.values().all(|shown| locked(shown).last.is_some())
    }

    fn prepare(config: &Config, store: &Store) -> (Self, Vec<Worker>) {
        let mut shown = BTreeMap::new();
        let mut workers = Vec::new();
        for path in &config.paths {
            let mine = Arc::new(Mutex::new(Shown::default()));
            shown.insert(path.name.to_string(), Arc::clone(&mine));
            workers.push(Worker {
                run: Run::new(path.health.interval, path.health.settle, Instant::now()),
                standbys: Standbys::new(path.health.standby_interval),
                path: path.clone(),
                store: store.clone(),
                shown: mine,
            });
        }
        (Self { shown }, workers)
    }
}

fn locked(shown: &Mutex<Shown>) -> std::sync::MutexGuard<'_, Shown> {
    // What is in it is replaced whole, so a panic elsewhere cannot have left it half made.
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    fn cycle(&mut self) {
        let state = self.store.read(&self.path.name).ok();
        let changed = state.as_ref().map(|state| state.changed.age());
        let settling = self.run.settling(Instant::now(), changed);
        let cycle = observe::check(&self.path, &self.store, settling);
        let active = state.map(|state| state.active);
        self.run.note(Instant::now(), active.as_ref(), &cycle.verdict);
        self.log(&cycle.verdict);
        let down = self
            .path
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.name.clone(), self.run.count(&endpoint.name)));
        {
            let mut shown = locked(&self.shown);
            shown.down = down.collect();
            *shown.counts.entry(cycle.verdict.word()).or_default() += 1;
            shown.probe_took = cycle.probe_took;
            shown.last = Some((Timestamp::now(), cycle.clone()));
        }
        // The verdict is published before the slower look at the standbys.
        self.standbys.look(&self.path, active.as_ref(), &cycle.verdict);
        locked(&self.shown).reachable = self.standbys.latest();
    }

    /// One line when the verdict changes, so that the log tells the story and no more.
    fn log(&self, verdict: &Verdict) {
        let before = locked(&self.shown).last.as_ref().map(|(_, cycle)| cycle.verdict.word());
        if before != Some(verdict.word()) {
            tracing::info!(path = %self.path.name, %verdict, before, "verdict changed");
        }
    }
}
