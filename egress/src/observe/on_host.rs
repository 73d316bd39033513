//! This host, for comparing a configuration with it. Reads only, for people's commands only.

use crate::config::{Host, HostDevice, PathConfig};

/// The uplinks that the kernel's routing shows, whatever the path lists.
fn uplinks(path: &PathConfig) -> Result<Vec<String>, String> {
    let found = super::routed(&path.tunnels)?;
    Ok(found.into_iter().map(|device| device.name).collect())
}

/// What this host is now, for comparing a configuration with it.
pub fn host(devices: &[HostDevice]) -> Host<'_> {
    Host { devices, uplinks: &uplinks }
}
