//! Which devices the watch is attached to: every one that a packet can leave by, by exclusion. What
//! a list of uplinks forgets (a second card, the next hop of a multipath route, the port below a
//! bridge) would be a way out that nobody watches.
//!
//! Left out are loopback, the paths' own tunnels, `allow_interfaces` of every path, and the workloads'
//! own interfaces, each with the ports below them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::links::{Link, MacAddress};
use crate::names::PathName;
use crate::probe::uplink::Device;

/// Devices that carry frames of their own upper devices, under addresses of these.
const STACKED: [&str; 5] = ["vlan", "macvlan", "ipvlan", "macsec", "bond"];

/// A device and what the watch has to know of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Covered {
    #[serde(flatten)]
    pub device: Device,
    pub role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A workload enters by it: what comes in is marked.
    Entrance,
    /// This host alone sends by it.
    Host,
    /// An Ethernet device on which other machines' frames may leave as well: macvlan guests in other
    /// namespaces. A frame is this host's where it has one of these addresses, or a socket here.
    Shared { own: Vec<MacAddress> },
    /// The parent of a macvtap: a virtual machine's frames have a socket here too.
    Guests { own: Vec<MacAddress> },
    /// A bridge's port. What this host sends by the bridge is judged there; here it is what a socket sends
    /// by the port itself. A reset that the kernel makes for a bridged packet leaves by the port alone.
    Port { own: Vec<MacAddress> },
}

/// What of the rules decides which devices are covered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    tunnels: BTreeSet<String>,
    entrances: BTreeSet<String>,
    /// `allow_interfaces` of each path.
    allowed: BTreeMap<PathName, Vec<String>>,
}

impl Basis {
    pub fn of(paths: &[Rules]) -> Self {
        let allowed = |path: &Rules| (path.name.clone(), path.allow_interfaces.clone());
        Self {
            tunnels: paths.iter().map(|path| path.interface.clone()).collect(),
            entrances: paths.iter().flat_map(|path| path.workload.interfaces()).cloned().collect(),
            allowed: paths.iter().map(allowed).collect(),
        }
    }
}

/// All that the watch has to know of the devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    basis: Basis,
    pub devices: Vec<Covered>,
    /// By path, where there are several: devices that this one may use and another may not.
    pub allowed: BTreeMap<PathName, Vec<String>>,
}

impl Coverage {
    /// What has to be covered of these devices.
    pub fn of(basis: Basis, links: &[Link]) -> Self {
        let several = basis.allowed.len() > 1;
        let own = basis.allowed.iter().filter(|(_, names)| several && !names.is_empty());
        let allowed = own.map(|(path, names)| (path.clone(), with_ports(names, links))).collect();
        Self { devices: covered(&basis, links), allowed, basis }
    }

    /// The same of other devices: those of now.
    #[must_use]
    pub fn wanted(&self, links: &[Link]) -> Self {
        Self::of(self.basis.clone(), links)
    }

    /// Whether both were made from the same rules.
    pub fn has_basis_of(&self, other: &Self) -> bool {
        self.basis == other.basis
    }

    pub fn covers(&self, covered: &Covered) -> bool {
        self.devices.contains(covered)
    }
}

/// The devices to cover, in the order of their names.
fn covered(basis: &Basis, links: &[Link]) -> Vec<Covered> {
    let excluded = excluded(basis, links);
    let cover = |link: &Link| {
        let entrance = basis.entrances.contains(&link.name);
        // What a macvtap sends is a virtual machine's, and meets the watch at the device below.
        if !entrance && (excluded.contains(&link.index) || link.is("macvtap")) {
            return None;
        }
        let device = Device { name: link.name.clone(), index: link.index };
        Some(Covered { device, role: if entrance { Role::Entrance } else { role(link, links) } })
    };
    let mut covered: Vec<Covered> = links.iter().filter_map(cover).collect();
    covered.sort();
    covered
}

fn role(link: &Link, links: &[Link]) -> Role {
    if link.address.is_none() {
        return Role::Host;
    }
    let own = own_addresses(link, links);
    let is_port = link
        .master
        .and_then(|master| links.iter().find(|one| one.index == master))
        .is_some_and(|master| master.is("bridge"));
    let carries_taps = links.iter().any(|one| one.is("macvtap") && one.lower == Some(link.index));
    if is_port {
        Role::Port { own }
    } else if carries_taps {
        Role::Guests { own }
    } else {
        Role::Shared { own }
    }
}

