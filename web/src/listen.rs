//! The sockets to serve on: opened here, or handed over by systemd.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use crate::flags::WebFlags;

/// Connections that the kernel keeps until they are accepted. A newcomer that finds no room tries
/// again only after a second; one that finds some waits for as many as are before it, in a full
/// house two tenths of a second: [`crate::crowd::TENURE`]. A socket unit says it
/// for itself, with `Backlog=`.
const BACKLOG: u32 = 512;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("--web.listen-address {0}: cannot be listened on; end what does, or give another")]
    Address(SocketAddr, #[source] io::Error),
    #[error("--web.systemd-socket: no stream socket was handed over; start by a .socket unit")]
    NoSocket,
    #[error(
        "--web.systemd-socket: a socket that was handed over is no TCP socket; use ListenStream=PORT"
    )]
    Handed(#[source] io::Error),
}

/// Needs a runtime of tokio. Without an address given, `otherwise`.
pub fn listen(flags: &WebFlags, otherwise: SocketAddr) -> Result<Vec<TcpListener>, ListenError> {
    if flags.systemd_socket {
        return handed_over();
    }
    let addresses = if flags.listen.is_empty() { &[otherwise][..] } else { &flags.listen };
    let open = |&address| open(address).map_err(|source| ListenError::Address(address, source));
    addresses.iter().map(open).collect()
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn handed_over() -> Result<Vec<TcpListener>, ListenError> {
    let mut handed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for nth in 0..handed.len() {
        let Some(listener) = handed.take_tcp_listener(nth).map_err(ListenError::Handed)? else {
            continue;
        };
        listener.set_nonblocking(true).map_err(ListenError::Handed)?;
        listeners.push(TcpListener::from_std(listener).map_err(ListenError::Handed)?);
    }
    if listeners.is_empty() { Err(ListenError::NoSocket) } else { Ok(listeners) }
}

/// Whether others than this host can connect; what cannot be told counts as yes.
pub fn beyond_loopback(listeners: &[TcpListener]) -> bool {
    let loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
    !listeners.iter().all(|listener| listener.local_addr().is_ok_and(loopback))
}
