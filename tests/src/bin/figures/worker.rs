//! One measurement beside the programs: prints milliseconds from the first byte sent, or the
//! process started, to the handshake that the device reports.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::Value;

#[derive(clap::Subcommand)]
pub enum Worker {
    /// Post a notification and wait for the handshake with `key`.
    Webhook {
        #[arg(long)]
        body: PathBuf,
        #[arg(long)]
        key: String,
    },
    /// Run `wg set` and wait for the handshake.
    Bare {
        #[arg(long)]
        config: PathBuf,
    },
    /// Scrape the exporter so many times.
    Scrapes {
        #[arg(long)]
        count: u32,
    },
    /// Run `wg show all dump` so many times.
    Dumps {
        #[arg(long)]
        count: u32,
    },
}

use super::scrape;

const SOCKET: &str = "/run/wireguard/wg0.sock";
const WEBHOOK: &str = "127.0.0.1:9062";
const POLL: Duration = Duration::from_micros(200);
const LIMIT: Duration = Duration::from_secs(10);

impl Worker {
    pub fn run(&self) {
        let milliseconds = match self {
            Self::Webhook { body, key } => {
                let body = fs::read_to_string(body).expect("a notification");
                webhook(&body, key)
            }
            Self::Bare { config } => {
                let text = fs::read_to_string(config).expect("a config");
                bare(&serde_json::from_str(&text).expect("JSON"))
            }
            Self::Scrapes { count } => return scrape::scrapes(*count),
            Self::Dumps { count } => return scrape::dumps(*count),
        };
        println!("{milliseconds}");
    }
}

fn webhook(body: &str, key: &str) -> f64 {
    let mut stream = TcpStream::connect(WEBHOOK).expect("the webhook listens");
    let length = body.len();
    let request = format!(
        "POST /api/v1/alerts HTTP/1.1\r\nHost: {WEBHOOK}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    let start = Instant::now();
    stream.write_all(request.as_bytes()).expect("sent");
    await_handshake(key, start)
}

fn bare(config: &Value) -> f64 {
    let text = |name: &str| config[name].as_str().expect("a text").to_owned();
    let start = Instant::now();
    let done = Command::new("wg")
        .args(["set", "wg0", "private-key", &text("private_key_file")])
        .args(["peer", &text("old"), "remove"])
        .args(["peer", &text("new"), "preshared-key", &text("preshared_key_file")])
        .args(["endpoint", &text("endpoint"), "persistent-keepalive", "25"])
        .args(["allowed-ips", "0.0.0.0/0,::/0"])
        .status()
        .expect("wg runs");
    assert!(done.success(), "wg set: {done}");
    await_handshake(&text("new"), start)
}

fn await_handshake(key: &str, start: Instant) -> f64 {
    let bytes = base64::engine::general_purpose::STANDARD.decode(key).expect("a key");
    let hex = lab::hex(&bytes);
    while start.elapsed() < LIMIT {
        if handshaken(&hex) {
            return start.elapsed().as_secs_f64() * 1000.0;
        }
        thread::sleep(POLL);
    }
    panic!("no handshake within {LIMIT:?}");
}

/// Whether the device has shaken hands with this peer since the peer was set.
fn handshaken(hex: &str) -> bool {
    let mut socket = UnixStream::connect(SOCKET).expect("the device's socket");
    socket.write_all(b"get=1\n\n").expect("asked");
    let mut ours = false;
    for line in BufReader::new(socket).lines().map_while(Result::ok) {
        match line.split_once('=') {
            Some(("public_key", key)) => ours = key == hex,
            Some(("last_handshake_time_sec", at)) if ours => return at != "0",
            Some(("errno", _)) | None => return false,
            _ => {}
        }
    }
    false
}
