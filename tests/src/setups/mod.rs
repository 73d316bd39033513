//! The third axis of the leak matrix: what surrounds the host under test. A set-up builds on the
//! plain world, says by which links the host can send then, and what must work besides.

mod bench;
mod cards;
mod foreign;
mod guests;
pub mod links;
mod moment;
mod stacked;
pub mod volley;
mod workload;

use std::net::{IpAddr, Ipv4Addr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::addresses::{
    EGRESS, EGRESS_V6, Endpoint, ROUTER, ROUTER_V6, TUNNEL_CLIENT, UPLINK, WORLD, WORLD_HOLE,
    WORLD_HOLE_V6, WORLD_V6,
};
use crate::process::Process;
use crate::wireguard::Device;
use crate::world::World;
use links::Port;

pub use bench::{Bench, Cell, Control};
pub use moment::Moment;
pub use workload::Scope;

/// What this machine's kernel cannot make; a run says so, and it is run under User-Mode Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotHere(pub String);

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Setup {
    Plain,
    SecondCard,
    ResolverDnat,
    ForeignMark,
    Multipath,
    Ipv6Only,
    OtherTable,
    DualWan,
    DualWanWiping,
    BridgeUplink,
    Bond,
    Vlan,
    Pppoe,
    MacvlanGuest,
    Macvtap,
    BridgedVm,
    Docker,
    Tailscale,
    Networkd,
}

impl Setup {
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::SecondCard => "second card, its own table and rule",
            Self::ResolverDnat => "output DNAT to a LAN resolver",
            Self::ForeignMark => "foreign `type route` mark and rule",
            Self::Multipath => "multipath default route",
            Self::Ipv6Only => "IPv6-only uplink",
            Self::OtherTable => "default route in another table only",
            Self::DualWan => "dual WAN, CONNMARK",
            Self::DualWanWiping => "dual WAN, CONNMARK that wipes marks",
            Self::BridgeUplink => "bridge as uplink",
            Self::Bond => "bond as uplink",
            Self::Vlan => "VLAN as uplink",
            Self::Pppoe => "PPPoE as uplink",
            Self::MacvlanGuest => "macvlan guest on the uplink",
            Self::Macvtap => "macvtap VM on the uplink",
            Self::BridgedVm => "bridged VM, br_netfilter",
            Self::Docker => "Docker 29-like tables",
            Self::Tailscale => "Tailscale-like device and table",
            Self::Networkd => "systemd-networkd removes foreign rules",
        }
    }

    /// Builds it on a plain world without a tunnel.
    ///
    /// # Errors
    ///
    /// This kernel or machine lacks what it takes.
    pub fn build(self, world: &mut World) -> Result<Surroundings, NotHere> {
        match self {
            Self::Plain => Ok(Surroundings::plain()),
            Self::SecondCard => Ok(cards::second_card(world)),
            Self::ResolverDnat => Ok(cards::resolver_dnat(world)),
            Self::Multipath => Ok(cards::multipath(world)),
            Self::Ipv6Only => Ok(cards::ipv6_only(world)),
            Self::OtherTable => Ok(cards::other_table(world)),
            Self::DualWan => Ok(cards::dual_wan(world, cards::Restore::WhereSet)),
            Self::DualWanWiping => Ok(cards::dual_wan(world, cards::Restore::Always)),
            Self::BridgeUplink => Ok(stacked::bridge(world)),
            Self::Bond => stacked::bond(world),
            Self::Vlan => stacked::vlan(world),
            Self::Pppoe => stacked::pppoe(world),
            Self::MacvlanGuest => guests::macvlan(world, "macvlan"),
            Self::Macvtap => guests::macvlan(world, "macvtap"),
            Self::BridgedVm => guests::bridged_vm(world),
            Self::ForeignMark => Ok(foreign::mark(world)),
            Self::Docker => Ok(foreign::docker(world)),
            Self::Tailscale => Ok(foreign::tailscale(world)),
            Self::Networkd => Ok(foreign::networkd()),
        }
    }
}

/// By which families the uplink works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    Both,
    V6,
}

/// What works through the tunnel in a set-up, besides being locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    All,
    /// Names are diverted by the set-up itself.
    AllButNames,
    /// The set-up breaks the tunnel for every VPN; `validate` has to say so.
    Nothing,
}

/// A host's surroundings, and what a measurement has to know of them.
pub struct Surroundings {
    /// The far ends of every link by which the host can send.
    pub ports: Vec<Port>,
    /// The host's devices that a program may bind to.
    pub devices: Vec<String>,
    /// The host's addresses that a program may send from.
    pub sources: Vec<IpAddr>,
    /// Besides the world's.
    pub targets: Vec<IpAddr>,
    /// The host's addresses on its links, at which a stranger may knock.
    pub knocked: Vec<IpAddr>,
    pub families: Families,
    pub carried: Carried,
    /// Whether [`crate::Ns::Guest`] is another machine that sends by the host's link.
    pub guest: Option<Guest>,
    /// Lines of the config.
    pub path_lines: Vec<String>,
    /// Done before each volley under the lock.
    pub disturbance: Option<fn(&World)>,
    pub(crate) processes: Vec<Process>,
    pub(crate) tunnels: Vec<Device>,
}

/// Another machine that this host carries; it is not locked, cut or counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    pub address: Ipv4Addr,
}

impl Surroundings {
    fn plain() -> Self {
        Self {
            ports: vec![Port::of_router("lan")],
            devices: vec![UPLINK.to_owned()],
            sources: vec![TUNNEL_CLIENT.into(), EGRESS.into(), EGRESS_V6.into()],
            targets: vec![ROUTER.into(), ROUTER_V6.into()],
            knocked: vec![EGRESS.into(), EGRESS_V6.into()],
            families: Families::Both,
            carried: Carried::All,
            guest: None,
            path_lines: Vec::new(),
            disturbance: None,
            processes: Vec::new(),
            tunnels: Vec::new(),
        }
    }

    /// Everything that a volley goes to.
    pub fn all_targets(&self) -> Vec<IpAddr> {
        let world: [IpAddr; 4] =
            [WORLD.into(), WORLD_HOLE.into(), WORLD_V6.into(), WORLD_HOLE_V6.into()];
        let all = world.into_iter().chain(self.targets.iter().copied());
        all.filter(|target| self.has_family(*target)).collect()
    }

    pub fn has_family(&self, address: IpAddr) -> bool {
        self.families == Families::Both || address.is_ipv6()
    }

    /// The server as the world reaches it, and as the config names it.
    pub fn server(&self, endpoint: Endpoint) -> IpAddr {
        match self.families {
            Families::Both => endpoint.address().into(),
            Families::V6 => endpoint.address_v6().into(),
        }
    }
}
