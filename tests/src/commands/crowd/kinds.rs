//! What a crowd can be, and how each of it behaves.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Tally;
use super::line::{Line, Server};

/// The largest body that is read.
const MOST: usize = 8 * 1024 * 1024;

pub const HEAD: &str = "POST /api/v1/alerts HTTP/1.1\r\nhost: x\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Nobody; to compare with.
    None,
    /// Connections that say nothing; each that is ended is made anew at once.
    Idle,
    /// The same, each with headers that never end.
    Slow,
    /// The same, each with most of a small body.
    Half,
    /// The same, each with most of a handshake's first message, which is as long as it may be.
    Hello,
    /// Bodies of a gibibyte.
    Gibibyte,
    /// Eight mebibytes of the smallest labels, and no end of them.
    Malformed,
    /// Eight mebibytes of opening brackets.
    Nested,
    /// Eight mebibytes of one text, every character of it escaped.
    Text,
    /// Ten thousand alerts that are nobody's.
    Many,
    /// The same, and the answers are not read.
    Unread,
    /// Small bodies that are no notification, as fast as they are answered.
    Small,
    /// Pages of metrics, as fast as they are answered.
    Pages,
}

impl Kind {
    fn holds(self) -> bool {
        matches!(self, Self::Idle | Self::Slow | Self::Half | Self::Hello)
    }

    /// From how many connections on it is a crowd.
    pub fn enough(self, held: usize) -> u64 {
        match self {
            Self::None => 0,
            _ if self.holds() => held as u64,
            _ => 1,
        }
    }
}

/// Until it is over; what became of it goes to the tally.
pub fn crowd(
    kind: Kind,
    server: &Server,
    credentials: &str,
    held: usize,
    over: &AtomicBool,
    tally: &Mutex<Tally>,
) {
    let tally = || tally.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lines: VecDeque<Line> = VecDeque::new();
    while !over.load(Ordering::Relaxed) && kind != Kind::None {
        // Who is cut off comes back; the others stay.
        if lines.len() >= held / super::THREADS {
            if lines.front().is_some_and(Line::is_ended) {
                lines.pop_front();
                tally().ended += 1;
            } else {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
        }
        let said = one(kind, server, credentials);
        let mut tally = tally();
        match said {
            Ok(Left::Held(line)) => {
                tally.made += 1;
                lines.push_back(line);
            }
            Ok(Left::Answered(status)) => {
                tally.made += 1;
                *tally.answers.entry(status).or_default() += 1;
            }
            // The server has closed on it; without an answer it does not matter to a crowd why.
            Err(_) => tally.ended += 1,
        }
    }
    let ended = lines.iter().filter(|line| line.is_ended()).count();
    tally().ended += ended as u64;
}

/// What one of the crowd leaves behind.
enum Left {
    Held(Line),
    Answered(u16),
}

fn one(kind: Kind, server: &Server, credentials: &str) -> io::Result<Left> {
    let request = |rest: &str| format!("{HEAD}{credentials}{rest}");
    match kind {
        Kind::None | Kind::Idle => Ok(Left::Held(Line::Plain(server.connect_only()?))),
        Kind::Slow => hold(server.connect()?, &request(&format!("x: {}", "y".repeat(12_000)))),
        Kind::Half => {
            let (length, part) = (16 * 1024, "y".repeat(15 * 1024));
            hold(server.connect()?, &request(&format!("content-length: {length}\r\n\r\n{part}")))
        }
        Kind::Hello => {
            let mut stream = server.connect_only()?;
            stream.write_all(&long_hello())?;
            Ok(Left::Held(Line::Plain(stream)))
        }
        Kind::Gibibyte => {
            let mut line = server.connect()?;
            line.write_all(request("transfer-encoding: chunked\r\n\r\n").as_bytes())?;
            let chunk = format!("10000\r\n{}\r\n", "y".repeat(0x1_0000));
            // It is answered long before, and what is still sent then is an error.
            let written =
                (0..(1 << 30) / 0x1_0000).try_for_each(|_| line.write_all(chunk.as_bytes()));
            answer(line).or_else(|error| written.and(Err(error)))
        }
        Kind::Malformed => whole(server, &request(""), &filled(LABELS, r#""a":"","#)),
        Kind::Nested => whole(server, &request(""), &filled(r#"{"alerts":[],"x":"#, "[")),
        Kind::Text => whole(server, &request(""), &filled(r#"{"alerts":[{"status":""#, r"\n")),
        Kind::Many => whole(server, &request(""), &many()),
        Kind::Unread => {
            let (body, line) = (many(), Line::Plain(server.connect_narrow()?));
            let length = body.len();
            hold(line, &format!("{}content-length: {length}\r\n\r\n{body}", request("")))
        }
        Kind::Small => whole(server, &request(""), r#"{"alerts":"#),
        Kind::Pages => whole(server, "GET /metrics HTTP/1.1\r\nhost: x\r\n", ""),
    }
}

const LABELS: &str = r#"{"alerts":[{"status":"firing","labels":{"#;

fn many() -> String {
    let alert = r#"{"status":"firing","labels":{"path":"nobody"}}"#;
    let alerts = vec![alert; 10_000].join(",");
    format!(r#"{{"version":"4","alerts":[{alerts}]}}"#)
}

fn filled(start: &str, part: &str) -> String {
    format!("{start}{}", part.repeat((MOST - start.len()) / part.len()))
}

fn hold(mut line: Line, text: &str) -> io::Result<Left> {
    line.write_all(text.as_bytes())?;
    line.flush()?;
    Ok(Left::Held(line))
}

fn whole(server: &Server, head: &str, body: &str) -> io::Result<Left> {
    let mut line = server.connect()?;
    let length = body.len();
    let head = format!("{head}connection: close\r\ncontent-length: {length}\r\n\r\n");
    let written = line.write_all(head.as_bytes()).and_then(|()| line.write_all(body.as_bytes()));
    answer(line).or_else(|error| written.and(Err(error)))
}

fn answer(mut line: Line) -> io::Result<Left> {
    let mut start = [0; 12];
    line.read_exact(&mut start)?;
    let status = std::str::from_utf8(&start).ok().and_then(|line| line.get(9..)?.parse().ok());
    status.map(Left::Answered).ok_or_else(|| io::Error::other("no status"))
}

/// A `ClientHello` that is nearly as long as a handshake may be, and lacks its end.
fn long_hello() -> Vec<u8> {
    let mut message = vec![1, 0, 0x3f, 0xff];
    message.resize(15 * 1024, 0);
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[22, 3, 1], &length[..], &message].concat()
}
