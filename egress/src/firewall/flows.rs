//! What leaked, as the watch and its copy remember it: device, protocol, addresses, port, and, where
//! they are known, the user and the source addresses of the frames. For people; nothing is decided by
//! it. It holds no payload, so no secret.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nftables::types::NfFamily;
use nix::net::if_::if_indextoname;

use super::leaks::{LIFETIME, MACS, SETS, Sets};
use super::netlink::{absent, body, open, request};
use super::{guard, watch};
use crate::links::MacAddress;
use crate::mark::Mark;
use crate::netlink::{Attributes, Connection};

/// `linux/netfilter/nf_tables.h`
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_DATA_VALUE: u16 = 1;

/// Shown at most, the latest of them.
const MOST: usize = 16;

/// Packets of one kind that were stopped on their way past the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The devices by which packets to that destination were to leave.
    pub devices: Vec<String>,
    pub protocol: u8,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The destination's, of a protocol that has ports.
    pub port: Option<u16>,
    /// Whose sockets sent to that destination, where the kernel knew it.
    pub users: Vec<u32>,
    /// The frames of what leaked by these devices came from these.
    pub macs: Vec<MacAddress>,
    /// How long ago the last of them was.
    pub age: Duration,
    mark: u32,
}

/// Which flows are a path's.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    /// Of a scoped workload.
    Marked(Mark),
    /// Of the whole host: what carries none of these, the marks of scoped workloads.
    Unmarked(&'a [Mark]),
}

impl Whose<'_> {
    fn has(self, mark: u32) -> bool {
        let carries = |of: Mark| of.mask() != 0 && mark & of.mask() == of.value();
        match self {
            Self::Marked(own) => carries(own),
            Self::Unmarked(others) => !others.iter().any(|other| carries(*other)),
        }
    }
}

/// The latest flows, the last one first.
pub fn leaked(whose: Whose<'_>) -> io::Result<Vec<Flow>> {
    let mut kernel = open()?;
    let mut found = Vec::new();
    for table in [watch::TABLE, guard::WATCH] {
        found.extend(of_table(&mut kernel, table)?);
    }
    found.retain(|flow: &Flow| whose.has(flow.mark));
    Ok(latest(found))
}

/// Each once, by when it was last seen.
fn latest(mut flows: Vec<Flow>) -> Vec<Flow> {
    flows.sort_by_key(|flow| flow.age);
    let mut distinct: Vec<Flow> = Vec::new();
    for flow in flows {
        // The watch and its copy may each have seen it, and a mark is no difference to a person.
        if !distinct.iter().any(|known| known.is_same(&flow)) {
            distinct.push(flow);
        }
    }
    distinct.truncate(MOST);
    distinct
}

fn of_table(kernel: &mut Connection, table: &str) -> io::Result<Vec<Flow>> {
    let mut macs: BTreeMap<u32, Vec<MacAddress>> = BTreeMap::new();
    let read = |key: &mut Key<'_>| Some((key.number()?, key.mac()?));
    for ((device, mac), _) in elements(kernel, table, MACS.0, read)? {
        macs.entry(device).or_default().push(mac);
    }
    let mut all = Vec::new();
    for Sets { ip, flows, hosts, devices, owners } in SETS {
        let mut found = elements(kernel, table, flows.0, |key| flow(key, ip, Ports::Has))?;
        found.extend(elements(kernel, table, hosts.0, |key| flow(key, ip, Ports::None))?);
        if found.is_empty() {
            continue;
        }
        let devices = by_destination(kernel, table, devices.0, ip)?;
        let owners = by_destination(kernel, table, owners.0, ip)?;
        all.extend(found.into_iter().map(|(mut flow, age)| {
            let to = (flow.destination, flow.protocol);
            flow.users = owners.get(&to).cloned().unwrap_or_default();
            let indices = devices.get(&to).cloned().unwrap_or_default();
            flow.macs =
                indices.iter().filter_map(|index| macs.get(index)).flatten().copied().collect();
            flow.devices = indices.into_iter().map(name).collect();
            Flow { age, ..flow }
        }));
    }
    Ok(all)
}

/// Devices or users, by the destination and protocol that they sent to.
fn by_destination(
    kernel: &mut Connection,
    table: &str,
    set: &str,
    family: &str,
) -> io::Result<BTreeMap<(IpAddr, u8), Vec<u32>>> {
    let read = |key: &mut Key<'_>| Some(((key.address(family)?, key.byte()?), key.number()?));
    let mut found: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for ((to, number), _) in elements(kernel, table, set, read)? {
        found.entry(to).or_default().push(number);
    }
    for numbers in found.values_mut() {
        numbers.sort_unstable();
    }
    Ok(found)
}