/// The addresses that this host's own frames have on a device: its own, that of the bridge or bond
/// it is a port of, and those of the devices stacked on either.
fn own_addresses(link: &Link, links: &[Link]) -> Vec<MacAddress> {
    let mut above = BTreeSet::from([link.index]);
    loop {
        let known = above.len();
        for one in links {
            if above.contains(&one.index) {
                above.extend(one.master);
            }
            let stacked = one.kind.as_deref().is_some_and(|kind| STACKED.contains(&kind));
            if stacked && one.lower.is_some_and(|lower| above.contains(&lower)) {
                above.insert(one.index);
            }
        }
        if above.len() == known {
            break;
        }
    }
    let address = |one: &Link| one.address.filter(|_| above.contains(&one.index));
    links.iter().filter_map(address).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The indices of the devices that need no cover.
fn excluded(basis: &Basis, links: &[Link]) -> BTreeSet<u32> {
    let allowed = |link: &Link| {
        let mut lists = basis.allowed.values();
        !basis.allowed.is_empty() && lists.all(|names| names.contains(&link.name))
    };
    let is_inside = |link: &&Link| allowed(link) || basis.entrances.contains(&link.name);
    let inside: BTreeSet<u32> = links.iter().filter(is_inside).map(|link| link.index).collect();
    let is_excluded = |link: &&Link| {
        link.name == "lo"
            || basis.tunnels.contains(&link.name)
            || inside.contains(&link.index)
            || link.master.is_some_and(|master| inside.contains(&master))
    };
    links.iter().filter(is_excluded).map(|link| link.index).collect()
}

/// These devices, and the ports of those that are bridges.
fn with_ports(names: &[String], links: &[Link]) -> Vec<String> {
    let listed = links.iter().filter(|link| names.contains(&link.name));
    let inside: BTreeSet<u32> = listed.map(|link| link.index).collect();
    let is_port = |link: &&Link| link.master.is_some_and(|master| inside.contains(&master));
    let ports = links.iter().filter(is_port).map(|link| link.name.clone());
    names.iter().cloned().chain(ports).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            name: name.to_owned(),
            index,
            kind: (!kind.is_empty()).then(|| kind.to_owned()),
            address: Some(MacAddress([2, 0, 0, 0, 0, u8::try_from(index).expect("small")])),
            ..Link::default()
        }
    }

    fn path(lines: &serde_json::Value) -> Rules {
        let mut json = serde_json::json!({
            "name": "media", "interface": "wg0", "fwmark": 0xca6c, "dns": "refuse",
            "allow_interfaces": [], "allow": [], "management": [], "ntp": [], "endpoints": [],
            "identities": "",
        });
        json.as_object_mut().expect("a map").extend(lines.as_object().expect("a map").clone());
        serde_json::from_value(json).expect("rules")
    }

    fn roles(paths: &[Rules], links: &[Link]) -> Vec<(String, Role)> {
        covered(&Basis::of(paths), links)
            .into_iter()
            .map(|one| (one.device.name, one.role))
            .collect()
    }

    fn macs(indices: &[u8]) -> Vec<MacAddress> {
        indices.iter().map(|last| MacAddress([2, 0, 0, 0, 0, *last])).collect()
    }

    #[test]
    fn s1_every_device_is_covered_but_those_that_are_named() {
        let mut lo = link(1, "lo", "");
        lo.address = None;
        let mut tun = link(4, "tailscale0", "tun");
        tun.address = None;
        let links = [
            lo,
            link(2, "eth0", ""),
            link(3, "eth1", ""),
            tun,
            Link { address: None, ..link(5, "wg0", "wireguard") },
            link(6, "docker0", "bridge"),
            Link { master: Some(6), ..link(7, "veth7", "veth") },
        ];
        let path = path(&serde_json::json!({"allow_interfaces": ["docker0"]}));
        assert_eq!(
            roles(std::slice::from_ref(&path), &links),
            [
                ("eth0".to_owned(), Role::Shared { own: macs(&[2]) }),
                ("eth1".to_owned(), Role::Shared { own: macs(&[3]) }),
                ("tailscale0".to_owned(), Role::Host),
            ]
        );
        assert_eq!(with_ports(&path.allow_interfaces, &links), ["docker0", "veth7"]);
    }

    #[test]
    fn s1_a_port_below_a_bridge_is_covered_and_guests_are_not_the_hosts() {
        let links = [
            Link { master: Some(9), ..link(2, "eth0", "") },
            link(9, "br0", "bridge"),
            Link { lower: Some(9), ..link(10, "br0.7", "vlan") },
            link(3, "eth1", ""),
            Link { lower: Some(3), ..link(11, "macvtap0", "macvtap") },
        ];
        assert_eq!(
            roles(&[path(&serde_json::json!({}))], &links),
            [
                ("br0".to_owned(), Role::Shared { own: macs(&[9, 10]) }),
                ("br0.7".to_owned(), Role::Shared { own: macs(&[10]) }),
                ("eth0".to_owned(), Role::Port { own: macs(&[2, 9, 10]) }),
                ("eth1".to_owned(), Role::Guests { own: macs(&[3]) }),
            ]
        );
    }

    #[test]
    fn a_workloads_bridge_is_an_entrance_and_its_ports_are_inside() {
        let links = [
            link(2, "eth0", ""),
            link(6, "br-work", "bridge"),
            Link { master: Some(6), ..link(7, "veth7", "veth") },
        ];
        let workload = serde_json::json!({"workload": {"interfaces": ["br-work"]}});
        let found = roles(&[path(&workload)], &links);
        assert_eq!(found[0], ("br-work".to_owned(), Role::Entrance));
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
