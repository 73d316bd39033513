//! `init`: from a provider's files to a commented config. Looks at those files only, asks no DNS and
//! changes nothing but the one file that it writes, which must not be there yet.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use egress::config::{Config, ConfigError, Provider};
use egress::connections::Connection;
use egress::error::chain;

use crate::control::{Reply, exit};

#[derive(Debug, Args)]
pub struct Init {
    /// The provider's wg-quick files; the first is the primary, the order that of failover.
    #[arg(required = true, value_name = "FILE.conf")]
    files: Vec<PathBuf>,
    /// What the path is called in alerts and metrics.
    #[arg(long, value_name = "NAME", default_value = "vpn")]
    path: String,
    /// The WireGuard interface of the path.
    #[arg(long, value_name = "NAME", default_value = "wg0")]
    interface: String,
    /// Where the config is written, `-` prints it [default: that of --config.file].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    NoSharedAddress(String),
    #[error("{file} gives no name for an endpoint: rename it to letters, digits, `_` and `-`")]
    NoName { file: PathBuf },
    #[error("{first} and {second} would both be endpoint `{name}`: rename one of them")]
    SameName { first: PathBuf, second: PathBuf, name: String },
    #[error(
        "{0} is there already and is not overwritten: move it away, or name another file with --output"
    )]
    Exists(PathBuf),
    #[error("{file} cannot be written")]
    Unwritable { file: PathBuf, source: io::Error },
}

/// A provider's file, and what it becomes.
struct Found {
    name: String,
    file: PathBuf,
    said: Provider,
}

pub fn run(init: &Init, config_file: &Path, sessions: &[Connection]) -> Reply {
    let output = init.output.clone().unwrap_or_else(|| config_file.to_owned());
    let to_stdout = output.as_os_str() == "-";
    let written = text(init, &output, sessions).and_then(|text| {
        if !to_stdout {
            write(&output, &text)?;
        }
        Ok(text)
    });
    match written {
        Ok(text) if to_stdout => Reply::done(vec![text.trim_end().to_owned()]),
        Ok(_) => Reply::done(vec![
            format!("{}: written; read it and edit what is marked EDIT", output.display()),
            "then: actuator converge --check, actuator converge, actuator validate".to_owned(),
        ]),
        Err(InitError::Config(error)) => Reply::config(chain(error)),
        Err(error) => Reply::new(vec![chain(error)], exit::REFUSED),
    }
}

fn text(init: &Init, output: &Path, sessions: &[Connection]) -> Result<String, InitError> {
    let found = init.files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    for (nth, second) in found.iter().enumerate() {
        if let Some(first) = found[..nth].iter().find(|first| first.name == second.name) {
            let (first, name) = (first.file.clone(), second.name.clone());
            return Err(InitError::SameName { first, second: second.file.clone(), name });
        }
    }
    share_addresses(init, &found)?;
    let text = compose(init, &found, sessions);
    // What is written loads: the names that were given, the modes of the files, all of it.
    Config::of_text(output, text.clone())?;
    Ok(text)
}

fn read(file: &Path) -> Result<Found, InitError> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let said = Provider::read(&file)?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = stem.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let name: String = name.trim_start_matches(['-', '_']).chars().take(64).collect();
    if name.is_empty() {
        return Err(InitError::NoName { file });
    }
    Ok(Found { name, file, said })
}

/// A failover changes the server and nothing else: an address that only one of them gives would
/// carry nothing after it.
fn share_addresses(init: &Init, found: &[Found]) -> Result<(), InitError> {
    let mut groups: BTreeMap<Vec<String>, Vec<&Found>> = BTreeMap::new();
    for one in found {
        let mut addresses: Vec<String> =
            one.said.addresses.iter().map(ToString::to_string).collect();
        addresses.sort();
        groups.entry(addresses).or_default().push(one);
    }
    if groups.len() < 2 {
        return Ok(());
    }
    let mut why = "these files give this host different addresses in the tunnel, and a failover \
                   changes the server only:"
        .to_owned();
    for (addresses, files) in &groups {
        for one in files {
            let _ = write!(why, "\n  {}: {}", one.file.display(), addresses.join(", "));
        }
    }
    let again: Vec<String> = groups
        .values()
        .zip(0..)
        .map(|(files, nth): (_, u32)| {
            let names: Vec<String> =
                files.iter().map(|one| one.file.display().to_string()).collect();
            format!("--path {}{nth} --interface wg{nth} {}", init.path, names.join(" "))
        })
        .collect();
    let _ = write!(
        why,
        "\nAsk the provider for files of one device (the same key, so the same address) for all \
         servers. Where it gives each server an address of its own, make a path of each, with a \
         workload of its own, from:\n  actuator init --output - {}",
        again.join("\n  actuator init --output - ")
    );
    Err(InitError::NoSharedAddress(why))
}