/// The kernel lets almost anything be a name; a terminal and a log do not.
fn name(index: u32) -> String {
    match if_indextoname(index) {
        Ok(name) => name.to_bytes().escape_ascii().to_string(),
        Err(_) => format!("device {index}, which is gone"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Has,
    None,
}

fn flow(key: &mut Key<'_>, family: &str, ports: Ports) -> Option<Flow> {
    Some(Flow {
        devices: Vec::new(),
        mark: key.number()?,
        protocol: key.byte()?,
        source: key.address(family)?,
        destination: key.address(family)?,
        port: if ports == Ports::Has { Some(key.port()?) } else { None },
        users: Vec::new(),
        macs: Vec::new(),
        age: Duration::ZERO,
    })
}

/// The elements of a set, each with how long ago it was last seen. A set that is not there has none,
/// and a key that is not understood is left out.
fn elements<T>(
    kernel: &mut Connection,
    table: &str,
    set: &str,
    read: impl Fn(&mut Key<'_>) -> Option<T>,
) -> io::Result<Vec<(T, Duration)>> {
    let request = request(NFT_MSG_GETSETELEM, NfFamily::NetDev)
        .text(NFTA_SET_ELEM_LIST_TABLE, table)
        .text(NFTA_SET_ELEM_LIST_SET, set);
    let parts = kernel.dump(&request, |message| {
        let list = body(&message, NFT_MSG_NEWSETELEM)?.nested(NFTA_SET_ELEM_LIST_ELEMENTS);
        let all = list.into_iter().flat_map(Attributes::iter);
        Ok(all.filter_map(|(_, one)| element(Attributes::new(one), &read)).collect::<Vec<_>>())
    });
    Ok(absent(parts)?.unwrap_or_default().into_iter().flatten().collect())
}

fn element<T>(
    element: Attributes<'_>,
    read: impl Fn(&mut Key<'_>) -> Option<T>,
) -> Option<(T, Duration)> {
    let value = element.nested(NFTA_SET_ELEM_KEY)?.get(NFTA_DATA_VALUE)?;
    let left = element.be64(NFTA_SET_ELEM_EXPIRATION).map_or(LIFETIME, Duration::from_millis);
    Some((read(&mut Key(value))?, LIFETIME.saturating_sub(left)))
}

/// A concatenated key: each field is padded to four bytes, and numbers are in the order that the
/// field has in a packet or in the kernel.
struct Key<'a>(&'a [u8]);

impl Key<'_> {
    fn field<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = self.0.get(..N)?.try_into().ok();
        self.0 = self.0.get(N.next_multiple_of(4)..).unwrap_or_default();
        field
    }

    fn byte(&mut self) -> Option<u8> {
        self.field::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u32> {
        self.field().map(u32::from_ne_bytes)
    }

    fn port(&mut self) -> Option<u16> {
        self.field().map(u16::from_be_bytes)
    }

    fn mac(&mut self) -> Option<MacAddress> {
        self.field().map(MacAddress)
    }

    fn address(&mut self, family: &str) -> Option<IpAddr> {
        match family {
            "ip6" => self.field::<16>().map(|octets| Ipv6Addr::from(octets).into()),
            _ => self.field::<4>().map(|octets| Ipv4Addr::from(octets).into()),
        }
    }
}

impl Flow {
    fn is_same(&self, other: &Self) -> bool {
        let told = |flow: &Self| (flow.protocol, flow.source, flow.destination, flow.port);
        told(self) == told(other)
    }

    /// `udp`, or the number of one that has no usual name.
    pub fn protocol_name(&self) -> String {
        let name = match self.protocol {
            1 => "icmp",
            2 => "igmp",
            6 => "tcp",
            17 => "udp",
            47 => "gre",
            50 => "esp",
            58 => "icmpv6",
            132 => "sctp",
            number => return format!("protocol {number}"),
        };
        name.to_owned()
    }
}

/// `udp from 10.0.0.2 to 192.0.2.80 port 53 by eth0 (user 1000, MAC 02:00:00:00:00:02)`
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, .. } = self;
        write!(f, "{} from {source} to {destination}", self.protocol_name())?;
        if let Some(port) = self.port {
            write!(f, " port {port}")?;
        }
        if !self.devices.is_empty() {
            write!(f, " by {}", self.devices.join(", "))?;
        }
        let users = self.users.iter().map(|user| format!("user {user}"));
        let macs = self.macs.iter().map(|mac| format!("MAC {mac}"));
        let known: Vec<String> = users.chain(macs).collect();
        if known.is_empty() { Ok(()) } else { write!(f, " ({})", known.join(", ")) }
    }
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
