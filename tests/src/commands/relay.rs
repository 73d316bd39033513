//! `lab relay`: each connection to a Unix socket goes on to a TCP address of this namespace.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    to: SocketAddr,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let listener = UnixListener::bind(&arguments.socket)?;
    for client in listener.incoming() {
        // A service that is gone refuses; the client sees its connection closed.
        if let (Ok(client), Ok(service)) = (client, TcpStream::connect(arguments.to)) {
            let _ = join(service, client);
        }
    }
    Ok(())
}

/// Copies in both directions until both have ended; a thread each, which ends with its direction.
pub fn join(tcp: TcpStream, unix: UnixStream) -> io::Result<()> {
    let (tcp_reader, unix_writer) = (tcp.try_clone()?, unix.try_clone()?);
    thread::spawn(move || {
        copy(tcp_reader, &unix_writer);
        let _ = unix_writer.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        copy(unix, &tcp);
        let _ = tcp.shutdown(Shutdown::Write);
    });
    Ok(())
}

/// Whoever closes early may: the other side is told by the shutdown.
fn copy(mut from: impl Read, mut to: impl Write) {
    let _ = io::copy(&mut from, &mut to);
}
