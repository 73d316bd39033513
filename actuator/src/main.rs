//! `actuator`: receives alerts, decides, acts. The command line holds what only a person may do.

mod advice;
mod boot;
mod control;
mod decide;
mod delivery;
mod door;
mod engine;
mod frugal;
mod history;
mod ids;
mod init;
mod lock;
mod metrics;
mod notification;
mod removed;
mod render;
mod resolve;
mod seldom;
mod serve;
mod surroundings;
mod validate;
mod vital;
mod webhook;

use std::io::{IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use egress::error::chain;
use egress::pins;
use egress::state::Store;
use web::{LogFlags, WebFlags};

use crate::control::{Ask, Command, Form, NoReply, Reply, Standbys, exit};
use crate::engine::{Engine, Ink, Shared, Wish};
use crate::lock::{LockError, WriterLock};

/// Keeps the VPN egress paths of this host: fails over, stops on a leak, and stays there.
#[derive(Debug, Parser)]
#[command(name = "actuator", version)]
struct Flags {
    /// The configuration that both programs share [default: /etc/vpn-egress/egress.yml, or what
    /// the daemon goes by]
    #[arg(long = "config.file", value_name = "FILE", global = true)]
    config: Option<PathBuf>,

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
        /// File with the bearer token that notifications must carry.
        #[arg(long = "web.bearer-token-file", value_name = "FILE")]
        token: Option<PathBuf>,
        #[command(flatten)]
        web: WebFlags,
    },
    /// Write a commented config from a provider's files.
    Init(init::Init),
    /// Make the host what the config says: the only failback. Prints what it changed.
    Converge {
        /// Change nothing; exit 2 where something would be changed.
        #[arg(long)]
        check: bool,
        /// Fail back to a primary that does not answer; cut your own SSH session.
        #[arg(long)]
        force: bool,
        /// Say it for machines: {"changed": true, "lines": [...]}.
        #[arg(long)]
        json: bool,
    },
    /// Say how every path stands, its endpoints, and what was decided.
    Status {
        /// For machines; docs/status.schema.json is its form.
        #[arg(long)]
        json: bool,
        /// Ask the endpoints that are not in use for a handshake first; two seconds at most.
        #[arg(long)]
        probe: bool,
    },
    /// Lift the hard stop.
    Release {
        /// Of this path only.
        #[arg(long, value_name = "NAME")]
        path: Option<String>,
        /// Why; it is kept in the history.
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
    /// No automatic failover for a while; a leak still stops.
    Pause {
        /// Of this path only.
        #[arg(long, value_name = "NAME")]
        path: Option<String>,
        /// For example 90s, 30m or 2h.
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        time: Duration,
    },
    /// Take the lock off. Converge puts it on again.
    Unlock {
        /// Of this path only.
        #[arg(long, value_name = "NAME")]
        path: Option<String>,
        /// Why; it is kept in the history.
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
    /// Take down the tunnel that converge brought up. The lock stays.
    Down {
        /// Of this path only.
        #[arg(long, value_name = "NAME")]
        path: Option<String>,
    },
    /// Check the config, and the health of every path once.
    Validate,
    /// Show the rules that the config asks for.
    #[command(subcommand)]
    Killswitch(Rules),
    /// Print what Alertmanager needs to know, for several hosts.
    #[command(subcommand)]
    Render(render::Render),
    /// Write the manual pages and completions into a directory, for packages.
    #[command(hide = true)]
    Manual { directory: PathBuf },
    /// The points at which a test may end this program.
    #[cfg(debug_assertions)]
    #[command(hide = true)]
    FaultPoints,
    /// Exempt this host from an IDS/IPS that would match its ciphertext by chance.
    #[command(subcommand)]
    Ids(ids::Ids),
}

#[derive(Debug, Subcommand)]
enum Rules {
    /// In nft's own language, a reason with each. Loads nothing and needs no root, but whoever may
    /// read the files that the config names.
    Print,
    /// Load the lock as it was converged, for the boot: needs no network and no daemon.
    Load,
}

const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9062);

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("say why, it is kept".to_owned());
    }
    if text.contains(char::is_control) {
        return Err("want one line of plain text: it is shown on terminals".to_owned());
    }
    Ok(text.to_owned())
}

