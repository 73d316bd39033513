//! The health cycles: one timer per path, however often and by however many it is scraped.
//! Standbys are looked at on a timer of their own, so that a dead one cannot hold up a cycle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use egress::clock::Uptime;
use egress::config::PathConfig;
use egress::handshakes::Handshakes;
use egress::health::{Probe, Verdict};
use egress::names::{EndpointName, PathName};
use egress::observe::{self, Cycle, Kernel};
use egress::run::Run;
use egress::state::{Store, Timestamp};
use web::{Beat, Supervisor};

use crate::current::Current;
use crate::histograms::Histograms;
use crate::large::Large;
use crate::outage::{Asked, Event, Outages, Seen, Traffic};
use crate::standby::{Round, Standbys};

/// How often it is asked which standbys are due, and whether the config is another one.
const TICK: Duration = Duration::from_secs(1);

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
    /// Whether large packets pass the tunnel too; `None`: that is not known.
    pub large: Option<bool>,
    /// What each endpoint answered last beside the tunnel.
    pub reachable: BTreeMap<EndpointName, Asked>,
    pub outages: Outages,
}

impl Shown {
    pub fn probe(&self) -> Option<&Probe> {
        self.last.as_ref().map(|(_, cycle)| &cycle.evidence.probe)
    }
}

/// What is known of one path; shared by its threads and by scrapes.
#[derive(Debug, Default)]
struct Known {
    shown: Mutex<Shown>,
    handshakes: Handshakes,
}

/// All paths' results, by name.
#[derive(Debug, Clone)]
pub struct Cycles {
    known: Arc<Mutex<BTreeMap<PathName, Arc<Known>>>>,
    histograms: Arc<Histograms>,
}

/// One path's timer.
struct Worker {
    name: PathName,
    current: Arc<Current>,
    store: Store,
    kernel: Arc<Kernel>,
    known: Arc<Known>,
    cycles: Cycles,
}

impl Cycles {
    /// Two threads per path and one that sees to it that there are, which end with the process.
    pub fn start(
        current: &Arc<Current>,
        store: &Store,
        kernel: &Arc<Kernel>,
        supervisor: &Supervisor,
    ) -> Self {
        let cycles = Self::empty();
        let (own, current) = (cycles.clone(), Arc::clone(current));
        let (store, kernel) = (store.clone(), Arc::clone(kernel));
        let supervisor = supervisor.clone();
        cycles.staff(&current, &store, &kernel, &supervisor);
        let beat = supervisor.expect_loop();
        thread::spawn(move || {
            loop {
                beat.rest(TICK);
                current.follow();
                own.staff(&current, &store, &kernel, &supervisor);
            }
        });
        cycles
    }

    /// One cycle of every path, for `--once`. There is no run to protect, so nothing settles.
    pub fn once(current: &Arc<Current>, store: &Store, kernel: &Arc<Kernel>) -> Self {
        let cycles = Self::empty();
        for worker in cycles.fresh(current, store, kernel) {
            if let Some(path) = worker.path() {
                let mut run = Run::new(path.health.interval, Duration::ZERO, Uptime::now());
                worker.cycle(&path, &mut run, &mut Large::default());
                let mut standbys = Standbys::default();
                // Each once: the first may be due again by the time that the last has answered.
                let each = path.endpoints.iter();
                let _ = each.take_while(|_| worker.look(&path, &mut standbys).is_some()).count();
            }
        }
        cycles
    }

    pub fn of(&self, path: &PathConfig) -> Shown {
        self.known(&path.name).map(|known| locked(&known.shown).clone()).unwrap_or_default()
    }

    /// The age of the handshake that is the latest one now; a step of the wall clock changes none.
    pub fn handshake_age(&self, path: &PathConfig, at: SystemTime) -> Duration {
        let by_wall = || SystemTime::now().duration_since(at).unwrap_or_default();
        self.known(&path.name).map_or_else(by_wall, |known| known.handshakes.age(at))
    }

    pub fn histograms(&self) -> &Histograms {
        &self.histograms
    }

    /// Whether every path has had a cycle.
    pub fn ready(&self) -> bool {
        locked(&self.known).values().all(|known| locked(&known.shown).last.is_some())
    }

    fn empty() -> Self {
        Self { known: Arc::default(), histograms: Arc::new(Histograms::new()) }
    }

    fn known(&self, path: &PathName) -> Option<Arc<Known>> {
        locked(&self.known).get(path).cloned()
    }

    /// Two threads for each path that has none.
    fn staff(
        &self,
        current: &Arc<Current>,
        store: &Store,
        kernel: &Arc<Kernel>,
        supervisor: &Supervisor,
    ) {
        for worker in self.fresh(current, store, kernel) {
            let worker = Arc::new(worker);
            let other = Arc::clone(&worker);
            let beats = (supervisor.expect_loop(), supervisor.expect_loop());
            thread::spawn(move || worker.cycles(&beats.0));
            thread::spawn(move || other.standbys(&beats.1));
        }
    }

    /// A worker for each path that is new in the config; what has left it is forgotten.
    fn fresh(&self, current: &Arc<Current>, store: &Store, kernel: &Arc<Kernel>) -> Vec<Worker> {
        let config = current.get();
        let mut all = locked(&self.known);
        all.retain(|name, _| config.path(name.as_str()).is_some());
        let new = config.paths.iter().filter(|path| !all.contains_key(&path.name));
        let new: Vec<&PathConfig> = new.collect();
        new.into_iter()
            .map(|path| {
                self.histograms.prepare(path);
                let known: Arc<Known> = Arc::default();
                all.insert(path.name.clone(), Arc::clone(&known));
                Worker {
                    name: path.name.clone(),
                    current: Arc::clone(current),
                    store: store.clone(),
                    kernel: Arc::clone(kernel),
                    known,
                    cycles: self.clone(),
                }
            })
            .collect()
    }
}

