//! What a person asks of a path, and how it gets to whoever may write: the daemon, over a socket
//! that is root's alone, or the engine in this very process where there is no daemon.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use egress::error::chain;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use web::{Answer, Request, answer};

use crate::engine::{Ink, Shared, Wanted, Wish};

pub const DEFAULT_SOCKET: &str = "/run/vpn-egress/actuator.sock";

/// A request that only reads; more is a daemon that hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// An act may have to wait for a slow `nft`, a minute for each load, and several paths are loaded one
/// after the other. Giving up would not end the act.
const ACT_TIMEOUT: Duration = Duration::from_secs(600);

/// A wait is reported after this time, and again each time it has doubled.
const FIRST_NOTICE: Duration = Duration::from_secs(10);

/// A request is a few words.
const REQUEST_LIMIT: usize = 64 * 1024;

const JSON: &str = "application/json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Command {
    Converge {
        wish: Wish,
    },
    // Without a path: all of them.
    Release {
        #[serde(default)]
        path: Option<String>,
        reason: String,
    },
    Unlock {
        #[serde(default)]
        path: Option<String>,
        reason: String,
    },
    Pause {
        #[serde(default)]
        path: Option<String>,
        seconds: u64,
    },
    Down {
        #[serde(default)]
        path: Option<String>,
    },
    Status {
        form: Form,
        standbys: Standbys,
    },
}

/// What a reply is to be read by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    Json,
    Text(Ink),
}

/// Whether the endpoints that are not in use are asked for a handshake first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standbys {
    Ask,
    AsKnown,
}

/// A request, and the config that it is meant by, where the caller named one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub config_file: Option<PathBuf>,
    pub command: Command,
}

impl Command {
    /// As it is given on the command line.
    fn word(&self) -> &'static str {
        match self {
            Self::Converge { .. } => "converge",
            Self::Release { .. } => "release",
            Self::Unlock { .. } => "unlock",
            Self::Pause { .. } => "pause",
            Self::Down { .. } => "down",
            Self::Status { .. } => "status",
        }
    }

    fn patience(&self) -> Duration {
        if self.only_reads() { READ_TIMEOUT } else { ACT_TIMEOUT }
    }

    /// Changes nothing, so it needs no writer's lock.
    pub fn only_reads(&self) -> bool {
        match self {
            Self::Status { .. } => true,
            Self::Converge { wish } => wish.check,
            Self::Release { .. } | Self::Unlock { .. } | Self::Pause { .. } | Self::Down { .. } => {
                false
            }
        }
    }
}

/// What to print, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub lines: Vec<String>,
    pub exit: u8,
    /// Whether something was changed, or would be.
    pub changed: bool,
}

/// The exit codes of `DESIGN.md`, section 10.
pub mod exit {
    pub const DONE: u8 = 0;
    pub const TUNNEL_DOWN: u8 = 1;
    pub const WOULD_CHANGE: u8 = 2;
    pub const LEAK: u8 = 2;
    pub const REFUSED: u8 = 3;
    pub const USAGE: u8 = 64;
    pub const CONFIG: u8 = 78;
}

impl Reply {
    pub fn new(lines: Vec<String>, exit: u8) -> Self {
        Self { lines, exit, changed: false }
    }

    pub fn done(lines: Vec<String>) -> Self {
        Self::new(lines, exit::DONE)
    }

    pub fn would_change(lines: Vec<String>) -> Self {
        Self { changed: true, ..Self::new(lines, exit::WOULD_CHANGE) }
    }

    pub fn refused(lines: Vec<String>) -> Self {
        Self::new(lines, exit::REFUSED)
    }

    pub fn config(line: String) -> Self {
        Self::new(vec![line], exit::CONFIG)
    }
}

/// Carries out a request; blocks.
pub fn carry_out(shared: &Shared, ask: &Ask) -> Reply {
    if let Err(refused) = same_config(shared.board().config_file(), ask) {
        return refused;
    }
    let turn = || shared.lock(format!("`actuator {}`", ask.command.word()));
    match &ask.command {
        Command::Converge { wish } => turn().converge(wish),
        Command::Release { path, reason } => turn().release(path.as_deref(), reason),
        Command::Unlock { path, reason } => turn().unlock(path.as_deref(), reason),
        Command::Down { path } => turn().down(path.as_deref()),
        Command::Pause { path, seconds } => {
            turn().pause(path.as_deref(), Duration::from_secs(*seconds))
        }
        Command::Status { form, standbys } => {
            if *standbys == Standbys::Ask {
                ask_standbys(shared);
            }
            let status = shared.board().status(Wanted::ByPeople);
            let lines = match form {
                Form::Json => vec![serde_json::to_string_pretty(&status).unwrap_or_default()],
                Form::Text(ink) => status.lines(*ink),
            };
            Reply::new(lines, if status.healthy() { exit::DONE } else { exit::REFUSED })
        }
    }
}

/// Takes seconds where one is silent, and holds nothing up meanwhile: a leak must not wait for it.
fn ask_standbys(shared: &Shared) {
    let board = shared.board();
    let view = board.view();
    std::thread::scope(|scope| {
        for path in &view.config.paths {
            scope.spawn(|| board.ask_standbys(path));
        }
    });
}

