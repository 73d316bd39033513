//! Questions put to the network: does an endpoint shake hands, does the tunnel answer, does the
//! uplink work?
//!
//! A probe tells *no* from *could not ask*. A silent far end is an outcome; a reason on this host
//! (a missing device, a missing right, the host's own firewall) is a [`ProbeError`] and must never
//! be read as a dead far end. All calls block up to their timeout: run them on threads.

mod ask;
mod connect;
mod defaults;
mod echo;
mod handshake;
mod noise;
pub mod policy;
mod query;
mod rtnetlink;
mod source;
mod tunnel;
pub mod uplink;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use socket2::Socket;

use ask::Heard;
pub use defaults::default_route_devices;
pub use echo::echo_marked;
pub use handshake::{HandshakeOutcome, HandshakeRequest, handshake};
pub use source::{networks, own_addresses, source_address, usual_source_address};
pub use tunnel::{TunnelRequest, Wanted, ask_through, fill_through};
pub use uplink::{Device, UplinkVerdict, device};

/// Why a probe could not be made. It says nothing about the far end.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("the probe was given no time: want a timeout above zero")]
    NoTime,
    #[error("cannot open a socket to probe {to}; for IPv6, is it switched off on this host?")]
    Open {
        to: IpAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot put the fwmark {fwmark:#x} on the probe's socket, and without it the killswitch stops the probe: grant CAP_NET_ADMIN"
    )]
    Mark {
        fwmark: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot make a handshake message from the endpoint's keys")]
    Noise(#[source] snow::Error),
    #[error(
        "may not send an ICMP echo: put the program's group into the sysctl net.ipv4.ping_group_range, or grant CAP_NET_RAW"
    )]
    EchoNotPermitted(#[source] io::Error),
    #[error("there is no device `{0}` to probe through: is the tunnel up?")]
    NoDevice(String),
    #[error(
        "cannot bind the probe to the device `{device}`: was it removed? Kernels before 5.7 want CAP_NET_RAW for it"
    )]
    Bind {
        device: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "this host's own firewall or routes refuse packets to {to}: see `nft list ruleset` and `ip rule`"
    )]
    Forbidden {
        to: IpAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot send a probe to {to}: see `ip route get {to}`")]
    Send {
        to: IpAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot wait for the answer of {from}")]
    Receive {
        from: IpAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path}: is /proc mounted, and may this program see it?")]
    Table {
        path: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot ask the kernel about this host's network devices")]
    Devices(#[source] io::Error),
    #[error("cannot ask the kernel whether a gateway answers")]
    Neighbours(#[source] io::Error),
    #[error("cannot ask the kernel for its route to {to}")]
    Route {
        to: IpAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "this host has no route to {to} by `{device}`, so neither has what is locked in: see `ip route get {to}`, and set the tunnel's routes again"
    )]
    NoRoute { to: IpAddr, device: String },
}

/// Whether the far end of a probe said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Answered {
        took: Duration,
    },
    /// None of the tries in time. A saturated tunnel may drop them all: look at what it received
    /// meanwhile.
    Silent,
}

/// The longest a probe waits, whatever it was asked: a mistyped timeout must not hold a thread of
/// its caller for days.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The shortest wait the kernel is asked for. It takes a timeout of zero for "for ever".
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Room for one datagram. Every answer that is looked for is far shorter; of a longer one the rest
/// is cut off, which makes it none of them.
const DATAGRAM: usize = 2048;

/// The time a probe has, from now.
fn time_given(timeout: Duration) -> Result<Duration, ProbeError> {
    if timeout.is_zero() {
        return Err(ProbeError::NoTime);
    }
    Ok(timeout.min(LONGEST_TIMEOUT))
}

/// Lets a socket send and receive by this device only, whatever the routing table says.
fn bind(socket: &Socket, device: &Device) -> Result<(), ProbeError> {
    socket
        .bind_device(Some(device.name.as_bytes()))
        .map_err(|source| ProbeError::Bind { device: device.name.clone(), source })
}

/// A packet could not be sent: a verdict of this host's rules, or another reason on this host.
fn not_sent(to: IpAddr, source: io::Error) -> ProbeError {
    match errno(&source) {
        Some(Errno::EPERM | Errno::EACCES) => ProbeError::Forbidden { to, source },
        _ => ProbeError::Send { to, source },
    }
}

/// Somebody on the way said that a probe did not arrive. That is no answer of the target, and
/// anybody can say it, so the wait goes on.
fn is_about_the_way(error: &io::Error) -> bool {
    errno(error).is_some_and(|errno| is_icmp(errno) || errno == Errno::EACCES)
}

/// Has the kernel tell all that ICMP says of what this socket sends; by default it tells some.
fn hear_refusals(socket: &Socket, to: IpAddr) -> Result<(), ProbeError> {
    let set = match to {
        IpAddr::V4(_) => setsockopt(socket, Ipv4RecvErr, &true),
        IpAddr::V6(_) => setsockopt(socket, Ipv6RecvErr, &true),
    };
    set.map_err(|errno| ProbeError::Open { to, source: errno.into() })
}

/// Sends on a connected socket. What a full queue of this host drops is lost as on any line.
fn send(socket: &Socket, to: IpAddr, message: &[u8]) -> Result<(), ProbeError> {
    match socket.send(message) {
        Err(error) if errno(&error) != Some(Errno::ENOBUFS) => Err(not_sent(to, error)),
        _ => Ok(()),
    }
}

/// Waits for a datagram that `is_answer` knows.
fn hear(
    socket: &Socket,
    from: IpAddr,
    until: Instant,
    is_answer: impl Fn(&[u8]) -> bool,
) -> Result<Heard, ProbeError> {
    let (mut buffer, mut heard) = ([0; DATAGRAM], Heard::Nothing);
    loop {
        match receive(socket, &mut buffer, until) {
            Ok(None) => return Ok(heard),
            Ok(Some(length)) if is_answer(&buffer[..length]) => return Ok(Heard::Answer),
            // Somebody else's.
            Ok(Some(_)) => {}
            // A closed port among them: a host lives, but what was asked for does not.
            Err(error) if is_about_the_way(&error) => heard = Heard::Refusal,
            Err(source) => return Err(ProbeError::Receive { from, source }),
        }
    }
}

/// Waits for the next datagram; `None` when `until` has come first.
fn receive(mut socket: &Socket, buffer: &mut [u8], until: Instant) -> io::Result<Option<usize>> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left.max(SHORTEST_WAIT)))?;
        match socket.read(buffer) {
            Ok(length) => return Ok(Some(length)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

/// A number nobody off this host can guess, to tell our answers from others'. It protects no
/// secret: the standard library's randomly keyed hash is enough, and needs no further crate.
fn unguessable() -> u64 {
    RandomState::new().hash_one(())
}

/// What the kernel said, if it was the kernel.
fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

/// What ICMP from the path or the far end becomes on a connected socket. A missing route has the
/// same names. ("Prohibited", of IPv6, becomes EACCES, which on sending means this host's own rules.)
fn is_icmp(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNREFUSED
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::ENOPROTOOPT
            | Errno::EPROTO
            | Errno::EOPNOTSUPP
            | Errno::EMSGSIZE
    )
}
