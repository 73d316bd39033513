//! `lab leak`: packets bound to a device, as a workload sends them that wants out beside the
//! tunnel.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use lab::Leak;
use lab::addresses::{ECHO, ECHO_V6, EGRESS, Endpoint, WORLD, WORLD_V6};
use lab::kinds::ECHO_ID_HOST;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{frames, ordinary};

const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    kind: Leak,
    #[arg(long, default_value_t = 1)]
    count: u16,
    #[arg(long, default_value = "eth0")]
    device: String,
    /// Where to, instead of `world`.
    #[arg(long)]
    target: Option<SocketAddr>,
    /// A mark to put on the packets (needs `CAP_NET_ADMIN` or `CAP_NET_RAW`).
    #[arg(long)]
    mark: Option<u32>,
}

pub fn run(arguments: &Arguments) {
    let mut errors = BTreeMap::<String, u64>::new();
    let mut sent = 0;
    for sequence in 0..arguments.count {
        match attempt(arguments, sequence) {
            Ok(()) => sent += 1,
            Err(error) => {
                let name = error.raw_os_error().map_or_else(
                    || error.to_string(),
                    |code| format!("{:?}", Errno::from_raw(code)),
                );
                *errors.entry(name).or_default() += 1;
            }
        }
    }
    println!("{}", json!({"sent": sent, "errors": errors}));
}

fn attempt(arguments: &Arguments, sequence: u16) -> io::Result<()> {
    let target = |default| arguments.target.unwrap_or(default);
    match arguments.kind {
        Leak::Udp4 => udp(arguments, target(ECHO)),
        Leak::Udp6 => udp(arguments, target(ECHO_V6)),
        Leak::Endpoint => udp(arguments, target(Endpoint::A.socket())),
        Leak::Tcp4 => tcp(arguments, target(ECHO)),
        Leak::Tcp6 => tcp(arguments, target(ECHO_V6)),
        Leak::Icmp4 => {
            let message = frames::echo_request(ICMP_ECHO_REQUEST, ECHO_ID_HOST, sequence);
            let to = arguments.target.map_or(WORLD.into(), |target| target.ip());
            icmp(arguments, Protocol::ICMPV4, to, &message)
        }
        Leak::Icmp6 => {
            let message = frames::echo_request(ICMPV6_ECHO_REQUEST, ECHO_ID_HOST, sequence);
            icmp(arguments, Protocol::ICMPV6, WORLD_V6.into(), &message)
        }
        Leak::Packet
        | Leak::Vlan
        | Leak::Qinq
        | Leak::Pppoe
        | Leak::Arp
        | Leak::Lldp
        | Leak::Eapol
        | Leak::Igmp
        | Leak::Mld
        | Leak::Mdns => frame(arguments),
    }
}

fn udp(arguments: &Arguments, target: SocketAddr) -> io::Result<()> {
    let socket = bound(arguments, target, Type::DGRAM, None)?;
    socket.send_to(b"leak", &target.into()).map(drop)
}

/// One SYN: the connection is given up before it can be made.
fn tcp(arguments: &Arguments, target: SocketAddr) -> io::Result<()> {
    let socket = bound(arguments, target, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok(()),
        other => other,
    }
}

fn icmp(
    arguments: &Arguments,
    protocol: Protocol,
    target: IpAddr,
    message: &[u8],
) -> io::Result<()> {
    let target = SocketAddr::new(target, 0);
    let socket = bound(arguments, target, Type::RAW, Some(protocol))?;
    socket.send_to(message, &target.into()).map(drop)
}

fn frame(arguments: &Arguments) -> io::Result<()> {
    let device = link_address(&arguments.device)?;
    let source = device.addr().unwrap_or_default();
    let (to, port) = match arguments.target {
        Some(SocketAddr::V4(target)) => (*target.ip(), target.port()),
        _ => (WORLD, ECHO.port()),
    };
    let packet = || frames::udp4(EGRESS, to, port, b"leak");
    let frame = match arguments.kind {
        Leak::Arp => frames::arp_request(source),
        Leak::Vlan => frames::vlan(source, &packet()),
        Leak::Qinq => frames::qinq(source, &packet()),
        Leak::Pppoe => frames::pppoe(source, &packet()),
        Leak::Lldp => ordinary::lldp(source),
        Leak::Eapol => ordinary::eapol(source),
        Leak::Igmp => ordinary::igmp(source),
        Leak::Mld => ordinary::mld(source),
        Leak::Mdns => ordinary::mdns(source),
        _ => frames::ethernet(source, &packet()),
    };
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    if let Some(mark) = arguments.mark {
        socket.set_mark(mark)?;
    }
    sendto(socket.as_raw_fd(), &frame, &device, MsgFlags::empty())?;
    Ok(())
}

fn bound(
    arguments: &Arguments,
    target: SocketAddr,
    kind: Type,
    protocol: Option<Protocol>,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), kind, protocol)?;
    socket.bind_device(Some(arguments.device.as_bytes()))?;
    if let Some(mark) = arguments.mark {
        socket.set_mark(mark)?;
    }
    if kind == Type::STREAM {
        // Every attempt from a port of its own, so that each is a packet of its own.
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        socket.bind(&SockAddr::from(any))?;
    }
    Ok(socket)
}

pub fn link_address(device: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::from_raw_os_error(Errno::ENODEV as i32))
}
