//! Who is who in the world: namespaces, endpoints, exits and their addresses. Documentation
//! prefixes only, so that nothing in the lab can be mistaken for a real host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The tunnel device of the host under test.
pub const TUNNEL: &str = "wg0";
/// The uplink of the host under test.
pub const UPLINK: &str = "eth0";
/// The mark `WireGuard` puts on its own packets, and the policy routing looks for.
pub const FWMARK: &str = "0xca6c";
/// The routing table that holds the default route into the tunnel.
pub const TABLE: &str = "51820";
/// The tunnel of a second path on the host under test, by endpoint B.
pub const SECOND_TUNNEL: &str = "wg1";
pub const SECOND_FWMARK: &str = "0xca6d";
pub const SECOND_TABLE: &str = "51821";
pub const WIREGUARD_PORT: u16 = 51820;
/// Fixed, so that a raw frame can be addressed without asking the neighbour table.
pub const ROUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

pub const EGRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// What the host is called while its uplink has another lease.
pub const EGRESS_RENUMBERED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
pub const EGRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1);
/// Where the host's second uplink goes once it is plugged in.
pub const SECOND_UPLINK: &str = "eth1";
pub const EGRESS_SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
pub const ROUTER_SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
pub const EGRESS_SECOND_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 2);
pub const ROUTER_SECOND_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 1);
pub const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
pub const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0xc, 0, 0, 0, 0x80);
/// A second address of `world`, for holes: a route to it can leave [`WORLD`] in the tunnel.
pub const WORLD_HOLE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 81);
/// The same by IPv6; nobody has it, which the router does not mind.
pub const WORLD_HOLE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0xc, 0, 0, 0, 0x81);
/// Every endpoint gives the client the same address, as the design asks.
pub const TUNNEL_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 2);
pub const TUNNEL_CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, 2);
pub const TUNNEL_SERVER: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
pub const TUNNEL_SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, 1);
/// Where the echo service of `world` listens, on all of its addresses.
pub const ECHO_PORT: u16 = 7007;

/// Where a resolver listens, on [`WORLD`], once a test has started it.
pub const NAMES_PORT: u16 = 53;

pub const ECHO: SocketAddr = SocketAddr::new(IpAddr::V4(WORLD), ECHO_PORT);
pub const NAMES: SocketAddr = SocketAddr::new(IpAddr::V4(WORLD), NAMES_PORT);
pub const ECHO_HOLE: SocketAddr = SocketAddr::new(IpAddr::V4(WORLD_HOLE), ECHO_PORT);
pub const ECHO_V6: SocketAddr = SocketAddr::new(IpAddr::V6(WORLD_V6), ECHO_PORT);

/// A network namespace of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ns {
    /// The host under test.
    Egress,
    /// Its gateway, the outside observer.
    Router,
    VpnA,
    VpnB,
    /// The internet: answers, and says from where it was asked.
    World,
    /// Behind a bridge of the host under test; there once a test has added it.
    Container,
    /// Another machine on the uplink's network: a VM or a macvlan container that this host carries.
    Guest,
    /// In the cable between host and router; there once a test has cut it.
    Wire,
    /// Hosts with a lock of their own, beside the host under test; see [`crate::fleet`].
    Gateway1,
    Gateway2,
    Gateway3,
}

impl Ns {
    /// Those that every world has.
    pub const ALL: [Self; 5] = [Self::Egress, Self::Router, Self::VpnA, Self::VpnB, Self::World];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Router => "router",
            Self::VpnA => "vpn-a",
            Self::VpnB => "vpn-b",
            Self::World => "world",
            Self::Container => "container",
            Self::Guest => "guest",
            Self::Wire => "wire",
            Self::Gateway1 => "gw1",
            Self::Gateway2 => "gw2",
            Self::Gateway3 => "gw3",
        }
    }
}

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One upstream of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    A,
    B,
}

impl Endpoint {
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The name in the config that [`crate::World::write_config`] writes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "primary",
            Self::B => "backup",
        }
    }

    pub const fn ns(self) -> Ns {
        match self {
            Self::A => Ns::VpnA,
            Self::B => Ns::VpnB,
        }
    }

    /// The server's `WireGuard` device; unique, because all namespaces share `/run/wireguard`.
    pub const fn device(self) -> &'static str {
        match self {
            Self::A => "wga",
            Self::B => "wgb",
        }
    }

    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::A => Ipv4Addr::new(198, 51, 100, 10),
            Self::B => Ipv4Addr::new(203, 0, 113, 10),
        }
    }

    pub const fn address_v6(self) -> Ipv6Addr {
        let net = match self {
            Self::A => 0xa,
            Self::B => 0xb,
        };
        Ipv6Addr::new(0xfd00, 0, 0, net, 0, 0, 0, 0x10)
    }

    pub const fn socket(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address()), WIREGUARD_PORT)
    }
}

/// By which way a packet reached `world`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    A,
    B,
    /// From the host's own address: outside the tunnel.
    Direct,
}

impl Exit {
    /// The exit that belongs to the source address `world` saw.
    pub fn from_source(source: IpAddr) -> Option<Self> {
        let of = |v4: Ipv4Addr, v6: Ipv6Addr| source == IpAddr::V4(v4) || source == IpAddr::V6(v6);
        if of(Endpoint::A.address(), Endpoint::A.address_v6()) {
            Some(Self::A)
        } else if of(Endpoint::B.address(), Endpoint::B.address_v6()) {
            Some(Self::B)
        } else if of(EGRESS, EGRESS_V6) {
            Some(Self::Direct)
        } else {
            None
        }
    }
}

impl From<Endpoint> for Exit {
    fn from(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::A => Self::A,
            Endpoint::B => Self::B,
        }
    }
}
