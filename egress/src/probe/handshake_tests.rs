//! Handshakes with far ends of every kind, on loopback.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::thread::JoinHandle;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use super::*;
use crate::probe::noise::INITIATION_LENGTH;

/// Long enough for the slowest machine: nobody waits it out.
const AMPLE: Duration = Duration::from_secs(20);
/// Waited out where no answer counts.
const SHORT: Duration = Duration::from_millis(200);
/// So short that its half has passed soon, so long that the retry is answered in time.
const RETRIED: Duration = Duration::from_secs(4);

/// The part of a response that its authenticity covers: all but the second MAC, which only a
/// responder under load looks at.
const AUTHENTICATED: usize = 76;
/// A rate that no test reaches.
const UNLIMITED: u64 = u64::MAX;
const SESSION_INDEX: u32 = 7;

const V4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const V6: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes([seed; 32])
}

/// The keys of both sides, as they should be.
struct Keys {
    client: SecretKey,
    server: SecretKey,
    preshared: Option<SecretKey>,
}

impl Keys {
    fn new() -> Self {
        Self { client: key(1), server: key(2), preshared: Some(key(3)) }
    }

    /// The server's side; `limit` handshakes a second and it is under load.
    fn server(&self, limit: u64) -> Tunn {
        let private = x25519::StaticSecret::from(*self.server.expose());
        let limiter = RateLimiter::new(&x25519::PublicKey::from(&private), limit);
        Tunn::new(
            private,
            x25519::PublicKey::from(*self.client.public().as_bytes()),
            self.preshared.as_ref().map(|key| *key.expose()),
            None,
            SESSION_INDEX,
            Some(limiter.into()),
        )
    }

    fn request(&self, address: SocketAddr, timeout: Duration) -> HandshakeRequest<'_> {
        HandshakeRequest {
            address,
            private_key: &self.client,
            public_key: self.server.public(),
            preshared_key: self.preshared.as_ref(),
            fwmark: 0,
            timeout,
        }
    }
}

