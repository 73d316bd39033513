//! What the rules of a path are made from. Kept in state with what was loaded, so that rules that
//! are lost are put back as they were converged, whatever the config on disk says meanwhile.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::listing::hex;
use crate::config::{DnsPolicy, Endpoint, PathConfig, Question, Workload};
use crate::mark::Mark;
use crate::names::PathName;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    pub name: PathName,
    pub interface: String,
    pub fwmark: u32,
    pub dns: DnsPolicy,
    pub allow_interfaces: Vec<String>,
    pub allow: Vec<IpNet>,
    pub management: Vec<IpNet>,
    pub ntp: Vec<IpAddr>,
    pub endpoints: Vec<SocketAddr>,
    /// Digest over the endpoints' names, order and identities: of them the rules know the address
    /// only, but an edit of the others is an edit too.
    pub(super) identities: String,
    // What follows came later: an older state file is one of a whole host.
    #[serde(default)]
    pub workload: Workload,
    /// None of it for a whole host.
    #[serde(default)]
    pub workload_mark: Mark,
    #[serde(default)]
    pub resolvers: Vec<IpAddr>,
    /// What the health check asks through the tunnel.
    #[serde(default)]
    pub probe: Option<Probe>,
    /// This host's addresses inside the tunnel: they are reached through it and by no other device.
    #[serde(default)]
    pub tunnel_addresses: Vec<IpAddr>,
}

/// What a health check sends through the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Probe {
    /// An echo; the only one that older state files know, and so an address and nothing else.
    Echo(IpAddr),
    Port {
        protocol: Protocol,
        to: SocketAddr,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Probe {
    fn of(question: &Question) -> Self {
        match question {
            Question::Icmp(target) => Self::Echo(*target),
            Question::Tcp(to) => Self::Port { protocol: Protocol::Tcp, to: *to },
            Question::Dns { resolver, .. } => Self::Port { protocol: Protocol::Udp, to: *resolver },
        }
    }

    pub fn target(&self) -> IpAddr {
        match self {
            Self::Echo(target) => *target,
            Self::Port { to, .. } => to.ip(),
        }
    }
}

impl Rules {
    pub fn of(path: &PathConfig) -> Self {
        // What is in a network namespace of its own never passes this host's hooks.
        let is_elsewhere = path.workload.netns().is_some();
        let scoped = path.workload != Workload::Host && !is_elsewhere;
        let probe = path.health.probe.as_ref();
        Self {
            name: path.name.clone(),
            interface: path.interface.clone(),
            fwmark: path.fwmark,
            dns: path.dns,
            allow_interfaces: path.allow_interfaces.clone(),
            allow: path.allow.clone(),
            management: path.management.clone(),
            ntp: path.ntp.clone(),
            endpoints: path.endpoints.iter().map(|endpoint| endpoint.address).collect(),
            identities: identities(&path.endpoints),
            workload: path.workload.clone(),
            workload_mark: if scoped { path.workload_mark } else { Mark::default() },
            resolvers: path.resolvers.clone(),
            // A host-wide path asks by its own tunnel, which it may use anyway.
            probe: probe.filter(|_| scoped).map(|probe| Probe::of(&probe.question)),
            tunnel_addresses: if is_elsewhere {
                Vec::new()
            } else {
                tunnel_addresses(&path.endpoints)
            },
        }
    }
}

impl Rules {
    /// A lock of the whole host that permits nothing, for where nobody knows what was converged.
    pub fn blank() -> Self {
        Self {
            name: blank_name(),
            // No device can have this name.
            interface: "no/tunnel".to_owned(),
            fwmark: 0,
            dns: DnsPolicy::Refuse,
            allow_interfaces: Vec::new(),
            allow: Vec::new(),
            management: Vec::new(),
            ntp: Vec::new(),
            endpoints: Vec::new(),
            identities: String::new(),
            workload: Workload::Host,
            workload_mark: Mark::default(),
            resolvers: Vec::new(),
            probe: None,
            tunnel_addresses: Vec::new(),
        }
    }

    /// Leaves out the cgroups that `there` does not know.
    pub fn keep_cgroups(&mut self, there: impl Fn(&str) -> bool) {
        if let Workload::Cgroups(names) = &mut self.workload {
            names.retain(|name| there(name));
        }
    }

    /// Whether the workload enters by this device.
    pub fn enters_by(&self, device: &String) -> bool {
        self.workload.interfaces().contains(device)
    }

    /// Whether it locks sockets of this host, by their user or cgroup.
    pub fn locks_sockets(&self) -> bool {
        matches!(self.workload, Workload::Users(_) | Workload::Cgroups(_))
    }

    pub fn cgroups(&self) -> &[String] {
        match &self.workload {
            Workload::Cgroups(names) => names,
            _ => &[],
        }
    }
}

/// Sorted, each once: all endpoints of a path share them.
fn tunnel_addresses(endpoints: &[Endpoint]) -> Vec<IpAddr> {
    let all = endpoints.iter().flat_map(|endpoint| &endpoint.tunnel_addresses);
    all.map(IpNet::addr).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Of the path that stands for those that are not known.
pub fn blank_name() -> PathName {
    "no-config".parse().expect("a name")
}

/// Public halves only: a digest of a secret has no business in a file that others may read.
fn identities(endpoints: &[Endpoint]) -> String {
    let mut hash = Sha256::new();
    for endpoint in endpoints {
        let (own, nets) = (endpoint.private_key.public(), &endpoint.allowed_ips);
        let keepalive = endpoint.persistent_keepalive;
        let (name, address, peer) = (&endpoint.name, endpoint.address, endpoint.public_key);
        hash.update(format!("{name} {address} {peer} {own} {nets:?} {keepalive}\n"));
    }
    hex(&hash.finalize())
}
