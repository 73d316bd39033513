//! `lab crowd`: takes a server's places and memory in one of several ways, and meanwhile sends it a
//! good notification again and again; says how long the answers took and how large the server got.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

/// Connections that an idle or slow crowd holds at once.
const HELD: usize = 10_000;

/// Between two good notifications; Alertmanager's are seconds apart.
const PACE: Duration = Duration::from_millis(100);

/// A client that hears nothing for so long takes the connection for dead.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Arguments {
    kind: Kind,
    #[arg(long)]
    server: SocketAddr,
    /// Whose memory is watched.
    #[arg(long)]
    pid: u32,
    #[arg(long)]
    seconds: u64,
    /// The good notification.
    #[arg(long)]
    body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Nobody; to compare with.
    None,
    /// Ten thousand connections that say nothing, the oldest made anew without end.
    Idle,
    /// The same, each with headers that never end.
    Slow,
    /// Ten thousand that have sent most of a small body.
    Half,
    /// Bodies of a gibibyte.
    Gibibyte,
    /// Eight mebibytes of the smallest labels, and no end of them.
    Malformed,
    /// Eight mebibytes of opening brackets.
    Nested,
}

const HEAD: &str = "POST /api/v1/alerts HTTP/1.1\r\nhost: x\r\n";

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let over = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicU64::new(0));
    let (kind, server) = (arguments.kind, arguments.server);
    for _ in 0..2 {
        let (over, made) = (Arc::clone(&over), Arc::clone(&made));
        thread::spawn(move || crowd(kind, server, &over, &made));
    }
    // The crowd is there first.
    let start = Instant::now();
    let enough = if holds(kind) { HELD as u64 } else { u64::from(kind != Kind::None) };
    while made.load(Ordering::Relaxed) < enough && start.elapsed() < PATIENCE {
        thread::sleep(PACE);
    }
    let (mut took, mut failed, mut most) = (Vec::new(), 0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(arguments.seconds) {
        let asked = Instant::now();
        match good(server, &arguments.body) {
            Ok(()) => took.push(asked.elapsed().as_secs_f64() * 1000.0),
            Err(error) => {
                failed += 1;
                eprintln!("lab crowd: {error}");
            }
        }
        most = most.max(resident(arguments.pid)?);
        thread::sleep(PACE);
    }
    over.store(true, Ordering::Relaxed);
    let said = json!({
        "took_ms": took, "failed": failed, "rss_kib": most, "made": made.load(Ordering::Relaxed),
    });
    println!("{said}");
    Ok(())
}

fn holds(kind: Kind) -> bool {
    matches!(kind, Kind::Idle | Kind::Slow | Kind::Half)
}

fn crowd(kind: Kind, server: SocketAddr, over: &AtomicBool, made: &AtomicU64) {
    let mut held = VecDeque::new();
    while !over.load(Ordering::Relaxed) && kind != Kind::None {
        let Ok(mut stream) = TcpStream::connect(server) else { continue };
        made.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        // What a server that closes on us says does not matter to a crowd.
        let _ = misbehave(kind, &mut stream);
        if holds(kind) {
            held.push_back(stream);
            if held.len() > HELD / 2 {
                held.pop_front();
            }
        }
    }
}

fn misbehave(kind: Kind, stream: &mut TcpStream) -> io::Result<()> {
    const MOST: usize = 8 * 1024 * 1024;
    match kind {
        Kind::None | Kind::Idle => return Ok(()),
        Kind::Slow => {
            return stream.write_all(format!("{HEAD}x: {}", "y".repeat(12_000)).as_bytes());
        }
        Kind::Half => {
            let (length, part) = (16 * 1024, "y".repeat(15 * 1024));
            return stream
                .write_all(format!("{HEAD}content-length: {length}\r\n\r\n{part}").as_bytes());
        }
        Kind::Gibibyte => {
            stream.write_all(format!("{HEAD}transfer-encoding: chunked\r\n\r\n").as_bytes())?;
            let chunk = format!("10000\r\n{}\r\n", "y".repeat(0x1_0000));
            for _ in 0..(1 << 30) / 0x1_0000 {
                stream.write_all(chunk.as_bytes())?;
            }
        }
        Kind::Malformed | Kind::Nested => {
            let (start, part) = match kind {
                Kind::Nested => (r#"{"alerts":[{"status":"firing","x":"#, "["),
                _ => (r#"{"alerts":[{"status":"firing","labels":{"#, r#""a":"","#),
            };
            let body = format!("{start}{}", part.repeat((MOST - start.len()) / part.len()));
            let head = format!("{HEAD}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes())?;
            stream.write_all(body.as_bytes())?;
        }
    }
    stream.read_to_end(&mut Vec::new()).map(|_| ())
}

/// A notification on a connection of its own, done when its answer says so.
fn good(server: SocketAddr, body: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let request = format!("{HEAD}connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let outcome = r#"{"outcomes":["intact"]}"#;
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(outcome) {
        return Ok(());
    }
    Err(io::Error::other(format!("it answered {answer:?}")))
}

/// Kibibytes of memory that are in use.
fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("process {pid} has no memory")))
}
