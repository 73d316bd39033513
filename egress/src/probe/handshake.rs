//! A real WireGuard handshake, from a socket of its own.
//!
//! A completed one proves the address, the port, both keys, the preshared key and that the
//! provider still knows us. It carries no traffic and must disturb none:
//!
//! * It is for endpoints that are *not* in use. A responder moves a peer to wherever its latest
//!   valid initiation came from, so probing the active endpoint takes the tunnel's answers away
//!   from it until the device sends again.
//! * It stops after the response. The next step of the protocol is a first data packet, which
//!   confirms the session: from then on the responder would encrypt with it, for a socket that is
//!   already closed. Two configured endpoints may be one server; a tunnel that is in use there
//!   would fall silent until its next rekey. An unconfirmed session is never sent on and expires
//!   by itself, and the response alone already proves all there is to prove.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::noise::{Answer, Initiator};
use super::{DATAGRAM, ProbeError, errno, is_icmp, receive, time_given};
use crate::key::{PublicKey, SecretKey};

/// The part of the timeout after which an unanswered initiation is sent again: halfway, so that
/// either of the two may get lost and the other one still has as long to be answered. (A responder
/// ignores an initiation that comes within 20 ms of the last one of the same key; timeouts of a
/// second and more are far from it.)
const RETRY_AFTER: u32 = 2;

/// How many cookies are answered with a new initiation. A responder under load needs one, and what
/// is sent after that carries it anyway.
const COOKIES_HONOURED: u32 = 1;

/// An endpoint to shake hands with.
#[derive(Debug)]
pub struct HandshakeRequest<'a> {
    pub address: SocketAddr,
    pub private_key: &'a SecretKey,
    pub public_key: PublicKey,
    pub preshared_key: Option<&'a SecretKey>,
    /// The mark the killswitch lets out to endpoints; 0 for none.
    pub fwmark: u32,
    /// For all of it, the retry included.
    pub timeout: Duration,
}

/// What became of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// The endpoint proved that it is the one configured and that it knows us.
    Completed {
        /// From the initiation that was answered to its response.
        took: Duration,
    },
    /// Nothing authentic came back in time: a dead host, a blocked path, or a wrong key. WireGuard
    /// tells these apart for nobody.
    NoAnswer,
    /// The path or the far end said no, in these words, and nothing authentic came back. ICMP is
    /// not authenticated, so an answer always outweighs it.
    Refused(String),
}

/// Shakes hands with an endpoint.
///
/// # Errors
///
/// The probe could not be made, for a reason on this host; the endpoint may be well.
pub fn handshake(request: &HandshakeRequest) -> Result<HandshakeOutcome, ProbeError> {
    let timeout = time_given(request.timeout)?;
    let socket = match open(request)? {
        Ok(socket) => socket,
        Err(refusal) => return Ok(HandshakeOutcome::Refused(refusal)),
    };
    let started = Instant::now();
    let mut attempts = Attempts {
        socket,
        to: request.address,
        initiator: Initiator::new(request.private_key, request.public_key, request.preshared_key),
        sent_at: Vec::new(),
        cookies_left: COOKIES_HONOURED,
        refused: 0,
        refusal: None,
    };
    attempts.initiate()?;
    let completed = match attempts.wait(started + timeout / RETRY_AFTER)? {
        None => {
            attempts.initiate()?;
            attempts.wait(started + timeout)?
        }
        completed => completed,
    };
    Ok(match (completed, attempts.refusal) {
        (Some(took), _) => HandshakeOutcome::Completed { took },
        (None, Some(refusal)) => HandshakeOutcome::Refused(refusal),
        (None, None) => HandshakeOutcome::NoAnswer,
    })
}

/// The initiations of one probe: two, and one to bring a cookie back. Nobody can make us send more.
struct Attempts<'a> {
    socket: Socket,
    to: SocketAddr,
    initiator: Initiator<'a>,
    /// When each of them was sent, in the order in which the initiator counts them.
    sent_at: Vec<Instant>,
    cookies_left: u32,
    /// How many of them were refused, and the latest word.
    refused: usize,
    refusal: Option<String>,
}

impl Attempts<'_> {
    fn initiate(&mut self) -> Result<(), ProbeError> {
        let message = self.initiator.initiation()?;
        self.sent_at.push(Instant::now());
        if let Err(error) = self.socket.send(&message) {
            self.refusal = Some(not_sent(self.to, error)?);
            self.refused += 1;
        }
        Ok(())
    }

    /// Waits for an authentic response; how long it took, or `None` for none.
    fn wait(&mut self, until: Instant) -> Result<Option<Duration>, ProbeError> {
        let mut buffer = [0; DATAGRAM];
        while !self.is_hopeless() {
            let length = match receive(&self.socket, &mut buffer, until) {
                Ok(None) => return Ok(None),
                Ok(Some(length)) => length,
                Err(error) => {
                    self.refusal = Some(heard(self.to, error)?);
                    self.refused += 1;
                    continue;
                }
            };
            match self.initiator.read(&buffer[..length]) {
                Answer::Response(number) => {
                    return Ok(self.sent_at.get(number).map(Instant::elapsed));
                }
                Answer::Cookie if self.cookies_left > 0 => {
                    self.cookies_left -= 1;
                    self.initiate()?;
                }
                Answer::Cookie | Answer::Nothing => {}
            }
        }
        Ok(None)
    }

    /// The first initiation and the retry were refused: nobody is left who could answer. The first
    /// alone is not enough, it may have met a router that was only just starting.
    fn is_hopeless(&self) -> bool {
        self.sent_at.len() > 1 && self.refused >= self.sent_at.len()
    }
}

/// A connected socket, marked before it is connected because the mark chooses the route; or what
/// the routing table says against the way there.
fn open(request: &HandshakeRequest) -> Result<Result<Socket, String>, ProbeError> {
    let to = request.address.ip();
    let socket =
        Socket::new(Domain::for_address(request.address), Type::DGRAM, Some(Protocol::UDP))
            .map_err(|source| ProbeError::Open { to, source })?;
    if request.fwmark != 0 {
        socket
            .set_mark(request.fwmark)
            .map_err(|source| ProbeError::Mark { fwmark: request.fwmark, source })?;
    }
    match socket.connect(&request.address.into()) {
        Ok(()) => Ok(Ok(socket)),
        Err(error) => not_sent(request.address, error).map(Err),
    }
}

/// A packet could not be sent: what that says about the path, if it says anything about it.
fn not_sent(address: SocketAddr, source: io::Error) -> Result<String, ProbeError> {
    let to = address.ip();
    match errno(&source) {
        // No route there, or a late word about an earlier initiation.
        Some(errno) if is_icmp(errno) => Ok(errno.desc().to_owned()),
        // A verdict of this host: a rule of its firewall, or a route that says `prohibit`.
        Some(Errno::EPERM | Errno::EACCES) => Err(ProbeError::Forbidden { to, source }),
        _ => Err(ProbeError::Send { to, source }),
    }
}

/// An error came where an answer was waited for.
fn heard(address: SocketAddr, source: io::Error) -> Result<String, ProbeError> {
    match errno(&source) {
        // ICMPv6 "administratively prohibited" is EACCES; it is somebody else's word, as this
        // host's own firewall speaks up when the packet is sent.
        Some(errno) if is_icmp(errno) || errno == Errno::EACCES => Ok(errno.desc().to_owned()),
        _ => Err(ProbeError::Receive { from: address.ip(), source }),
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
