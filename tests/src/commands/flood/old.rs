//! Flows that were opened, and answered, before the lock came.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use lab::Kind;
use lab::addresses::{WORLD, WORLD_HOLE};
use socket2::{Domain, Protocol, Socket, Type};

use super::devices::Devices;
use super::{Attempt, Way};
use crate::commands::frames;

/// The far end is in the next namespace.
const ANSWER: Duration = Duration::from_secs(5);
/// Flows by each way: a dead one is not all there is.
const EACH: u64 = 4;

/// Opens the flows of one kind.
fn open<T>(mut one: impl FnMut(Way, u64) -> io::Result<T>) -> io::Result<[Vec<T>; 3]> {
    let mut by = |way| (0..EACH).map(|number| one(way, number)).collect::<io::Result<Vec<T>>>();
    Ok([by(Way::Bound)?, by(Way::Routed)?, by(Way::Static)?])
}

fn pick<T>(flows: &mut [Vec<T>; 3], way: Way, number: u64) -> &mut T {
    let index = usize::try_from(number % EACH).unwrap_or(0);
    &mut flows[way as usize][index]
}

fn target(way: Way, port: u16) -> SocketAddr {
    let address = if way == Way::Static { WORLD_HOLE } else { WORLD };
    (address, port).into()
}

fn socket(kind: Type, way: Way, devices: &Devices) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    if way == Way::Bound {
        socket.bind_device(Some(devices.one(0)?.as_bytes()))?;
    }
    Ok(socket)
}

pub struct Udp([Vec<UdpSocket>; 3]);

impl Udp {
    pub fn open(kind: Kind, devices: &Devices, late: bool) -> io::Result<Self> {
        open(|way, _| {
            let socket = socket(Type::DGRAM, way, devices)?;
            socket.connect(&target(way, kind.port()).into())?;
            let socket = UdpSocket::from(socket);
            if !late {
                socket.set_read_timeout(Some(ANSWER))?;
                socket.send(b"first")?;
                socket.recv(&mut [0; 64])?;
            }
            Ok(socket)
        })
        .map(Self)
    }
}

impl Attempt for Udp {
    fn attempt(&mut self, way: Way, number: u64) -> io::Result<()> {
        pick(&mut self.0, way, number).send(b"old").map(drop)
    }
}

/// A connection, and the socket by which its segments are sent when it has been reset.
struct Connection {
    stream: TcpStream,
    raw: Socket,
    from: SocketAddrV4,
    to: SocketAddrV4,
}

pub struct Tcp([Vec<Connection>; 3]);

impl Tcp {
    pub fn open(kind: Kind, devices: &Devices) -> io::Result<Self> {
        open(|way, _| {
            let socket = socket(Type::STREAM, way, devices)?;
            // Soon full when nothing is acknowledged: then it is the raw socket's turn.
            socket.set_send_buffer_size(4096)?;
            socket.connect_timeout(&target(way, kind.port()).into(), ANSWER)?;
            let stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let (from, to) = (v4(stream.local_addr()?), v4(stream.peer_addr()?));
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc_raw())))?;
            if way == Way::Bound {
                raw.bind_device(Some(devices.one(0)?.as_bytes()))?;
            }
            Ok(Connection { stream, raw, from, to })
        })
        .map(Self)
    }
}

impl Attempt for Tcp {
    fn attempt(&mut self, way: Way, number: u64) -> io::Result<()> {
        let connection = pick(&mut self.0, way, number);
        if connection.stream.write(b"old").is_ok() {
            return Ok(());
        }
        // Reset by the lock, or nothing is acknowledged any more: the flow's segments go on.
        let segment = frames::tcp_segment(connection.from, connection.to);
        let to = SocketAddr::from((*connection.to.ip(), 0));
        connection.raw.send_to(&segment, &to.into()).map(drop)
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => SocketAddrV4::new(
            address.ip().to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED),
            address.port(),
        ),
    }
}

/// `IPPROTO_RAW`: the packet brings its own header.
const fn libc_raw() -> i32 {
    255
}
