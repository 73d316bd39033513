//! Makes what a plan says is missing of a tunnel, and takes down what was made.
//!
//! Only ever after the lock is loaded: then no order here opens a gap.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::plan::file;
use super::{Family, Link, Piece, Plan, Tunnel, TunnelError, inside, rules};

/// What a person names for wg-quick is meant for us too.
const CHOSEN: &str = "WG_QUICK_USERSPACE_IMPLEMENTATION";

/// Tried in this order.
const USERSPACE: [&str; 3] = ["wireguard-go", "boringtun-cli", "boringtun"];

/// A userspace implementation makes its device in milliseconds; a busy machine may take longer.
const DEVICE_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks at a device that is about to appear.
const PAUSE: Duration = Duration::from_millis(10);

/// Where userspace implementations put their socket (wg(8)).
const SOCKETS: &str = "/var/run/wireguard";

/// Which WireGuard runs the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Implementation {
    Kernel,
    Userspace(PathBuf),
}

/// What a device would be made with, as far as that can be told without trying.
pub fn implementation() -> Result<Implementation, TunnelError> {
    let module = || {
        let mut modprobe = Command::new("modprobe");
        modprobe.args(["-n", "-q", "wireguard"]).stdout(Stdio::null()).stderr(Stdio::null());
        // Where nobody can say, the attempt will.
        modprobe.status().map_or(true, |status| status.success())
    };
    if Path::new("/sys/module/wireguard").exists() || module() {
        return Ok(Implementation::Kernel);
    }
    userspace().map(Implementation::Userspace).ok_or(TunnelError::NoImplementation)
}

fn userspace() -> Option<PathBuf> {
    let chosen = std::env::var(CHOSEN).ok().filter(|chosen| !chosen.is_empty());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = chosen.iter().map(String::as_str).chain(USERSPACE);
    let found = |name: &str| {
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|it| it.is_file())
    };
    names.into_iter().find_map(found)
}

/// Makes the device: the kernel's WireGuard, or a userspace one where the kernel has none.
pub fn make_device(interface: &str) -> Result<Implementation, TunnelError> {
    match rules::run(&["link", "add", "dev", interface, "type", "wireguard"], "") {
        Ok(_) => return Ok(Implementation::Kernel),
        Err(TunnelError::Refused { said, .. }) if is_unknown_type(&said) => {}
        Err(error) => return Err(error),
    }
    let program = userspace().ok_or(TunnelError::NoImplementation)?;
    let socket = socket(interface);
    let deadline = Instant::now() + DEVICE_LIMIT;
    // The daemon of a device that was just deleted is about to end, and would be in the way.
    while UnixStream::connect(&socket).is_ok() && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    let failed = |said: String| TunnelError::Userspace {
        program: program.display().to_string(),
        interface: interface.to_owned(),
        said,
    };
    // It lives on when we end: in a session of its own, with nothing of ours open.
    let mut start = Command::new("setsid");
    start.arg(&program).arg(interface).env("LOG_LEVEL", "silent");
    // boringtun keeps the privileges that a switch needs.
    start.env("WG_SUDO", "1");
    start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut started = start.spawn().map_err(|error| failed(error.to_string()))?;
    loop {
        let there = Link::read(interface)?.is_some() && socket.exists();
        match started.try_wait() {
            Ok(Some(status)) if !status.success() => return Err(failed(status.to_string())),
            Ok(Some(_)) if there => return Ok(Implementation::Userspace(program)),
            Ok(_) => {}
            Err(error) => return Err(failed(error.to_string())),
        }
        if Instant::now() > deadline {
            // One that stays in the foreground serves as well.
            if there {
                thread::spawn(move || started.wait());
                return Ok(Implementation::Userspace(program));
            }
            let _ = started.kill();
            let _ = started.wait();
            return Err(failed(format!("no device within {DEVICE_LIMIT:?}")));
        }
        thread::sleep(PAUSE);
    }
}

