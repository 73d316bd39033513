//! The health cycles: one timer per path, however often and by however many it is scraped.
//! Standbys are looked at on a timer of their own, so that a dead one cannot hold up a cycle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use egress::clock::Uptime;
use egress::config::{Config, PathConfig};
use egress::handshakes::Handshakes;
use egress::health::{Probe, Verdict};
use egress::names::{EndpointName, PathName};
use egress::observe::{self, Cycle};
use egress::run::Run;
use egress::state::{Store, Timestamp};
use web::{Beat, Supervisor};

use crate::current::Current;
use crate::histograms::Histograms;
use crate::outage::{Asked, Event, Outages, Seen, Traffic};
use crate::standby::{Round, Standbys};

/// How often it is asked which standbys are due.
const STANDBY_TICK: Duration = Duration::from_secs(1);

/// What the cycles of one path have shown so far.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// `None` until the first cycle has ended.
    pub last: Option<(Timestamp, Cycle)>,
    /// How long it took.
    pub took: Duration,
    /// The endpoint that was active in it.
    pub active: Option<EndpointName>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Consecutive tunnel-down cycles, by endpoint.
    pub down: BTreeMap<EndpointName, u32>,
    /// What each endpoint answered last beside the tunnel.
    pub reachable: BTreeMap<EndpointName, Asked>,
    pub outages: Outages,
}

impl Shown {
    pub fn probe(&self) -> Option<&Probe> {
        self.last.as_ref().map(|(_, cycle)| &cycle.evidence.probe)
    }
}

/// All paths' results, by name.
#[derive(Debug, Clone)]
pub struct Cycles {
    shown: BTreeMap<PathName, Arc<Mutex<Shown>>>,
    histograms: Arc<Histograms>,
}

/// One path's timer, and what it keeps between two cycles.
struct Worker {
    name: PathName,
    current: Arc<Current>,
    store: Store,
    shown: Arc<Mutex<Shown>>,
    handshakes: Handshakes,
    histograms: Arc<Histograms>,
}

impl Cycles {
    /// Two threads per path, which end with the process.
    pub fn start(current: &Arc<Current>, store: &Store, supervisor: &Supervisor) -> Self {
        let cycles = Self::empty(&current.get());
        for worker in cycles.workers(current, store) {
            let beat = supervisor.expect_loop();
            thread::spawn(move || worker.cycles(&beat));
        }
        for worker in cycles.workers(current, store) {
            let beat = supervisor.expect_loop();
            thread::spawn(move || worker.standbys(&beat));
        }
        cycles
    }

    /// One cycle of every path, for `--once`. There is no run to protect, so nothing settles.
    pub fn once(current: &Arc<Current>, store: &Store) -> Self {
        let cycles = Self::empty(&current.get());
        for worker in cycles.workers(current, store) {
            if let Some(path) = worker.path() {
                let mut run = Run::new(path.health.interval, Duration::ZERO, Uptime::now());
                worker.cycle(&path, &mut run);
                worker.look(&path, &mut Standbys::default());
            }
        }
        cycles
    }

    pub fn of(&self, path: &PathConfig) -> Shown {
        self.shown.get(&path.name).map(|shown| locked(shown).clone()).unwrap_or_default()
    }

    pub fn histograms(&self) -> &Histograms {
        &self.histograms
    }

    /// Whether every path has had a cycle.
    pub fn ready(&self) -> bool {
        self.shown.values().all(|shown| locked(shown).last.is_some())
    }

    fn empty(config: &Config) -> Self {
        let shown = config.paths.iter().map(|path| (path.name.clone(), Arc::default())).collect();
        let histograms = Arc::new(Histograms::new());
        config.paths.iter().for_each(|path| histograms.prepare(path));
        Self { shown, histograms }
    }

    fn workers(&self, current: &Arc<Current>, store: &Store) -> Vec<Worker> {
        let worker = |(name, shown): (&PathName, &Arc<Mutex<Shown>>)| Worker {
            name: name.clone(),
            current: Arc::clone(current),
            store: store.clone(),
            shown: Arc::clone(shown),
            handshakes: Handshakes::default(),
            histograms: Arc::clone(&self.histograms),
        };
        self.shown.iter().map(worker).collect()
    }
}

