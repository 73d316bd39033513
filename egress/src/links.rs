//! The network devices of the calling thread's network namespace, and their addresses, as the kernel
//! lists them. Read only; needs no privilege.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::HostDevice;
use crate::netlink::{Attributes, Connection, Message, Protocol, Request, not_understood};

/// `linux/rtnetlink.h`, `linux/if_link.h`.
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
/// `struct ifinfomsg`: family, type, index, flags, change.
const LINK_BODY: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
/// There where `IFLA_LINK` counts in another namespace.
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;
/// Leaves the statistics out, which nobody here reads.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
/// `linux/if_arp.h`
const ARPHRD_ETHER: u16 = 1;

/// `linux/if_addr.h`; `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const ADDRESS_BODY: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Where userspace implementations put their socket (wg(8)).
const SOCKETS: &str = "/var/run/wireguard";

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    pub is_up: bool,
    pub is_loopback: bool,
    pub mtu: u32,
    /// Further names, which no rule of nftables matches.
    pub alternative_names: Vec<String>,
}

impl Link {
    pub fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

/// All devices, in the order of their indices.
pub fn all() -> io::Result<Vec<Link>> {
    all_by(&mut Connection::open(Protocol::Route)?)
}

fn all_by(kernel: &mut Connection) -> io::Result<Vec<Link>> {
    let mut links = kernel.dump(&link_request(), |message| link(&message))?;
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// The device of this name. `None`: there is none.
pub fn named(name: &str) -> io::Result<Option<Link>> {
    let request = link_request().text(IFLA_IFNAME, name);
    match Connection::open(Protocol::Route)?.ask(request, |message| link(&message)) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) => Ok(None),
        other => other.map(Some),
    }
}

/// All devices, for comparing a configuration with them.
pub fn host_devices() -> io::Result<Vec<HostDevice>> {
    let device = |link: Link| HostDevice {
        is_userspace_wireguard: Path::new(SOCKETS).join(format!("{}.sock", link.name)).exists(),
        index: link.index,
        alternative_names: link.alternative_names,
        kind: link.kind,
        is_loopback: link.is_loopback,
        parent: link.lower,
        master: link.master,
        name: link.name,
    };
    Ok(all()?.into_iter().map(device).collect())
}

/// The devices and their addresses, as of one reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    pub links: Vec<Link>,
    /// By the index of the device.
    addresses: BTreeMap<u32, Vec<IpNet>>,
}

impl Network {
    pub fn read() -> io::Result<Self> {
        let mut kernel = Connection::open(Protocol::Route)?;
        let links = all_by(&mut kernel)?;
        Ok(Self { links, addresses: addresses(&mut kernel)? })
    }

    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// With the length of the network's prefix.
    pub fn addresses(&self, link: &Link) -> &[IpNet] {
        self.addresses.get(&link.index).map_or(&[], Vec::as_slice)
    }
}

fn addresses(kernel: &mut Connection) -> io::Result<BTreeMap<u32, Vec<IpNet>>> {
    let request = Request::new(RTM_GETADDR, &[0; ADDRESS_BODY]);
    let mut by_device: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for (index, net) in kernel.dump(&request, |message| address(&message))?.into_iter().flatten() {
        by_device.entry(index).or_default().push(net);
    }
    Ok(by_device)
}

/// `None`: of another family than IP.
fn address(message: &Message<'_>) -> io::Result<Option<(u32, IpNet)>> {
    let attributes = message.attributes(ADDRESS_BODY).ok_or_else(not_understood)?;
    let (length, index) = (message.payload[1], number(message, 4)?);
    // Of a point-to-point device, `IFA_ADDRESS` is the other end's.
    let own = attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS));
    let net = own.and_then(ip).and_then(|ip| IpNet::new(ip, length).ok());
    Ok(net.map(|net| (index, net)))
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}

fn link_request() -> Request {
    Request::new(RTM_GETLINK, &[0; LINK_BODY])
        .bytes(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
}

fn number(message: &Message<'_>, at: usize) -> io::Result<u32> {
    let bytes = message.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_ne_bytes).ok_or_else(not_understood)
}

fn link(message: &Message<'_>) -> io::Result<Link> {
    let attributes = message.attributes(LINK_BODY).ok_or_else(not_understood)?;
    let (index, flags) = (number(message, 4)?, number(message, 8)?);
    let hardware = u16::from_ne_bytes([message.payload[2], message.payload[3]]);
    let address = attributes.get(IFLA_ADDRESS).filter(|_| hardware == ARPHRD_ETHER);
    let info = attributes.nested(IFLA_LINKINFO);
    let alternative_names =
        attributes.nested(IFLA_PROP_LIST).into_iter().flat_map(Attributes::iter);
    Ok(Link {
        name: attributes.required(|all| all.text(IFLA_IFNAME).map(str::to_owned))?,
        index,
        kind: info.and_then(|info| info.text(IFLA_INFO_KIND)).map(str::to_owned),
        address: address.and_then(|bytes| bytes.try_into().ok()).map(MacAddress),
        master: attributes.u32(IFLA_MASTER),
        lower: attributes.u32(IFLA_LINK).filter(|_| attributes.get(IFLA_LINK_NETNSID).is_none()),
        is_up: flags & IFF_UP != 0,
        is_loopback: flags & IFF_LOOPBACK != 0,
        mtu: attributes.required(|all| all.u32(IFLA_MTU))?,
        alternative_names: alternative_names
            .filter(|(kind, _)| *kind == IFLA_ALT_IFNAME)
            .map(|(_, name)| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::messages;

    #[test]
    fn the_devices_of_this_host_are_listed_with_their_addresses() {
        let network = Network::read().expect("the devices");
        let lo = network.link("lo").expect("a loopback device");
        assert_eq!((lo.address, lo.master, lo.lower), (None, None, None));
        assert!(lo.is_loopback && lo.mtu >= 1280, "{lo:?}");
        assert!(network.links.is_sorted_by_key(|link| link.index));
        assert_eq!(named("lo").expect("asked").as_ref(), Some(lo));
        assert_eq!(named("no-such-dev").expect("asked"), None);
        if lo.is_up {
            let local = "127.0.0.1/8".parse().expect("a net");
            assert!(network.addresses(lo).contains(&local), "{network:?}");
        }
        let devices = host_devices().expect("the devices");
        assert!(devices.iter().any(|device| device.name == "lo" && device.is_loopback));
    }

    #[test]
    fn an_address_is_written_as_ip_writes_it() {
        assert_eq!(MacAddress([2, 0, 0xa, 0xff, 0, 1]).to_string(), "02:00:0a:ff:00:01");
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let datagram = Request::new(16, &noise).datagram();
            for message in messages(&datagram) {
                link(&message).ok();
                address(&message).ok();
            }
        }
    }
}
