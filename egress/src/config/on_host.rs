//! Whether the devices that a configuration names are, on this host, what it takes them for.
//!
//! Asked at a converge and by `validate` only: a cable that is unplugged must not make the
//! configuration unreadable for the daemon. A device that does not exist is no mistake.

use std::collections::BTreeSet;

use super::cursor::Cursor;
use super::error::{ConfigError, Problem};
use super::read::PATH;
use super::workload::SCOPED;
use super::{PathConfig, Uplinks};

/// A network device of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostDevice {
    pub name: String,
    pub index: u32,
    /// What else it answers to: no rule of nftables matches these.
    pub alternative_names: Vec<String>,
    /// The kernel's word for what it is, such as `wireguard`, `bridge` or `vlan`; none of hardware.
    pub kind: Option<String>,
    pub is_loopback: bool,
    /// The device that it is built on, in this network namespace.
    pub parent: Option<u32>,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// A userspace WireGuard answers for it.
    pub is_userspace_wireguard: bool,
}

/// What a configuration is compared with.
pub struct Host<'a> {
    pub devices: &'a [HostDevice],
    /// The uplinks that the kernel's routing shows, by name.
    pub uplinks: &'a dyn Fn(&PathConfig) -> Result<Vec<String>, String>,
}

/// These carry their parent's own packets: what leaves by one leaves by the parent.
const ON_THE_SAME_LINK: [&str; 4] = ["macvlan", "macvtap", "ipvlan", "ipvtap"];

/// A device of this kind has its peer as "parent", at the other end of a cable.
const VETH: &str = "veth";

/// Groups devices for routing; its members share no link.
const VRF: &str = "vrf";

impl HostDevice {
    fn is_kind(&self, kinds: &[&str]) -> bool {
        self.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
    }
}

pub(super) fn check(
    at: &[Cursor<'_>],
    paths: &[PathConfig],
    host: &Host<'_>,
) -> Result<(), ConfigError> {
    for (at, path) in at.iter().zip(paths) {
        let fields = at.fields(PATH)?;
        let whole = |key: &str| fields.get(key).unwrap_or_else(|| at.clone());
        check_tunnel(&whole("interface"), path, host)?;
        let uplinks = uplinks(path, host).map_err(|why| at.error(Problem::NoUplinks(why)))?;
        if let Uplinks::Named(names) = &path.uplinks {
            each(&whole("uplinks"), names, |name| {
                unusable(name, host, "name the device that leads to the Internet")
            })?;
        }
        let known = Topology { devices: host.devices, uplinks: &uplinks };
        each(&whole("allow_interfaces"), &path.allow_interfaces, |name| {
            unusable(name, host, "it is always allowed, so remove it")
                .or_else(|| known.leads_out(name))
        })?;
        let entrances = path.workload.interfaces();
        if !entrances.is_empty() {
            let list = whole("workload").fields(SCOPED)?.need("interfaces")?;
            each(&list, entrances, |name| {
                let remedy = "name the device by which the workload enters, such as its bridge";
                unusable(name, host, remedy)
                    .or_else(|| known.is_uplink(name, Problem::WorkloadIsUplink))
                    .or_else(|| known.is_port(name))
            })?;
        }
    }
    Ok(())
}

/// The first objection to an item of a list, at its place.
fn each(
    list: &Cursor<'_>,
    names: &[String],
    objection: impl Fn(&str) -> Option<Problem>,
) -> Result<(), ConfigError> {
    for (nth, name) in names.iter().enumerate() {
        if let Some(problem) = objection(name) {
            let items = list.items().unwrap_or_default();
            return Err(items.get(nth).unwrap_or(list).error(problem));
        }
    }
    Ok(())
}

fn named<'a>(name: &str, host: &Host<'a>) -> Option<&'a HostDevice> {
    host.devices.iter().find(|device| device.name == name)
}

/// The loopback device under another name, or a name that no rule would match.
fn unusable(name: &str, host: &Host<'_>, remedy: &'static str) -> Option<Problem> {
    if named(name, host).is_some_and(|device| device.is_loopback) {
        return Some(Problem::Loopback(remedy));
    }
    let by_other_name = |device: &&HostDevice| device.alternative_names.iter().any(|it| it == name);
    let device = host.devices.iter().find(by_other_name)?;
    Some(Problem::AlternativeName(name.to_owned(), device.name.clone()))
}

