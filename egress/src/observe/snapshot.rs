//! One reading of the kernel for everybody who judges in the same round: the rules with their counters,
//! the devices of the host with their addresses, and the WireGuard devices. Immutable, and passed by
//! reference. Nobody reads the kernel again on the way; whoever is about to write does, before and
//! after.
//!
//! Routes are asked for one by one, by where a packet would go: a router may have a million of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::{Sight, Took, timed};
use crate::bounded;
use crate::config::PathConfig;
use crate::device::{self, DeviceError, DeviceView};
use crate::firewall::{self, Coverage, NftError, Reader, Reading};
use crate::links::Network;
use crate::state::Store;

/// What is read of the kernel, shared by all who ask.
#[derive(Debug, Default)]
pub struct Kernel {
    reader: Reader,
    latest: Mutex<Option<Arc<Host>>>,
}

/// What concerns all paths alike.
#[derive(Debug)]
pub struct Host {
    /// All of it is as of some moment after this.
    pub began: Instant,
    /// The wall clock then.
    pub at: SystemTime,
    pub walls: Result<Reading, Arc<NftError>>,
    pub devices: Result<Arc<Devices>, String>,
    took: Took,
}

/// A reading of the host, and of the WireGuard device of each path.
#[derive(Debug)]
pub struct Snapshot {
    pub host: Arc<Host>,
    /// In the order of the paths that it was taken for.
    tunnels: Vec<Result<DeviceView, Arc<DeviceError>>>,
    wireguard: Duration,
}

/// The network devices, with what the watch has to cover of them: the same for all paths that were
/// loaded together.
#[derive(Debug, Default)]
pub struct Devices {
    pub network: Network,
    wanted: Mutex<Option<Arc<Coverage>>>,
}

impl Devices {
    pub fn of(network: Network) -> Self {
        Self { network, wanted: Mutex::default() }
    }

    /// What has to be covered of these devices by what `recorded` was made from.
    pub fn wanted(&self, recorded: &Coverage) -> Arc<Coverage> {
        let mut known = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.as_ref().filter(|known| known.has_basis_of(recorded)) {
            return Arc::clone(same);
        }
        let wanted = Arc::new(recorded.wanted(&self.network.links));
        *known = Some(Arc::clone(&wanted));
        wanted
    }
}

impl Kernel {
    /// The host as of some moment after `since`. Callers that come while it is read wait, and share
    /// what is read next.
    pub fn host(&self, since: Instant) -> Arc<Host> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = latest.as_ref().filter(|known| known.began >= since) {
            return Arc::clone(known);
        }
        let (began, at) = (Instant::now(), SystemTime::now());
        let mut took = Took::default();
        let walls = timed(&mut took.nftables, || self.reader.walls(since)).map_err(Arc::new);
        let devices = timed(&mut took.uplink, devices);
        let host = Arc::new(Host { began, at, walls, devices, took });
        *latest = Some(Arc::clone(&host));
        host
    }

    /// The same, with the tunnels of these paths; nothing of it is waited for longer than `limit`.
    pub fn snapshot(
        self: &Arc<Self>,
        paths: &[PathConfig],
        since: Instant,
        limit: Duration,
    ) -> Snapshot {
        let kernel = Arc::clone(self);
        let host = bounded::start("nftables", move || kernel.host(since));
        let mut wireguard = Duration::ZERO;
        let tunnels = timed(&mut wireguard, || device::read_all(paths, limit));
        let tunnels = tunnels.into_iter().map(|read| read.map_err(Arc::new)).collect();
        let host = host.wait(limit).unwrap_or_else(|late| {
            let late_after = limit;
            Arc::new(Host {
                began: Instant::now(),
                at: SystemTime::now(),
                walls: Err(Arc::new(NftError::Hung(late))),
                devices: Err("the network devices were not read in time".to_owned()),
                took: Took { nftables: late_after, uplink: late_after, ..Took::default() },
            })
        });
        Snapshot { host, tunnels, wireguard }
    }
}

fn devices() -> Result<Arc<Devices>, String> {
    let network = Network::read().map_err(|error| format!("network devices: {error}"))?;
    Ok(Arc::new(Devices::of(network)))
}

impl Host {
    /// Whether nobody has written a rule since.
    pub fn is_current(&self) -> bool {
        let read = self.walls.as_ref().ok().and_then(|reading| reading.generation);
        read.is_some() && read == firewall::generation().ok()
    }

    /// What it shows of a path whose device was read by its caller.
    pub fn sight(
        &self,
        path: &PathConfig,
        store: &Store,
        device: Result<DeviceView, DeviceError>,
    ) -> Sight {
        let mut took = self.took;
        let state = timed(&mut took.state, || store.shared(&path.name));
        let walls = self.walls.as_ref().map(|reading| reading.walls.clone());
        Sight {
            state,
            walls: walls.map_err(|error| NftError::Shared(Arc::clone(error))),
            device,
            devices: self.devices.clone(),
            took,
        }
    }
}

impl Snapshot {
    /// What it shows of each of the paths that it was taken for, with their states of now.
    pub fn sights<'a>(
        &'a self,
        paths: &'a [PathConfig],
        store: &'a Store,
    ) -> impl Iterator<Item = (&'a PathConfig, Sight)> {
        paths.iter().zip(&self.tunnels).map(|(path, tunnel)| {
            let tunnel = tunnel.clone().map_err(DeviceError::Shared);
            let mut sight = self.host.sight(path, store, tunnel);
            sight.took.wireguard = self.wireguard;
            (path, sight)
        })
    }

    pub fn reading(&self) -> Option<&Reading> {
        self.host.walls.as_ref().ok()
    }
}
