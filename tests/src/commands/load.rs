//! `lab load`: datagrams without end, as heavy load. Nobody has to receive them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

/// So many at a time, so that other programs of a small machine have their turn: 45 MB/s at most.
const BATCH: u32 = 64;
const PAUSE: Duration = Duration::from_millis(2);

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long, default_value_t = 1380)]
    size: usize,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let any = match arguments.target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    let datagram = vec![0; arguments.size];
    loop {
        for _ in 0..BATCH {
            // A full queue, or a refusal: the next one may fare better.
            let _ = socket.send_to(&datagram, arguments.target);
        }
        thread::sleep(PAUSE);
    }
}