fn compose(init: &Init, found: &[Found], sessions: &[Connection]) -> String {
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let endpoints: Vec<String> = found
        .iter()
        .map(|one| {
            let file = quoted(&one.file.display().to_string());
            let named = if one.said.named { ", looked up and pinned by converge" } else { "" };
            let (name, server) = (&one.name, &one.said.server);
            format!("      # {server}{named}\n      - {{name: {name}, wg_quick: {file}}}\n")
        })
        .collect();
    let endpoints = endpoints.concat();
    let mut from: Vec<String> =
        sessions.iter().map(|session| session.peer.ip().to_canonical().to_string()).collect();
    from.sort();
    from.dedup();
    let here =
        if from.is_empty() { "" } else { "\n    # Below is where you are connected from now." };
    let (path, interface) = (quoted(&init.path), quoted(&init.interface));
    let management = from.join(", ");
    format!(
        "# Written by `actuator init`. Read it, edit what is marked EDIT, then run
#   actuator converge --check   says what would be done
#   actuator converge           locks this host, then brings the tunnel up
#   actuator validate           says how the path stands
# Every option: docs/config.md of vpn-egress.

paths:
  - name: {path}

    # The WireGuard interface. `converge` makes it where it is missing, with its addresses and
    # routing, and takes it over where wg-quick or another has brought it up. `off`: never.
    interface: {interface}
    bring_up: auto

    # EDIT: who may connect to this host from outside the tunnel (SSH), also during a hard stop:
    # addresses or networks, such as [192.168.10.5]. With none, only the console is left.{here}
    management: [{management}]

    # EDIT: what this host may reach outside the tunnel: local addresses or networks, such as
    # [192.168.10.0/24]. DNS (ports 53 and 853) is refused there all the same.
    allow: []

    # The first is the primary; a failover takes the next, and never goes back by itself.
    endpoints:
{endpoints}
    health:
{}",
        probe(&init.interface, found)
    )
}

/// The resolver that every file names is inside the tunnel, with most providers, and answers pings.
fn probe(interface: &str, found: &[Found]) -> String {
    let is_inside = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_private() || is_shared(ip.octets()),
        IpAddr::V6(ip) => ip.octets()[0] & 0xfe == 0xfc,
    };
    let everywhere = |ip: &&IpAddr| found.iter().all(|one| one.said.dns.contains(ip));
    let first = found.first().map(|one| one.said.dns.as_slice()).unwrap_or_default();
    let inside = first.iter().filter(|ip| is_inside(ip)).find(everywhere);
    match inside {
        Some(ip) => format!(
            "      # EDIT: an address inside the tunnel that answers pings; a tunnel where it does
      # not reads as down. This is the resolver (DNS) of the provider's files; to try it once the
      # tunnel is up: ping -I {interface} {ip}. Let this host ask it for names too.
      probe: {{target: {ip}}}
"
        ),
        None => "      # EDIT: an address inside the tunnel that answers pings, mostly the provider's resolver.
      # Without one only the age of the handshake tells of a dead tunnel, after three minutes.
      # probe: {target: 10.64.0.1}
      interval: 5s
"
        .to_owned(),
    }
}

/// 100.64.0.0/10 (RFC 6598).
fn is_shared([first, second, ..]: [u8; 4]) -> bool {
    first == 100 && second & 0xc0 == 64
}

/// Makes the file, whole, with its directory; never in the place of another.
fn write(file: &Path, text: &str) -> Result<(), InitError> {
    let unwritable = |source| InitError::Unwritable { file: file.to_owned(), source };
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(unwritable)?;
    }
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o644).open(file);
    let mut new = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists(file.to_owned()),
        _ => unwritable(error),
    })?;
    new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).map_err(|error| {
        // Half a config is worse than none.
        let _ = fs::remove_file(file);
        unwritable(error)
    })
}

#[cfg(test)]
#[path = "init_tests.rs"]
mod tests;
