//! One health check: the probe through the tunnel, then a look at all else.

use std::time::{Duration, Instant, SystemTime};

use super::look_by;
use crate::config::{PathConfig, Workload};
use crate::device::{self, Likeness};
use crate::error::chain;
use crate::firewall::{self, Reader, Walls};
use crate::handshakes::Handshakes;
use crate::health::{Evidence, Peer, Probe, Verdict, classify};
use crate::names::EndpointName;
use crate::netns::within;
use crate::probe::{Reply, TunnelRequest, Wanted, ask_through};
use crate::state::Store;

/// One health check, whole.
#[derive(Debug, Clone)]
pub struct Cycle {
    pub evidence: Evidence,
    pub verdict: Verdict,
    /// The endpoint that it is evidence of: the active one when the device was read. `None`: state
    /// cannot be read, and the verdict says so.
    pub active: Option<EndpointName>,
    /// From the first try of the tunnel probe to its answer, where it was answered.
    pub probe_took: Option<Duration>,
    /// Of the peer, as the verdict saw it.
    pub received_bytes: Option<u64>,
    pub sent_bytes: Option<u64>,
    pub last_handshake: Option<SystemTime>,
}

/// A whole cycle: probes first, then looks, so that the verdict rests on the newest counters.
pub fn check(path: &PathConfig, store: &Store, settling: bool, handshakes: &Handshakes) -> Cycle {
    check_by(path, store, settling, handshakes, Walls::read)
}

/// How old the reading of the walls may be that a cycle shares with others': with a hundred paths
/// the kernel is read ten times a second at most.
const SHARED: Duration = Duration::from_millis(100);

/// The same, where many paths' cycles read the walls together.
pub fn check_among(
    path: &PathConfig,
    store: &Store,
    settling: bool,
    handshakes: &Handshakes,
    reader: &Reader,
) -> Cycle {
    let since = || Instant::now().checked_sub(SHARED).unwrap_or_else(Instant::now);
    check_by(path, store, settling, handshakes, || Ok(reader.walls(since())?.walls))
}

fn check_by(
    path: &PathConfig,
    store: &Store,
    settling: bool,
    handshakes: &Handshakes,
    walls: impl FnOnce() -> Result<Walls, firewall::NftError>,
) -> Cycle {
    let before = device::read(path).ok();
    let received = before.as_ref().and_then(|view| Some(view.peer()?.received_bytes));
    let (probe, probe_took) = probe(path, received);
    let sight = look_by(path, store, walls);
    let mut evidence = sight.evidence(path, probe, settling, handshakes);
    // A peer that had roamed when the probe was sent explains its silence, though it has been set
    // back since.
    let had_roamed = sight
        .active(path)
        .zip(before.as_ref())
        .is_some_and(|(active, before)| before.likeness(active) == Likeness::Roamed);
    if had_roamed && matches!(evidence.probe, Probe::Silent { .. }) {
        evidence.peer = Peer::Roamed;
    }
    // What the probe met before a switch says nothing about the endpoint after it.
    if let (Some(before), Ok(after)) = (&before, &sight.device)
        && evidence.probe != Probe::Off
        && !before.is_of_the_same_peer(after)
    {
        evidence.probe = Probe::Unknown("the device was switched while it was probed".to_owned());
    }
    let verdict = classify(&evidence, path.health.handshake_stale_after);
    let active = sight.state.as_ref().ok().map(|state| state.active.clone());
    let peer = sight.device.ok().and_then(|view| view.peer().cloned());
    Cycle {
        evidence,
        verdict,
        active,
        probe_took,
        received_bytes: peer.as_ref().map(|peer| peer.received_bytes),
        sent_bytes: peer.as_ref().map(|peer| peer.sent_bytes),
        last_handshake: peer.and_then(|peer| peer.last_handshake),
    }
}

/// What the device has received from its peer until now.
fn received(path: &PathConfig) -> Option<u64> {
    device::read(path).ok()?.peer().map(|peer| peer.received_bytes)
}

fn probe(path: &PathConfig, before: Option<u64>) -> (Probe, Option<Duration>) {
    let Some(wanted) = &path.health.probe else {
        return (Probe::Off, None);
    };
    let request = TunnelRequest {
        interface: &path.interface,
        question: &wanted.question,
        route: match path.workload {
            Workload::Host | Workload::Netns(_) => Wanted::Route,
            _ => Wanted::Nothing,
        },
        timeout: wanted.timeout,
    };
    let answer = match within(path.workload.netns(), || ask_through(&request)) {
        Ok(answer) => answer,
        Err(error) => return (Probe::Unknown(format!("tunnel probe: {}", chain(error))), None),
    };
    match answer {
        Ok(Reply::Answered { took }) => (Probe::Answered, Some(took)),
        Ok(Reply::Silent) => {
            // A device that was replaced meanwhile starts at nothing; that is no traffic.
            let received = before.zip(received(path)).map(|(old, new)| new.saturating_sub(old));
            (Probe::Silent { received: received.unwrap_or(0) }, None)
        }
        Err(error) => (Probe::Unknown(format!("tunnel probe: {}", chain(error))), None),
    }
}
