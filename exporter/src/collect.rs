//! One scrape: what the kernel knows is read anew, what costs time comes from the latest cycle.

use std::time::Duration;

use egress::config::PathConfig;
use egress::firewall::Rules;
use egress::health::Probe;
use egress::observe::{self, Sight};
use egress::state::Store;

use crate::current::Current;
use crate::cycles::{Cycles, Shown};
use crate::exemption::{Exemption, Look};
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

pub fn page(current: &Current, store: &Store, cycles: &Cycles, exemption: &Exemption) -> String {
    let config = current.get();
    let on_disk = current.on_disk();
    let views: Vec<PathView> = config
        .paths
        .iter()
        .map(|path| {
            let sight = observe::look(path, store);
            let recorded = sight.state.as_ref().ok().and_then(|state| state.intended.as_ref());
            let on_disk = on_disk.as_ref().ok().and_then(|config| config.path(path.name.as_str()));
            let wanted = on_disk.map(Rules::of);
            // A config that cannot be read is not the one that was loaded.
            let drift = recorded.map(|intended| Some(&intended.rules) != wanted.as_ref());
            PathView { path, shown: cycles.of(path), drift, sight }
        })
        .collect();
    let look = exemption.latest();
    let collectors = collectors(&views, look, on_disk.is_ok());
    page::render(&views, look, &collectors, cycles.histograms())
}

fn collectors(views: &[PathView], exemption: Option<Look>, config: bool) -> Vec<Collector> {
    let all = |good: fn(&PathView) -> bool| views.iter().all(good);
    let longest =
        |took: fn(&PathView) -> Duration| views.iter().map(took).max().unwrap_or_default();
    let probed = |view: &PathView| view.shown.reachable.values().all(|asked| !asked.failed);
    let tunnel = |view: &PathView| !matches!(view.shown.probe(), Some(Probe::Unknown(_)));
    let collector = |name, success, took| Collector { name, success, took };
    let mut collectors = vec![
        collector("config", config, Duration::ZERO),
        collector("nftables", all(|v| v.sight.walls.is_ok()), longest(|v| v.sight.took.nftables)),
        collector(
            "probe",
            views.iter().all(|view| probed(view) && tunnel(view)),
            longest(|v| v.shown.took),
        ),
        collector("state", all(|v| v.sight.state.is_ok()), longest(|v| v.sight.took.state)),
        collector("uplink", all(|v| v.sight.uplinks.is_ok()), longest(|v| v.sight.took.uplink)),
        collector(
            "wireguard",
            all(|v| v.sight.device.is_ok()),
            longest(|v| v.sight.took.wireguard),
        ),
    ];
    // Only where a controller is configured, and has been asked.
    collectors.extend(exemption.map(|look| collector("ids", look.present.is_some(), look.took)));
    collectors
}
