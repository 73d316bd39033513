//! What the rules of a path are made from. Kept in state with what was loaded, so that rules that
//! are lost are put back as they were converged, whatever the config on disk says meanwhile.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::listing::hex;
use crate::config::{DnsPolicy, Endpoint, PathConfig};
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
    identities: String,
}

impl Rules {
    pub fn of(path: &PathConfig) -> Self {
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
        }
    }
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