fn locked<T>(shown: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is replaced whole, so a panic elsewhere cannot have left it half made.
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// The path as configured now; `None`: it left the config, and its name may be another's.
    fn path(&self) -> Option<PathConfig> {
        self.cycles.known(&self.name).filter(|known| Arc::ptr_eq(known, &self.known))?;
        self.current.get().path(self.name.as_str()).cloned()
    }

    fn cycles(&self, beat: &Beat) {
        let Some(mut path) = self.path() else { return };
        let mut run = Run::new(path.health.interval, path.health.settle, Uptime::now());
        let mut large = Large::default();
        loop {
            let started = Uptime::now();
            self.cycle(&path, &mut run, &mut large);
            beat.rest(path.health.interval.saturating_sub(started.elapsed()));
            match self.path() {
                Some(same) => {
                    self.follow(&path, &same);
                    run.follow(same.health.interval, same.health.settle);
                    path = same;
                }
                None => return self.forget(&path),
            }
        }
    }

    fn cycle(&self, path: &PathConfig, run: &mut Run, large: &mut Large) {
        let state = self.store.read(&path.name).ok();
        let changed = state.as_ref().map(|state| state.changed.age());
        let started = Uptime::now();
        let settling = run.settling(started, changed);
        let (handshakes, kernel) = (&self.known.handshakes, &self.kernel);
        let cycle = observe::check_among(path, &self.store, settling, handshakes, kernel);
        let active = cycle.active.clone();
        run.note(Uptime::now(), active.as_ref(), &cycle.verdict);
        self.log(&cycle.verdict);
        let count = |name: &EndpointName| (name.clone(), run.count(name));
        let mut shown = locked(&self.known.shown);
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
        let answered = cycle.probe_took;
        shown.last = Some((Timestamp::now(), cycle));
        drop(shown);
        // When all else is known: it may have to wait.
        let large = large.after(path, answered);
        locked(&self.known.shown).large = large;
    }

    fn standbys(&self, beat: &Beat) {
        let mut standbys = Standbys::default();
        while let Some(path) = self.path() {
            match self.look(&path, &mut standbys) {
                Some(_) => beat.beat(),
                None => beat.rest(TICK),
            }
        }
    }

    /// Asks an endpoint that is due, by the verdict of the latest cycle, and says which one.
    fn look(&self, path: &PathConfig, standbys: &mut Standbys) -> Option<EndpointName> {
        let (verdict, active, watched, onset) = {
            let shown = locked(&self.known.shown);
            let (_, cycle) = shown.last.as_ref()?;
            let now = Uptime::now();
            let all = path.endpoints.iter().map(|endpoint| endpoint.name.clone());
            let watched = all.filter(|name| shown.outages.watches(name, now)).collect();
            let onset = shown.active.as_ref().and_then(|active| shown.outages.onset(active));
            (cycle.verdict.clone(), shown.active.clone(), watched, onset)
        };
        // Switched since: what is a standby by that cycle may be in use, and a handshake from a
        // second socket would make it roam away. The next cycle tells.
        if self.store.read(&path.name).ok().map(|state| state.active) != active {
            return None;
        }
        let round = Round { path, active: active.as_ref(), verdict: &verdict, watched, onset };
        let asked = standbys.look(&round);
        let mut shown = locked(&self.known.shown);
        // Switched while it was asked: whose answer is of which kind cannot be said.
        if let Some((endpoint, answers)) = asked.as_ref().filter(|_| shown.active == active) {
            let in_use = active.as_ref() == Some(endpoint);
            self.note(shown.outages.asked(endpoint, answers, in_use, Uptime::now()));
        }
        shown.reachable = standbys.latest();
        asked.map(|(endpoint, _)| endpoint)
    }

    /// An endpoint that left the config leaves no series behind; a new one has its own from now on.
    fn follow(&self, before: &PathConfig, path: &PathConfig) {
        let gone = before.endpoints.iter().filter(|one| path.endpoint(&one.name).is_none());
        gone.for_each(|endpoint| self.cycles.histograms.forget(path, &endpoint.name));
        self.cycles.histograms.prepare(path);
        locked(&self.known.shown).outages.retain(|name| path.endpoint(name).is_some());
    }

    /// A path that left the config leaves no series behind.
    fn forget(&self, path: &PathConfig) {
        tracing::info!(path = %self.name, "no longer configured");
        if self.current.get().path(self.name.as_str()).is_none() {
            path.endpoints.iter().for_each(|one| self.cycles.histograms.forget(path, &one.name));
        }
    }

    fn note(&self, event: Option<Event>) {
        let Some(event) = event else { return };
        tracing::info!(path = %self.name, ?event, "outage");
        self.cycles.histograms.note(&self.name, &event);
    }

    /// One line when the verdict changes, so that the log tells the story and no more.
    fn log(&self, verdict: &Verdict) {
        let before = locked(&self.known.shown).last.as_ref().map(|(_, cycle)| cycle.verdict.word());
        if before != Some(verdict.word()) {
            tracing::info!(path = %self.name, %verdict, before, "verdict changed");
        }
    }
}
