//! One sender per kind.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use lab::Kind;
use lab::addresses::{EGRESS, Endpoint, ROUTER, WORLD, WORLD_HOLE, WORLD_V6};
use lab::kinds::{ECHO_ID_CONTAINER, ECHO_ID_HOST};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendto};
use socket2::{Domain, Protocol, Socket, Type};

use super::devices::Devices;
use super::{Attempt, Way, old};
use crate::commands::{frames, leak};

/// The tunnel's mark, as in [`lab::addresses::FWMARK`].
const MARK: u32 = 0xca6c;
/// More than two MTUs of an Ethernet: three fragments.
const LARGE: [u8; 3200] = [b'f'; 3200];

/// What sends this kind; flows that are to be old are open when it returns.
pub fn sender(kind: Kind, devices: &Devices, late: bool) -> io::Result<Box<dyn Attempt>> {
    let out = Out { devices: devices.clone() };
    let port = kind.port();
    Ok(match kind {
        Kind::TcpNew => Box::new(Each(move |way, n| out.tcp(way, n, (world(way), port)))),
        Kind::UdpNew => Box::new(Each(move |way, n| out.udp(way, n, (world(way), port), b"new"))),
        Kind::TcpOld => Box::new(old::Tcp::open(kind, devices)?),
        Kind::UdpOld => Box::new(old::Udp::open(kind, devices, late)?),
        Kind::Icmp => Box::new(Each(move |way, n| out.icmp(way, n, world(way), ECHO_ID_HOST))),
        // Of the routed ones, to the LAN's resolver: the way by which names get out most often.
        Kind::DnsUdp => Box::new(Each(move |way, n| out.udp(way, n, (resolver(way), port), DNS))),
        Kind::DnsTcp => Box::new(Each(move |way, n| out.tcp(way, n, (resolver(way), port)))),
        Kind::Dot => Box::new(Each(move |way, n| match n % 2 {
            0 => out.tcp(way, n, (resolver(way), port)),
            _ => out.udp(way, n, (resolver(way), port), b"doq"),
        })),
        Kind::Ipv6 => Box::new(Each(move |way, n| match n % 3 {
            0 => out.udp(way, n, (WORLD_V6, port), b"v6"),
            1 => out.tcp(way, n, (WORLD_V6, port)),
            _ => out.icmp6(way, n),
        })),
        Kind::Multicast => Box::new(Each(move |way, n| {
            let group: IpAddr = match n % 3 {
                0 => Ipv4Addr::new(239, 1, 2, 3).into(),
                1 => Ipv4Addr::new(224, 0, 0, 251).into(),
                _ => Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3).into(),
            };
            out.udp(way, n, (group, port), b"multicast")
        })),
        Kind::Broadcast => Box::new(Each(move |way, n| {
            let everybody = match way {
                Way::Bound => Ipv4Addr::BROADCAST,
                _ => Ipv4Addr::new(10, 0, 0, 255),
            };
            out.udp(way, n, (everybody, port), b"broadcast")
        })),
        Kind::Fragments => {
            Box::new(Each(move |way, n| out.udp(way, n, (world(way), port), &LARGE)))
        }
        Kind::OtherUser => Box::new(Each(move |way, n| match n % 2 {
            0 => out.udp(way, n, (world(way), port), b"user"),
            _ => out.tcp(way, n, (world(way), port)),
        })),
        Kind::ForgedMark => Box::new(Each(move |way, n| out.forged(way, n))),
        Kind::Forwarded => Box::new(forwarded(out, port, old::Udp::open(kind, devices, late)?)),
        Kind::Packet => Box::new(Each(move |_, n| out.frame(n, port))),
    })
}

struct Each<F>(F);

impl<F: FnMut(Way, u64) -> io::Result<()> + Send> Attempt for Each<F> {
    fn attempt(&mut self, way: Way, number: u64) -> io::Result<()> {
        (self.0)(way, number)
    }
}

const fn world(way: Way) -> Ipv4Addr {
    if matches!(way, Way::Static) { WORLD_HOLE } else { WORLD }
}

const fn resolver(way: Way) -> Ipv4Addr {
    if matches!(way, Way::Bound) { WORLD } else { ROUTER }
}

