//! One scrape: what the kernel knows is read anew, what costs time comes from the latest cycle.
//! A collector that fails or hangs is told of, and hides none of the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use egress::config::PathConfig;
use egress::error::chain;
use egress::health::Probe;
use egress::names::EndpointName;
use egress::observe::{self, Kernel, Looked, Sight};
use egress::state::Store;

use crate::current::Current;
use crate::cycles::{Cycles, Shown};
use crate::exemption::{Exemption, Look};
use crate::page;
use crate::totals::{Total, Totals};

/// All that one scrape shows of one path.
pub struct PathView<'a> {
    pub path: &'a PathConfig,
    pub sight: Sight,
    pub shown: Shown,
    pub drift: Option<bool>,
    /// What the walls have counted; `None`: they could not be read.
    pub total: Option<Total>,
    /// The endpoint that the device has now.
    pub live: Option<&'a EndpointName>,
    /// Of the live endpoint's latest handshake; `None`: never.
    pub handshake_age: Option<Duration>,
}

/// Whether a collector got what it asked for, over all paths, and how long that took.
#[derive(Debug, Clone)]
pub struct Collector {
    pub name: &'static str,
    pub took: Duration,
    /// Of the first path where it did not.
    pub failed: Option<Failure>,
}

/// Why a collector did not get what it asked for.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What is told anew only when it is another.
    what: String,
    /// With its causes, of which some say how long something took.
    whole: String,
}

impl Failure {
    fn of(error: &impl std::error::Error) -> Self {
        Self { what: error.to_string(), whole: chain(error) }
    }

    fn said(what: String) -> Self {
        Self { whole: what.clone(), what }
    }
}

/// What scrapes read from, and what is kept between them.
pub struct Collect {
    pub current: Arc<Current>,
    pub store: Store,
    pub kernel: Arc<Kernel>,
    pub cycles: Cycles,
    pub exemption: Exemption,
    totals: Totals,
    /// What was told of each collector last.
    told: Mutex<BTreeMap<&'static str, Option<String>>>,
}

impl Collect {
    pub fn new(
        (current, store, kernel): (&Arc<Current>, &Store, &Arc<Kernel>),
        cycles: Cycles,
        exemption: Exemption,
    ) -> Self {
        Self {
            current: Arc::clone(current),
            store: store.clone(),
            kernel: Arc::clone(kernel),
            cycles,
            exemption,
            totals: Totals::default(),
            told: Mutex::default(),
        }
    }

    /// The page; no collector is waited for longer than `limit`.
    pub fn page(&self, limit: Duration) -> String {
        let config = self.current.get();
        let Looked { sights, reading } =
            observe::look_at_all(&config.paths, &self.store, &self.kernel, limit);
        let on_disk = self.current.on_disk();
        let totals = reading.map(|reading| self.totals.add(&reading, &config.paths));
        let wanted = on_disk.as_ref().ok();
        let view = |(path, sight): (_, Sight)| {
            let path: &PathConfig = path;
            let recorded = sight.state.as_ref().ok().and_then(|state| state.intended.as_ref());
            let wanted = wanted.and_then(|wanted| wanted.get(&path.name));
            // A config that cannot be read is not the one that was loaded.
            let drift = recorded.map(|intended| Some(&intended.rules) != wanted);
            let device = sight.device.as_ref().ok();
            let live = device.and_then(|device| device.live(&path.endpoints));
            let latest = device.and_then(|device| device.peer()?.last_handshake);
            PathView {
                path,
                shown: self.cycles.of(path),
                drift,
                total: totals.as_ref().and_then(|totals| totals.get(&path.name).copied()),
                live: live.map(|(endpoint, _)| &endpoint.name),
                handshake_age: latest.map(|at| self.cycles.handshake_age(path, at)),
                sight,
            }
        };
        let views: Vec<PathView> = config.paths.iter().zip(sights).map(view).collect();
        let look = self.exemption.latest();
        let mut collectors = collectors(&views, look);
        let failed = on_disk.as_ref().err().map(Failure::of);
        collectors.insert(0, Collector { name: "config", took: Duration::ZERO, failed });
        self.tell(&collectors);
        page::render(&views, look, &collectors, self.cycles.histograms())
    }

    /// One line in the log where a collector begins to fail, fails for another reason, or is back.
    fn tell(&self, collectors: &[Collector]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for Collector { name, failed, .. } in collectors {
            let what = failed.as_ref().map(|failure| failure.what.clone());
            let before = told.insert(*name, what.clone()).flatten();
            match failed {
                Some(Failure { whole: error, .. }) if before != what => {
                    tracing::warn!(
                        collector = name,
                        error,
                        "a collector fails; its series are missing"
                    );
                }
                None if before.is_some() => tracing::info!(collector = name, "it answers again"),
                _ => {}
            }
        }
    }
}

fn collectors(views: &[PathView], exemption: Option<Look>) -> Vec<Collector> {
    type Failed = fn(&PathView) -> Option<Failure>;
    let collector = |name, failed: Failed, took: fn(&PathView) -> Duration| Collector {
        name,
        took: views.iter().map(took).max().unwrap_or_default(),
        failed: views.iter().find_map(failed),
    };
    let mut collectors = vec![
        collector(
            "nftables",
            |view| view.sight.walls.as_ref().err().map(Failure::of),
            |view| view.sight.took.nftables,
        ),
        collector("probe", probe_failed, |view| view.shown.took),
        collector(
            "state",
            |view| view.sight.state.as_ref().err().map(Failure::of),
            |view| view.sight.took.state,
        ),
        collector(
            "uplink",
            |view| view.sight.devices.as_ref().err().cloned().map(Failure::said),
            |view| view.sight.took.uplink,
        ),
        collector(
            "wireguard",
            |view| view.sight.device.as_ref().err().map(Failure::of),
            |view| view.sight.took.wireguard,
        ),
    ];
    // Only where a controller is configured, and has been asked.
    collectors.extend(exemption.map(|look| {
        Collector {
            name: "ids",
            took: look.took,
            failed: look
                .present
                .is_none()
                .then(|| Failure::said("the controller's answer is not known".to_owned())),
        }
    }));
    collectors
}

fn probe_failed(view: &PathView) -> Option<Failure> {
    let unprobed = view.shown.reachable.iter().find(|(_, asked)| asked.failed);
    match (view.shown.probe(), unprobed) {
        (Some(Probe::Unknown(why)), _) => Some(Failure::said(why.clone())),
        (_, Some((endpoint, _))) => {
            Some(Failure::said(format!("endpoint {endpoint} could not be probed")))
        }
        _ => None,
    }
}
