//! The configuration, read whole and checked whole before anything acts on it.
//!
//! Must never guess: what is unknown, ambiguous or contradictory is an error that names the file,
//! the line and the mend. Must never print a key, not even one that stands in the wrong place (S10).

mod check;
mod credential;
mod cursor;
mod error;
mod health;
pub mod ids;
mod keyfile;
mod nearest;
mod on_host;
mod provider;
mod read;
mod server;
mod shown;
mod span;
#[cfg(test)]
mod tests;
mod value;
mod watchdog;
mod wg_quick;
mod workload;
mod yaml;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::key::{PublicKey, SecretKey};
use crate::mark::Mark;
use crate::names::{EndpointName, PathName};
use crate::netns::Netns;
use crate::users::UserRange;

pub use error::{ConfigError, Place, Problem, TunnelAddresses};
pub use health::{DnsName, FailoverTo, Health, ProbeInterval, Question, TunnelProbe};
pub use on_host::{Host, HostDevice};
pub use provider::Provider;
pub use server::{Lookup, NoAddress};
pub use shown::Shown;
pub use watchdog::{Watchdog, WhenSilent};

/// Where both programs look when they are not told otherwise.
pub const DEFAULT_FILE: &str = "/etc/vpn-egress/egress.yml";

/// All paths of this host; at least one.
#[derive(Debug, Clone)]
pub struct Config {
    /// What alerts call this host, where they name one.
    pub host: String,
    pub paths: Vec<PathConfig>,
    pub ids: ids::Ids,
    pub watchdog: Option<Watchdog>,
    /// All that was read for it: while none of these changes, it says the same.
    pub files: Vec<PathBuf>,
}

/// One locked egress: one tunnel interface, its uplinks, its endpoints, its workload.
#[derive(Debug, Clone)]
pub struct PathConfig {
    pub name: PathName,
    /// The tunnel device.
    pub interface: String,
    /// Who makes the device and its routing.
    pub bring_up: BringUp,
    /// Of the device; `None`: by the provider's files, else by the uplink.
    pub mtu: Option<u16>,
    /// The tunnel devices of all paths: none of them is an uplink of any.
    pub tunnels: Vec<String>,
    pub uplinks: Uplinks,
    /// The mark of the tunnel's own packets; never 0.
    pub fwmark: u32,
    pub workload: Workload,
    /// What of a packet's mark says: of this path's workload. Of no meaning for `host`.
    pub workload_mark: Mark,
    /// Resolvers on this host that a scoped workload may ask: they must be locked in themselves.
    pub resolvers: Vec<IpAddr>,
    /// Who may open connections to this host, also during a hard stop.
    pub management: Vec<IpNet>,
    /// Local bridges that are no uplinks.
    pub allow_interfaces: Vec<String>,
    /// What may be reached outside the tunnel; never everything.
    pub allow: Vec<IpNet>,
    pub dns: DnsPolicy,
    /// Time servers that may be asked outside the tunnel.
    pub ntp: Vec<IpAddr>,
    /// At least one; the first is the primary.
    pub endpoints: Vec<Endpoint>,
    pub health: Health,
}

/// Who makes the tunnel's device, its addresses and its routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BringUp {
    /// `converge` makes what is missing, and takes over what others made.
    Auto,
    /// Somebody else.
    Off,
}

/// The devices that the tunnel's own packets leave by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplinks {
    /// Those that the kernel's routing shows.
    Auto,
    /// These and no others; at least one.
    Named(Vec<String>),
}

/// What is locked in.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// The host's own traffic and all that it forwards.
    #[default]
    Host,
    /// What enters by these devices; the host itself stays free.
    Interfaces(Vec<String>),
    /// Sockets made in these cgroups, by their path below `/sys/fs/cgroup`.
    Cgroups(Vec<String>),
    /// Sockets of these users.
    Users(Vec<UserRange>),
    /// What runs in this network namespace, whose only way out is the tunnel.
    Netns(Netns),
}

impl Workload {
    /// How many walls hold it: the watch cannot see by itself which cgroup a packet is from.
    pub fn walls(&self) -> u8 {
        match self {
            // A namespace has no other way out, and its own wall is the second.
            Self::Host | Self::Interfaces(_) | Self::Users(_) | Self::Netns(_) => 2,
            Self::Cgroups(_) => 1,
        }
    }

    /// What its users may send as without being locked in, each as a sentence for people.
    pub fn subordinate_ids_left_out(&self) -> Vec<String> {
        match self {
            Self::Users(users) => crate::users::left_out(users),
            _ => Vec::new(),
        }
    }