fn check_tunnel(at: &Cursor<'_>, path: &PathConfig, host: &Host<'_>) -> Result<(), ConfigError> {
    let name = &path.interface;
    if let Some(problem) = unusable(name, host, "name the WireGuard device, such as `wg0`") {
        return Err(at.error(problem));
    }
    let Some(device) = named(name, host) else { return Ok(()) };
    if device.is_kind(&["wireguard"]) || device.is_userspace_wireguard {
        return Ok(());
    }
    let kind = device.kind.clone().unwrap_or_else(|| "hardware".to_owned());
    Err(at.error(Problem::NotWireguard(name.clone(), kind)))
}

/// Those that are listed, and those that routing shows.
fn uplinks(path: &PathConfig, host: &Host<'_>) -> Result<Vec<String>, String> {
    let mut uplinks = match &path.uplinks {
        Uplinks::Named(names) => names.clone(),
        Uplinks::Auto => Vec::new(),
    };
    uplinks.extend((host.uplinks)(path)?);
    Ok(uplinks)
}

/// How devices depend on each other, and which of them are uplinks.
struct Topology<'a> {
    devices: &'a [HostDevice],
    uplinks: &'a [String],
}

impl<'a> Topology<'a> {
    fn by_index(&self, index: u32) -> Option<&'a HostDevice> {
        self.devices.iter().find(|device| device.index == index)
    }

    fn is_uplink(&self, name: &str, problem: fn(String) -> Problem) -> Option<Problem> {
        let is_uplink = self.uplinks.iter().any(|uplink| uplink == name);
        is_uplink.then(|| problem(name.to_owned()))
    }

    fn leads_out(&self, name: &str) -> Option<Problem> {
        self.is_uplink(name, Problem::AllowedIsUplink).or_else(|| {
            let leads_out_by = |uplink: &&String| self.way_out(uplink).contains(name);
            let uplink = self.uplinks.iter().find(leads_out_by)?;
            Some(Problem::AllowedLeadsOut(name.to_owned(), uplink.clone()))
        })
    }

    /// Traffic of a bridge's or bond's port enters by the bridge or bond.
    fn is_port(&self, name: &str) -> Option<Problem> {
        let device = self.devices.iter().find(|device| device.name == name)?;
        let master = self.by_index(device.master?).filter(|master| !master.is_kind(&[VRF]))?;
        Some(Problem::WorkloadIsPort(name.to_owned(), master.name.clone()))
    }

    /// All devices whose packets leave the host where those of `uplink` do.
    fn way_out(&self, uplink: &str) -> BTreeSet<&'a str> {
        let start = self.devices.iter().find(|device| device.name == uplink);
        let link = closure(start.into_iter().collect(), |device| self.on_the_same_link(device));
        let below = closure(link, |device| self.below(device));
        below.into_iter().map(|device| device.name.as_str()).collect()
    }

    fn on_the_same_link(&self, device: &HostDevice) -> Vec<&'a HostDevice> {
        if device.is_kind(&[VRF]) {
            return Vec::new();
        }
        let carried = |other: &HostDevice| {
            other.is_kind(&ON_THE_SAME_LINK) && other.parent == Some(device.index)
        };
        let own_parent = device.parent.filter(|_| device.is_kind(&ON_THE_SAME_LINK));
        let up = self.devices.iter().filter(|other| {
            device.master == Some(other.index) || own_parent == Some(other.index) || carried(other)
        });
        up.chain(self.ports(device)).collect()
    }

    fn below(&self, device: &HostDevice) -> Vec<&'a HostDevice> {
        let parent = device.parent.filter(|_| !device.is_kind(&[VETH]));
        let parent = parent.and_then(|index| self.by_index(index));
        self.ports(device).chain(parent).collect()
    }

    fn ports(&self, device: &HostDevice) -> impl Iterator<Item = &'a HostDevice> {
        let index = (!device.is_kind(&[VRF])).then_some(device.index);
        self.devices.iter().filter(move |other| index.is_some() && other.master == index)
    }
}

/// All that `next` leads to.
fn closure<'a>(
    mut found: Vec<&'a HostDevice>,
    next: impl Fn(&HostDevice) -> Vec<&'a HostDevice>,
) -> Vec<&'a HostDevice> {
    let mut nth = 0;
    while let Some(device) = found.get(nth) {
        for other in next(device) {
            if !found.iter().any(|known| known.index == other.index) {
                found.push(other);
            }
        }
        nth += 1;
    }
    found
}
