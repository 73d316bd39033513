//! One question through the tunnel device and nothing else: an echo, a connection, or a name.
//!
//! The socket is bound to the device by `SO_BINDTODEVICE`: the kernel transmits on that device and
//! takes answers from that device, whatever the routing table says. So a lost tunnel route cannot
//! turn a probe into a leak, nor an answer that came by the uplink into a healthy tunnel.
//!
//! For IPv4 the kernel would even send where the device has no route any more, and the probe would
//! speak of a tunnel that nothing else gets into. So the route is asked for first, where it has to
//! be there.

use std::net::IpAddr;
use std::time::Duration;

use super::echo::{echo_through, echo_through_of_size};
use super::{Device, ProbeError, Reply, time_given, uplink};
use super::{connect::connect_through, query::query_through};
use crate::config::Question;
use crate::tunnel;

/// A question to put through a tunnel.
#[derive(Debug)]
pub struct TunnelRequest<'a> {
    /// The tunnel's device.
    pub interface: &'a str,
    pub question: &'a Question,
    pub route: Wanted,
    pub timeout: Duration,
}

/// Whether this host's own packets to the target have to have a route by the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The whole host is locked in.
    Route,
    /// Its workload is routed by where it comes from or by a mark: the host's own table says
    /// nothing.
    Nothing,
}

/// Asks, and waits for the answer.
///
/// # Errors
///
/// The question could not be put, for a reason on this host: no such device, no route, no right, no
/// peer on the device. It says nothing about the far end.
pub fn ask_through(request: &TunnelRequest) -> Result<Reply, ProbeError> {
    let timeout = time_given(request.timeout)?;
    // An empty name would *unbind* a socket and a long one be cut to another device's name, so only
    // a name that the kernel knows as it stands gets as far as SO_BINDTODEVICE.
    let device = uplink::device(request.interface)
        .ok_or_else(|| ProbeError::NoDevice(request.interface.to_owned()))?;
    if request.route == Wanted::Route {
        routed(request.question.target(), &device)?;
    }
    match request.question {
        Question::Icmp(target) => echo_through(&device, *target, timeout),
        Question::Tcp(target) => connect_through(&device, *target, timeout),
        Question::Dns { resolver, name } => query_through(&device, *resolver, name, timeout),
    }
}

/// Asks by packets as large as the device takes, whether those pass as well as small ones. For a target
/// that answered a small echo just now.
///
/// # Errors
///
/// As of [`ask_through`].
pub fn fill_through(
    interface: &str,
    target: IpAddr,
    timeout: Duration,
) -> Result<Reply, ProbeError> {
    let timeout = time_given(timeout)?;
    let missing = || ProbeError::NoDevice(interface.to_owned());
    let device = uplink::device(interface).ok_or_else(missing)?;
    let size = tunnel::mtu(interface).ok_or_else(missing)?;
    echo_through_of_size(&device, target, size, timeout)
}

fn routed(to: IpAddr, device: &Device) -> Result<(), ProbeError> {
    match uplink::has_route(to, device) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ProbeError::NoRoute { to, device: device.name.clone() }),
        Err(source) => Err(ProbeError::Route { to, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

    use super::*;
    use crate::config::DnsName;

    /// Long enough for the slowest machine: none of these tests waits it out.
    const AMPLE: Duration = Duration::from_secs(10);
    /// Waited out where nobody answers.
    const SHORT: Duration = Duration::from_millis(50);

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ANY_PORT: SocketAddr = SocketAddr::new(HOME, 0);
    /// TEST-NET-3: nothing on the loopback device answers for it, and it may go nowhere else.
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

    /// One of each kind.
    fn questions(target: IpAddr, port: u16) -> [Question; 3] {
        let to = SocketAddr::new(target, port);
        let name = DnsName::parse("example.com").expect("a name");
        [Question::Icmp(target), Question::Tcp(to), Question::Dns { resolver: to, name }]
    }

    fn asked(
        interface: &str,
        question: &Question,
        route: Wanted,
        timeout: Duration,
    ) -> Result<Reply, ProbeError> {
        ask_through(&TunnelRequest { interface, question, route, timeout })
    }

    // They need the right to send an echo and fail without it: a probe that was never made must not
    // look like one that worked.
    #[test]
    fn a_target_that_is_there_answers_each_kind() {
        let listener = TcpListener::bind(ANY_PORT).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let resolver = UdpSocket::bind((HOME, port)).expect("the same port");
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = resolver.recv_from(&mut buffer) {
                // The query sent back as "refused", which is an answer too.
                buffer[2] |= 0x80;
                buffer[3] |= 0x05;
                let _ = resolver.send_to(&buffer[..length], from);
            }
        });
        for question in questions(HOME, port) {
            for route in [Wanted::Route, Wanted::Nothing] {
                let outcome = asked("lo", &question, route, AMPLE).expect("a probe through `lo`");
                assert!(matches!(outcome, Reply::Answered { .. }), "{question:?}: {outcome:?}");
            }
        }
    }

    #[test]
    fn packets_as_large_as_the_device_takes_are_answered_where_they_pass() {
        let outcome = fill_through("lo", HOME, AMPLE).expect("a probe through `lo`");
        assert!(matches!(outcome, Reply::Answered { .. }), "{outcome:?}");
        let outcome = fill_through("no-such-device", HOME, AMPLE);
        assert!(matches!(outcome, Err(ProbeError::NoDevice(_))), "{outcome:?}");
    }

    #[test]
    fn a_resolver_that_never_got_the_first_queries_answers_the_last() {
        let resolver = UdpSocket::bind(ANY_PORT).expect("a port");
        let at = resolver.local_addr().expect("its address").port();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for nth in 1.. {
                let (length, from) = resolver.recv_from(&mut buffer).expect("a query");
                buffer[2] |= 0x80;
                if nth > 2 {
                    let _ = resolver.send_to(&buffer[..length], from);
                }
            }
        });
        let [_, _, dns] = questions(HOME, at);
        let outcome = asked("lo", &dns, Wanted::Route, Duration::from_secs(2)).expect("a probe");
        assert!(matches!(outcome, Reply::Answered { .. }), "{outcome:?}");
    }

    #[test]
    fn a_target_behind_another_device_is_never_reached() {
        for question in questions(ELSEWHERE, 53) {
            let outcome = asked("lo", &question, Wanted::Nothing, SHORT);
            assert!(!matches!(outcome, Ok(Reply::Answered { .. })), "{question:?}: {outcome:?}");
            let outcome = asked("lo", &question, Wanted::Route, AMPLE);
            assert!(
                matches!(outcome, Err(ProbeError::NoRoute { .. })),
                "{question:?}: {outcome:?}"
            );
        }
    }

    #[test]
    fn a_device_that_does_not_exist_is_an_error_not_a_dead_tunnel() {
        // "lo" with a tail would be cut to a name of 15 bytes, an empty name binds to no device.
        for name in ["", "no-such-device", "lo\0", "lo-and-far-too-long-a-name"] {
            for question in questions(HOME, 53) {
                let outcome = asked(name, &question, Wanted::Nothing, AMPLE);
                assert!(matches!(outcome, Err(ProbeError::NoDevice(_))), "{name:?}: {outcome:?}");
            }
        }
    }

    #[test]
    fn no_time_is_an_error_not_a_dead_tunnel() {
        for question in questions(HOME, 53) {
            let outcome = asked("lo", &question, Wanted::Nothing, Duration::ZERO);
            assert!(matches!(outcome, Err(ProbeError::NoTime)), "{outcome:?}");
        }
    }
}