/// Longer is a slip of the unit, or meant for `unlock`.
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 24 * 3600);

fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || {
        "want a number and s, m or h, not zero and not more than 720h, for example 30m".to_owned()
    };
    let unit = text.chars().last().ok_or_else(wanted)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wanted()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wanted())?;
    let time = Duration::from_secs(u64::from(number) * factor);
    if time.is_zero() || time > LONGEST_PAUSE { Err(wanted()) } else { Ok(time) }
}

impl Flags {
    fn config_file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| egress::config::DEFAULT_FILE.into())
    }
}

/// Colours are for terminals, and not for those who do not want them (no-color.org).
fn form(json: bool) -> Form {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match json {
        true => Form::Json,
        false if unwanted || !std::io::stdout().is_terminal() => Form::Text(Ink::Plain),
        false => Form::Text(Ink::Colour),
    }
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
        Act::Serve { token, web } => daemon(&flags, token.as_deref(), web),
        Act::Killswitch(Rules::Load) => boot::load(&flags.config_file(), &Store::new(&flags.state)),
        Act::Init(init) => init::run(init, &flags.config_file(), &egress::connections::own()),
        Act::Validate => {
            let store = Store::new(&flags.state);
            match pins::config(&flags.config_file(), &store) {
                Ok(config) => {
                    let on_host = validate::on_host(&flags.config_file(), &store);
                    validate::validate(&config, &store, on_host.err())
                }
                Err(error) => Reply::config(chain(error)),
            }
        }
        Act::Converge { check, force, json } => {
            let sessions = egress::connections::own();
            let wish = Wish { check: *check, force: *force, sessions };
            let reply = request(&flags, Command::Converge { wish });
            control::report(
                ids::converge(reply, *check, &flags.config_file(), &Store::new(&flags.state)),
                form(*json),
            )
        }
        Act::Ids(command) => ids::run(command, &flags.config_file(), &Store::new(&flags.state)),
        Act::Render(command) => render::run(command),
        Act::Manual { directory } => match manual::write(Flags::command(), directory) {
            Ok(_) => Reply::done(Vec::new()),
            Err(error) => Reply::refused(vec![format!("{}: {error}", directory.display())]),
        },
        #[cfg(debug_assertions)]
        Act::FaultPoints => Reply::done(
            egress::fault::Point::ALL.iter().map(|point| point.name().to_owned()).collect(),
        ),
        Act::Status { json, probe } => {
            let standbys = if *probe { Standbys::Ask } else { Standbys::AsKnown };
            request(&flags, Command::Status { form: form(*json), standbys })
        }
        Act::Release { path, reason } => {
            request(&flags, Command::Release { path: path.clone(), reason: reason.clone() })
        }
        Act::Unlock { path, reason } => {
            request(&flags, Command::Unlock { path: path.clone(), reason: reason.clone() })
        }
        Act::Down { path } => request(&flags, Command::Down { path: path.clone() }),
        Act::Pause { path, time } => {
            request(&flags, Command::Pause { path: path.clone(), seconds: time.as_secs() })
        }
        Act::Killswitch(Rules::Print) => {
            match pins::config(&flags.config_file(), &Store::new(&flags.state)) {
                Ok(config) => match egress::firewall::text(&config.paths) {
                    Ok(text) => Reply::done(vec![text]),
                    Err(error) => Reply::refused(vec![chain(error)]),
                },
                Err(error) => Reply::config(chain(error)),
            }
        }
    };
    let failed = ![exit::DONE, exit::WOULD_CHANGE].contains(&reply.exit);
    let answers =
        matches!(flags.act, Act::Status { .. } | Act::Validate | Act::Converge { json: true, .. });
    let to_stderr = failed && !answers;
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
fn request(flags: &Flags, command: Command) -> Reply {
    let named = flags.config.as_deref().map(control::whole);
    let ask = Ask { config_file: named, command };
    if ask.command.only_reads() {
        // Takes no writer's lock: a monitor must not keep a daemon from starting.
        return match control::ask_daemon(&flags.socket, &ask) {
            Ok(reply) => reply,
            Err(NoReply::NobodyThere { .. }) => act_here(flags, &ask),
            // How the path stands can be seen without it; what it would do cannot.
            Err(why) => match ask.command {
                Command::Status { form, .. } => {
                    let mut reply = act_here(flags, &ask);
                    if !matches!(form, Form::Json) {
                        reply.lines.push(format!("seen without the daemon: {}", chain(why)));
                    }
                    reply
                }
                _ => Reply::refused(vec![format!("refused: {}", chain(why))]),
            },
        };
    }
    match WriterLock::take(&flags.state, "actuator") {
        Ok(_lock) => act_here(flags, &ask),
        Err(LockError::Held { holder }) => {
            control::ask_daemon(&flags.socket, &ask).unwrap_or_else(|why| {
                let why = chain(why);
                Reply::refused(vec![format!("{holder} is at work and gave no reply: {why}")])
            })
        }
        Err(error) => Reply::refused(vec![chain(error)]),
    }
}

