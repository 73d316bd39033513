//! `lab crowd`: takes a server's places and memory in one of several ways, and meanwhile sends it a
//! good notification again and again; says how long the answers took, how large the server got, and
//! what became of the crowd.

mod kinds;
mod line;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use kinds::Kind;
use line::Server;

/// Two at a time make connections as fast as they are taken.
const THREADS: usize = 2;

/// Between two good notifications; Alertmanager's are seconds apart.
const PACE: Duration = Duration::from_millis(100);

/// How long a crowd may take to be there.
const GATHERING: Duration = Duration::from_secs(30);

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
    /// Connections that an idle or slow crowd holds at once.
    #[arg(long)]
    held: usize,
    /// The good notification.
    #[arg(long)]
    body: String,
    /// The server's certificate: TLS is spoken.
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// The good notification's bearer token.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// The crowd has the token too.
    #[arg(long, requires = "token_file")]
    insiders: bool,
}

/// What became of the crowd.
#[derive(Default)]
struct Tally {
    made: u64,
    /// Connections that the server has ended while they were held.
    ended: u64,
    /// How many were answered with which status.
    answers: BTreeMap<u16, u64>,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let token = arguments.token_file.as_ref().map(fs::read_to_string).transpose()?;
    let token = token.map(|token| format!("authorization: Bearer {}\r\n", token.trim()));
    let server = Server::new(arguments.server, arguments.certificate.as_deref())?;
    let (kind, held) = (arguments.kind, arguments.held);
    let over = Arc::new(AtomicBool::new(false));
    let tally = Arc::new(Mutex::new(Tally::default()));
    forget_peak(arguments.pid)?;

    let crowd: Vec<_> = (0..THREADS)
        .map(|_| {
            let (over, tally, server) = (Arc::clone(&over), Arc::clone(&tally), server.clone());
            let credentials = token.clone().filter(|_| arguments.insiders).unwrap_or_default();
            thread::spawn(move || kinds::crowd(kind, &server, &credentials, held, &over, &tally))
        })
        .collect();
    // The crowd is there first.
    let start = Instant::now();
    let made = || tally.lock().unwrap_or_else(PoisonError::into_inner).made;
    while made() < kind.enough(held) && start.elapsed() < GATHERING {
        thread::sleep(PACE);
    }

    let (mut took, mut failed) = (Vec::new(), 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(arguments.seconds) {
        let asked = Instant::now();
        match good(&server, token.as_deref().unwrap_or_default(), &arguments.body) {
            Ok(()) => took.push(asked.elapsed().as_secs_f64() * 1000.0),
            Err(error) => {
                failed += 1;
                eprintln!("lab crowd: after {:?}: {error}", asked.elapsed());
            }
        }
        thread::sleep(PACE);
    }
    let most = peak(arguments.pid)?;
    over.store(true, Ordering::Relaxed);
    // Who is in the middle of something says what came of it.
    for one in crowd {
        let _ = one.join();
    }
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let said = json!({
        "took_ms": took, "failed": failed, "peak_kib": most,
        "made": tally.made, "ended": tally.ended, "answers": tally.answers,
    });
    println!("{said}");
    Ok(())
}

/// A notification on a connection of its own, done when its answer says so.
fn good(server: &Server, credentials: &str, body: &str) -> io::Result<()> {
    let mut line = server.connect()?;
    let (head, length) = (kinds::HEAD, body.len());
    let head = format!("{head}{credentials}connection: close\r\ncontent-length: {length}\r\n\r\n");
    line.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = String::new();
    line.read_to_string(&mut answer)?;
    let outcome = r#"{"outcomes":["intact"]}"#;
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(outcome) {
        return Ok(());
    }
    Err(io::Error::other(format!("it answered {answer:?}")))
}

/// From here on the kernel keeps a new peak of the process's memory.
fn forget_peak(pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// The most memory that was in use since, in kibibytes.
fn peak(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("process {pid} has no memory")))
}
