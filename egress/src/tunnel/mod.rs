//! What a path's tunnel is beside its keys and its peer: the device, its addresses, and the routing
//! that leads into it. Seen, planned, made and taken down here; who asks for it, and when, is not.
//!
//! Must never touch what another made: what is there and routes right is used, what is there and
//! routes wrong is told.

mod inside;
mod link;
mod make;
mod plan;
mod routing;
mod rules;
mod way;

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::config::{PathConfig, Workload};
use crate::firewall::NftError;
use crate::mark::Mark;
use crate::netns::{Netns, NetnsError};
use crate::users::UserRange;

pub use inside::is_whole;
pub use link::{Link, has_ipv6, maker, mtu};
pub use make::{Implementation, clear_way, implementation, make, make_device, take_down};
pub use plan::{Piece, Plan, plan};
pub use way::{Wrong, wrong_way};

/// What a tunnel's packet carries around it, over IPv6.
pub const OVERHEAD: u16 = 80;

/// Of an ordinary uplink, less what a tunnel's packet carries.
pub const USUAL_MTU: u16 = 1420;

#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("ip could not be run: install iproute2, or see that it is in PATH")]
    NoIp(#[source] crate::process::RunError),
    #[error("ip refused `{command}`: {said}")]
    Refused { command: String, said: String },
    #[error("the routing of this host could not be read")]
    Routing(#[source] std::io::Error),
    #[error(
        "this kernel has no WireGuard, and no userspace one is in PATH: install wireguard-go (or \
         boringtun), or load the kernel's module `wireguard`"
    )]
    NoImplementation,
    #[error(
        "{program} could not make interface {interface} ({said}): see that /dev/net/tun is there, \
         and what `LOG_LEVEL=verbose {program} --foreground {interface}` says"
    )]
    Userspace { program: String, interface: String, said: String },
    #[error(
        "{name} could not be set to {value}: set it on the host; a container needs it from outside \
         (docker: --sysctl)"
    )]
    Sysctl {
        name: String,
        value: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the devices of this host cannot be listed")]
    Devices(#[source] std::io::Error),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Wall(#[from] NftError),
    #[error("the devices of network namespace {0} cannot be listed")]
    DevicesInside(Netns, #[source] std::io::Error),
    /// Somebody else's, and in the way.
    #[error("{0}")]
    InTheWay(String),
}

/// Whose packets go into the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selector {
    /// All but those with the tunnel's own mark.
    Host,
    /// Those with this in their mark.
    Marked(Mark),
    /// Those of these users.
    Users(Vec<UserRange>),
    /// What is in the network namespace that the device is moved to.
    Netns(Netns),
}

/// A tunnel as it is to be. Holds no key; kept in state, so that it is made again as converged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    pub interface: String,
    /// This host's; none where the config names none.
    pub addresses: Vec<IpNet>,
    pub mtu: u16,
    /// Of the tunnel's own packets; the routing table has this number too.
    pub fwmark: u32,
    pub selector: Selector,
    /// Of packets of `users`: they are marked once they are routed, and then routed again without
    /// their user. Empty in a state file of before this was kept.
    #[serde(default)]
    pub workload_mark: Mark,
    /// What leads into it.
    pub routes: Vec<IpNet>,
}

/// Who made something of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Us,
    Others,
}

/// What the last converge made, or took over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroughtUp {
    pub tunnel: Tunnel,
    pub device: By,
    pub routing: By,
    /// The digest of the wall inside the network namespace, as it was read back after its load.
    #[serde(default)]
    pub wall: Option<String>,
}

impl Tunnel {
    /// As the config has it; `mtu` is that of the uplink, less [`OVERHEAD`], where the config and
    /// the provider's files name none.
    pub fn of(path: &PathConfig, mtu: u16) -> Self {
        let named = path.endpoints.iter().find(|one| !one.tunnel_addresses.is_empty());
        let addresses = named.map(|one| one.tunnel_addresses.clone()).unwrap_or_default();
        // A failover changes no route, so there are those of all endpoints.
        let all: Vec<IpNet> =
            path.endpoints.iter().flat_map(|one| one.allowed_ips.iter().copied()).collect();
        let files = path.endpoints.iter().filter_map(|one| one.mtu).min();
        Self {
            interface: path.interface.clone(),
            addresses: Vec::new(),
            mtu: path.mtu.or(files).unwrap_or(mtu),
            fwmark: path.fwmark,
            selector: match &path.workload {
                Workload::Host => Selector::Host,
                Workload::Interfaces(_) | Workload::Cgroups(_) => {
                    Selector::Marked(path.workload_mark)
                }
                Workload::Users(users) => Selector::Users(users.clone()),
                Workload::Netns(netns) => Selector::Netns(netns.clone()),
            },
            workload_mark: match &path.workload {
                Workload::Users(_) => path.workload_mark,
                _ => Mark::default(),
            },
            routes: IpNet::aggregate(&all),
        }
        .with_addresses(addresses)
    }

    /// With these addresses. Where a family has none, nothing of it leads into the tunnel.
    fn with_addresses(mut self, addresses: Vec<IpNet>) -> Self {
        let has = |family| addresses.iter().any(|net| Family::of(net.addr()) == family);
        if !addresses.is_empty() {
            self.routes.retain(|net| has(Family::of(net.addr())));
        }
        self.addresses = addresses;
        self
    }

    /// What a host without IPv6 can have of it.
    #[must_use]
    pub fn without_ipv6(self) -> Self {
        let v4 = self.addresses.iter().filter(|net| net.addr().is_ipv4()).copied().collect();
        self.with_addresses(v4)
    }

    /// The number of the routing table that leads into the tunnel: the mark's, as with wg-quick; in
    /// a namespace of its own the main one.
    pub fn table(&self) -> u32 {
        /// `RT_TABLE_MAIN` of `linux/rtnetlink.h`.
        const MAIN: u32 = 254;
        if self.netns().is_some() { MAIN } else { self.fwmark }
    }

    fn families(&self) -> impl Iterator<Item = Family> + '_ {
        [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| self.routes.iter().any(|net| Family::of(net.addr()) == *family))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As `ip` takes it.
    fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    fn all(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::default()),
            Self::V6 => IpNet::V6(Ipv6Net::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_without_an_address_leads_nowhere() {
        let nets = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().expect("a net")).collect()
        };
        let tunnel = Tunnel {
            interface: "wg0".to_owned(),
            addresses: Vec::new(),
            mtu: USUAL_MTU,
            fwmark: 0xca6c,
            selector: Selector::Host,
            workload_mark: Mark::default(),
            routes: nets(&["0.0.0.0/0", "::/0"]),
        };
        let both = tunnel.clone().with_addresses(nets(&["10.64.0.2/32", "fd00::2/128"]));
        assert_eq!(both.families().collect::<Vec<_>>(), [Family::V4, Family::V6]);
        let v4 = both.without_ipv6();
        assert_eq!((v4.addresses, v4.routes), (nets(&["10.64.0.2/32"]), nets(&["0.0.0.0/0"])));
        let v6 = tunnel.with_addresses(nets(&["fd00::2/128"]));
        assert_eq!(v6.routes, nets(&["::/0"]));
    }
}
