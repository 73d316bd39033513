//! Gathers a path's evidence from the kernel, the state file and probes. Changes nothing.

mod beside;
mod cycle;
mod large;
mod leak;
mod on_host;
mod sight;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use beside::{echo_endpoint, shake_hands};
pub use cycle::{Cycle, check, check_among};
pub use large::large_pass;
pub use leak::{carry, forgive, leak};
pub use on_host::{devices, host};
pub use sight::handshake_age;

use crate::bounded;
use crate::config::{PathConfig, Uplinks};
use crate::device::{self, DeviceError, DeviceView};
use crate::error::chain;
use crate::firewall::foreign::{self, Blocked};
use crate::firewall::{self, Reader, Reading, Rules, Walls};
use crate::probe;
use crate::probe::uplink::{self, Device};
use crate::state::{PathState, StateError, Store};

/// What the kernel and the state file say, without a probe; cheap enough for every scrape.
#[derive(Debug)]
pub struct Sight {
    pub state: Result<PathState, StateError>,
    pub walls: Result<Walls, firewall::NftError>,
    pub device: Result<DeviceView, DeviceError>,
    pub uplinks: Result<Uplinked, String>,
    /// How long each of these took to read.
    pub took: Took,
}

#[derive(Debug, Clone, Default)]
pub struct Uplinked {
    /// Devices with a default route, and those that had one at the last load and still exist: an
    /// unplugged cable takes the route, and brings it back. And those by which the workload enters.
    /// All are to be covered by the watch.
    pub to_cover: Vec<Device>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Took {
    pub state: Duration,
    pub nftables: Duration,
    pub wireguard: Duration,
    pub uplink: Duration,
}

pub fn look(path: &PathConfig, store: &Store) -> Sight {
    look_by(path, store, Walls::read)
}

fn look_by(
    path: &PathConfig,
    store: &Store,
    walls: impl FnOnce() -> Result<Walls, firewall::NftError>,
) -> Sight {
    let mut took = Took::default();
    let state = timed(&mut took.state, || store.read(&path.name));
    let recorded = recorded_uplinks(&state);
    Sight {
        walls: timed(&mut took.nftables, walls),
        device: timed(&mut took.wireguard, || device::read(&path.interface)),
        uplinks: timed(&mut took.uplink, || uplinks(path, &recorded)),
        state,
        took,
    }
}

/// One look at all paths.
#[derive(Debug)]
pub struct Looked {
    /// In the order of the paths.
    pub sights: Vec<Sight>,
    /// What the walls are in all of them; `None` where they could not be read.
    pub reading: Option<Reading>,
}

/// The same of all paths, each question asked once for all, and all of it within `limit`: what has
/// not answered by then is an error, and holds up nothing else.
pub fn look_at_all(
    paths: &[PathConfig],
    store: &Store,
    reader: &Arc<Reader>,
    limit: Duration,
) -> Looked {
    let started = Instant::now();
    let reader = Arc::clone(reader);
    let walls = bounded::start("nftables", move || (reader.walls(started), started.elapsed()));
    let devices: Vec<device::Asked> =
        paths.iter().map(|path| device::ask(&path.interface)).collect();
    let own: Vec<_> = paths.iter().map(|path| own(path, store)).collect();
    let mut routing = Duration::ZERO;
    // The tunnels are the same for all.
    let tunnels = paths.first().map(|path| path.tunnels.as_slice()).unwrap_or_default();
    let routed = timed(&mut routing, || routed(tunnels));
    let devices: Vec<_> =
        devices.into_iter().map(|asked| (asked.wait(limit), started.elapsed())).collect();
    let late = |late| (Err(firewall::NftError::Hung(late)), started.elapsed());
    let (walls, nftables) = walls.wait(limit).unwrap_or_else(late);
    let walls = walls.map_err(Arc::new);
    let sight = |((path, (state, took)), (device, wireguard)): ((&PathConfig, (_, Took)), _)| {
        let mut uplink = Duration::ZERO;
        let recorded = recorded_uplinks(&state);
        let uplinks = timed(&mut uplink, || uplinks_by(path, &recorded, || routed.clone()));
        let shared = |error: &Arc<_>| firewall::NftError::Shared(Arc::clone(error));
        let walls = walls.as_ref().map(|reading| reading.walls.clone()).map_err(shared);
        let took = Took { nftables, wireguard, uplink: routing + uplink, ..took };
        Sight { state, walls, device, uplinks, took }
    };
    let sights = paths.iter().zip(own).zip(devices).map(sight).collect();
    Looked { sights, reading: walls.ok() }
}

fn own(path: &PathConfig, store: &Store) -> (Result<PathState, StateError>, Took) {
    let mut took = Took::default();
    (timed(&mut took.state, || store.read(&path.name)), took)
}

fn recorded_uplinks(state: &Result<PathState, StateError>) -> Vec<Device> {
    let intended = state.as_ref().ok().and_then(|state| state.intended.as_ref());
    intended.map(|intended| intended.uplinks.clone()).unwrap_or_default()
}

fn timed<T>(took: &mut Duration, read: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let outcome = read();
    *took = started.elapsed();
    outcome
}

/// What is to be covered by the watch.
pub fn uplinks(path: &PathConfig, recorded: &[Device]) -> Result<Uplinked, String> {
    uplinks_by(path, recorded, || routed(&path.tunnels))
}

/// Every device that holds a default route, and is no tunnel of ours.
fn routed(tunnels: &[String]) -> Result<Vec<Device>, String> {
    let tunnels: Vec<&str> = tunnels.iter().map(String::as_str).collect();
    probe::default_route_devices(&tunnels).map_err(chain)
}

fn uplinks_by(
    path: &PathConfig,
    recorded: &[Device],
    routed: impl FnOnce() -> Result<Vec<Device>, String>,
) -> Result<Uplinked, String> {
    let known = |listed: &[String]| -> Vec<Device> {
        listed.iter().filter_map(|name| uplink::device(name)).collect()
    };
    let leads_out = match &path.uplinks {
        Uplinks::Named(names) => known(names),
        Uplinks::Auto => routed()?,
    };
    let still = recorded.iter().filter_map(|device| uplink::device(&device.name));
    let entrances = known(path.workload.interfaces());
    let mut to_cover: Vec<Device> = leads_out.into_iter().chain(still).chain(entrances).collect();
    to_cover.sort();
    to_cover.dedup();
    Ok(Uplinked { to_cover })
}

/// Rules of other programs that block what the path needs. Reads the whole ruleset: for people only.
pub fn in_the_way(path: &PathConfig) -> Result<Vec<Blocked>, firewall::NftError> {
    let uplinks = uplink::devices(path).unwrap_or_default();
    let uplink = match uplinks.as_slice() {
        [only] => Some(only.name.as_str()),
        _ => None,
    };
    foreign::blocked(&Rules::of(path), uplink)
}
