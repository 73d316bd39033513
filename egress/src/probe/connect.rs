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

use super::ask::{Heard, Question, ask};
use super::{Device, ProbeError, Reply, SHORTEST_WAIT, bind, errno, not_sent};

/// Connects by `device`, and lets go at once. The kernel sends its own SYN again after a second
/// only, so each try is a connection of its own.
pub(super) fn connect_through(
    device: &Device,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Reply, ProbeError> {
    ask(&mut Asking { device, target, tries: Vec::new(), is_there: false }, timeout)
}

struct Asking<'a> {
    device: &'a Device,
    target: SocketAddr,
    /// Those that neither stand nor have failed.
    tries: Vec<Socket>,
    /// A try ended as it was made: only the target's own host is as near as that.
    is_there: bool,
}

impl Question for Asking<'_> {
    fn put(&mut self) -> Result<(), ProbeError> {
        let (target, to) = (self.target, self.target.ip());
        let opened = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        let socket = opened.map_err(|source| ProbeError::Open { to, source })?;
        bind(&socket, self.device)?;
        match socket.connect(&target.into()) {
            Ok(()) => self.is_there = true,
            Err(error) if errno(&error) == Some(Errno::EINPROGRESS) => self.tries.push(socket),
            Err(source) => return Err(not_sent(to, source)),
        }
        Ok(())
    }

    fn hear(&mut self, until: Instant) -> Result<Heard, ProbeError> {
        let mut heard = Heard::Nothing;
        while !self.is_there {
            let Some(ended) = await_end(&self.tries, until) else { return Ok(heard) };
            match self.tries.swap_remove(ended).take_error() {
                Ok(None) => self.is_there = true,
                Ok(Some(error)) if errno(&error) == Some(Errno::ECONNREFUSED) => {
                    self.is_there = true;
                }
                // Somebody on the way.
                Ok(Some(_)) => heard = Heard::Refusal,
                Err(source) => {
                    return Err(ProbeError::Receive { from: self.target.ip(), source });
                }
            }
        }
        Ok(Heard::Answer)
    }
}

/// Waits until a connection stands or has failed; `None` when `until` has come first.
fn await_end(tries: &[Socket], until: Instant) -> Option<usize> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let wait = PollTimeout::try_from(left.max(SHORTEST_WAIT)).unwrap_or(PollTimeout::MAX);
        let mut ready: Vec<PollFd> =
            tries.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLOUT)).collect();
        // Nothing, where it was too early, or cut short by a signal.
        let _ = poll(&mut ready, wait);
        if let Some(ended) = ready.iter().position(|one| one.any().unwrap_or(false)) {
            return Some(ended);
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
