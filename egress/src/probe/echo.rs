//! Does a far end answer an ICMP echo: through the tunnel device and nothing else, or an endpoint's
//! own address, with the mark that the lock lets out to it?
//!
//! Through the tunnel the socket is bound to the device by `SO_BINDTODEVICE`: the kernel transmits on
//! that device and takes answers from that device, whatever the routing table says. So a lost tunnel route cannot
//! turn the echo into a leak, nor an answer that came by the uplink into a healthy tunnel. Without
//! a route an IPv6 echo cannot be sent; for IPv4 the kernel takes a target without a route for a
//! neighbour on the bound device, so the echo still speaks of the tunnel alone.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{DATAGRAM, ProbeError, errno, is_icmp, receive, time_given, unguessable, uplink};

/// Type, code, checksum, identifier, sequence.
const HEADER: usize = 8;

/// Two random numbers. Nobody but a receiver of the echo can send them back.
const NONCE: usize = 16;

/// A message's sequence number: one echo per socket, so always the same.
const SEQUENCE: u16 = 1;

/// An echo to send.
#[derive(Debug)]
pub struct EchoRequest<'a> {
    pub way: Way<'a>,
    /// An address on the far side of the tunnel, or an endpoint's own.
    pub target: IpAddr,
    pub timeout: Duration,
}

/// How an echo leaves this host.
#[derive(Debug, Clone, Copy)]
pub enum Way<'a> {
    /// By this device, the tunnel's.
    Device(&'a str),
    /// Beside the tunnel, with the fwmark that the lock lets out to endpoints.
    Marked(u32),
}

/// Whether it came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoOutcome {
    Answered {
        took: Duration,
    },
    /// Not in time. A saturated tunnel may also drop one: look at what it received meanwhile.
    Silent,
}

/// Sends one echo and waits for its reply.
///
/// # Errors
///
/// The echo could not be sent, for a reason on this host: no such device, no route, no right, no
/// peer on the device. It says nothing about the far end.
pub fn echo(request: &EchoRequest) -> Result<EchoOutcome, ProbeError> {
    let timeout = time_given(request.timeout)?;
    let (socket, kind) = match request.way {
        Way::Device(interface) => bound_to(interface, request.target)?,
        Way::Marked(fwmark) => {
            let (socket, kind) = open(request.target)?;
            socket.set_mark(fwmark).map_err(|source| ProbeError::Mark { fwmark, source })?;
            (socket, kind)
        }
    };

    let message = Echo::new(request.target);
    let sent = Instant::now();
    send(&socket, request.target, &message.request())?;

    let mut buffer = [0; DATAGRAM];
    loop {
        match receive(&socket, &mut buffer, sent + timeout) {
            Ok(None) => return Ok(EchoOutcome::Silent),
            Ok(Some(length)) if message.is_answered_by(kind, &buffer[..length]) => {
                return Ok(EchoOutcome::Answered { took: sent.elapsed() });
            }
            // Somebody else's.
            Ok(Some(_)) => {}
            Err(error) if is_about_the_way(&error) => {}
            Err(source) => {
                return Err(ProbeError::Receive { from: request.target, source });
            }
        }
    }
}

fn bound_to(interface: &str, target: IpAddr) -> Result<(Socket, Kind), ProbeError> {
    // An empty name would *unbind* the socket and a long one be cut to another device's name, so
    // only a name that the kernel knows as it stands gets as far as SO_BINDTODEVICE.
    let device =
        uplink::device(interface).ok_or_else(|| ProbeError::NoDevice(interface.to_owned()))?;
    let (socket, kind) = open(target)?;
    socket
        .bind_device(Some(device.name.as_bytes()))
        .map_err(|source| ProbeError::Bind { device: device.name, source })?;
    Ok((socket, kind))
}

/// What the kernel does for us with the messages of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An ICMP socket: it numbers the echo itself and hands over the replies to it only.
    Ping,
    /// A raw socket: everything is ours to do, and everybody's ICMP arrives.
    Raw,
}

