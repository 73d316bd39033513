//! `lab traffic`: numbered datagrams at a fixed pace, whatever becomes of them.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use lab::clock::monotonic;
use serde_json::json;

/// Answers later than this are not waited for.
const REMEMBERED: u64 = 10_000;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long, default_value_t = 50)]
    interval_ms: u64,
    /// Bytes of a datagram, at least; blanks follow its number.
    #[arg(long, default_value_t = 0)]
    size: usize,
    /// The address to send from; without it, the route decides for each datagram.
    #[arg(long)]
    source: Option<IpAddr>,
}

/// When each datagram was sent, by its number.
type Sent = Arc<Mutex<HashMap<u64, u64>>>;

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let any = match arguments.target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((arguments.source.unwrap_or(any), 0))?;
    let sent = Sent::default();
    let receiver = socket.try_clone()?;
    let known = Arc::clone(&sent);
    thread::spawn(move || receive(&receiver, &known));
    let mut last_error = None;
    for sequence in 0.. {
        let mut times = sent.lock().unwrap_or_else(PoisonError::into_inner);
        times.insert(sequence, now());
        if let Some(old) = sequence.checked_sub(REMEMBERED) {
            times.remove(&old);
        }
        drop(times);
        let error = socket
            .send_to(format!("{sequence:<0$}", arguments.size).as_bytes(), arguments.target)
            .err()
            .map(|error| error.kind());
        // A lock refuses, a route is missing: it goes on, and says so once.
        if error != last_error {
            eprintln!("{}", json!({"sequence": sequence, "send": format!("{error:?}")}));
            last_error = error;
        }
        thread::sleep(Duration::from_millis(arguments.interval_ms));
    }
    Ok(())
}

fn receive(socket: &UdpSocket, sent: &Sent) {
    let mut buffer = [0; 256];
    loop {
        // An ICMP error is reported here too; the next datagram may fare better.
        let Ok((length, _)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let received = now();
        let text = String::from_utf8_lossy(&buffer[..length]);
        let Some((number, source)) = text.split_once(' ') else {
            continue;
        };
        let sent = number.parse::<u64>().ok().and_then(|sequence| {
            let times = sent.lock().unwrap_or_else(PoisonError::into_inner);
            Some((sequence, *times.get(&sequence)?))
        });
        if let Some((sequence, sent)) = sent {
            let line = json!({
                "sequence": sequence,
                "sent_ns": sent,
                "received_ns": received,
                "source": source,
            });
            // One write per line, so that the reader never sees half of one.
            let _ = io::stdout().lock().write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// Nanoseconds on the clock that all processes of the machine share.
fn now() -> u64 {
    u64::try_from(monotonic().as_nanos()).unwrap_or(u64::MAX)
}
