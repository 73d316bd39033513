//! `actuator`: receives alerts, decides, acts. The command line holds what only a person may do.

mod control;
mod decide;
mod engine;
mod ids;
mod lock;
mod metrics;
mod serve;
mod validate;
mod webhook;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use egress::config::Config;
use egress::observe::chain;
use egress::state::Store;
use web::{LogFlags, WebFlags, flags};

use crate::control::{Command, Reply, exit};
use crate::engine::Engine;
use crate::lock::{LockError, WriterLock};

/// Keeps the VPN egress paths of this host: fails over, stops on a leak, and stays there.
#[derive(Debug, Parser)]
#[command(name = "actuator", version)]
struct Flags {
    /// The configuration that both programs share.
    #[arg(
        long = "config.file",
        value_name = "FILE",
        default_value = egress::config::DEFAULT_FILE,
        global = true
    )]
    config: PathBuf,

    /// Where the state of each path is kept.
    #[arg(
        long = "state.directory",
        value_name = "DIR",
        default_value = egress::state::DEFAULT_DIRECTORY,
        global = true
    )]
    state: PathBuf,

    /// The daemon's socket for requests of this command line; root's alone.
    #[arg(
        long = "control.socket",
        value_name = "FILE",
        default_value = control::DEFAULT_SOCKET,
        global = true
    )]
    socket: PathBuf,

    #[command(flatten)]
    log: LogFlags,

    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Receive alerts and act on them.
    Serve {
        /// Address to listen on; beyond loopback only with a token.
        #[arg(
            long = "web.listen-address",
            value_name = "ADDRESS",
            default_value = "127.0.0.1:9062"
        )]
        listen: SocketAddr,
        /// File with the bearer token that notifications must carry.
        #[arg(long = "web.bearer-token-file", value_name = "FILE")]
        token: Option<PathBuf>,
        #[command(flatten)]
        web: WebFlags,
    },
    /// Make the host what the config says: the only failback. Prints what it changed.
    Converge {
        /// Change nothing; exit 2 where something would be changed.
        #[arg(long)]
        check: bool,
        /// Fail back to a primary that does not answer; cut your own SSH session.
        #[arg(long)]
        force: bool,
    },
    /// Say how every path stands.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Lift the hard stop.
    Release {
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
    /// No automatic failover for a while; a leak still stops.
    Pause {
        /// For example 90s, 30m or 2h.
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        time: Duration,
    },
    /// Take the lock off. Converge puts it on again.
    Unlock {
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
    /// Check the config, and the health of every path once.
    Validate,
    /// Exempt this host from an IDS/IPS that would match its ciphertext by chance.
    #[command(subcommand)]
    Ids(ids::Ids),
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("say why, it is kept".to_owned()) } else { Ok(text.to_owned()) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || "want a number and s, m or h, for example 30m".to_owned();
    let unit = text.chars().last().ok_or_else(wanted)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wanted()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wanted())?;
    if number == 0 {
        return Err(wanted());
    }
    Ok(Duration::from_secs(u64::from(number) * factor))
}

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    flags.log.init();
    let reply = match &flags.act {
        Act::Serve { listen, token, web } => daemon(&flags, *listen, token.as_deref(), web),
        Act::Validate => match Config::load(&flags.config) {
            Ok(config) => validate::validate(&config, &Store::new(&flags.state)),
            Err(error) => Reply::config(chain(error)),
        },
        Act::Converge { check, force } => {
            let ssh_peer = std::env::var("SSH_CONNECTION").ok();
            let ssh_peer = ssh_peer.and_then(|peer| peer.split(' ').next()?.parse().ok());
            let command = Command::Converge { check: *check, force: *force, ssh_peer };
            ids::converge(request(&flags, &command), *check, &flags.config)
        }
        Act::Ids(command) => ids::run(command, &flags.config),
        Act::Status { json } => request(&flags, &Command::Status { json: *json }),
        Act::Release { reason } => request(&flags, &Command::Release { reason: reason.clone() }),
        Act::Unlock { reason } => request(&flags, &Command::Unlock { reason: reason.clone() }),
        Act::Pause { time } => request(&flags, &Command::Pause { seconds: time.as_secs() }),
    };
    let failed = ![exit::DONE, exit::WOULD_CHANGE].contains(&reply.exit);
    let to_stderr = failed && !matches!(flags.act, Act::Status { .. } | Act::Validate);
    for line in &reply.lines {
        // A reader that has gone away, or a full disk, changes nothing about what was done.
        let _ = if to_stderr {
            writeln!(std::io::stderr(), "actuator: {line}")
        } else {
            writeln!(std::io::stdout(), "{line}")
        };
    }
    reply.exit.into()
}

/// Asks the daemon, or acts here under its lock where there is none.
fn request(flags: &Flags, command: &Command) -> Reply {
    if let Command::Status { .. } = command {
        // Only reads, so it takes no writer's lock: a monitor must not keep a daemon from starting.
        let asked = control::ask_daemon(&flags.socket, command);
        return asked.unwrap_or_else(|_| act_here(flags, command));
    }
    match WriterLock::take(&flags.state, "actuator") {
        Ok(_lock) => act_here(flags, command),
        Err(LockError::Held { holder }) => control::ask_daemon(&flags.socket, command)
            .unwrap_or_else(|why| {
                Reply::refused(vec![format!("{holder} is at work and gave no reply: {why}")])
            }),
        Err(error @ LockError::Unusable { .. }) => Reply::refused(vec![chain(error)]),
    }
}

fn act_here(flags: &Flags, command: &Command) -> Reply {
    match Engine::new(flags.config.clone(), Store::new(&flags.state)) {
        Ok(mut engine) => control::carry_out(&mut engine, command),
        Err(error) => Reply::config(chain(error)),
    }
}

fn daemon(flags: &Flags, listen: SocketAddr, token: Option<&Path>, web: &WebFlags) -> Reply {
    let token = match token.map(read_token).transpose() {
        Ok(token) => token,
        Err(why) => return Reply { lines: vec![why], exit: exit::USAGE },
    };
    if token.is_none() && !flags::is_loopback(&listen) {
        let why = format!(
            "--web.listen-address {listen}: refused beyond loopback without credentials; \
             give --web.bearer-token-file"
        );
        return Reply { lines: vec![why], exit: exit::USAGE };
    }
    let _lock = match WriterLock::take(&flags.state, "actuator serve") {
        Ok(lock) => lock,
        Err(error) => return Reply::refused(vec![chain(error)]),
    };
    let engine = match Engine::new(flags.config.clone(), Store::new(&flags.state)) {
        Ok(engine) => engine,
        Err(error) => return Reply::config(chain(error)),
    };
    let options = serve::Options {
        listen,
        telemetry_path: web.telemetry_path.clone(),
        token,
        socket: flags.socket.clone(),
    };
    match serve::serve(engine, options) {
        Ok(()) => Reply::done(Vec::new()),
        Err(error) => Reply::refused(vec![chain(error)]),
    }
}

fn read_token(file: &Path) -> Result<Vec<u8>, String> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("token file {} cannot be read: {error}", file.display()))?;
    let mode = fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        return Err(format!("token file {} can be read by others: chmod o-rwx", file.display()));
    }
    let token = text.trim().as_bytes().to_vec();
    if token.is_empty() {
        return Err(format!("token file {} is empty: put one line of random text", file.display()));
    }
    Ok(token)
}
