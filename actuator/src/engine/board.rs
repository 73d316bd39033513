//! What the daemon shows of itself, and the one thing that it does, without the engine: pages are made
//! and paths are cut though an act takes its time.
//!
//! Reads the kernel for itself and changes no state. Where the kernel cannot be read in time, the last
//! page is shown, with its age; but what is latched and cut is always that of now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use egress::bounded;
use egress::clock::{Moment, Uptime};
use egress::config::{Config, PathConfig};
use egress::firewall::{Rules, StopKind};
use egress::names::PathName;
use egress::observe::Kernel;
use egress::state::{Latch, Store, Timestamp};
use egress::waiting::{self, Waiting};
use serde::Serialize;

use super::evidence::{Fresh, Latest};
use super::heartbeat::Heartbeat;
use super::status::{Status, Wanted};
use super::stop::Stops;
use super::transition::{Enforced, standing};
use crate::decide::{Action, Ask, Cause, decide};
use crate::history::History;
use crate::metrics::Metrics;

/// How long the kernel is read for a page: all of an answer has to be there within a second.
const LOOK_LIMIT: Duration = Duration::from_millis(600);

/// An act or a wait that is shorter is no news.
const WORTH_SHOWING: Duration = Duration::from_secs(1);

/// What a page needs of the engine, as it was after the last act.
#[derive(Debug, Clone)]
pub struct View {
    pub config: Arc<Config>,
    pub exhausted: BTreeMap<String, bool>,
    pub heartbeat: Heartbeat,
    /// Whether the daemon's first look is done.
    pub begun: bool,
    /// Paths that the engine has to look at itself in the next round.
    pub(super) unsettled: BTreeSet<PathName>,
}

/// What the engine is doing.
#[derive(Debug, Clone)]
struct Act {
    what: String,
    since: Uptime,
}

/// The same, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Busy {
    pub with: String,
    pub seconds: u64,
}

/// Between the first two tries to hold the guard; doubled with each further one.
const GUARD_PAUSE: Duration = Duration::from_secs(1);

/// Between two tries at most: each starts an `nft`.
const LONGEST_GUARD_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
struct Retry {
    failed: Instant,
    pause: Duration,
}

#[derive(Debug)]
struct Page {
    status: Status,
    made: Uptime,
}

pub struct Board {
    pub(super) config_file: PathBuf,
    pub(super) store: Store,
    pub(super) history: History,
    pub(super) metrics: Arc<Metrics>,
    pub(super) latest: Arc<Latest>,
    pub(super) stops: Arc<Stops>,
    /// Read for the care of all paths, their cycles and the pages.
    pub(super) kernel: Arc<Kernel>,
    /// When the guard, which could not be had, is tried again.
    guard_retry: Mutex<Option<Retry>>,
    view: Mutex<Arc<View>>,
    /// Whether this is the daemon: its pages are answered in time, whatever the kernel does.
    serving: AtomicBool,
    page: Mutex<Option<Arc<Page>>>,
    act: Mutex<Option<Act>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values are replaced whole, so a panic elsewhere cannot have left one half made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(super) fn new(config_file: PathBuf, store: Store, view: View) -> Self {
        Self {
            config_file,
            history: History::new(store.directory()),
            metrics: Arc::new(Metrics::new()),
            latest: Arc::new(Latest::default()),
            stops: Arc::new(Stops::new(store.clone())),
            store,
            kernel: Arc::default(),
            guard_retry: Mutex::default(),
            view: Mutex::new(Arc::new(view)),
            serving: AtomicBool::new(false),
            page: Mutex::default(),
            act: Mutex::default(),
        }
    }

