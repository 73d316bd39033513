//! `lab volley`: one packet of every kind to every target by every way out, as a program sends them
//! that wants past the tunnel. Repeats for as long as it is asked to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use lab::setups::volley::{ICMP_ID, PACKET_PORT, TCP_PORT, UDP_PORT, Volley};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendto};
use socket2::{Domain, Protocol, Socket, Type};

use super::{frames, leak};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub struct Arguments {
    /// Bound to each of these devices, and once to none.
    #[arg(long, value_delimiter = ',')]
    devices: Vec<String>,
    /// From each of these addresses, and once from none.
    #[arg(long, value_delimiter = ',')]
    sources: Vec<IpAddr>,
    #[arg(long, value_delimiter = ',')]
    targets: Vec<IpAddr>,
    /// Resolvers, each asked by UDP and TCP.
    #[arg(long, value_delimiter = ',')]
    resolvers: Vec<IpAddr>,
    /// Frames by `AF_PACKET` by each of these devices.
    #[arg(long, value_delimiter = ',')]
    frames: Vec<String>,
    /// Keep sending for this long.
    #[arg(long, default_value_t = 0)]
    for_ms: u64,
}

/// How a socket is kept from going where the routing table says.
#[derive(Clone)]
enum Way {
    Routed,
    Device(String),
    Source(IpAddr),
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let until = Instant::now() + Duration::from_millis(arguments.for_ms);
    let mut volley = Volley::default();
    loop {
        fire(arguments, &mut volley);
        if Instant::now() >= until {
            break;
        }
        thread::sleep(PAUSE);
    }
    println!("{}", serde_json::to_string(&volley)?);
    Ok(())
}

fn fire(arguments: &Arguments, volley: &mut Volley) {
    let devices = arguments.devices.iter().cloned().map(Way::Device);
    let sources = arguments.sources.iter().copied().map(Way::Source);
    for way in std::iter::once(Way::Routed).chain(devices).chain(sources) {
        for &target in &arguments.targets {
            if !fits(&way, target) {
                continue;
            }
            note(volley, udp(&way, SocketAddr::new(target, UDP_PORT)));
            note(volley, tcp(&way, SocketAddr::new(target, TCP_PORT)));
            note(volley, echo(&way, target));
        }
        for &resolver in &arguments.resolvers {
            if !fits(&way, resolver) {
                continue;
            }
            note(volley, udp(&way, SocketAddr::new(resolver, 53)));
            note(volley, tcp(&way, SocketAddr::new(resolver, 53)));
        }
    }
    for device in &arguments.frames {
        for &target in &arguments.targets {
            if let IpAddr::V4(target) = target {
                note(volley, frame(device, target));
            }
        }
    }
}

/// A socket of one family cannot have an address of the other.
fn fits(way: &Way, target: IpAddr) -> bool {
    match way {
        Way::Source(source) => source.is_ipv4() == target.is_ipv4(),
        Way::Routed | Way::Device(_) => true,
    }
}

fn note(volley: &mut Volley, outcome: io::Result<()>) {
    match outcome {
        Ok(()) => volley.sent += 1,
        Err(error) => {
            let code = error.raw_os_error();
            let word = code
                .map_or_else(|| error.to_string(), |code| format!("{:?}", Errno::from_raw(code)));
            *volley.refused.entry(word).or_default() += 1;
        }
    }
}

fn socket(
    way: &Way,
    target: SocketAddr,
    kind: Type,
    protocol: Option<Protocol>,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), kind, protocol)?;
    let mut source: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    match way {
        Way::Routed => {}
        Way::Device(device) => socket.bind_device(Some(device.as_bytes()))?,
        Way::Source(address) => source = *address,
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(socket)
}

fn udp(way: &Way, target: SocketAddr) -> io::Result<()> {
    socket(way, target, Type::DGRAM, None)?.send_to(b"volley", &target.into()).map(drop)
}

/// One SYN: the connection is given up before it can be made.
fn tcp(way: &Way, target: SocketAddr) -> io::Result<()> {
    let socket = socket(way, target, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok(()),
        other => other,
    }
}

/// By a ping socket, for which no capability is needed.
fn echo(way: &Way, target: IpAddr) -> io::Result<()> {
    let (protocol, kind) = match target {
        IpAddr::V4(_) => (Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Protocol::ICMPV6, 128),
    };
    let target = SocketAddr::new(target, 0);
    let message = frames::echo_request(kind, ICMP_ID, 1);
    socket(way, target, Type::DGRAM, Some(protocol))?.send_to(&message, &target.into()).map(drop)
}

/// Past the IP stack.
fn frame(device: &str, target: Ipv4Addr) -> io::Result<()> {
    let link = leak::link_address(device)?;
    let packet = frames::udp4(lab::addresses::EGRESS, target, PACKET_PORT, b"volley");
    // A point-to-point device carries the packet alone.
    let frame = match link.addr() {
        Some(source) if source != [0; 6] => frames::ethernet(source, &packet),
        _ => packet,
    };
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty())?;
    Ok(())
}
