//! The network devices of this namespace, as the kernel lists them. Read only; needs no privilege.

use std::io;

use serde::{Deserialize, Serialize};

use crate::netlink::{Connection, Message, Protocol, Request, not_understood};

/// `linux/rtnetlink.h`, `linux/if_link.h`.
const RTM_GETLINK: u16 = 18;
/// Of `struct ifinfomsg`.
const BODY: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
/// There where `IFLA_LINK` counts in another namespace.
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
/// Leaves the statistics out, which nobody here reads.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// `linux/if_arp.h`
const ARPHRD_ETHER: u16 = 1;

/// An Ethernet address, as in `02:00:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "[u8; 6]", into = "[u8; 6]")]
pub struct MacAddress(pub [u8; 6]);

impl From<[u8; 6]> for MacAddress {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl From<MacAddress> for [u8; 6] {
    fn from(address: MacAddress) -> Self {
        address.0
    }
}

impl std::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub index: u32,
    /// What made it: `bridge`, `veth`, `macvtap`, `wireguard`; `None`: hardware.
    pub kind: Option<String>,
    /// Of an Ethernet device.
    pub address: Option<MacAddress>,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// The device that it sends by: of a VLAN, a macvlan. `None`: it has none in this namespace.
    pub lower: Option<u32>,
}

impl Link {
    pub fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

/// All devices, in the order of their indices.
pub fn all() -> io::Result<Vec<Link>> {
    let request = Request::new(RTM_GETLINK, &[0; BODY])
        .bytes(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    let mut links = Connection::open(Protocol::Route)?.dump(&request, |message| link(&message))?;
    links.sort_by_key(|link| link.index);
    Ok(links)
}

fn link(message: &Message<'_>) -> io::Result<Link> {
    parse(message).ok_or_else(not_understood)
}

fn parse(message: &Message<'_>) -> Option<Link> {
    let hardware = u16::from_ne_bytes(message.payload.get(2..4)?.try_into().ok()?);
    let index = u32::from_ne_bytes(message.payload.get(4..8)?.try_into().ok()?);
    let attributes = message.attributes(BODY)?;
    let address = attributes.get(IFLA_ADDRESS).filter(|_| hardware == ARPHRD_ETHER);
    let info = attributes.nested(IFLA_LINKINFO);
    Some(Link {
        name: attributes.text(IFLA_IFNAME)?.to_owned(),
        index,
        kind: info.and_then(|info| info.text(IFLA_INFO_KIND)).map(str::to_owned),
        address: address.and_then(|bytes| bytes.try_into().ok()).map(MacAddress),
        master: attributes.u32(IFLA_MASTER),
        lower: attributes.u32(IFLA_LINK).filter(|_| attributes.get(IFLA_LINK_NETNSID).is_none()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_of_this_host_are_listed() {
        let links = all().expect("the devices");
        let lo = links.iter().find(|link| link.name == "lo").expect("a loopback device");
        assert_eq!((lo.address, lo.master, lo.lower), (None, None, None));
        assert!(links.is_sorted_by_key(|link| link.index));
    }

    #[test]
    fn an_address_is_written_as_ip_writes_it() {
        assert_eq!(MacAddress([2, 0, 0xa, 0xff, 0, 1]).to_string(), "02:00:0a:ff:00:01");
    }
}
