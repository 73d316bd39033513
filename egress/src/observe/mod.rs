//! Gathers a path's evidence from the kernel, the state file and probes. Changes nothing.

mod beside;
mod cycle;
mod large;
mod leak;
mod on_host;
mod sight;
mod snapshot;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use beside::{echo_endpoint, shake_hands};
pub use cycle::{Cycle, TunnelProbe, check, check_among, judge};
pub use large::large_pass;
pub use leak::{carry, forgive, has_moved, leak};
pub use on_host::host;

pub use crate::links::host_devices as devices;
pub use sight::handshake_age;
pub use snapshot::{Devices, Host, Kernel, Snapshot};

use crate::config::{PathConfig, Workload};
use crate::device::{self, DeviceError, DeviceView};
use crate::error::chain;
use crate::firewall::flows::{self, Flow, Whose};
use crate::firewall::foreign::{self, Foreign};
use crate::firewall::{self, Reading, Rules, Walls};
use crate::probe::uplink::{self, Device};
use crate::state::{PathState, StateError, Store};

/// What the kernel and the state file say, without a probe; cheap enough for every scrape.
#[derive(Debug)]
pub struct Sight {
    pub state: Result<Arc<PathState>, StateError>,
    pub walls: Result<Walls, firewall::NftError>,
    pub device: Result<DeviceView, DeviceError>,
    pub devices: Result<Arc<Devices>, String>,
    /// How long each of these took to read.
    pub took: Took,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Took {
    pub state: Duration,
    pub nftables: Duration,
    pub wireguard: Duration,
    pub uplink: Duration,
}

/// A reading of its own, for whoever is about to write.
pub fn look(path: &PathConfig, store: &Store) -> Sight {
    let mut wireguard = Duration::ZERO;
    let device = timed(&mut wireguard, || device::read(path));
    let mut sight = Kernel::default().host(Instant::now()).sight(path, store, device);
    sight.took.wireguard = wireguard;
    sight
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
    kernel: &Arc<Kernel>,
    limit: Duration,
) -> Looked {
    let snapshot = kernel.snapshot(paths, Instant::now(), limit);
    let sights = snapshot.sights(paths, store).map(|(_, sight)| sight).collect();
    Looked { sights, reading: snapshot.reading().cloned() }
}

fn timed<T>(took: &mut Duration, read: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let outcome = read();
    *took = started.elapsed();
    outcome
}

/// Every device that holds a default route, and is no tunnel of ours.
fn routed(tunnels: &[String]) -> Result<Vec<Device>, String> {
    let tunnels: Vec<&str> = tunnels.iter().map(String::as_str).collect();
    crate::probe::default_route_devices(&tunnels).map_err(chain)
}

/// What in the rulesets of other programs is in the way of the path. Reads the whole ruleset: for
/// people only.
pub fn in_the_way(path: &PathConfig) -> Result<Foreign, firewall::NftError> {
    let uplinks = uplink::devices(path).unwrap_or_default();
    let uplink = match uplinks.as_slice() {
        [only] => Some(only.name.clone()),
        _ => None,
    };
    // Where the addresses are not known, more *may* match.
    let own = crate::probe::networks().unwrap_or_default();
    foreign::read(&Rules::of(path), &foreign::Addresses { uplink, own }, &KernelRouting)
}

/// The latest flows of the path that were to leave outside the tunnel; `paths`: all of the host. For
/// people only.
pub fn leaked_flows(path: &PathConfig, paths: &[PathConfig]) -> Result<Vec<Flow>, String> {
    let scoped = |path: &&PathConfig| path.workload != Workload::Host;
    let marks: Vec<_> = paths.iter().filter(scoped).map(|path| path.workload_mark).collect();
    let whose =
        if scoped(&path) { Whose::Marked(path.workload_mark) } else { Whose::Unmarked(&marks) };
    flows::leaked(whose).map_err(|error| format!("leaked flows were not read: {}", chain(error)))
}

struct KernelRouting;

impl foreign::Routing for KernelRouting {
    fn leaves_by(&self, to: Option<IpAddr>, mark: u32) -> Option<String> {
        // TEST-NET-1 is in nobody's network, so it is routed as the internet is.
        let to = to.unwrap_or(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        uplink::leaves_by(SocketAddr::new(to, 443), mark).ok().flatten()
    }
}
