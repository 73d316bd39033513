//! Does a far end answer an ICMP echo: through the tunnel device and nothing else, or an endpoint's
//! own address, with the mark that the lock lets out to it?

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::ask::{Heard, Question, ask};
use super::{
    Device, ProbeError, Reply, bind, errno, hear, hear_refusals, not_sent, send, time_given,
    unguessable,
};

/// Type, code, checksum, identifier, sequence.
const HEADER: usize = 8;

/// Two random numbers. Nobody but a receiver of the echo can send them back.
const NONCE: usize = 16;

/// A message's sequence number: one echo per socket, however often it is sent, so always the same.
const SEQUENCE: u16 = 1;

/// Sends an echo beside the tunnel, with the fwmark that the lock lets out to endpoints, again and
/// again until it is replied to or its time is over.
///
/// # Errors
///
/// The echo could not be sent, for a reason on this host. It says nothing about the far end.
pub fn echo_marked(target: IpAddr, fwmark: u32, timeout: Duration) -> Result<Reply, ProbeError> {
    let timeout = time_given(timeout)?;
    let (socket, kind) = open(target)?;
    socket.set_mark(fwmark).map_err(|source| ProbeError::Mark { fwmark, source })?;
    ask_by(&socket, kind, target, Echo::new(target), timeout)
}

/// The same by `device`, the tunnel's.
pub(super) fn echo_through(
    device: &Device,
    target: IpAddr,
    timeout: Duration,
) -> Result<Reply, ProbeError> {
    echo_of(device, Echo::new(target), target, timeout)
}

/// The same in packets of `size` bytes, IP header included. They are not fragmented on the way, but
/// where path MTU discovery has found a smaller size: then here, as everybody's are.
pub(super) fn echo_through_of_size(
    device: &Device,
    target: IpAddr,
    size: u16,
    timeout: Duration,
) -> Result<Reply, ProbeError> {
    echo_of(device, Echo::of_size(target, size), target, timeout)
}

fn echo_of(
    device: &Device,
    echo: Echo,
    target: IpAddr,
    timeout: Duration,
) -> Result<Reply, ProbeError> {
    let (socket, kind) = open(target)?;
    bind(&socket, device)?;
    ask_by(&socket, kind, target, echo, timeout)
}

fn ask_by(
    socket: &Socket,
    kind: Kind,
    target: IpAddr,
    echo: Echo,
    timeout: Duration,
) -> Result<Reply, ProbeError> {
    hear_refusals(socket, target)?;
    connect(socket, target)?;
    ask(&mut Asking { socket, kind, target, echo }, timeout)
}

/// One echo, sent again and again: a reply to any of them is the same.
struct Asking<'a> {
    socket: &'a Socket,
    kind: Kind,
    target: IpAddr,
    echo: Echo,
}

impl Question for Asking<'_> {
    fn put(&mut self) -> Result<(), ProbeError> {
        send(self.socket, self.target, &self.echo.request())
    }

    fn hear(&mut self, until: Instant) -> Result<Heard, ProbeError> {
        let is_reply = |datagram: &[u8]| self.echo.is_answered_by(self.kind, datagram);
        hear(self.socket, self.target, until, is_reply)
    }
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

fn connect(socket: &Socket, to: IpAddr) -> Result<(), ProbeError> {
    // So that on a raw socket the kernel keeps other hosts' messages away. ICMP has no ports.
    let address = SockAddr::from(std::net::SocketAddr::new(to, 0));
    socket.connect(&address).map_err(|source| not_sent(to, source))
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::EPERM | Errno::EACCES))
}

/// One echo and how to know its reply.
struct Echo {
    request_type: u8,
    reply_type: u8,
    identifier: u16,
    nonce: [u8; NONCE],
    /// Zeros behind the nonce. Some hosts cut them off in their reply.
    padding: usize,
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
            padding: 0,
        }
    }

    /// As large as fits into a packet of `size` bytes, or a byte less: the checksum is over pairs.
    fn of_size(target: IpAddr, size: u16) -> Self {
        let ip_header = if target.is_ipv4() { 20 } else { 40 };
        let padding = usize::from(size).saturating_sub(ip_header + HEADER + NONCE);
        Self { padding: padding & !1, ..Self::new(target) }
    }

    fn request(&self) -> Vec<u8> {
        let mut message = vec![0; HEADER + NONCE + self.padding];
        message[0] = self.request_type;
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&SEQUENCE.to_be_bytes());
        message[HEADER..HEADER + NONCE].copy_from_slice(&self.nonce);
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
            && payload.starts_with(&self.nonce)
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

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    /// The reply a target would send to `echo`, as a socket that is `kind` hands it over.
    fn reply(echo: &Echo, kind: Kind) -> Vec<u8> {
        let mut message = echo.request();
        message[0] = echo.reply_type;
        if kind == Kind::Raw && echo.reply_type == 0 {
            let mut datagram = vec![0x45];
            datagram.resize(20, 0);
            datagram.extend(message);
            return datagram;
        }
        message
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
    fn an_echo_fills_the_packet_that_it_was_made_for() {
        for (target, ip_header) in [(V4, 20), (V6, 40)] {
            for size in [1280, 1420, 1421] {
                let length = ip_header + Echo::of_size(target, size).request().len();
                assert_eq!(length, usize::from(size & !1));
            }
            let echo = Echo::of_size(target, 1420);
            let mut answer = reply(&echo, Kind::Ping);
            assert!(echo.is_answered_by(Kind::Ping, &answer));
            answer.truncate(HEADER + NONCE);
            assert!(echo.is_answered_by(Kind::Ping, &answer), "cut by the host that replied");
            answer.pop();
            assert!(!echo.is_answered_by(Kind::Ping, &answer));
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
