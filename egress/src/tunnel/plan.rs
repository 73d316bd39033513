//! What is missing of a tunnel, in the order in which it is made; and what of another's is in the
//! way. Reads, and changes nothing.

use std::fmt;
use std::fs;
use std::net::SocketAddr;

use super::rules::{self, Entry};
use super::{
    BroughtUp, By, Family, Link, Selector, Tunnel, TunnelError, Wrong, inside, maker, wrong_way,
};
use crate::netns::Netns;

/// One thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The WireGuard device; its keys and its peer are set right after it.
    Device(String),
    /// To be added by `ip`.
    Add(Entry),
    /// Of an earlier mark or workload.
    Remove(Entry),
    Mtu {
        interface: String,
        mtu: u16,
    },
    Up(String),
    /// A network namespace of the workload.
    Namespace(Netns),
    /// The wall inside it.
    Wall(Netns),
    /// The device, from the host into the namespace.
    Move {
        interface: String,
        netns: Netns,
    },
    /// A device of ours that a crash left on the host, or the daemon of one whose namespace is gone.
    Leftover(String),
    /// What was made for another workload, and is elsewhere.
    TakeDown(Box<Tunnel>),
    Sysctl {
        name: String,
        value: &'static str,
    },
}

/// What has to be done, and what is on record then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub pieces: Vec<Piece>,
    pub becomes: BroughtUp,
    /// Who made the device, where that was not us and is not on record yet.
    pub taken_over: Option<&'static str>,
}

impl Plan {
    pub fn makes_device(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Device(_)))
    }
}

/// Compares what is wanted with what is there. `before` is what was on record.
pub fn plan(
    mut tunnel: Tunnel,
    before: Option<&BroughtUp>,
    servers: &[SocketAddr],
) -> Result<Plan, TunnelError> {
    let before = before.filter(|before| before.tunnel.interface == tunnel.interface);
    if let Some(before) = before.filter(|before| before.tunnel.netns() != tunnel.netns()) {
        return plan_elsewhere(tunnel, before, servers);
    }
    if let Some(netns) = tunnel.netns().cloned() {
        return inside::plan(tunnel, &netns, before);
    }
    let link = Link::read(&tunnel.interface)?;
    if tunnel.addresses.is_empty() {
        // Nobody said which: those that it has are right.
        let known = link.as_ref().map(|link| link.addresses.clone()).unwrap_or_default();
        tunnel = tunnel.with_addresses(known);
    }
    if tunnel.addresses.is_empty() {
        return Err(no_address(&tunnel));
    }
    let device = match (&link, before) {
        (None, _) => By::Us,
        (Some(_), Some(before)) => before.device,
        (Some(_), None) => By::Others,
    };
    let mut pieces = plan_device(&tunnel, link.as_ref(), device)?;
    let was = before.map_or(By::Others, |before| before.routing);
    let routing = plan_routing(&tunnel, link.as_ref(), was, servers)?;
    let by = if routing.is_empty() { was } else { By::Us };
    pieces.extend(routing);
    if let Some(before) = before.filter(|before| was == By::Us && before.tunnel != tunnel) {
        pieces.extend(outdated(&before.tunnel, &tunnel)?);
    }
    if by == By::Us {
        pieces.extend(sysctls(&tunnel));
    }
    let known = before.is_some();
    let taken_over = (device == By::Others && !known).then(|| maker(&tunnel.interface));
    let becomes = BroughtUp { tunnel, device, routing: by, wall: None };
    Ok(Plan { pieces, becomes, taken_over })
}

/// The workload has moved to another namespace, or to one from this host's: what was made for it is
/// taken down where it is, and made where it is wanted.
fn plan_elsewhere(
    tunnel: Tunnel,
    before: &BroughtUp,
    servers: &[SocketAddr],
) -> Result<Plan, TunnelError> {
    if before.device == By::Others {
        return plan(tunnel, None, servers);
    }
    let unmade = BroughtUp { tunnel: tunnel.clone(), device: By::Us, routing: By::Us, wall: None };
    let mut plan = plan(tunnel, Some(&unmade), servers)?;
    plan.pieces.insert(0, Piece::TakeDown(Box::new(before.tunnel.clone())));
    Ok(plan)
}

pub(super) fn no_address(tunnel: &Tunnel) -> TunnelError {
    TunnelError::InTheWay(format!(
        "interface {} has no address, and no endpoint says which are this host's in the tunnel: \
         write `tunnel_addresses`, or `bring_up: off`",
        tunnel.interface
    ))
}

/// Rules of ours that are no longer wanted.
pub(super) fn outdated(old: &Tunnel, new: &Tunnel) -> Result<Vec<Piece>, TunnelError> {
    let mut outdated = Vec::new();
    for family in old.families() {
        let stays = new.families().any(|one| one == family);
        let wanted = if stays { rules::wanted_rules(new, family) } else { Vec::new() };
        let own = rules::own_rules(old, family)?;
        outdated.extend(own.into_iter().filter(|rule| !wanted.contains(rule)).map(Piece::Remove));
    }
    Ok(outdated)
}

