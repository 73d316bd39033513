//! The kernel's record of one TCP connection (conntrack), over netlink: which end opened it, as far as
//! the kernel has seen, and a record made by hand for a connection that is older than the tracking.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use crate::connections::{Connection, OpenedBy};
use crate::netlink::{self, Attributes, Message, Protocol, Request, not_understood};

/// `linux/netfilter/nfnetlink.h` and `nfnetlink_conntrack.h`.
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_NEW: u16 = 0;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;

/// `linux/netfilter/nf_conntrack_common.h` and `nf_conntrack_tcp.h`.
const IPS_SEEN_REPLY: u32 = 0x2;
const IPS_ASSURED: u32 = 0x4;
const IPS_CONFIRMED: u32 = 0x8;
const TCP_CONNTRACK_ESTABLISHED: u8 = 3;
/// Sequence numbers are not judged: their beginning was not seen.
const IP_CT_TCP_FLAG_BE_LIBERAL: u8 = 0x8;

/// What the kernel itself gives an established connection (`nf_conntrack_tcp_timeout_established`);
/// its first packet sets it to what this host has configured.
const TIMEOUT_SECONDS: u32 = 432_000;

/// Family, version, resource.
const HEADER: usize = 4;
const TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A record of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// The end that the kernel believes to have opened it.
    pub opener: IpAddr,
    /// Its first packet was not seen: the side that spoke first since then counts as the opener.
    pub is_picked_up: bool,
    id: u32,
}

/// The records of this network namespace.
pub struct Conntrack(netlink::Connection);

impl Conntrack {
    pub fn open() -> io::Result<Self> {
        netlink::Connection::open(Protocol::Netfilter).map(Self)
    }

    /// The record of a connection, or `None` where the kernel does not track it yet.
    pub fn find(&mut self, connection: Connection) -> io::Result<Option<Tracked>> {
        let question = request(IPCTNL_MSG_CT_GET, connection);
        let question = tuple(question, CTA_TUPLE_ORIG, connection.local, connection.peer);
        match self.0.ask(question, |answer| parse(&answer)) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Deletes exactly this record of the connection; one that is gone already is none to delete.
    pub fn delete(&mut self, connection: Connection, tracked: Tracked) -> io::Result<()> {
        let order = request(IPCTNL_MSG_CT_DELETE, connection);
        let order = tuple(order, CTA_TUPLE_ORIG, connection.local, connection.peer);
        match self.0.change(order.bytes(CTA_ID, &tracked.id.to_be_bytes())) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
            other => other,
        }
    }

    /// Records an established connection as opened by one of its ends.
    /// [`io::ErrorKind::AlreadyExists`]: it has been recorded meanwhile.
    pub fn record(&mut self, connection: Connection, opened_by: OpenedBy) -> io::Result<()> {
        let Connection { local, peer } = connection;
        let (opener, other) = match opened_by {
            OpenedBy::ThisHost => (local, peer),
            OpenedBy::Peer => (peer, local),
        };
        let status = IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED;
        let liberal = [IP_CT_TCP_FLAG_BE_LIBERAL; 2];
        let order = request(IPCTNL_MSG_CT_NEW, connection);
        let order = tuple(order, CTA_TUPLE_ORIG, opener, other);
        let order = tuple(order, CTA_TUPLE_REPLY, other, opener)
            .bytes(CTA_STATUS, &status.to_be_bytes())
            .bytes(CTA_TIMEOUT, &TIMEOUT_SECONDS.to_be_bytes())
            .nested(CTA_PROTOINFO, |info| {
                info.nested(CTA_PROTOINFO_TCP, |tcp| {
                    tcp.bytes(CTA_PROTOINFO_TCP_STATE, &[TCP_CONNTRACK_ESTABLISHED])
                        .bytes(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &liberal)
                        .bytes(CTA_PROTOINFO_TCP_FLAGS_REPLY, &liberal)
                })
            });
        self.0.create(order)
    }
}

fn request(message: u16, connection: Connection) -> Request {
    let family = if connection.peer.is_ipv4() { AF_INET } else { AF_INET6 };
    Request::new(NFNL_SUBSYS_CTNETLINK << 8 | message, &[family, 0, 0, 0])
}

fn tuple(request: Request, kind: u16, from: SocketAddr, to: SocketAddr) -> Request {
    let addresses = |ip: Request| match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ip.bytes(CTA_IP_V4_SRC, &from.octets()).bytes(CTA_IP_V4_DST, &to.octets())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            ip.bytes(CTA_IP_V6_SRC, &from.octets()).bytes(CTA_IP_V6_DST, &to.octets())
        }
        // No connection has ends of two families; the kernel refuses a tuple without addresses.
        _ => ip,
    };
    request.nested(kind, |tuple| {
        tuple.nested(CTA_TUPLE_IP, addresses).nested(CTA_TUPLE_PROTO, |proto| {
            proto
                .bytes(CTA_PROTO_NUM, &[TCP])
                .bytes(CTA_PROTO_SRC_PORT, &from.port().to_be_bytes())
                .bytes(CTA_PROTO_DST_PORT, &to.port().to_be_bytes())
        })
    })
}

fn parse(answer: &Message<'_>) -> io::Result<Tracked> {
    let attributes = answer.attributes(HEADER).ok_or_else(not_understood)?;
    let original = attributes.required(|all| all.nested(CTA_TUPLE_ORIG)?.nested(CTA_TUPLE_IP))?;
    let flags = |all: Attributes<'_>| {
        let tcp = all.nested(CTA_PROTOINFO)?.nested(CTA_PROTOINFO_TCP)?;
        tcp.get(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL)?.first().copied()
    };
    Ok(Tracked {
        opener: original.required(source)?,
        is_picked_up: flags(attributes).is_some_and(|one| one & IP_CT_TCP_FLAG_BE_LIBERAL != 0),
        id: attributes.required(|all| all.be32(CTA_ID))?,
    })
}

fn source(addresses: Attributes<'_>) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(addresses.get(CTA_IP_V4_SRC)?).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(addresses.get(CTA_IP_V6_SRC)?).ok().map(IpAddr::from);
    v4().or_else(v6)
}