    /// The network namespace that the workload and the tunnel's device are in, where it is not ours.
    pub fn netns(&self) -> Option<&Netns> {
        match self {
            Self::Netns(netns) => Some(netns),
            _ => None,
        }
    }

    /// The devices by which the workload enters, where it does.
    pub fn interfaces(&self) -> &[String] {
        match self {
            Self::Interfaces(names) => names,
            _ => &[],
        }
    }
}

/// DNS (53, 853) to the allow-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsPolicy {
    Refuse,
    Allow,
}

/// One upstream of a path.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub name: EndpointName,
    /// Where it is written as a hostname: what that is pinned to.
    pub address: SocketAddr,
    pub hostname: Option<String>,
    pub public_key: PublicKey,
    pub private_key: SecretKey,
    pub preshared_key: Option<SecretKey>,
    pub allowed_ips: Vec<IpNet>,
    /// Seconds, never 0: without keepalives an idle tunnel makes no handshakes, and their age
    /// would say nothing.
    pub persistent_keepalive: u16,
    /// The addresses of this host inside the tunnel; empty where an inline endpoint names none.
    pub tunnel_addresses: Vec<IpNet>,
    /// As the provider's file says.
    pub mtu: Option<u16>,
    /// How often it is asked beside the tunnel; `None`: as often as the path says.
    pub probe_interval: Option<ProbeInterval>,
}

impl Endpoint {
    /// Whether both are the same peer to a server: a handshake with the one moves the other's
    /// tunnel to wherever it was made from.
    pub fn is_same_peer(&self, other: &Self) -> bool {
        self.public_key == other.public_key
            && self.private_key.public() == other.private_key.public()
    }
}

impl Config {
    /// Reads and checks the file and every key file it names. Changes nothing. A hostname is an
    /// error: see [`Config::load_with`].
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::load_with(file, &|_, _| Err(NoAddress::NotPinned))
    }

    /// The same; hostnames stand for what `lookup` says.
    pub fn load_with(file: &Path, lookup: &Lookup<'_>) -> Result<Self, ConfigError> {
        read::config(&yaml::Source::read(file)?, read::Ask::Nothing, lookup)
    }

    /// The same, and the devices that it names must be, on this host, what they are named for: an
    /// uplink must not stand where it would open the lock.
    pub fn load_for_validate(
        file: &Path,
        lookup: &Lookup<'_>,
        host: &Host<'_>,
    ) -> Result<Self, ConfigError> {
        read::config(&yaml::Source::read(file)?, read::Ask::Devices(host), lookup)
    }

    /// The same, and every cgroup it names must exist: for the moment of a converge.
    pub fn load_for_converge(
        file: &Path,
        lookup: &Lookup<'_>,
        host: &Host<'_>,
    ) -> Result<Self, ConfigError> {
        read::config(&yaml::Source::read(file)?, read::Ask::DevicesAndCgroups(host), lookup)
    }

    /// What `text` would mean in `file`, whatever its hostnames stand for.
    pub fn of_text(file: &Path, text: String) -> Result<Self, ConfigError> {
        let known = std::cell::RefCell::new(Vec::<String>::new());
        // One address for each name: two endpoints may differ in nothing else.
        let lookup = |_: &PathName, host: &str| {
            let mut known = known.borrow_mut();
            let nth = known.iter().position(|one| one == host).unwrap_or_else(|| {
                known.push(host.to_owned());
                known.len() - 1
            });
            let nth = u16::try_from(nth).unwrap_or(u16::MAX).to_be_bytes();
            Ok(IpAddr::from([198, 18, nth[0], nth[1]]))
        };
        let source = yaml::Source::of(file, text);
        read::config(&source, read::Ask::Nothing, &lookup)
    }

    /// Whether some path lets this host reach `address` outside the tunnel.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.paths.iter().flat_map(|path| &path.allow).any(|net| net.contains(&address))
    }

    pub fn path(&self, name: &str) -> Option<&PathConfig> {
        self.paths.iter().find(|path| path.name.as_str() == name)
    }
}

impl PathConfig {
    /// The first endpoint listed.
    pub fn primary(&self) -> &Endpoint {
        &self.endpoints[0]
    }

    pub fn endpoint(&self, name: &EndpointName) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name == *name)
    }

    /// How often the endpoint is asked beside the tunnel.
    pub fn probe_interval(&self, endpoint: &Endpoint) -> ProbeInterval {
        endpoint.probe_interval.unwrap_or(self.health.standby_interval)
    }

    /// Where in the list, counted from 0, the endpoint stands.
    pub fn position(&self, name: &EndpointName) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.name == *name)
    }
}
