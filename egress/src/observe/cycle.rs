//! One health check: the probe through the tunnel, then a look at all else.

use std::time::{Duration, Instant, SystemTime};

use super::{Kernel, Sight, look};
use crate::config::{PathConfig, Workload};
use crate::device::{self, DeviceView, Likeness};
use crate::error::chain;
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
    let probed = TunnelProbe::alone(path);
    judge(path, look(path, store), &probed, settling, handshakes)
}

/// How old the reading of the host may be that a cycle shares with others': with a hundred paths
/// the kernel is read ten times a second at most.
const SHARED: Duration = Duration::from_millis(100);

/// The same, where the cycles of many paths read the host together.
pub fn check_among(
    path: &PathConfig,
    store: &Store,
    settling: bool,
    handshakes: &Handshakes,
    kernel: &Kernel,
) -> Cycle {
    let probed = TunnelProbe::alone(path);
    let since = Instant::now().checked_sub(SHARED).unwrap_or_else(Instant::now);
    let sight = kernel.host(since).sight(path, store, device::read(path));
    judge(path, sight, &probed, settling, handshakes)
}

/// What the probe through a tunnel met, and the device before it.
#[derive(Debug)]
pub struct TunnelProbe {
    before: Option<DeviceView>,
    probe: Probe,
    took: Option<Duration>,
}

impl TunnelProbe {
    /// With a reading of the device of its own; without a probe none is needed.
    fn alone(path: &PathConfig) -> Self {
        let before = path.health.probe.as_ref().and_then(|_| device::read(path).ok());
        Self::of(path, before)
    }

    /// Sends the path's probe, and waits for its answer. `before` is the device as it is now.
    pub fn of(path: &PathConfig, before: Option<DeviceView>) -> Self {
        let received = before.as_ref().and_then(|view| Some(view.peer()?.received_bytes));
        let (probe, took) = probe(path, received);
        Self { before, probe, took }
    }
}

/// The verdict, by a sight of after the probe.
pub fn judge(
    path: &PathConfig,
    sight: Sight,
    probed: &TunnelProbe,
    settling: bool,
    handshakes: &Handshakes,
) -> Cycle {
    let TunnelProbe { before, probe, took } = probed;
    let mut evidence = sight.evidence(path, probe.clone(), settling, handshakes);
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
    if let (Some(before), Ok(after)) = (before, &sight.device)
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
        probe_took: *took,
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
