//! By which devices do the tunnel's own packets leave, and do these work?
//!
//! Asked of the kernel: which route a packet to an endpoint takes that carries the path's mark. So all
//! rules and tables apply, every nexthop of a multipath route counts, and a device with a default route
//! that the tunnel does not use is no uplink. Nothing is sent. All of it is of the calling thread's
//! network namespace.
//!
//! It serves the verdict *uplink-down* and the tunnel's MTU. It never says what the watch covers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::net::if_::if_nametoindex;

use super::ProbeError;
use super::rtnetlink::{Kernel, Link, NextHop, Route};
use crate::config::{Endpoint, PathConfig, Uplinks};

/// A network device, and the index that stays when its name is given to another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Device {
    pub name: String,
    pub index: u32,
}

/// Whether the host can reach anything at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkVerdict {
    /// By one device at least, which has a carrier and no gateway that is known to be dead.
    Up,
    /// By none; the reason is that of the device that came furthest, and names it.
    Down(String),
}

/// The device of that name, if there is one now.
pub fn device(name: &str) -> Option<Device> {
    let index = if_nametoindex(name).ok()?;
    Some(Device { name: name.to_owned(), index })
}

/// The devices by which the tunnel's packets to any of the endpoints leave, or those that the config
/// names.
pub fn devices(path: &PathConfig) -> Result<Vec<Device>, ProbeError> {
    if let Uplinks::Named(names) = &path.uplinks {
        return Ok(names.iter().filter_map(|name| device(name)).collect());
    }
    let mut host = Host::open(path)?;
    let mut found = BTreeSet::new();
    for endpoint in &path.endpoints {
        found.extend(host.way(endpoint.address)?.hops.into_iter().map(|hop| hop.device));
    }
    Ok(found.into_iter().collect())
}

/// Whether a packet of the tunnel's to this address has a way out.
pub fn has_way(path: &PathConfig, to: SocketAddr) -> Result<bool, ProbeError> {
    let way = Host::open(path)?.way(to)?;
    Ok(way.is_local || !way.hops.is_empty())
}

/// The device by which a packet of root's with this mark leaves; of several the first. `None`: it does
/// not leave.
pub fn leaves_by(to: SocketAddr, mark: u32) -> io::Result<Option<String>> {
    let mut kernel = Kernel::open()?;
    match kernel.route(to, mark)? {
        Route::Nowhere | Route::Local => Ok(None),
        Route::By(hops) => match hops.first() {
            Some(hop) => Ok(kernel.link(hop.device)?.map(|link| link.name)),
            None => Ok(None),
        },
    }
}

/// Judges the uplinks by carrier, and by what the kernel knows of the gateways of the family of
/// `active`: of those that the tunnel does not use it seldom knows anything.
///
/// Where the active endpoint alone has no route, the uplink is up: another endpoint may have one.
pub fn verdict(path: &PathConfig, active: &Endpoint) -> Result<UplinkVerdict, ProbeError> {
    let mut host = Host::open(path)?;
    let way = host.way(active.address)?;
    let is_listed = |hop: &Hop| match &path.uplinks {
        Uplinks::Named(names) => names.contains(&hop.device.name),
        Uplinks::Auto => true,
    };
    if way.is_local || way.hops.iter().any(|hop| is_listed(hop) && hop.may_work()) {
        return Ok(UplinkVerdict::Up);
    }
    // Only now do the other endpoints matter: as long as all is well, one route is asked for.
    let Way { mut hops, mut into_tunnel, .. } = way;
    for endpoint in path.endpoints.iter().filter(|other| other.address != active.address) {
        let way = host.way(endpoint.address)?;
        if way.is_local {
            return Ok(UplinkVerdict::Up);
        }
        hops.extend(way.hops);
        into_tunnel = into_tunnel.or(way.into_tunnel);
    }
    if hops.is_empty() {
        let to = active.address.ip();
        return Ok(UplinkVerdict::Down(match into_tunnel {
            Some(tunnel) => format!("no route to {to} but into the tunnel {tunnel}"),
            None => format!("no route to {to}"),
        }));
    }
    hops.retain(is_listed);
    if let Uplinks::Named(names) = &path.uplinks {
        // One that is named and has no route is judged by its carrier.
        for device in names.iter().filter_map(|name| device(name)) {
            if !hops.iter().any(|hop| hop.device == device) {
                let works = host.link(device.index)?.is_some_and(|link| link.works);
                hops.push(Hop { device, works, to_ipv6: false, gateway: None, silent: false });
            }
        }
    }
    Ok(judge(&hops, active.address.is_ipv6()))
}

/// A way out, with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hop {
    device: Device,
    works: bool,
    /// By the family of what is sent, not of the gateway.
    to_ipv6: bool,
    gateway: Option<IpAddr>,
    /// The gateway was asked for and did not answer.
    silent: bool,
}

