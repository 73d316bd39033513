//! Connections with `management` that are older than the lock. The lock lets replies out by who opened
//! the connection, and the kernel knows that only of connections that began while it was tracking: of
//! an older one it believes whoever speaks first. So the kernel is told, before the lock, and once more
//! after it for what was opened in between. A session that `management` opened goes on, whichever end
//! speaks first, and a connection that this host opened does not.
//!
//! It is told of established TCP connections only, and never against what it saw itself. A record names
//! both addresses and both ports, opens nothing else, and goes with the connection. Nothing else is
//! left behind: no rule, no set.

use std::io;

use ipnet::IpNet;

use super::Rules;
use crate::connections::{self, Connection, Established, OpenedBy};
use crate::conntrack::Conntrack;

/// Between a look at a record and its replacement the host may have spoken, which makes a new one.
const ATTEMPTS: usize = 5;

/// Tells the kernel who opened the connections with the `management` of these paths. Where that fails, a
/// session goes on as soon as its client says something.
pub fn keep(paths: &[Rules]) {
    let management: Vec<IpNet> = paths.iter().flat_map(|path| path.management.clone()).collect();
    if management.is_empty() {
        return;
    }
    match keep_from(&management) {
        Ok(0) => {}
        Ok(connections) => tracing::info!(connections, "who opened them is recorded for the lock"),
        Err(error) => {
            tracing::warn!(%error, "management sessions may stand still until their client speaks");
        }
    }
}

fn keep_from(management: &[IpNet]) -> io::Result<usize> {
    let mut with_management = connections::established()?;
    with_management.retain(|one| {
        let peer = one.connection.peer.ip();
        !peer.is_loopback() && management.iter().any(|net| net.contains(&peer))
    });
    if with_management.is_empty() {
        return Ok(0);
    }
    let mut conntrack = Conntrack::open()?;
    let mut told = 0;
    for (connection, opened_by) in openers(with_management) {
        told += usize::from(tell(&mut conntrack, connection, opened_by)?);
    }
    Ok(told)
}

/// A session of an SSH server was opened by its peer, though the server may have stopped listening.
fn openers(connections: Vec<Established>) -> Vec<(Connection, OpenedBy)> {
    let unclear: Vec<Established> =
        connections.iter().filter(|one| one.opened_by == OpenedBy::ThisHost).cloned().collect();
    let programs = connections::programs(&unclear);
    let by_ssh = |one: &Established| {
        programs.get(&one.connection).is_some_and(|program| connections::is_ssh_server(program))
    };
    let opener = |one: Established| {
        let opened_by = if by_ssh(&one) { OpenedBy::Peer } else { one.opened_by };
        (one.connection, opened_by)
    };
    connections.into_iter().map(opener).collect()
}

/// Whether the kernel had to be told.
fn tell(conntrack: &mut Conntrack, one: Connection, opened_by: OpenedBy) -> io::Result<bool> {
    let opener = match opened_by {
        OpenedBy::ThisHost => one.local.ip(),
        OpenedBy::Peer => one.peer.ip(),
    };
    for _ in 0..ATTEMPTS {
        match conntrack.find(one)? {
            Some(tracked) if tracked.opener == opener => return Ok(false),
            // It saw the first packet: that is better evidence than who listens by now.
            Some(tracked) if !tracked.is_picked_up => return Ok(false),
            Some(tracked) => conntrack.delete(one, tracked)?,
            None => {}
        }
        match conntrack.record(one, opened_by) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| true),
        }
    }
    Ok(false)
}
