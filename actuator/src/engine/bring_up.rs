//! The tunnel's device, addresses and routing: made by a converge where they are missing, taken over
//! where they are there, and made again by the daemon where what was ours is gone.
//!
//! Always after the lock is loaded, and always at the endpoint that state names: it never chooses.

use std::net::SocketAddr;

use egress::config::{BringUp, PathConfig};
use egress::device;
use egress::error::chain;
use egress::fault::{self, Point};
use egress::links::Network;
use egress::probe::uplink;
use egress::state::{PathState, Timestamp};
use egress::tunnel::{self, BroughtUp, By, Link, Piece, Plan, Tunnel, TunnelError, Wrong};

use super::{Engine, EngineError};
use crate::history::Decision;

impl Engine {
    /// What a converge has to make of the tunnel; `None` where that is somebody else's.
    pub(super) fn plan_tunnel(
        path: &PathConfig,
        state: &PathState,
    ) -> Option<Result<Plan, TunnelError>> {
        if path.bring_up == BringUp::Off {
            return None;
        }
        let before = state.brought_up.as_ref();
        let plan = tunnel::plan(wanted(path, before), before, &servers(path));
        // Told before anything is made, as a check has to.
        Some(plan.and_then(|plan| {
            if plan.makes_device() {
                tunnel::implementation()?;
            }
            Ok(plan)
        }))
    }

    /// Makes what is missing. What is on record is the intent: a crash leaves the rest to the daemon.
    pub(super) fn bring_up(
        &self,
        path: &PathConfig,
        state: &mut PathState,
        plan: &Plan,
    ) -> Result<(), EngineError> {
        state.brought_up = Some(plan.becomes.clone());
        if plan.makes_device() {
            // It has to shake hands first.
            state.changed = Timestamp::now();
        }
        self.store.write(&path.name, state)?;
        fault::point(Point::TunnelIntended);
        tunnel::clear_way(plan)?;
        if plan.makes_device() {
            let active = path.endpoint(&state.active).unwrap_or_else(|| path.primary());
            let by = tunnel::make_device(&path.interface)?;
            fault::point(Point::TunnelDevice);
            tracing::info!(path = %path.name, interface = path.interface, ?by, "interface made");
            // On the host still, where it was made: only there the mark is sure to be settable.
            device::switch(&path.interface, path.fwmark, active)?;
        }
        let wall = tunnel::make(plan)?;
        if let (Some(wall), Some(up)) = (wall, &mut state.brought_up) {
            up.wall = Some(wall);
            self.store.write(&path.name, state)?;
        }
        fault::point(Point::TunnelMade);
        Ok(())
    }

    /// What is ours and missing is made again, at the endpoint that state names.
    pub(super) fn keep_tunnel(&mut self, path: &PathConfig, state: &mut PathState) {
        let Some(up) = state.brought_up.clone() else {
            return;
        };
        let read = Network::read().map_err(TunnelError::Devices);
        let look = read.and_then(|network| missing(&up, path, Look::Whole, &network));
        let made = look.map_err(EngineError::from).and_then(|plan| {
            let Some(plan) = plan.filter(|plan| !plan.pieces.is_empty()) else {
                return Ok(None);
            };
            self.bring_up(path, state, &plan)?;
            Ok(Some(list(&plan.pieces)))
        });
        let trouble = match made {
            Ok(None) => None,
            Ok(Some(what)) => {
                tracing::warn!(path = %path.name, what, "the tunnel was brought up again");
                let decision = Decision::new("care", "bring up", "made again");
                self.record(path, decision.of(&state.active).seeing(what));
                None
            }
            Err(error) => Some(chain(error)),
        };
        // Once for each reason, not each second.
        let name = &path.name;
        if let Some(error) = &trouble
            && self.tunnel_trouble.get(name) != Some(error)
        {
            tracing::error!(path = %name, error, "the tunnel cannot be brought up");
        }
        match trouble {
            Some(error) => self.tunnel_trouble.insert(name.clone(), error),
            None => self.tunnel_trouble.remove(name),
        };
    }
}

/// How closely a tunnel is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// At every rule and route of its table.
    Whole,
    /// At the device, and at where packets would go.
    AtWhatItDoes,
}

/// What is ours and gone.
pub(super) fn missing(
    up: &BroughtUp,
    path: &PathConfig,
    look: Look,
    network: &Network,
) -> Result<Option<Plan>, TunnelError> {
    if let Some(netns) = up.tunnel.netns() {
        if look == Look::AtWhatItDoes && tunnel::is_whole(up, netns)? {
            return Ok(None);
        }
        return tunnel::plan(up.tunnel.clone(), Some(up), &servers(path)).map(Some);
    }
    let link = Link::of(network, &up.tunnel.interface);
    let gone = match &link {
        // Whoever made it will make it again.
        None if up.device == By::Others => return Ok(None),
        None => true,
        Some(link) => {
            let lacks = !link.up || up.tunnel.addresses.iter().any(|net| !link.has(net.addr()));
            let servers = servers(path);
            let past = || {
                let wrong = tunnel::wrong_way(&up.tunnel, link, &servers);
                matches!(wrong, Some(Wrong::Past(_)))
            };
            (up.device == By::Us && lacks)
                || (up.routing == By::Us && (look == Look::Whole || past()))
        }
    };
    if !gone {
        return Ok(None);
    }
    tunnel::plan(up.tunnel.clone(), Some(up), &servers(path)).map(Some)
}

/// For people: `interface wg0, MTU 1420, address 10.64.0.2/32 dev wg0, up`.
pub(super) fn list(pieces: &[Piece]) -> String {
    pieces.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn wanted(path: &PathConfig, before: Option<&BroughtUp>) -> Tunnel {
    let uplinks = uplink::devices(path).unwrap_or_default();
    let smallest = uplinks.iter().filter_map(|device| tunnel::mtu(&device.name)).min();
    let room = smallest.map(|mtu| mtu.saturating_sub(tunnel::OVERHEAD));
    // An uplink that is down says nothing new. Jumbo frames end at the router.
    let room = room.or(before.map(|up| up.tunnel.mtu)).unwrap_or(tunnel::USUAL_MTU);
    let wanted = Tunnel::of(path, room.min(tunnel::USUAL_MTU));
    if tunnel::has_ipv6(&path.interface) { wanted } else { wanted.without_ipv6() }
}

fn servers(path: &PathConfig) -> Vec<SocketAddr> {
    path.endpoints.iter().map(|endpoint| endpoint.address).collect()
}
