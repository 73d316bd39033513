//! A tunnel whose device lives in a network namespace of its workload.
//!
//! The device is made on the host and moved inside, so that its encrypted packets leave by the host's
//! network while nothing but the tunnel leads out of the namespace. Whatever else leads out is somebody
//! else's: it is named, and nothing is made beside it.

use super::plan::{addresses_missing, no_address, outdated};
use super::rules::{self, Entry};
use super::{BroughtUp, By, Link, Piece, Plan, Tunnel, TunnelError, wrong_way};
use crate::firewall::inside as wall;
use crate::links;
use crate::netns::{Netns, within};

/// These lead nowhere by themselves: the kernel makes some of them in every namespace, and what the
/// others carry still has to leave by another device.
const LEAD_NOWHERE: [&str; 12] = [
    "dummy", "ifb", "nlmon", "sit", "ipip", "ip6tnl", "gre", "gretap", "erspan", "ip6gre", "vti",
    "vti6",
];

const LOOPBACK: &str = "lo";

/// What there is of a tunnel inside a namespace.
#[derive(Default)]
struct Found {
    link: Option<Link>,
    loopback_is_up: bool,
    /// Devices that lead out, and are not the tunnel.
    ways_out: Vec<String>,
    missing_routes: Vec<Entry>,
    /// The digest of the wall.
    wall: Option<String>,
}

impl Found {
    /// By a thread that is inside.
    fn read(tunnel: &Tunnel, netns: &Netns) -> Result<Self, TunnelError> {
        let devices =
            links::all().map_err(|source| TunnelError::DevicesInside(netns.clone(), source))?;
        let leads_out = |device: &&links::Link| {
            let kind = device.kind.as_deref().unwrap_or("hardware");
            !device.is_loopback && device.name != tunnel.interface && !LEAD_NOWHERE.contains(&kind)
        };
        let mut missing_routes = Vec::new();
        for family in tunnel.families() {
            missing_routes.extend(rules::missing_routes(tunnel, family)?);
        }
        Ok(Self {
            link: Link::read(&tunnel.interface)?,
            loopback_is_up: Link::read(LOOPBACK)?.is_some_and(|link| link.up),
            ways_out: devices.iter().filter(leads_out).map(|device| device.name.clone()).collect(),
            missing_routes,
            wall: wall::digest()?,
        })
    }
}

/// Compares what is wanted with what is there.
pub(super) fn plan(
    tunnel: Tunnel,
    netns: &Netns,
    before: Option<&BroughtUp>,
) -> Result<Plan, TunnelError> {
    if tunnel.addresses.is_empty() {
        return Err(no_address(&tunnel));
    }
    let there = netns.exists();
    let found = if there {
        within(Some(netns), || Found::read(&tunnel, netns))??
    } else {
        Found { missing_routes: all_routes(&tunnel), ..Found::default() }
    };
    if !found.ways_out.is_empty() {
        return Err(TunnelError::InTheWay(format!(
            "network namespace {netns} has other ways out than the tunnel: {}; take them away \
             (`ip -n {netns} link del NAME`), or name a namespace of its own",
            found.ways_out.join(", ")
        )));
    }
    let mut pieces = Vec::new();
    if !there {
        pieces.push(Piece::Namespace(netns.clone()));
    }
    let known_wall = before.and_then(|before| before.wall.clone());
    let wall = known_wall.filter(|known| found.wall.as_ref() == Some(known));
    if wall.is_none() {
        pieces.push(Piece::Wall(netns.clone()));
    }
    pieces.extend(plan_device(&tunnel, netns, &found, before)?);
    pieces.extend(found.missing_routes.into_iter().map(Piece::Add));
    for family in tunnel.families() {
        pieces.extend(rules::missing_rules(&tunnel, family)?.into_iter().map(Piece::Add));
    }
    if let Some(before) = before.filter(|one| one.routing == By::Us && one.tunnel != tunnel) {
        pieces.extend(outdated(&before.tunnel, &tunnel)?);
    }
    let becomes = BroughtUp { tunnel, device: By::Us, routing: By::Us, wall };
    Ok(Plan { pieces, becomes, taken_over: None })
}

