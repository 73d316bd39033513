//! `lab shot`: one packet, exactly as asked for, by one device.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use clap::{Args, ValueEnum};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, sendto};
use socket2::{Domain, Protocol, Socket, Type};

use super::{frames, leak};

#[derive(Args)]
pub struct Arguments {
    #[arg(long)]
    what: What,
    #[arg(long)]
    to: Option<SocketAddr>,
    #[arg(long, default_value = "eth0")]
    device: String,
    #[arg(long)]
    from: Option<IpAddr>,
    #[arg(long, default_value_t = 0)]
    source_port: u16,
    #[arg(long)]
    mark: Option<u32>,
    /// Of an ICMP message.
    #[arg(long, default_value_t = 0)]
    kind: u8,
    #[arg(long, default_value_t = 0)]
    code: u8,
    #[arg(long, default_value_t = 64)]
    hop_limit: u8,
    /// Of a frame.
    #[arg(long, default_value_t = 0)]
    ethertype: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Udp,
    /// One SYN.
    Tcp,
    Icmp,
    Icmp6,
    /// Made by hand, past the IP stack.
    Frame,
}

/// A packet that is refused is what may be asked for: it is said, and is no failure.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let said = match shoot(arguments) {
        Ok(()) => "sent".to_owned(),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(
                refused @ (Errno::EPERM
                | Errno::EACCES
                | Errno::ENOBUFS
                | Errno::ECONNREFUSED
                | Errno::EHOSTUNREACH),
            ) => format!("{refused:?}"),
            _ => return Err(error),
        },
    };
    println!("{said}");
    Ok(())
}

fn shoot(arguments: &Arguments) -> io::Result<()> {
    let Some(to) = arguments.to else { return frame(arguments) };
    let (kind, protocol) = match arguments.what {
        What::Udp => (Type::DGRAM, None),
        What::Tcp => (Type::STREAM, None),
        What::Icmp => (Type::RAW, Some(Protocol::ICMPV4)),
        What::Icmp6 => (Type::RAW, Some(Protocol::ICMPV6)),
        What::Frame => return frame(arguments),
    };
    let socket = Socket::new(Domain::for_address(to), kind, protocol)?;
    socket.bind_device(Some(arguments.device.as_bytes()))?;
    if let Some(mark) = arguments.mark {
        socket.set_mark(mark)?;
    }
    if arguments.what == What::Udp {
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
    }
    if to.is_ipv6() {
        socket.set_unicast_hops_v6(arguments.hop_limit.into())?;
        socket.set_multicast_hops_v6(arguments.hop_limit.into())?;
        socket.set_multicast_if_v6(if_nametoindex(arguments.device.as_str())?)?;
    }
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let port = if kind == Type::RAW { 0 } else { arguments.source_port };
    socket.bind(&SocketAddr::new(arguments.from.unwrap_or(any), port).into())?;
    if arguments.what == What::Tcp {
        socket.set_nonblocking(true)?;
        return match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok(()),
            other => other,
        };
    }
    socket.send_to(&message(arguments), &to.into()).map(drop)
}

/// Long enough for any message of neighbour discovery.
fn message(arguments: &Arguments) -> Vec<u8> {
    if arguments.what == What::Udp {
        return b"shot".to_vec();
    }
    let mut message = vec![0; 24];
    message[0] = arguments.kind;
    message[1] = arguments.code;
    // Of version 6 the kernel makes it.
    if arguments.what == What::Icmp {
        let sum = frames::checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    message
}

fn frame(arguments: &Arguments) -> io::Result<()> {
    let device = leak::link_address(&arguments.device)?;
    let source = device.addr().unwrap_or_default();
    let frame = frames::framed(source, &[], arguments.ethertype, &[0; 46]);
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    sendto(socket.as_raw_fd(), &frame, &device, MsgFlags::empty())?;
    Ok(())
}
