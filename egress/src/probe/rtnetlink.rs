//! Questions to the kernel's routing over netlink: by which devices and gateways does a packet leave,
//! has a device a carrier, and was a gateway asked for in vain? Reads only; needs no privilege.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;

use crate::netlink::{Attributes, Connection, Message, Protocol, Request, not_understood};

/// `linux/rtnetlink.h`, `nexthop.h`, `if_link.h` and `neighbour.h`
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;
/// The fixed headers of routes and of neighbours, of nexthops, and of links.
const BODY: usize = 12;
const NEXTHOP_BODY: usize = 8;
const LINK_BODY: usize = 16;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;
const RTA_VIA: u16 = 18;
const RTA_UID: u16 = 25;
const RTA_IP_PROTO: u16 = 27;
const RTA_DPORT: u16 = 29;
const RTA_NH_ID: u16 = 30;
/// Length, flags, hops, device.
const MULTIPATH_HEADER: usize = 8;
const RTN_LOCAL: u8 = 2;
/// The route itself and not what is made of it: all its nexthops, and for IPv4 none where a device is
/// named that has no route.
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// And the table that it is in.
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// A group's member: its id, its weight.
const GROUP_ENTRY: usize = 8;

const IFLA_IFNAME: u16 = 3;
const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;

const NDA_DST: u16 = 1;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What the kernel itself sends, and a userspace device that root has started.
const ROOT: u32 = 0;
const UDP: u8 = 17;

/// One way by which a packet can leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// The index of the device.
    pub device: u32,
    /// `None` on a link that needs none, as point-to-point ones.
    pub gateway: Option<IpAddr>,
}

/// Where the kernel sends a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Nowhere: there is no route, or one that says so.
    Nowhere,
    /// To this host itself.
    Local,
    /// By any of these; more than one for a multipath route.
    By(Vec<NextHop>),
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    /// It is up, and has a carrier.
    pub works: bool,
}

/// The kernel's routing, of the network namespace that the thread is in.
#[derive(Debug)]
pub struct Kernel(Connection);

impl Kernel {
    pub fn open() -> io::Result<Self> {
        Connection::open(Protocol::Route).map(Self)
    }

    /// Where a UDP packet of the kernel's own with this mark goes: all rules and tables apply.
    pub fn route(&mut self, to: SocketAddr, mark: u32) -> io::Result<Route> {
        let found = self.0.ask(packet_request(to, mark), |reply| read_route(&reply));
        match none_on_refusal(found)? {
            None => Ok(Route::Nowhere),
            Some(Found::Route(route)) => Ok(route),
            Some(Found::Object(id)) => Ok(Route::By(self.nexthops(id)?)),
        }
    }

    /// Whether an unmarked packet to `target` that has to leave by this device has a route.
    pub fn has_route(&mut self, target: IpAddr, device: u32) -> io::Result<bool> {
        let request = route_request(target).bytes(RTA_OIF, &device.to_ne_bytes());
        let found = self.0.ask(request, |reply| {
            if reply.kind == RTM_NEWROUTE { Ok(()) } else { Err(not_understood()) }
        });
        Ok(none_on_refusal(found)?.is_some())
    }

    /// `None`: there is no such device any more.
    pub fn link(&mut self, device: u32) -> io::Result<Option<Link>> {
        let mut body = [0; LINK_BODY];
        body[4..8].copy_from_slice(&device.to_ne_bytes());
        match self.0.ask(Request::new(RTM_GETLINK, &body), |reply| read_link(&reply)) {
            Err(error) if is(&error, &[Errno::ENODEV]) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Whether the gateway was asked for on its link and did not answer.
    pub fn is_silent(&mut self, device: u32, gateway: IpAddr) -> io::Result<bool> {
        let (family, octets) = octets(gateway);
        let mut body = [0; BODY];
        body[0] = family;
        body[4..8].copy_from_slice(&device.to_ne_bytes());
        let request = Request::new(RTM_GETNEIGH, &body).bytes(NDA_DST, &octets);
        match self.0.ask(request, |reply| read_silence(&reply)) {
            // Nobody has asked for it lately; or the device is gone.
            Err(error) if is(&error, &[Errno::ENOENT, Errno::ENODEV, Errno::EINVAL]) => Ok(false),
            other => other,
        }
    }

    /// The members of a nexthop object: a route may name nothing else
    /// (`net.ipv4.nexthop_compat_mode=0`).
    fn nexthops(&mut self, id: u32) -> io::Result<Vec<NextHop>> {
        match self.nexthop(id)? {
            Some(Object::One(hop)) => Ok(vec![hop]),
            Some(Object::Group(members)) => {
                let mut hops = Vec::new();
                for member in members {
                    // A group has no groups among its members.
                    if let Some(Object::One(hop)) = self.nexthop(member)? {
                        hops.push(hop);
                    }
                }
                Ok(hops)
            }
            None => Ok(Vec::new()),
        }
    }

    fn nexthop(&mut self, id: u32) -> io::Result<Option<Object>> {
        let request =
            Request::new(RTM_GETNEXTHOP, &[0; NEXTHOP_BODY]).bytes(NHA_ID, &id.to_ne_bytes());
        match self.0.ask(request, |reply| read_nexthop(&reply)) {
            Err(error) if is(&error, &[Errno::ENOENT]) => Ok(None),
            other => other,
        }
    }
}

/// The table that the route of a packet is in.
pub fn table_of(to: SocketAddr, mark: u32) -> io::Result<Option<u32>> {
    let found = Connection::open(Protocol::Route)?.ask(packet_request(to, mark), |reply| {
        let attributes = reply.attributes(BODY).filter(|_| reply.kind == RTM_NEWROUTE);
        let attributes = attributes.ok_or_else(not_understood)?;
        // Those below 256 are in the fixed header too.
        Ok(attributes.u32(RTA_TABLE).unwrap_or(u32::from(reply.payload[4])))
    });
    none_on_refusal(found)
}

fn packet_request(to: SocketAddr, mark: u32) -> Request {
    route_request(to.ip())
        .bytes(RTA_MARK, &mark.to_ne_bytes())
        .bytes(RTA_UID, &ROOT.to_ne_bytes())
        .bytes(RTA_IP_PROTO, &[UDP])
        .bytes(RTA_DPORT, &to.port().to_be_bytes())
}

/// What a reply to a question for a route says.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Route(Route),
    /// Only the id of a nexthop object.
    Object(u32),
}

/// A nexthop object.
#[derive(Debug, PartialEq, Eq)]
enum Object {
    One(NextHop),
    Group(Vec<u32>),
}

fn route_request(to: IpAddr) -> Request {
    let (family, octets) = octets(to);
    let mut body = [0; BODY];
    body[0] = family;
    body[1] = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
    body[8..].copy_from_slice(&(RTM_F_FIB_MATCH | RTM_F_LOOKUP_TABLE).to_ne_bytes());
    Request::new(RTM_GETROUTE, &body).bytes(RTA_DST, &octets)
}

/// No route is an error code; so is, the last three, one that says "prohibit", "blackhole" or "throw".
fn none_on_refusal<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    const NONE: [Errno; 6] = [
        Errno::ENETUNREACH,
        Errno::EHOSTUNREACH,
        Errno::ESRCH,
        Errno::EACCES,
        Errno::EINVAL,
        Errno::EAGAIN,
    ];
    match found {
        Err(error) if is(&error, &NONE) => Ok(None),
        other => other.map(Some),
    }
}

