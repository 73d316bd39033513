//! Which devices are uplinks, and do they work?
//!
//! Read from the kernel's tables under `/proc`, from the devices' flags and from the neighbours that
//! the kernel knows; nothing is sent. All are those of the calling thread's network namespace.
//!
//! What the tables do not tell: of a multipath IPv4 default route only the first device is listed;
//! the IPv6 table lists every routing table's routes, so a device with a default route in another
//! one counts as well.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use super::ProbeError;
use super::rtnetlink::{Neighbour, silent_neighbours};

const IPV4_ROUTES: &str = "/proc/thread-self/net/route";
const IPV6_ROUTES: &str = "/proc/thread-self/net/ipv6_route";

/// The device that leads nowhere. Unreachable IPv6 defaults are listed on it.
const LOOPBACK: &str = "lo";

/// Route flags: in use, and "unreachable" (a default route that stops packets is no uplink).
const RTF_UP: u32 = 0x0001;
const RTF_REJECT: u32 = 0x0200;

const NO_DEFAULT_ROUTE: &str = "no default route";

/// A network device, and the index that stays when its name is given to another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Device {
    pub name: String,
    pub index: u32,
}

/// Whether the host can reach anything at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkVerdict {
    /// One device at least has a carrier and no gateway that is known to be dead.
    Up,
    /// None has; the reason is that of the device that came furthest, and names it.
    Down(String),
}

/// Every device that holds a default route, IPv4 or IPv6, without the loopback and those in `not`.
pub fn default_route_devices(not: &[&str]) -> Result<Vec<Device>, ProbeError> {
    let names: BTreeSet<String> = all_routes()?.into_iter().map(|route| route.device).collect();
    Ok(names
        .iter()
        .filter(|name| *name != LOOPBACK && !not.contains(&name.as_str()))
        // A device that went away since the tables were read is no uplink any more.
        .filter_map(|name| device(name))
        .collect())
}

/// The device of that name, if there is one now.
pub fn device(name: &str) -> Option<Device> {
    let index = if_nametoindex(name).ok()?;
    Some(Device { name: name.to_owned(), index })
}

/// Judges the uplinks by carrier, and by what the kernel knows of the gateways of the family of
/// `endpoint`: of those that the tunnel does not use it seldom knows anything.
///
/// "no default route" is said of no device at all, which is what [`default_route_devices`] finds
/// then. A device that was named by hand and holds no default route has no gateway to be dead.
pub fn uplink(devices: &[Device], endpoint: IpAddr) -> Result<UplinkVerdict, ProbeError> {
    let routes: Vec<DefaultRoute> =
        all_routes()?.into_iter().filter(|route| route.is_ipv6 == endpoint.is_ipv6()).collect();
    let silent = silent_neighbours().map_err(ProbeError::Neighbours)?;
    Ok(judge(devices, &with_carrier()?, &routes, &silent))
}

/// The default routes of both families.
fn all_routes() -> Result<Vec<DefaultRoute>, ProbeError> {
    let mut routes = ipv4_routes(&read(IPV4_ROUTES)?);
    routes.extend(ipv6_routes(&read(IPV6_ROUTES)?));
    Ok(routes)
}

fn read(path: &'static str) -> Result<String, ProbeError> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // A kernel without IPv6 has no such table. IPv4's is always there: if it is not, /proc is
        // not what it should be, and no verdict may be read from that.
        Err(source) if source.kind() == ErrorKind::NotFound && path == IPV6_ROUTES => {
            Ok(String::new())
        }
        Err(source) => Err(ProbeError::Table { path, source }),
    }
}

/// The devices that are up and whose link is.
fn with_carrier() -> Result<BTreeSet<String>, ProbeError> {
    let working = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    Ok(getifaddrs()
        .map_err(ProbeError::Devices)?
        .filter(|address| address.flags.contains(working))
        .map(|address| address.interface_name)
        .collect())
}

fn judge(
    devices: &[Device],
    with_carrier: &BTreeSet<String>,
    routes: &[DefaultRoute],
    silent: &BTreeSet<Neighbour>,
) -> UplinkVerdict {
    if devices.is_empty() {
        return UplinkVerdict::Down(NO_DEFAULT_ROUTE.to_owned());
    }
    let connected: Vec<&Device> =
        devices.iter().filter(|device| with_carrier.contains(&device.name)).collect();
    if connected.is_empty() {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        return UplinkVerdict::Down(format!("no carrier on {}", names.join(", ")));
    }
    let dead: Option<Vec<String>> =
        connected.iter().map(|device| dead_gateways(device, routes, silent)).collect();
    match dead {
        None => UplinkVerdict::Up,
        Some(gateways) => UplinkVerdict::Down(format!("no answer from {}", gateways.join(", "))),
    }
}

/// The gateways of a device, where it has some and all of them are known to be dead.
fn dead_gateways(
    device: &Device,
    routes: &[DefaultRoute],
    silent: &BTreeSet<Neighbour>,
) -> Option<String> {
    let gateways: BTreeSet<IpAddr> = routes
        .iter()
        .filter(|route| route.device == device.name)
        .map(|route| {
            let address = route.gateway?;
            let neighbour = Neighbour { address, device: device.index };
            silent.contains(&neighbour).then_some(address)
        })
        .collect::<Option<_>>()?;
    let named = |gateway: &IpAddr| format!("gateway {gateway} on {}", device.name);
    let named: Vec<String> = gateways.iter().map(named).collect();
    (!named.is_empty()).then(|| named.join(", "))
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DefaultRoute {
    device: String,
    is_ipv6: bool,
    /// None on a link that needs none, as point-to-point ones.
    gateway: Option<IpAddr>,
}

/// The default routes in `/proc/net/route`, the main table. Lines that are no route are skipped, so
/// is the heading.
fn ipv4_routes(table: &str) -> Vec<DefaultRoute> {
    table.lines().filter_map(ipv4_route).collect()
}

fn ipv4_route(line: &str) -> Option<DefaultRoute> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[device, destination, gateway, flags, _, _, _, mask, ..] = fields.as_slice() else {
        return None;
    };
    let is_default = hex(destination)? == 0 && hex(mask)? == 0;
    if !is_default || !leads_somewhere(hex(flags)?) {
        return None;
    }
    // Addresses are printed as a number in the machine's own order.
    let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
    let gateway = (!gateway.is_unspecified()).then_some(gateway.into());
    Some(DefaultRoute { device: device.to_owned(), is_ipv6: false, gateway })
}

/// The default routes in `/proc/net/ipv6_route`.
fn ipv6_routes(table: &str) -> Vec<DefaultRoute> {
    table.lines().filter_map(ipv6_route).collect()
}

fn ipv6_route(line: &str) -> Option<DefaultRoute> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[destination, length, _, _, gateway, _, _, _, flags, device] = fields.as_slice() else {
        return None;
    };
    let is_default = u128::from_str_radix(destination, 16).ok()? == 0 && hex(length)? == 0;
    if !is_default || !leads_somewhere(hex(flags)?) {
        return None;
    }
    let gateway = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
    let gateway = (!gateway.is_unspecified()).then_some(gateway.into());
    Some(DefaultRoute { device: device.to_owned(), is_ipv6: true, gateway })
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

fn leads_somewhere(flags: u32) -> bool {
    flags & RTF_UP != 0 && flags & RTF_REJECT == 0
}

#[cfg(test)]
#[path = "uplink_tests.rs"]
mod tests;
