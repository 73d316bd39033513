//! One scrape: what the kernel knows is read anew, what costs time comes from the latest cycle.

use std::time::{Duration, Instant};

use egress::config::{Config, PathConfig};
use egress::observe::{self, Sight};
use egress::state::Store;

use crate::cycles::{Cycles, Shown};
use crate::page;

/// All that one scrape shows of one path.
pub struct PathView<'a> {
    pub path: &'a PathConfig,
    pub sight: Sight,
    pub shown: Shown,
    pub drift: Option<bool>,
}

/// Whether a collector got what it asked for, over all paths, and how long that took.
#[derive(Debug, Clone, Copy)]
pub struct Collector {
    pub name: &'static str,
    pub success: bool,
    pub took: Duration,
}

pub fn page(config: &Config, store: &Store, cycles: &Cycles) -> String {
    let started = Instant::now();
    let views: Vec<PathView> = config
        .paths
        .iter()
        .map(|path| {
            let sight = observe::look(path, store);
            let recorded = sight.state.as_ref().ok().and_then(|state| state.intended.as_ref());
            let wanted = egress::firewall::wanted(&config.paths);
            let drift = recorded.map(|intended| intended.wanted != wanted);
            PathView { path, shown: cycles.of(path), drift, sight }
        })
        .collect();
    let took = started.elapsed();
    let all = |good: fn(&PathView) -> bool| views.iter().all(good);
    let collectors = [
        ("nftables", all(|view| view.sight.walls.is_ok())),
        ("probe", all(|view| view.shown.reachable.values().all(Option::is_some))),
        ("state", all(|view| view.sight.state.is_ok())),
        ("uplink", all(|view| view.sight.uplinks.is_ok())),
        ("wireguard", all(|view| view.sight.device.is_ok())),
    ];
    let collectors = collectors.map(|(name, success)| Collector { name, success, took });
    page::render(&views, &collectors)
}