fn is(error: &io::Error, codes: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|code| codes.contains(&Errno::from_raw(code)))
}

fn read_route(message: &Message<'_>) -> io::Result<Found> {
    let attributes = message.attributes(BODY).filter(|_| message.kind == RTM_NEWROUTE);
    let attributes = attributes.ok_or_else(not_understood)?;
    if message.payload[7] == RTN_LOCAL {
        return Ok(Found::Route(Route::Local));
    }
    if let Some(several) = attributes.get(RTA_MULTIPATH) {
        return Ok(Found::Route(Route::By(multipath(several)?)));
    }
    match (attributes.u32(RTA_OIF), attributes.u32(RTA_NH_ID)) {
        (Some(device), _) => {
            Ok(Found::Route(Route::By(vec![NextHop { device, gateway: gateway(attributes) }])))
        }
        (None, Some(id)) => Ok(Found::Object(id)),
        // A blackhole's nexthop object has no device.
        (None, None) => Ok(Found::Route(Route::Nowhere)),
    }
}

fn multipath(mut bytes: &[u8]) -> io::Result<Vec<NextHop>> {
    let mut hops = Vec::new();
    while !bytes.is_empty() {
        let number = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
        let length = usize::from(number(0).ok_or_else(not_understood)?);
        let hop = bytes.get(..length).filter(|hop| hop.len() >= MULTIPATH_HEADER);
        let hop = hop.ok_or_else(not_understood)?;
        let device = hop[4..8].try_into().map(u32::from_ne_bytes).map_err(|_| not_understood())?;
        let gateway = gateway(Attributes::new(&hop[MULTIPATH_HEADER..]));
        hops.push(NextHop { device, gateway });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(hops)
}

/// Of the route's own family, or, for IPv4, of the other one.
fn gateway(attributes: Attributes<'_>) -> Option<IpAddr> {
    let other = |via: &[u8]| address(via.get(2..)?);
    let own = attributes.get(RTA_GATEWAY).and_then(address);
    own.or_else(|| attributes.get(RTA_VIA).and_then(other))
}

fn read_nexthop(message: &Message<'_>) -> io::Result<Option<Object>> {
    let attributes = message.attributes(NEXTHOP_BODY);
    let attributes = attributes.filter(|_| message.kind == RTM_NEWNEXTHOP);
    let attributes = attributes.ok_or_else(not_understood)?;
    if let Some(members) = attributes.get(NHA_GROUP) {
        let id = |entry: &[u8]| entry[..4].try_into().map(u32::from_ne_bytes);
        let members = members.chunks_exact(GROUP_ENTRY).map(id).collect::<Result<_, _>>();
        return members.map(Object::Group).map(Some).map_err(|_| not_understood());
    }
    let gateway = attributes.get(NHA_GATEWAY).and_then(address);
    Ok(attributes.u32(NHA_OIF).map(|device| Object::One(NextHop { device, gateway })))
}

fn read_link(message: &Message<'_>) -> io::Result<Link> {
    let attributes = message.attributes(LINK_BODY).filter(|_| message.kind == RTM_NEWLINK);
    let name = attributes.and_then(|attributes| attributes.text(IFLA_IFNAME));
    let flags = message.payload.get(8..12).and_then(|flags| flags.try_into().ok());
    let (name, flags) = name.zip(flags).ok_or_else(not_understood)?;
    let flags = u32::from_ne_bytes(flags);
    let works = IFF_UP | IFF_RUNNING;
    Ok(Link { name: name.to_owned(), works: flags & works == works })
}

fn read_silence(message: &Message<'_>) -> io::Result<bool> {
    let state = message.payload.get(8..10).filter(|_| message.kind == RTM_NEWNEIGH);
    let state = state.and_then(|state| state.try_into().ok()).ok_or_else(not_understood)?;
    Ok(u16::from_ne_bytes(state) & (NUD_INCOMPLETE | NUD_FAILED) != 0)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

#[cfg(test)]
#[path = "rtnetlink_tests.rs"]
mod tests;
