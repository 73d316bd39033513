//! Which address does the inspection see? The one that the tunnel's own packets leave with.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use egress::config::Config;
use egress::probe::{source_address, uplink};

use crate::unknown::Unknown;

/// The addresses of this host to exempt, and how they were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub addresses: Vec<IpAddr>,
    pub how: How,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    Given,
    Configured,
    /// The devices.
    ByRoute(Vec<String>),
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("given by --host"),
            Self::Configured => f.write_str("`ids.egress_address` of the config"),
            Self::ByRoute(devices) => write!(
                f,
                "found by the route: what this host sends to its endpoints by {} leaves with it",
                devices.join(", ")
            ),
        }
    }
}

/// By the config, or else by the route.
pub fn egress_addresses(config: &Config) -> Result<Found, Unknown> {
    if let Some(address) = config.ids.egress_address {
        return Ok(Found { addresses: vec![address], how: How::Configured });
    }
    let mut addresses = BTreeSet::new();
    let mut devices = BTreeSet::new();
    let mut problem = "no uplink was found".to_owned();
    for path in &config.paths {
        let uplinks = uplink::devices(path).map_err(|error| Unknown::Address(error.to_string()))?;
        let uplinks: Vec<String> = uplinks.into_iter().map(|device| device.name).collect();
        for (device, endpoint) in uplinks
            .iter()
            .flat_map(|device| path.endpoints.iter().map(move |endpoint| (device, endpoint)))
        {
            match source_address(device, endpoint.address) {
                Ok(address) if address.is_loopback() => {}
                Ok(address) => {
                    addresses.insert(address);
                    devices.insert(device.clone());
                }
                Err(error) => problem = format!("{device}: {error}"),
            }
        }
    }
    if addresses.is_empty() {
        return Err(Unknown::Address(format!("{problem}; write `ids.egress_address`")));
    }
    let how = How::ByRoute(devices.into_iter().collect());
    Ok(Found { addresses: addresses.into_iter().collect(), how })
}