fn is_unknown_type(said: &str) -> bool {
    said.contains("Unknown device type") || said.contains("not supported")
}

/// Takes away what is elsewhere, and is not where the device is to be made: a userspace daemon whose
/// namespace was deleted goes on, and would answer for the next device of its name.
pub fn clear_way(plan: &Plan) -> Result<(), TunnelError> {
    for piece in &plan.pieces {
        match piece {
            Piece::TakeDown(tunnel) => take_down(tunnel)?,
            Piece::Leftover(interface) => {
                delete_device(interface)?;
                if has_daemon(interface) {
                    // wireguard-go ends when its socket is removed.
                    let _ = fs::remove_file(socket(interface));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn socket(interface: &str) -> PathBuf {
    Path::new(SOCKETS).join(format!("{interface}.sock"))
}

/// Whether a userspace WireGuard answers for the device, wherever that is.
pub(super) fn has_daemon(interface: &str) -> bool {
    UnixStream::connect(socket(interface)).is_ok()
}

/// Makes everything but the device. The digest of the wall inside the workload's network namespace,
/// where that was loaded.
pub fn make(plan: &Plan) -> Result<Option<String>, TunnelError> {
    match plan.becomes.tunnel.netns() {
        Some(netns) => inside::make(plan, netns),
        None => make_pieces(&plan.pieces.iter().collect::<Vec<_>>()).map(|()| None),
    }
}

pub(super) fn make_pieces(pieces: &[&Piece]) -> Result<(), TunnelError> {
    for family in [Family::V4, Family::V6] {
        let mut batch = String::new();
        for piece in pieces {
            // Writing to a String cannot fail.
            let _ = match piece {
                Piece::Add(entry) if entry.family == family => {
                    let nodad = if is_v6_address(piece) { " nodad" } else { "" };
                    writeln!(batch, "{} add {}{nodad}", entry.object, entry.what)
                }
                Piece::Remove(entry) if entry.family == family => {
                    writeln!(batch, "{} del {}", entry.object, entry.what)
                }
                Piece::Mtu { interface, mtu } if family == Family::V4 => {
                    writeln!(batch, "link set dev {interface} mtu {mtu}")
                }
                Piece::Up(interface) if family == Family::V4 => {
                    writeln!(batch, "link set dev {interface} up")
                }
                _ => Ok(()),
            };
        }
        if !batch.is_empty() {
            rules::run(&[family.flag(), "-batch", "-"], &batch)?;
        }
    }
    for piece in pieces {
        if let Piece::Sysctl { name, value } = piece {
            fs::write(file(name), value).map_err(|source| TunnelError::Sysctl {
                name: name.clone(),
                value,
                source,
            })?;
        }
    }
    Ok(())
}

fn is_v6_address(piece: &Piece) -> bool {
    matches!(piece, Piece::Add(entry) if entry.object == "address" && entry.family == Family::V6)
}

/// Takes the device away, and the rules that lead to its table; its routes go with it.
pub fn take_down(tunnel: &Tunnel) -> Result<(), TunnelError> {
    // A host may have no IPv6 to ask about.
    for family in tunnel.families() {
        let mut batch = String::new();
        for rule in rules::own_rules(tunnel, family)? {
            let _ = writeln!(batch, "rule del {}", rule.what);
        }
        if !batch.is_empty() {
            rules::run(&[family.flag(), "-batch", "-"], &batch)?;
        }
    }
    match tunnel.netns() {
        Some(netns) => inside::take_down(tunnel, netns),
        None => delete_device(&tunnel.interface),
    }
}

/// Of the network namespace that the calling thread is in.
pub(super) fn delete_device(interface: &str) -> Result<(), TunnelError> {
    if Link::read(interface)?.is_some() {
        rules::run(&["link", "del", "dev", interface], "")?;
    }
    Ok(())
}
