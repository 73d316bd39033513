//! `lab volume`: datagrams at a steady rate (the tunnel makes random bytes of them), whatever becomes of them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Large enough that few packets make much traffic, small enough for every tunnel.
const SIZE: usize = 1200;
/// Sent in bursts: a sleep is seldom shorter than this.
const TICK: Duration = Duration::from_millis(10);

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long)]
    packets_per_second: u32,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let started = Instant::now();
    let mut sent = 0;
    loop {
        let due = started.elapsed().as_secs_f64() * f64::from(arguments.packets_per_second);
        while f64::from(sent) < due {
            // A lock refuses, a route is missing, nobody listens: it goes on.
            // Blanks, so that an echo service has little to answer.
            let _ = socket.send_to(&[b' '; SIZE], arguments.target);
            sent += 1;
        }
        thread::sleep(TICK);
    }
}