/// The socket that needs no privilege if the host allows it, else the one that needs `CAP_NET_RAW`.
fn open(target: IpAddr) -> Result<(Socket, Kind), ProbeError> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    if let Ok(socket) = Socket::new(domain, Type::DGRAM, Some(protocol)) {
        return Ok((socket, Kind::Ping));
    }
    match Socket::new(domain, Type::RAW, Some(protocol)) {
        Ok(socket) => Ok((socket, Kind::Raw)),
        Err(source) if is_forbidden(&source) => Err(ProbeError::EchoNotPermitted(source)),
        Err(source) => Err(ProbeError::Open { to: target, source }),
    }
}

fn send(socket: &Socket, to: IpAddr, message: &[u8]) -> Result<(), ProbeError> {
    // Connected, so that the kernel passes on what ICMP says about this echo and, on a raw socket,
    // keeps other hosts' messages away. ICMP has no ports.
    let address = SockAddr::from(std::net::SocketAddr::new(to, 0));
    socket.connect(&address).and_then(|()| socket.send(message)).map(drop).map_err(|source| {
        if is_forbidden(&source) {
            ProbeError::Forbidden { to, source }
        } else {
            ProbeError::Send { to, source }
        }
    })
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::EPERM | Errno::EACCES))
}

/// Somebody on the way said that the echo did not arrive. That is no answer of the target, and
/// anybody can say it, so the wait goes on.
fn is_about_the_way(error: &io::Error) -> bool {
    errno(error).is_some_and(|errno| is_icmp(errno) || errno == Errno::EACCES)
}

/// One echo and how to know its reply.
struct Echo {
    request_type: u8,
    reply_type: u8,
    identifier: u16,
    nonce: [u8; NONCE],
}

impl Echo {
    fn new(target: IpAddr) -> Self {
        let (request_type, reply_type) = match target {
            IpAddr::V4(_) => (8, 0),
            IpAddr::V6(_) => (128, 129),
        };
        let mut nonce = [0; NONCE];
        let (first, second) = nonce.split_at_mut(NONCE / 2);
        first.copy_from_slice(&unguessable().to_ne_bytes());
        second.copy_from_slice(&unguessable().to_ne_bytes());
        Self {
            request_type,
            reply_type,
            identifier: u16::from_ne_bytes([nonce[0], nonce[1]]),
            nonce,
        }
    }

    fn request(&self) -> [u8; HEADER + NONCE] {
        let mut message = [0; HEADER + NONCE];
        message[0] = self.request_type;
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&SEQUENCE.to_be_bytes());
        message[HEADER..].copy_from_slice(&self.nonce);
        // For IPv6, and on ICMP sockets, the kernel writes the checksum over this one.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    fn is_answered_by(&self, kind: Kind, datagram: &[u8]) -> bool {
        // Of a raw socket's messages only IPv4's come with their IP header.
        let message = match (kind, self.reply_type) {
            (Kind::Raw, 0) => without_ip_header(datagram),
            _ => Some(datagram),
        };
        let Some((header, payload)) = message.and_then(<[u8]>::split_first_chunk::<HEADER>) else {
            return false;
        };
        let [kind_of_message, code, _, _, id_high, id_low, seq_high, seq_low] = *header;
        // An ICMP socket has put an identifier of its own in the place of ours.
        let is_ours =
            kind == Kind::Ping || u16::from_be_bytes([id_high, id_low]) == self.identifier;
        kind_of_message == self.reply_type
            && code == 0
            && is_ours
            && u16::from_be_bytes([seq_high, seq_low]) == SEQUENCE
            && payload == self.nonce
    }
}

/// Cuts the IPv4 header off; its length is in its first byte, in words of four bytes.
fn without_ip_header(datagram: &[u8]) -> Option<&[u8]> {
    let words = usize::from(datagram.first()? & 0x0f);
    datagram.get(words * 4..)
}