impl Hop {
    fn may_work(&self) -> bool {
        self.works && !self.silent
    }
}

/// The ways of one packet.
#[derive(Debug, Default)]
struct Way {
    hops: Vec<Hop>,
    /// To this host itself: another program carries the tunnel's packets on.
    is_local: bool,
    /// A tunnel of ours that the packet would go into.
    into_tunnel: Option<String>,
}

/// The kernel's answers, each asked for once.
struct Host<'path> {
    path: &'path PathConfig,
    kernel: Kernel,
    links: BTreeMap<u32, Option<Link>>,
    silent: BTreeMap<(u32, IpAddr), bool>,
}

impl<'path> Host<'path> {
    fn open(path: &'path PathConfig) -> Result<Self, ProbeError> {
        let kernel = Kernel::open().map_err(ProbeError::Devices)?;
        Ok(Self { path, kernel, links: BTreeMap::new(), silent: BTreeMap::new() })
    }

    fn way(&mut self, to: SocketAddr) -> Result<Way, ProbeError> {
        let route = self.kernel.route(to, self.path.fwmark);
        let mut way = Way::default();
        match route.map_err(|source| ProbeError::Route { to: to.ip(), source })? {
            Route::Nowhere => {}
            Route::Local => way.is_local = true,
            Route::By(hops) => {
                for hop in hops {
                    self.add(&mut way, &hop, to)?;
                }
            }
        }
        Ok(way)
    }

    fn add(&mut self, way: &mut Way, hop: &NextHop, to: SocketAddr) -> Result<(), ProbeError> {
        // A device that went away since is no uplink any more.
        let Some(Link { name, works }) = self.link(hop.device)? else {
            return Ok(());
        };
        if self.path.tunnels.contains(&name) {
            way.into_tunnel = Some(name);
            return Ok(());
        }
        let silent = match hop.gateway {
            Some(gateway) => self.is_silent(hop.device, gateway)?,
            None => false,
        };
        let device = Device { name, index: hop.device };
        let (to_ipv6, gateway) = (to.is_ipv6(), hop.gateway);
        way.hops.push(Hop { device, works, to_ipv6, gateway, silent });
        Ok(())
    }

    fn link(&mut self, index: u32) -> Result<Option<Link>, ProbeError> {
        if let Some(known) = self.links.get(&index) {
            return Ok(known.clone());
        }
        let link = self.kernel.link(index).map_err(ProbeError::Devices)?;
        self.links.insert(index, link.clone());
        Ok(link)
    }

    fn is_silent(&mut self, index: u32, gateway: IpAddr) -> Result<bool, ProbeError> {
        if let Some(known) = self.silent.get(&(index, gateway)) {
            return Ok(*known);
        }
        let silent = self.kernel.is_silent(index, gateway).map_err(ProbeError::Neighbours)?;
        self.silent.insert((index, gateway), silent);
        Ok(silent)
    }
}

fn judge(hops: &[Hop], is_ipv6: bool) -> UplinkVerdict {
    let devices: BTreeSet<&Device> = hops.iter().map(|hop| &hop.device).collect();
    if devices.is_empty() {
        return UplinkVerdict::Down("none of the configured uplinks is there".to_owned());
    }
    let names = |devices: &BTreeSet<&Device>| {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        names.join(", ")
    };
    let works = |device: &&Device| hops.iter().any(|hop| hop.device == **device && hop.works);
    let connected: Vec<&Device> = devices.iter().copied().filter(works).collect();
    if connected.is_empty() {
        return UplinkVerdict::Down(format!("no carrier on {}", names(&devices)));
    }
    let dead: Option<Vec<String>> =
        connected.iter().map(|device| dead_gateways(device, hops, is_ipv6)).collect();
    match dead {
        None => UplinkVerdict::Up,
        Some(gateways) => UplinkVerdict::Down(format!("no answer from {}", gateways.join(", "))),
    }
}

/// The gateways of a device, where it has some and all of them are known to be dead.
fn dead_gateways(device: &Device, hops: &[Hop], is_ipv6: bool) -> Option<String> {
    let gateways: BTreeSet<IpAddr> = hops
        .iter()
        .filter(|hop| hop.device == *device && hop.to_ipv6 == is_ipv6)
        .map(|hop| hop.gateway.filter(|_| hop.silent))
        .collect::<Option<_>>()?;
    let named = |gateway: &IpAddr| format!("gateway {gateway} on {}", device.name);
    let named: Vec<String> = gateways.iter().map(named).collect();
    (!named.is_empty()).then(|| named.join(", "))
}

/// Whether the host's own packets to `target` have a route by this device.
pub(super) fn has_route(target: IpAddr, device: &Device) -> io::Result<bool> {
    Kernel::open()?.has_route(target, device.index)
}

#[cfg(test)]
#[path = "uplink_tests.rs"]
mod tests;
