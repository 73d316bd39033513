//! Does the far side of the tunnel answer a connection? One that is taken is an answer, and so is one
//! that is refused: a reset comes from the target itself.
//!
//! What cannot be told apart: a reset that a rule of this host makes in the target's place.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Device, ProbeError, Reply, bind, errno, not_sent};

/// Connects by `device`, and lets go at once.
pub(super) fn connect_through(
    device: &Device,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Reply, ProbeError> {
    let to = target.ip();
    let opened = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    let socket = opened.map_err(|source| ProbeError::Open { to, source })?;
    bind(&socket, device)?;
    let started = Instant::now();
    match socket.connect(&target.into()) {
        // Only the target's own host is as near as that.
        Ok(()) => return Ok(Reply::Answered { took: started.elapsed() }),
        Err(error) if errno(&error) == Some(Errno::EINPROGRESS) => {}
        Err(source) => return Err(not_sent(to, source)),
    }
    if !await_end(&socket, started + timeout) {
        return Ok(Reply::Silent);
    }
    let took = started.elapsed();
    match socket.take_error() {
        Ok(None) => Ok(Reply::Answered { took }),
        Ok(Some(error)) if errno(&error) == Some(Errno::ECONNREFUSED) => {
            Ok(Reply::Answered { took })
        }
        // Somebody on the way said that it did not arrive; or the kernel has given it up.
        Ok(Some(_)) => Ok(Reply::Silent),
        Err(source) => Err(ProbeError::Receive { from: to, source }),
    }
}

/// Waits until the connection stands or has failed; false when `until` has come first.
fn await_end(socket: &Socket, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut ready, wait) {
            Ok(count) if count > 0 => return true,
            // Too early, or cut short by a signal.
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::probe::device;

    #[test]
    fn a_refused_connection_is_an_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let closed = listener.local_addr().expect("its address");
        drop(listener);
        let lo = device("lo").expect("every host has a loopback device");
        let outcome = connect_through(&lo, closed, Duration::from_secs(10)).expect("a probe");
        assert!(matches!(outcome, Reply::Answered { .. }), "{outcome:?}");
    }
}
