//! `lab permitted`: what must pass: datagrams at a fixed pace, and a transfer, as the routes lead.
//! Says what became of them when standard input ends.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::replacement::Sent;

const TICK: Duration = Duration::from_millis(5);
/// Of the transfer, in each tick: 3 MB/s, which is load and no overload.
const PIECE: [u8; 16 * 1024] = [b't'; 16 * 1024];

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    udp: SocketAddr,
    #[arg(long)]
    tcp: Option<SocketAddr>,
    /// Datagrams per second.
    #[arg(long)]
    rate: u32,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(arguments.udp)?;
    let mut stream = arguments.tcp.map(TcpStream::connect).transpose()?;
    if let Some(stream) = &stream {
        stream.set_nonblocking(true)?;
    }
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
    });
    let started = Instant::now();
    let mut sent = Sent::default();
    while !over.load(Ordering::Relaxed) {
        let due = started.elapsed().as_micros() * u128::from(arguments.rate) / 1_000_000;
        // As many as are due, but never so many at once that a queue overflows.
        for _ in u128::from(sent.datagrams + sent.refused)
            ..due.min(20 + u128::from(sent.datagrams + sent.refused))
        {
            match socket.send(b"permitted") {
                Ok(_) => sent.datagrams += 1,
                Err(_) => sent.refused += 1,
            }
        }
        if let Some(open) = &mut stream {
            match open.write(&PIECE) {
                Ok(bytes) => sent.bytes += bytes as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    sent.broken += 1;
                    stream = None;
                }
            }
        }
        thread::sleep(TICK);
    }
    println!("{}", serde_json::to_string(&sent)?);
    Ok(())
}
