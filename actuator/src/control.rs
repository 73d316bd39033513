//! What a person asks of a path, and how it gets to whoever may write: the daemon, over a socket
//! that is root's alone, or the engine in this very process where there is no daemon.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use egress::observe::chain;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use web::{Answer, Request, answer};

use crate::engine::{Engine, Shared, Wish};

pub const DEFAULT_SOCKET: &str = "/run/vpn-egress/actuator.sock";

/// The slowest request probes a dead primary and loads the rules; more is a daemon that hangs.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request is a few words.
const REQUEST_LIMIT: usize = 64 * 1024;

const JSON: &str = "application/json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Command {
    Converge { check: bool, force: bool, ssh_peer: Option<IpAddr> },
    Release { reason: String },
    Unlock { reason: String },
    Pause { seconds: u64 },
    Status { json: bool },
}

/// What to print, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub lines: Vec<String>,
    pub exit: u8,
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
    pub fn done(lines: Vec<String>) -> Self {
        Self { lines, exit: exit::DONE }
    }

    pub fn would_change(lines: Vec<String>) -> Self {
        Self { lines, exit: exit::WOULD_CHANGE }
    }

    pub fn refused(lines: Vec<String>) -> Self {
        Self { lines, exit: exit::REFUSED }
    }

    pub fn config(line: String) -> Self {
        Self { lines: vec![line], exit: exit::CONFIG }
    }
}

/// Carries out a request; blocks.
pub fn carry_out(engine: &mut Engine, command: &Command) -> Reply {
    match command {
        Command::Converge { check, force, ssh_peer } => {
            engine.converge(Wish { check: *check, force: *force, ssh_peer: *ssh_peer })
        }
        Command::Release { reason } => engine.release(reason),
        Command::Unlock { reason } => engine.unlock(reason),
        Command::Pause { seconds } => engine.pause(Duration::from_secs(*seconds)),
        Command::Status { json } => {
            let status = engine.status();
            let lines = if *json {
                vec![serde_json::to_string_pretty(&status).unwrap_or_default()]
            } else {
                status.iter().flat_map(crate::engine::PathStatus::lines).collect()
            };
            let healthy = status.iter().all(crate::engine::PathStatus::healthy);
            Reply { lines, exit: if healthy { exit::DONE } else { exit::REFUSED } }
        }
    }
}

/// The daemon's side: one JSON request, one JSON reply.
pub async fn serve_request(engine: Shared, request: Request) -> Answer {
    let body = match Limited::new(request.into_body(), REQUEST_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return answer(StatusCode::PAYLOAD_TOO_LARGE, JSON, "{}"),
    };
    let command: Command = match serde_json::from_slice(&body) {
        Ok(command) => command,
        Err(error) => return answer(StatusCode::BAD_REQUEST, JSON, format!("\"{error}\"")),
    };
    tracing::info!(?command, "requested");
    let reply = tokio::task::spawn_blocking(move || carry_out(&mut engine.lock(), &command)).await;
    match reply.map(|reply| serde_json::to_vec(&reply)) {
        Ok(Ok(reply)) => answer(StatusCode::OK, JSON, reply),
        _ => answer(StatusCode::INTERNAL_SERVER_ERROR, JSON, "{}"),
    }
}

/// The command line's side. `Err` says why the daemon gave no reply.
pub fn ask_daemon(socket: &Path, command: &Command) -> Result<Reply, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(chain)?;
    runtime.block_on(async {
        tokio::time::timeout(REPLY_TIMEOUT, exchange(socket, command))
            .await
            .unwrap_or_else(|_| Err(format!("no reply within {} s", REPLY_TIMEOUT.as_secs())))
    })
}

async fn exchange(socket: &Path, command: &Command) -> Result<Reply, String> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| format!("its socket {} cannot be reached: {error}", socket.display()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(chain)?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(command).map_err(chain)?;
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