/// A far end on the loopback device, and what it was sent.
struct FarEnd {
    address: SocketAddr,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl FarEnd {
    /// Answers each datagram with what `answers` makes of it.
    fn start(
        at: SocketAddr,
        mut answers: impl FnMut(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let socket = UdpSocket::bind(at).expect("a port of the loopback device");
        let address = socket.local_addr().expect("its address");
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut buffer = [0; DATAGRAM];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
                if length == 0 {
                    return seen;
                }
                seen.push(buffer[..length].to_vec());
                for answer in answers(&buffer[..length], from) {
                    // The prober may have heard enough and be gone.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, thread }
    }

    /// A WireGuard server.
    fn server(at: SocketAddr, mut tunn: Tunn) -> Self {
        Self::start(at, move |datagram, from| answer(&mut tunn, datagram, from))
    }

    /// Ends it. Loopback datagrams keep their order: all that was sent before has been seen.
    fn stop(self) -> Vec<Vec<u8>> {
        let socket = UdpSocket::bind(SocketAddr::new(self.address.ip(), 0)).expect("a port");
        socket.send_to(&[], self.address).expect("the word to stop");
        self.thread.join().expect("the far end's thread")
    }
}

fn answer(tunn: &mut Tunn, datagram: &[u8], from: SocketAddr) -> Vec<Vec<u8>> {
    let mut buffer = [0; DATAGRAM];
    match tunn.decapsulate(Some(from.ip()), datagram, &mut buffer) {
        TunnResult::WriteToNetwork(packet) => vec![packet.to_vec()],
        _ => Vec::new(),
    }
}

fn completed(outcome: &HandshakeOutcome) -> bool {
    matches!(outcome, HandshakeOutcome::Completed { .. })
}

#[test]
fn s9_the_right_endpoint_completes() {
    for preshared in [None, Some(key(3))] {
        for at in [V4, V6] {
            let keys = Keys { preshared: preshared.clone(), ..Keys::new() };
            let far = FarEnd::server(at, keys.server(UNLIMITED));
            let outcome = handshake(&keys.request(far.address, AMPLE)).expect("a probe");
            assert!(completed(&outcome), "{at}, {preshared:?}: {outcome:?}");
            far.stop();
        }
    }
}

#[test]
fn s9_an_endpoint_with_other_keys_is_no_answer() {
    let right = Keys::new();
    let wrong = [
        ("its key", Keys { server: key(9), ..Keys::new() }),
        ("our key", Keys { client: key(9), ..Keys::new() }),
        ("the preshared key", Keys { preshared: Some(key(9)), ..Keys::new() }),
        ("no preshared key", Keys { preshared: None, ..Keys::new() }),
    ];
    for (what, keys) in wrong {
        let far = FarEnd::server(V4, right.server(UNLIMITED));
        let outcome = handshake(&keys.request(far.address, SHORT)).expect("a probe");
        assert_eq!(outcome, HandshakeOutcome::NoAnswer, "{what}");
        far.stop();
    }
}

#[test]
fn s9_a_closed_port_is_refused() {
    // A socket that talks to somebody else: it holds the port, and the port is closed to us.
    let holder = UdpSocket::bind(V4).expect("a port");
    holder.connect((Ipv4Addr::LOCALHOST, 9)).expect("a connected socket");
    let address = holder.local_addr().expect("its address");
    let outcome = handshake(&Keys::new().request(address, SHORT)).expect("a probe");
    assert!(matches!(outcome, HandshakeOutcome::Refused(_)), "{outcome:?}");
}

#[test]
fn a_far_end_that_says_nothing_is_no_answer() {
    let far = FarEnd::start(V4, |_, _| Vec::new());
    let outcome = handshake(&Keys::new().request(far.address, SHORT)).expect("a probe");
    assert_eq!(outcome, HandshakeOutcome::NoAnswer);
    assert!(far.stop().len() <= 2, "one initiation and one retry");
}

#[test]
fn a_responder_under_load_gets_its_cookie_back() {
    for preshared in [None, Some(key(3))] {
        for at in [V4, V6] {
            let keys = Keys { preshared: preshared.clone(), ..Keys::new() };
            let far = FarEnd::server(at, keys.server(0));
            let outcome = handshake(&keys.request(far.address, AMPLE)).expect("a probe");
            assert!(completed(&outcome), "{at}: {outcome:?}");
            assert_eq!(far.stop().len(), 2, "one initiation without the cookie and one with it");
        }
    }
}

#[test]
fn s9_a_responder_under_load_with_other_keys_is_no_answer() {
    let right = Keys::new();
    // Its cookie is sealed by its public key, which is the right one: that alone proves nothing.
    let wrong = Keys { preshared: Some(key(9)), ..Keys::new() };
    let far = FarEnd::server(V4, right.server(0));
    let outcome = handshake(&wrong.request(far.address, SHORT)).expect("a probe");
    assert_eq!(outcome, HandshakeOutcome::NoAnswer);
    far.stop();
}

#[test]
fn cookies_without_end_do_not_make_us_send_without_end() {
    let keys = Keys::new();
    // A new server each time, so that the cookie of the last is never the right one.
    let far = FarEnd::start(V4, {
        let keys = Keys::new();
        move |datagram, from| answer(&mut keys.server(0), datagram, from)
    });
    let outcome = handshake(&keys.request(far.address, SHORT)).expect("a probe");
    assert_eq!(outcome, HandshakeOutcome::NoAnswer);
    assert!(far.stop().len() <= 3, "the initiation, the retry, the cookie's");
}

#[test]
fn a_lost_initiation_is_sent_again() {
    let keys = Keys::new();
    let mut server = keys.server(UNLIMITED);
    let mut lost = false;
    let far = FarEnd::start(V4, move |datagram, from| {
        if std::mem::replace(&mut lost, true) {
            return answer(&mut server, datagram, from);
        }
        Vec::new()
    });
    let outcome = handshake(&keys.request(far.address, RETRIED)).expect("a probe");
    assert!(completed(&outcome), "{outcome:?}");
    far.stop();
}

#[test]
fn s9_a_replayed_answer_completes_nothing() {
    let keys = Keys::new();
    let mut server = keys.server(UNLIMITED);
    let mut first: Option<Vec<Vec<u8>>> = None;
    let far = FarEnd::start(V4, move |datagram, from| {
        first.get_or_insert_with(|| answer(&mut server, datagram, from)).clone()
    });
    let outcome = handshake(&keys.request(far.address, AMPLE)).expect("a probe");
    assert!(completed(&outcome), "the true answer: {outcome:?}");
    let outcome = handshake(&keys.request(far.address, SHORT)).expect("a probe");
    assert_eq!(outcome, HandshakeOutcome::NoAnswer, "the same again");
    far.stop();
}

#[test]
fn s9_a_replayed_answer_does_not_hide_the_true_one() {
    let keys = Keys::new();
    let mut server = keys.server(UNLIMITED);
    let mut before: Vec<Vec<u8>> = Vec::new();
    let far = FarEnd::start(V4, move |datagram, from| {
        let mut answers = before.clone();
        before = answer(&mut server, datagram, from);
        answers.extend(before.clone());
        answers
    });
    for _ in 0..2 {
        let outcome = handshake(&keys.request(far.address, RETRIED)).expect("a probe");
        assert!(completed(&outcome), "{outcome:?}");
    }
    far.stop();
}

#[test]
fn garbage_before_the_answer_is_ignored() {
    let keys = Keys::new();
    let mut server = keys.server(UNLIMITED);
    let mut stranger = Keys { client: key(1), server: key(8), preshared: None }.server(0);
    let far = FarEnd::start(V4, move |datagram, from| {
        let true_answer = answer(&mut server, datagram, from);
        let mut answers = vec![vec![0; 1], vec![0xff; DATAGRAM + 1], datagram.to_vec()];
        answers.extend(answer(&mut stranger, datagram, from));
        for response in &true_answer {
            answers.push(response[..response.len() - 1].to_vec());
            for position in (0..AUTHENTICATED).step_by(4) {
                let mut forged = response.clone();
                forged[position] ^= 1;
                answers.push(forged);
            }
        }
        answers.extend(true_answer);
        answers
    });
    let outcome = handshake(&keys.request(far.address, AMPLE)).expect("a probe");
    assert!(completed(&outcome), "{outcome:?}");
    far.stop();
}

#[test]
fn a_completed_probe_never_confirms_its_session() {
    let keys = Keys::new();
    let far = FarEnd::server(V4, keys.server(UNLIMITED));
    handshake(&keys.request(far.address, AMPLE)).expect("a probe");
    let lengths: BTreeSet<usize> = far.stop().iter().map(Vec::len).collect();
    assert_eq!(lengths, BTreeSet::from([INITIATION_LENGTH]), "initiations only");
}

#[test]
fn no_time_is_an_error_not_a_dead_endpoint() {
    let outcome = handshake(&Keys::new().request(V4, Duration::ZERO));
    assert!(matches!(outcome, Err(ProbeError::NoTime)), "{outcome:?}");
}

#[test]
fn s7_a_verdict_of_this_host_is_never_one_on_the_endpoint() {
    let local = [Errno::EPERM, Errno::ENOBUFS, Errno::EINVAL, Errno::EADDRNOTAVAIL];
    let remote = [Errno::ECONNREFUSED, Errno::EHOSTUNREACH, Errno::ENETUNREACH];
    for what in [not_sent, heard] {
        for errno in local {
            assert!(what(V4, errno.into()).is_err(), "{errno}");
        }
        for errno in remote {
            assert!(what(V4, errno.into()).is_ok(), "{errno}");
        }
    }
    // Sending, it is our own route or rule; waiting, it is ICMPv6 from somewhere else.
    let forbidden = not_sent(V4, Errno::EACCES.into());
    assert!(matches!(forbidden, Err(ProbeError::Forbidden { .. })), "{forbidden:?}");
    assert!(heard(V4, Errno::EACCES.into()).is_ok());
}