/// A container cannot bind to the host's uplink: there it is the routes that lead out.
fn forwarded(out: Out, port: u16, old: old::Udp) -> impl Attempt {
    let old = std::sync::Mutex::new(old);
    Each(move |way, n| {
        let way = if way == Way::Bound { Way::Static } else { way };
        match n % 6 {
            0 => out.udp(way, n, (world(way), port), b"container"),
            1 => out.tcp(way, n, (world(way), port)),
            2 => out.icmp(way, n, world(way), ECHO_ID_CONTAINER),
            3 => out.udp(way, n, (ROUTER, port), b"lan"),
            4 => out.udp(way, n, (WORLD_V6, port), b"v6"),
            _ => old.lock().map_err(|_| io::ErrorKind::Other)?.attempt(way, n),
        }
    })
}

/// An empty DNS query for the root.
const DNS: &[u8] = &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

struct Out {
    devices: Devices,
}

impl Out {
    fn socket(
        &self,
        way: Way,
        number: u64,
        to: SocketAddr,
        kind: Type,
        protocol: Option<Protocol>,
    ) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), kind, protocol)?;
        if way == Way::Bound {
            socket.bind_device(Some(self.devices.one(number)?.as_bytes()))?;
        }
        Ok(socket)
    }

    /// From a port of its own each time.
    fn udp(
        &self,
        way: Way,
        number: u64,
        to: impl Into<SocketAddr>,
        payload: &[u8],
    ) -> io::Result<()> {
        let to = to.into();
        let socket = self.socket(way, number, to, Type::DGRAM, None)?;
        socket.set_broadcast(true)?;
        socket.send_to(payload, &to.into()).map(drop)
    }

    /// One SYN: the connection is given up before it can be made.
    fn tcp(&self, way: Way, number: u64, to: impl Into<SocketAddr>) -> io::Result<()> {
        let to = to.into();
        let socket = self.socket(way, number, to, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok(()),
            other => other,
        }
    }

    fn icmp(&self, way: Way, number: u64, to: Ipv4Addr, id: u16) -> io::Result<()> {
        let to = SocketAddr::from((to, 0));
        let socket = self.socket(way, number, to, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.send_to(&frames::echo_request(8, id, short(number)), &to.into()).map(drop)
    }

    fn icmp6(&self, way: Way, number: u64) -> io::Result<()> {
        let to = SocketAddr::from((WORLD_V6, 0));
        let socket = self.socket(way, number, to, Type::RAW, Some(Protocol::ICMPV6))?;
        let message = frames::echo_request(128, ECHO_ID_HOST, short(number));
        socket.send_to(&message, &to.into()).map(drop)
    }

    /// The tunnel's mark must be refused; the packet follows without it.
    fn forged(&self, way: Way, number: u64) -> io::Result<()> {
        let to = Endpoint::ALL[usize::from(number % 2 == 1)].socket();
        let socket = self.socket(way, number, to, Type::DGRAM, None)?;
        let mark = socket.set_mark(MARK);
        let sent = socket.send_to(b"forged", &to.into());
        match mark {
            Ok(()) => Err(io::Error::other(lab::flood::MARKED)),
            Err(refused) => sent.map(drop).and(Err(refused)),
        }
    }

    fn frame(&self, number: u64, port: u16) -> io::Result<()> {
        let device = leak::link_address(&self.devices.one(number)?)?;
        let source = device.addr().unwrap_or_default();
        let packet = |to| frames::udp4(EGRESS, to, port, b"packet");
        let frame = match number % 4 {
            0 => frames::ethernet(source, &packet(WORLD)),
            1 => frames::vlan(source, &packet(WORLD)),
            2 => frames::qinq(source, &packet(WORLD)),
            // Only the tunnel's own packets may be so long that they come in pieces.
            _ => frames::ethernet(source, &frames::later_fragment(packet(Endpoint::A.address()))),
        };
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        sendto(socket.as_raw_fd(), &frame, &device, MsgFlags::empty())?;
        Ok(())
    }
}

fn short(number: u64) -> u16 {
    u16::try_from(number % 0x1_0000).unwrap_or(0)
}
