//! A device as the kernel has it, and who else may manage it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;

use super::TunnelError;
use crate::links::{self, Network};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub up: bool,
    /// Without link-local ones.
    pub addresses: Vec<IpNet>,
    pub mtu: Option<u16>,
}

impl Link {
    /// `None`: there is no such device.
    pub fn read(interface: &str) -> Result<Option<Self>, TunnelError> {
        // Where there is none, nobody has to list the addresses of all others.
        if links::named(interface).map_err(TunnelError::Devices)?.is_none() {
            return Ok(None);
        }
        Ok(Self::of(&Network::read().map_err(TunnelError::Devices)?, interface))
    }

    /// The same, of a reading of all devices.
    pub fn of(network: &Network, interface: &str) -> Option<Self> {
        let link = network.link(interface)?;
        let addresses = network.addresses(link).iter().copied();
        Some(Self {
            up: link.is_up,
            addresses: addresses.filter(|net| !is_link_local(net.addr())).collect(),
            mtu: Some(u16::try_from(link.mtu).unwrap_or(u16::MAX)),
        })
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Of any device of the network namespace that the calling thread is in.
pub fn mtu(interface: &str) -> Option<u16> {
    let link = links::named(interface).ok()??;
    Some(u16::try_from(link.mtu).unwrap_or(u16::MAX))
}

/// Whether the device can have IPv6 addresses; one that is not there yet, as new ones can. A kernel
/// without IPv6 has none of these files.
pub fn has_ipv6(interface: &str) -> bool {
    let off = |device: &str| {
        fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6")).ok()
    };
    off(interface).or_else(|| off("default")).is_some_and(|off| off.trim() == "0")
}

/// Who seems to have brought the device up, by the traces that managers leave.
pub fn maker(interface: &str) -> &'static str {
    let index = if_nametoindex(interface).unwrap_or(0);
    let says = |file: String, word: &str| {
        fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line.starts_with(word)))
    };
    if says(format!("/run/systemd/netif/links/{index}"), "NETWORK_FILE=/") {
        "systemd-networkd"
    } else if says(format!("/run/NetworkManager/devices/{index}"), "connection-uuid=") {
        "NetworkManager"
    } else if Path::new(&format!("/etc/wireguard/{interface}.conf")).exists()
        || crate::firewall::is_table(&format!("wg-quick-{interface}"))
    {
        "wg-quick"
    } else {
        "another program"
    }
}