fn locked(shown: &Mutex<Shown>) -> std::sync::MutexGuard<'_, Shown> {
    // What is in it is replaced whole, so a panic elsewhere cannot have left it half made.
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// The path as configured now; a path that was renamed needs a restart.
    fn path(&self) -> Option<PathConfig> {
        self.current.get().path(self.name.as_str()).cloned()
    }

    fn cycles(&self, beat: &Beat) {
        let Some(mut path) = self.path() else { return };
        let mut run = Run::new(path.health.interval, path.health.settle, Uptime::now());
        loop {
            let started = Uptime::now();
            self.cycle(&path, &mut run);
            beat.rest(path.health.interval.saturating_sub(started.elapsed()));
            self.current.follow(&self.store);
            match self.path() {
                Some(same) => {
                    self.follow(&path, &same);
                    run.follow(same.health.interval, same.health.settle);
                    path = same;
                }
                None => return tracing::warn!(path = %self.name, "no longer configured: restart"),
            }
        }
    }

    fn cycle(&self, path: &PathConfig, run: &mut Run) {
        let state = self.store.read(&path.name).ok();
        let changed = state.as_ref().map(|state| state.changed.age());
        let started = Uptime::now();
        let settling = run.settling(started, changed);
        let cycle = observe::check(path, &self.store, settling, &self.handshakes);
        let active = state.map(|state| state.active);
        run.note(Uptime::now(), active.as_ref(), &cycle.verdict);
        self.log(&cycle.verdict);
        let count = |name: &EndpointName| (name.clone(), run.count(name));
        let mut shown = locked(&self.shown);
        if let Some(active) = &active {
            let traffic = cycle.sent_bytes.zip(cycle.received_bytes);
            let seen = Seen {
                now: Uptime::now(),
                interval: path.health.interval,
                active,
                verdict: &cycle.verdict,
                traffic: traffic.map(|(sent, received)| Traffic { sent, received }),
            };
            self.note(shown.outages.cycle(&seen));
        }
        shown.down = path.endpoints.iter().map(|endpoint| count(&endpoint.name)).collect();
        *shown.counts.entry(cycle.verdict.word()).or_default() += 1;
        shown.took = started.elapsed();
        shown.active = active;
        shown.last = Some((Timestamp::now(), cycle));
    }

    fn standbys(&self, beat: &Beat) {
        let mut standbys = Standbys::default();
        while let Some(path) = self.path() {
            self.look(&path, &mut standbys);
            beat.rest(STANDBY_TICK);
        }
    }

    /// Asks the endpoints that are due, by the verdict of the latest cycle.
    fn look(&self, path: &PathConfig, standbys: &mut Standbys) {
        let (verdict, active, watched, onset) = {
            let shown = locked(&self.shown);
            let Some((_, cycle)) = &shown.last else { return };
            let now = Uptime::now();
            let all = path.endpoints.iter().map(|endpoint| endpoint.name.clone());
            let watched = all.filter(|name| shown.outages.watches(name, now)).collect();
            let onset = shown.active.as_ref().and_then(|active| shown.outages.onset(active));
            (cycle.verdict.clone(), shown.active.clone(), watched, onset)
        };
        // Switched since: what is a standby by that cycle may be in use, and a handshake from a
        // second socket would make it roam away. The next cycle tells.
        if self.store.read(&path.name).ok().map(|state| state.active) != active {
            return;
        }
        let round = Round { path, active: active.as_ref(), verdict: &verdict, watched, onset };
        let asked = standbys.look(&round);
        let mut shown = locked(&self.shown);
        // Switched while it was asked: whose answer is of which kind cannot be said.
        if shown.active == active {
            for (endpoint, answers) in &asked {
                let in_use = active.as_ref() == Some(endpoint);
                self.note(shown.outages.asked(endpoint, answers, in_use, Uptime::now()));
            }
        }
        shown.reachable = standbys.latest();
    }

    /// An endpoint that left the config leaves no series behind; a new one has its own from now on.
    fn follow(&self, before: &PathConfig, path: &PathConfig) {
        let gone = before.endpoints.iter().filter(|one| path.endpoint(&one.name).is_none());
        gone.for_each(|endpoint| self.histograms.forget(path, &endpoint.name));
        self.histograms.prepare(path);
        locked(&self.shown).outages.retain(|name| path.endpoint(name).is_some());
    }

    fn note(&self, event: Option<Event>) {
        let Some(event) = event else { return };
        tracing::info!(path = %self.name, ?event, "outage");
        self.histograms.note(&self.name, &event);
    }

    /// One line when the verdict changes, so that the log tells the story and no more.
    fn log(&self, verdict: &Verdict) {
        let before = locked(&self.shown).last.as_ref().map(|(_, cycle)| cycle.verdict.word());
        if before != Some(verdict.word()) {
            tracing::info!(path = %self.name, %verdict, before, "verdict changed");
        }
    }
}
