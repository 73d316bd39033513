//! `lab forwarder`: a resolver as a container host has one, as far as the network sees it: each
//! datagram goes on to its upstream from a port of the host, and the answer back.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long an upstream may take.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let service = Arc::new(UdpSocket::bind(arguments.listen)?);
    let mut buffer = [0; 2048];
    loop {
        let (length, client) = service.recv_from(&mut buffer)?;
        let (query, service, to) = (buffer[..length].to_vec(), Arc::clone(&service), arguments.to);
        // A query that is refused or lost is the client's to repeat.
        thread::spawn(move || ask(&query, to).and_then(|answer| service.send_to(&answer, client)));
    }
}

fn ask(query: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(query, upstream)?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}
