//! The ways in which a path can be cut, and which of them the kernel is seen to enforce.
//!
//! The rules are the first way ([`crate::firewall::set_stop`]). Where `nft` fails, the tunnel itself is
//! taken from the workload: its peer and private key, or the whole device. Nothing here believes a
//! program that says it is done: each way counts only once it was read back.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::PathConfig;
use crate::device::{self, DeviceError};
use crate::error::chain;
use crate::firewall::{self, StopKind};
use crate::names::PathName;
use crate::netns::within;
use crate::process;
use crate::tunnel::Link;

/// `ip link set` is a single message to the kernel: milliseconds.
const LINK_LIMIT: Duration = Duration::from_secs(2);

/// What keeps the packets of a cut path from passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The stop table's rules.
    Nftables,
    /// The WireGuard device has no peer.
    Peer,
    /// The WireGuard device is down.
    Link,
    /// There is no device. Nobody of ours did that.
    Absent,
}

impl Way {
    pub const ALL: [Self; 4] = [Self::Nftables, Self::Peer, Self::Link, Self::Absent];

    /// The `by` label, and the word in status and history.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Peer => "peer",
            Self::Link => "link",
            Self::Absent => "absent",
        }
    }

    /// In a sentence: "cut: ...".
    pub fn explained(self) -> &'static str {
        match self {
            Self::Nftables => "by nftables",
            Self::Peer => "the tunnel's peer and key were taken off",
            Self::Link => "the tunnel's device was set down",
            Self::Absent => "the tunnel's device does not exist",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why the tunnel goes on carrying packets.
#[derive(Debug, thiserror::Error)]
#[error("peer: {peer}; link: {link}")]
pub struct NotCut {
    peer: String,
    link: String,
}

/// By which way the kernel is seen to cut the path now; the rules first. What cannot be read is not
/// seen.
pub fn seen(path: &PathConfig) -> Option<Way> {
    by_rules(&path.name).map(|_| Way::Nftables).or_else(|| by_tunnel(path))
}

/// How the rules cut the path, if they do.
pub fn by_rules(path: &PathName) -> Option<StopKind> {
    match firewall::enforced::stop(path) {
        Ok(kind) => kind,
        Err(error) => {
            tracing::debug!(%path, %error, "the stop's rules cannot be read");
            None
        }
    }
}

/// The same, without the guard's copy of the rules, which ends with the daemon.
pub fn by_own_rules(path: &PathName) -> Option<StopKind> {
    firewall::enforced::own_stop(path).ok().flatten()
}

/// Whether the tunnel is in no condition to carry a packet.
pub fn by_tunnel(path: &PathConfig) -> Option<Way> {
    match device::read(path) {
        Err(DeviceError::Missing(_)) => return Some(Way::Absent),
        Ok(view) if view.peers.is_empty() => return Some(Way::Peer),
        Ok(_) | Err(_) => {}
    }
    is_down(path).then_some(Way::Link)
}

/// Cuts the tunnel without `nft`: the device loses its peer and key; where that cannot be done, it is
/// set down.
///
/// A device that is down loses its routes, and the workload's packets take the next best one. So it
/// is set down only while the killswitch is seen to hold: in clear would be worse than in the tunnel.
///
/// # Errors
///
/// What was tried, and why the path is not cut by it.
pub fn tunnel(path: &PathConfig) -> Result<Way, NotCut> {
    let disarmed = device::disarm(path);
    if let Some(way) = by_tunnel(path) {
        return Ok(way);
    }
    let peer = disarmed.map_or_else(chain, |()| "the device keeps its peer".to_owned());
    if !matches!(firewall::enforced::killswitch(&path.name), Ok(true)) {
        let link = "left up: the killswitch is not seen to hold, and packets would leave in clear";
        return Err(NotCut { peer, link: link.to_owned() });
    }
    let down = set_link(path, "down");
    match (by_tunnel(path), down) {
        (Some(way), _) => Ok(way),
        (None, Err(link)) => Err(NotCut { peer, link }),
        (None, Ok(())) => Err(NotCut { peer, link: "the device stays up".to_owned() }),
    }
}

/// Sets a device up that [`tunnel`] has set down.
///
/// # Errors
///
/// What `ip` said.
pub fn link_up(path: &PathConfig) -> Result<(), String> {
    set_link(path, "up")
}

/// Whether the tunnel's device is there, and down.
pub fn is_down(path: &PathConfig) -> bool {
    let read = || Link::read(&path.interface);
    let link = within(path.workload.netns(), read).ok().and_then(Result::ok).flatten();
    link.is_some_and(|link| !link.up)
}

fn set_link(path: &PathConfig, to: &str) -> Result<(), String> {
    let run = || {
        let mut ip = Command::new("ip");
        ip.args(["link", "set", "dev", &path.interface, to]).env("LC_ALL", "C");
        process::run(ip, b"", LINK_LIMIT)
    };
    let output = within(path.workload.netns(), run).map_err(chain)?.map_err(chain)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().next().unwrap_or("ip gave no reason").to_owned())
}