    pub fn view(&self) -> Arc<View> {
        Arc::clone(&locked(&self.view))
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    pub fn config_file(&self) -> &std::path::Path {
        &self.config_file
    }

    /// Asks the endpoints that are not in use for a handshake.
    pub fn ask_standbys(&self, path: &PathConfig) {
        self.latest.ask_standbys(path, &self.store);
    }

    /// One health cycle of all paths.
    pub fn cycle(&self, paths: &[PathConfig]) {
        self.latest.cycle(paths, &self.store, &self.kernel);
    }

    /// Whether the guard could not be had lately, and is not to be tried again yet.
    pub(super) fn guard_rests(&self) -> bool {
        locked(&self.guard_retry).is_some_and(|retry| retry.failed.elapsed() < retry.pause)
    }

    pub(super) fn guard_failed(&self) {
        let mut retry = locked(&self.guard_retry);
        let pause = retry.map_or(GUARD_PAUSE, |last| (last.pause * 2).min(LONGEST_GUARD_PAUSE));
        *retry = Some(Retry { failed: Instant::now(), pause });
    }

    pub(super) fn guard_holds(&self) {
        *locked(&self.guard_retry) = None;
    }

    pub(super) fn show(&self, view: View) {
        *locked(&self.view) = Arc::new(view);
    }

    pub(super) fn act_began(&self, what: String) {
        *locked(&self.act) = Some(Act { what, since: Uptime::now() });
    }

    pub(super) fn act_ended(&self) {
        *locked(&self.act) = None;
    }

    /// What the engine has been doing for a while.
    pub fn busy(&self) -> Option<Busy> {
        let act = locked(&self.act).clone()?;
        let since = act.since.elapsed();
        (since >= WORTH_SHOWING).then_some(Busy { with: act.what, seconds: since.as_secs() })
    }

    /// From now on this is the daemon's.
    pub fn serves(&self) {
        self.serving.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// Whether the first look is done.
    pub fn is_ready(&self) -> bool {
        self.view().begun
    }

    /// What has been waited for, and how long, the longest first.
    pub fn waits() -> Vec<Waiting> {
        waiting::current(WORTH_SHOWING)
    }

    /// For a person who is told to try again.
    pub fn why_busy(&self) -> String {
        let doing = self.busy().map_or_else(
            || "busy".to_owned(),
            |busy| format!("busy for {} s with {}", busy.seconds, busy.with),
        );
        Self::waits().first().map_or(doing.clone(), |wait| {
            format!("{doing}, waiting for {} for {} s", wait.what, wait.seconds)
        })
    }

    /// How every path stands. Never takes longer than [`LOOK_LIMIT`] in the daemon.
    pub fn status(self: &Arc<Self>, wanted: Wanted) -> Status {
        let status = if self.is_serving() {
            let board = Arc::clone(self);
            let made = bounded::start("status", move || board.make(wanted)).wait(LOOK_LIMIT);
            made.unwrap_or_else(|_| self.last(wanted))
        } else {
            self.make(wanted)
        };
        Status { busy: self.busy(), waiting: Self::waits(), ..status }
    }

    /// Reads the kernel, and keeps what it made of that.
    fn make(&self, wanted: Wanted) -> Status {
        let status = self.read(&self.view(), wanted);
        let page = Page { status: status.clone(), made: Uptime::now() };
        *locked(&self.page) = Some(Arc::new(page));
        status
    }

    /// The last page; what is latched and cut is that of now.
    fn last(&self, wanted: Wanted) -> Status {
        let view = self.view();
        let page = locked(&self.page).clone();
        let mut status = match page {
            Some(page) => {
                Status { age_seconds: page.made.elapsed().as_secs(), ..page.status.clone() }
            }
            None => self.unread(&view, LOOK_LIMIT),
        };
        self.refresh(&view, wanted, &mut status);
        status
    }

    /// Cuts the paths whose leak is above the baseline, while the engine is busy with something else.
    /// The latch is kept in mind; the engine writes it to state when it comes to that path.
    pub fn cut_without_engine(&self, paths: &[PathName]) {
        let view = self.view();
        for name in paths {
            if let Some(path) = view.config.path(name.as_str()) {
                self.cut_one(&view.config, path);
            }
        }
    }

    fn cut_one(&self, config: &Config, path: &PathConfig) {
        let Ok(state) = self.store.read(&path.name) else {
            // The engine's to decide.
            return;
        };
        let enforced = match self.stops.look(path) {
            Some(_) => Enforced::Cut,
            None => Enforced::NotCut,
        };
        let standing = standing(path, &Rules::of(path), &state, enforced, &Moment::now());
        let latest = &*self.latest;
        let mut seen = Fresh { path, store: &self.store, state: &state, latest, notes: Vec::new() };
        let cause = Cause::Alert(Ask::HardStop);
        if decide(cause, standing, &mut seen) != Action::HardStop {
            return;
        }
        let evidence = seen.notes.join("; ");
        let latch = Latch {
            reason: cause.reason().to_owned(),
            evidence: evidence.clone(),
            at: Timestamp::now(),
            by: None,
        };
        self.stops.keep_pending(&path.name, latch);
        let (cut_by, why) = match self.stops.engage(config, path, StopKind::Latched) {
            Ok(cut) => (cut.by.word(), String::new()),
            Err(why) => ("nothing", why),
        };
        let busy = self.why_busy();
        tracing::error!(path = %path.name, evidence, cut_by, why, busy, "hard stop, not awaiting the engine");
    }
}