fn plan_device(tunnel: &Tunnel, link: Option<&Link>, by: By) -> Result<Vec<Piece>, TunnelError> {
    let interface = &tunnel.interface;
    let missing = addresses_missing(tunnel, link);
    let mut pieces = Vec::new();
    let others = |link: &Link| by == By::Others && !link.addresses.is_empty();
    match link {
        None => pieces.push(Piece::Device(interface.clone())),
        Some(link) if others(link) && !missing.is_empty() => {
            return Err(TunnelError::InTheWay(format!(
                "interface {interface}, brought up by {}, has {}; the endpoints' files say {}: \
                 correct one of them, or take it down and converge again",
                maker(interface),
                words(&link.addresses),
                words(&tunnel.addresses)
            )));
        }
        Some(_) => {}
    }
    // What another has set stays.
    let differs = link.is_none_or(|link| link.mtu.is_some_and(|mtu| mtu != tunnel.mtu));
    if by == By::Us && differs {
        pieces.push(Piece::Mtu { interface: interface.clone(), mtu: tunnel.mtu });
    }
    pieces.extend(missing);
    if !link.is_some_and(|link| link.up) {
        pieces.push(Piece::Up(interface.clone()));
    }
    Ok(pieces)
}

/// Addresses of the tunnel that its device does not have.
pub(super) fn addresses_missing(tunnel: &Tunnel, link: Option<&Link>) -> Vec<Piece> {
    let missing = tunnel.addresses.iter().filter(|net| !link.is_some_and(|it| it.has(net.addr())));
    let add = |net: &ipnet::IpNet| {
        let what = format!("{net} dev {}", tunnel.interface);
        Piece::Add(Entry { family: Family::of(net.addr()), object: "address", what })
    };
    missing.map(add).collect()
}

/// The routing that is missing: of ours all that is not there; of others' none, where it is right.
fn plan_routing(
    tunnel: &Tunnel,
    link: Option<&Link>,
    by: By,
    servers: &[SocketAddr],
) -> Result<Vec<Piece>, TunnelError> {
    let wrong = link.map(|link| wrong_way(tunnel, link, servers));
    if let Some(Some(Wrong::Loop(server))) = wrong {
        return Err(TunnelError::InTheWay(format!(
            "the tunnel's own packets to {server}, with the mark {:#x}, would go into {}: whoever \
             routes it ({}) goes by another mark; write that as `fwmark`, or take its routing away",
            tunnel.fwmark,
            tunnel.interface,
            maker(&tunnel.interface)
        )));
    }
    let asked = !matches!(tunnel.selector, Selector::Users(_));
    if by == By::Others && asked && wrong == Some(None) {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    for family in tunnel.families() {
        missing.extend(rules::missing_routes(tunnel, family)?);
        missing.extend(rules::missing_rules(tunnel, family)?);
    }
    // Without an address that it is to have, it shows nothing: by it the answer is known.
    let whole = link.is_some_and(|link| tunnel.addresses.iter().all(|net| link.has(net.addr())));
    if let (true, Some(Some(Wrong::Past(to)))) = (whole && missing.is_empty(), wrong) {
        return Err(TunnelError::InTheWay(format!(
            "packets to {to} do not go into {}, though all routing of ours is there: another rule \
             comes first; see `ip rule` and `ip route get {to}`",
            tunnel.interface
        )));
    }
    Ok(missing.into_iter().map(Piece::Add).collect())
}

/// What lets answers in that come by the tunnel, whatever the reverse path filter.
fn sysctls(tunnel: &Tunnel) -> impl Iterator<Item = Piece> {
    let mut wanted = vec![("net.ipv4.conf.all.src_valid_mark".to_owned(), "1")];
    if tunnel.selector != Selector::Host {
        // The host itself does not route into it.
        wanted.push((format!("net.ipv4.conf.{}.rp_filter", tunnel.interface), "2"));
    }
    let differs = |name: &str, value: &str| {
        let text = fs::read_to_string(file(name)).unwrap_or_default();
        text.trim() != value
    };
    wanted
        .into_iter()
        .filter(move |(name, value)| differs(name, value))
        .map(|(name, value)| Piece::Sysctl { name, value })
}

/// An interface's name may hold a dot.
pub(super) fn file(name: &str) -> String {
    let parts: Vec<&str> = match name.strip_prefix("net.ipv4.conf.") {
        Some(rest) => match rest.rsplit_once('.') {
            Some((interface, leaf)) => vec!["net", "ipv4", "conf", interface, leaf],
            None => vec![name],
        },
        None => name.split('.').collect(),
    };
    format!("/proc/sys/{}", parts.join("/"))
}

fn words<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(interface) => write!(f, "interface {interface}"),
            Self::Add(entry) => match (entry.object, entry.family) {
                (object @ "rule", Family::V6) => write!(f, "IPv6 {object} {}", entry.what),
                (object, _) => write!(f, "{object} {}", entry.what),
            },
            Self::Remove(entry) => write!(f, "without {} {}", entry.object, entry.what),
            Self::Mtu { mtu, .. } => write!(f, "MTU {mtu}"),
            Self::Up(interface) if interface == "lo" => f.write_str("loopback up"),
            Self::Up(_) => f.write_str("up"),
            Self::Leftover(interface) => write!(f, "without the old {interface}"),
            Self::Namespace(netns) => write!(f, "network namespace {netns}"),
            Self::Wall(netns) => write!(f, "wall inside {netns}"),
            Self::Move { netns, .. } => write!(f, "moved into {netns}"),
            Self::TakeDown(tunnel) => match tunnel.netns() {
                Some(netns) => write!(f, "without {} in {netns}", tunnel.interface),
                None => write!(f, "without {} on the host", tunnel.interface),
            },
            Self::Sysctl { name, value } => write!(f, "{name} = {value}"),
        }
    }
}