/// The Internet checksum (RFC 1071) of a message of even length whose checksum field is zero.
fn checksum(message: &[u8]) -> u16 {
    let sum = message.chunks_exact(2).fold(0u16, |sum, pair| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([pair[0], pair[1]]));
        sum + u16::from(carry)
    });
    !sum
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// Long enough for the slowest machine: none of these tests waits it out.
    const AMPLE: Duration = Duration::from_secs(10);
    /// Waited out where nobody answers.
    const SHORT: Duration = Duration::from_millis(50);

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn through(interface: &str, target: IpAddr, timeout: Duration) -> EchoRequest<'_> {
        EchoRequest { way: Way::Device(interface), target, timeout }
    }

    /// The reply a target would send to `echo`, as a socket that is `kind` hands it over.
    fn reply(echo: &Echo, kind: Kind) -> Vec<u8> {
        let mut message = echo.request().to_vec();
        message[0] = echo.reply_type;
        if kind == Kind::Raw && echo.reply_type == 0 {
            let mut datagram = vec![0x45];
            datagram.resize(20, 0);
            datagram.extend(message);
            return datagram;
        }
        message
    }

    // These two need the right to send an echo and fail without it: a probe that was never made
    // must not look like one that worked.
    #[test]
    fn a_target_that_is_there_answers() {
        let outcome = echo(&through("lo", V4, AMPLE)).expect("an ICMP echo through `lo`");
        assert!(matches!(outcome, EchoOutcome::Answered { .. }), "{outcome:?}");
    }

    #[test]
    fn a_target_behind_another_device_is_never_reached() {
        // TEST-NET-3: nothing on the loopback device answers for it, and it may go nowhere else.
        let elsewhere = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
        let outcome = echo(&through("lo", elsewhere, SHORT));
        assert!(!matches!(outcome, Ok(EchoOutcome::Answered { .. })), "{outcome:?}");
    }

    #[test]
    fn a_device_that_does_not_exist_is_an_error_not_a_dead_tunnel() {
        // "lo" with a tail would be cut to a name of 15 bytes, an empty name binds to no device.
        for name in ["", "no-such-device", "lo\0", "lo-and-far-too-long-a-name"] {
            let outcome = echo(&through(name, V4, AMPLE));
            assert!(matches!(outcome, Err(ProbeError::NoDevice(_))), "{name:?}: {outcome:?}");
        }
    }

    #[test]
    fn no_time_is_an_error_not_a_dead_tunnel() {
        let outcome = echo(&through("lo", V4, Duration::ZERO));
        assert!(matches!(outcome, Err(ProbeError::NoTime)), "{outcome:?}");
    }

    #[test]
    fn only_the_reply_to_this_echo_is_its_reply() {
        for target in [V4, V6] {
            for kind in [Kind::Ping, Kind::Raw] {
                let echo = Echo::new(target);
                let answer = reply(&echo, kind);
                assert!(echo.is_answered_by(kind, &answer));
                assert!(!echo.is_answered_by(kind, &reply(&Echo::new(target), kind)));
                assert!(!echo.is_answered_by(kind, &echo.request()), "its own request");
                assert!(!echo.is_answered_by(kind, &answer[..answer.len() - 1]), "cut short");
            }
        }
    }

    #[test]
    fn a_message_with_its_checksum_sums_to_nothing() {
        // RFC 1071, section 3: its sum is ddf2, and the checksum is the complement.
        let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&example), !0xddf2);
        assert_eq!(checksum(&Echo::new(V4).request()), 0);
    }

    proptest! {
        #[test]
        fn noise_is_never_an_answer(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            for target in [V4, V6] {
                for kind in [Kind::Ping, Kind::Raw] {
                    prop_assert!(!Echo::new(target).is_answered_by(kind, &noise));
                }
            }
        }
    }
}