fn act_here(flags: &Flags, ask: &Ask) -> Reply {
    let (file, store) = (flags.config_file(), Store::new(&flags.state));
    let engine = match ask.command {
        Command::Converge { .. } => Engine::for_converge(file, store),
        _ => Engine::new(file, store),
    };
    match engine {
        Ok(engine) => control::carry_out(&Shared::new(engine), ask),
        Err(error) if matches!(ask.command, Command::Status { .. }) => {
            Reply::new(vec![chain(error), boot::in_force()], exit::CONFIG)
        }
        Err(error) => Reply::config(chain(error)),
    }
}

/// A daemon that cannot start leaves a lock behind all the same.
fn daemon(flags: &Flags, token: Option<&Path>, web: &WebFlags) -> Reply {
    let mut reply = match WriterLock::take(&flags.state, "actuator serve") {
        Ok(_lock) => start(flags, token, web),
        Err(error @ LockError::Held { .. }) => {
            let what = "a host has one daemon: `actuator status` asks it, or end it first";
            return Reply::refused(vec![format!("{}; {what}", chain(error))]);
        }
        Err(error) => Reply::refused(vec![chain(error)]),
    };
    if reply.exit != exit::DONE {
        let store = Store::new(&flags.state);
        reply.lines.extend(boot::load_if_unlocked(&flags.config_file(), &store));
    }
    reply
}

fn start(flags: &Flags, token: Option<&Path>, web: &WebFlags) -> Reply {
    let runtime = match serve::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Reply::refused(vec![chain(error)]),
    };
    let listeners = {
        let _inside = runtime.enter();
        web::listen(web, DEFAULT_ADDRESS)
    };
    let listeners = match listeners {
        Ok(listeners) => listeners,
        Err(error) => return Reply::refused(vec![chain(error)]),
    };
    let beyond = web::beyond_loopback(&listeners);
    let gate = match door::gate(web.config_file.clone(), token, beyond) {
        Ok(gate) => gate,
        Err(why) => return Reply::new(vec![why], exit::USAGE),
    };
    let engine = match Engine::new(flags.config_file(), Store::new(&flags.state)) {
        Ok(engine) => engine,
        Err(error) => return Reply::config(chain(error)),
    };
    let options = serve::Options {
        listeners,
        gate,
        telemetry_path: web.telemetry_path.clone(),
        socket: flags.socket.clone(),
    };
    match serve::serve(engine, options, &runtime) {
        Ok(()) => Reply::done(Vec::new()),
        Err(error) => Reply::refused(vec![chain(error)]),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Flags;

    #[test]
    fn every_command_has_its_manual_page_and_completions() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        let pages = manual::write(Flags::command(), directory).expect("written");
        let mut named = vec!["actuator".to_owned()];
        for act in Flags::command().get_subcommands().filter(|act| !act.is_hide_set()) {
            named.push(format!("actuator-{}", act.get_name()));
        }
        for name in named {
            assert!(pages.contains(&name), "{name} has no page: {pages:?}");
            let page = std::fs::read_to_string(directory.join(format!("man8/{name}.8")));
            let page = page.expect("a page");
            assert!(page.contains("config.file") && page.contains("state.directory"), "{page}");
        }
        let bash = std::fs::read_to_string(directory.join("completions/actuator.bash"));
        assert!(bash.expect("completions").contains("converge"));
        assert!(!pages.iter().any(|page| page.contains("fault")), "hidden: {pages:?}");
    }
}