fn plan_device(
    tunnel: &Tunnel,
    netns: &Netns,
    found: &Found,
    before: Option<&BroughtUp>,
) -> Result<Vec<Piece>, TunnelError> {
    let interface = &tunnel.interface;
    let mut pieces = Vec::new();
    if found.link.is_none() {
        // One that a crash left before it was moved is ours, and is made again.
        let ours = before.is_some_and(|before| before.device == By::Us);
        let on_host = Link::read(interface)?.is_some();
        if ours && (on_host || super::make::has_daemon(interface)) {
            pieces.push(Piece::Leftover(interface.clone()));
        } else if on_host {
            return Err(TunnelError::InTheWay(format!(
                "interface {interface} exists on the host, where it is not ours to move: take it \
                 down, or write another `interface`"
            )));
        }
        pieces.push(Piece::Device(interface.clone()));
        pieces.push(Piece::Move { interface: interface.clone(), netns: netns.clone() });
    }
    if !found.loopback_is_up {
        pieces.push(Piece::Up(LOOPBACK.to_owned()));
    }
    let link = found.link.as_ref();
    if link.is_none_or(|link| link.mtu.is_some_and(|mtu| mtu != tunnel.mtu)) {
        pieces.push(Piece::Mtu { interface: interface.clone(), mtu: tunnel.mtu });
    }
    pieces.extend(addresses_missing(tunnel, link));
    if !link.is_some_and(|link| link.up) {
        pieces.push(Piece::Up(interface.clone()));
    }
    Ok(pieces)
}

fn all_routes(tunnel: &Tunnel) -> Vec<Entry> {
    tunnel.routes.iter().map(|net| rules::route(tunnel, *net)).collect()
}

/// Whether all that shows without starting a program is as it was brought up.
pub fn is_whole(up: &BroughtUp, netns: &Netns) -> Result<bool, TunnelError> {
    if !netns.exists() {
        return Ok(false);
    }
    let tunnel = &up.tunnel;
    let read = || -> Result<bool, TunnelError> {
        let Some(link) = Link::read(&tunnel.interface)? else { return Ok(false) };
        Ok(link.up
            && tunnel.addresses.iter().all(|net| link.has(net.addr()))
            && up.wall.is_some()
            && wall::digest()? == up.wall
            && wrong_way(tunnel, &link, &[]).is_none())
    };
    within(Some(netns), read)?
}

/// Everything but the device: first what closes the namespace, then what leads through the tunnel.
/// The wall's digest, where it was loaded.
pub(super) fn make(plan: &Plan, netns: &Netns) -> Result<Option<String>, TunnelError> {
    let interface = &plan.becomes.tunnel.interface;
    let is_due = |wanted: fn(&Piece) -> bool| plan.pieces.iter().any(wanted);
    if is_due(|piece| matches!(piece, Piece::Namespace(_))) {
        netns.create()?;
    }
    let wall = if is_due(|piece| matches!(piece, Piece::Wall(_))) {
        Some(within(Some(netns), || wall::load(interface))??)
    } else {
        None
    };
    if is_due(|piece| matches!(piece, Piece::Move { .. })) {
        let file = netns.file().display().to_string();
        rules::run(&["link", "set", "dev", interface, "netns", &file], "")?;
    }
    let on_host = |piece: &&Piece| match piece {
        Piece::Add(entry) | Piece::Remove(entry) => entry.object == "rule",
        Piece::Sysctl { .. } => true,
        _ => false,
    };
    let (host, inside): (Vec<&Piece>, Vec<&Piece>) = plan.pieces.iter().partition(on_host);
    super::make::make_pieces(&host)?;
    within(Some(netns), || super::make::make_pieces(&inside))??;
    Ok(wall)
}

/// The device goes; the namespace and its wall stay, and nothing leads out of it any more.
pub(super) fn take_down(tunnel: &Tunnel, netns: &Netns) -> Result<(), TunnelError> {
    if !netns.exists() {
        return Ok(());
    }
    within(Some(netns), || super::make::delete_device(&tunnel.interface))?
}

impl Tunnel {
    /// The network namespace that the device is in, where it is not this host's.
    pub fn netns(&self) -> Option<&Netns> {
        match &self.selector {
            super::Selector::Netns(netns) => Some(netns),
            _ => None,
        }
    }
}
