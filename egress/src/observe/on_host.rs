//! This host, for comparing a configuration with it. Reads only, for people's commands only.

use crate::config::{Host, HostDevice, PathConfig, Uplinks};
use crate::error::chain;
use crate::probe::uplink;

/// The uplinks that the kernel's routing shows, whatever the path lists: what holds a default route,
/// and what the tunnel's own packets take, by whatever table and nexthop.
fn uplinks(path: &PathConfig) -> Result<Vec<String>, String> {
    let any = PathConfig { uplinks: Uplinks::Auto, ..path.clone() };
    let taken = uplink::devices(&any).map_err(chain)?;
    let found = super::routed(&path.tunnels)?.into_iter().chain(taken);
    Ok(found.map(|device| device.name).collect())
}

/// What this host is now, for comparing a configuration with it.
pub fn host(devices: &[HostDevice]) -> Host<'_> {
    Host { devices, uplinks: &uplinks }
}