/// A config that was named and is not the one that the daemon goes by would be passed over.
fn same_config(own: &Path, ask: &Ask) -> Result<(), Reply> {
    let Some(named) = ask.config_file.as_deref().filter(|named| *named != whole(own)) else {
        return Ok(());
    };
    let line = format!(
        "--config.file {}: the daemon (pid {}) goes by {}; leave the flag out, or restart the \
         daemon with that file",
        named.display(),
        std::process::id(),
        own.display()
    );
    Err(Reply::new(vec![line], exit::USAGE))
}

/// A file's name that means the same in every directory, and by every link.
pub fn whole(file: &Path) -> PathBuf {
    let whole = fs::canonicalize(file).or_else(|_| std::path::absolute(file));
    whole.unwrap_or_else(|_| file.to_owned())
}

/// What a converge did, for machines: `{"changed": ..., "lines": [...]}`.
pub fn report(reply: Reply, form: Form) -> Reply {
    let Form::Json = form else {
        return reply;
    };
    let json = serde_json::json!({ "changed": reply.changed, "lines": reply.lines });
    Reply { lines: vec![json.to_string()], ..reply }
}

/// The daemon's side: one JSON request, one JSON reply.
pub async fn serve_request(engine: Shared, request: Request) -> Answer {
    let body = match Limited::new(request.into_body(), REQUEST_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return answer(StatusCode::PAYLOAD_TOO_LARGE, JSON, "{}"),
    };
    let ask: Ask = match serde_json::from_slice(&body) {
        Ok(ask) => ask,
        Err(error) => return answer(StatusCode::BAD_REQUEST, JSON, format!("\"{error}\"")),
    };
    tracing::info!(command = ?ask.command, "requested");
    let reply = tokio::task::spawn_blocking(move || carry_out(&engine, &ask)).await;
    match reply.map(|reply| serde_json::to_vec(&reply)) {
        Ok(Ok(reply)) => answer(StatusCode::OK, JSON, reply),
        _ => answer(StatusCode::INTERNAL_SERVER_ERROR, JSON, "{}"),
    }
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum NoReply {
    #[error("its socket {socket} cannot be reached")]
    NobodyThere { socket: PathBuf, source: std::io::Error },
    #[error("actuator serve (pid {pid}) is stopped: `kill -CONT {pid}`, or end it")]
    Stopped { pid: i32 },
    #[error("{0}")]
    Broken(String),
}

/// The command line's side.
pub fn ask_daemon(socket: &Path, ask: &Ask) -> Result<Reply, NoReply> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| NoReply::Broken(chain(error)))?;
    runtime.block_on(wait(ask.command.patience(), exchange(socket, ask)))
}

/// Waits for the reply, and says so: somebody may be looking at a command that prints nothing.
async fn wait(
    limit: Duration,
    reply: impl Future<Output = Result<Reply, NoReply>>,
) -> Result<Reply, NoReply> {
    let mut reply = std::pin::pin!(reply);
    let begun = Instant::now();
    let mut notice = FIRST_NOTICE;
    loop {
        let rest = notice.min(limit).saturating_sub(begun.elapsed());
        if let Ok(reply) = tokio::time::timeout(rest, &mut reply).await {
            return reply;
        }
        let waited = begun.elapsed();
        if waited >= limit {
            return Err(NoReply::Broken(format!("no reply within {} s", limit.as_secs())));
        }
        let seconds = waited.as_secs();
        let said = format!(
            "actuator: still waiting for the daemon, for {seconds} s; its log says what it waits for"
        );
        // Nobody may be reading, and the reply is awaited all the same.
        let _ = writeln!(std::io::stderr(), "{said}");
        notice *= 2;
    }
}

async fn exchange(socket: &Path, ask: &Ask) -> Result<Reply, NoReply> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| NoReply::NobodyThere { socket: socket.to_owned(), source })?;
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    if let Some(pid) = peer.filter(|&pid| is_stopped(pid)) {
        return Err(NoReply::Stopped { pid });
    }
    talk(stream, ask).await.map_err(|why| match peer {
        Some(pid) => NoReply::Broken(format!("pid {pid}: {why}")),
        None => NoReply::Broken(why),
    })
}

/// Whether a signal has stopped the process: it would take the request, and never answer.
fn is_stopped(pid: i32) -> bool {
    // The state is the word after the name, which may hold anything but ends with the last bracket.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

async fn talk(stream: UnixStream, ask: &Ask) -> Result<Reply, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(chain)?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(ask).map_err(chain)?;
    let request = hyper::Request::post("/v1/command")
        .header("host", "actuator")
        .body(Full::new(Bytes::from(body)))
        .map_err(chain)?;
    let response = sender.send_request(request).await.map_err(chain)?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answered {}", response.status()));
    }
    let body = response.into_body().collect().await.map_err(chain)?.to_bytes();
    serde_json::from_slice(&body).map_err(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_is_awaited_longer_than_a_read_and_a_daemon_that_hangs_is_given_up() {
        let act = Command::Unlock { path: None, reason: String::new() };
        let read = Command::Status { form: Form::Json, standbys: Standbys::AsKnown };
        assert!(act.patience() > 10 * read.patience());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let limit = Duration::from_millis(50);
        let given_up = runtime.expect("a runtime").block_on(wait(limit, std::future::pending()));
        assert!(matches!(given_up, Err(NoReply::Broken(why)) if why.contains("no reply within")));
    }
}
