//! Gathers a path's evidence from the kernel, the state file and a probe. Changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::bounded;
use crate::config::{Endpoint, PathConfig, Uplinks, Workload};
use crate::device::{self, DeviceError, DeviceView, Likeness};
use crate::firewall::foreign::{self, Blocked};
use crate::firewall::{self, Count, Leaked, Listing, Reader, Reading, Rules, Walls};
use crate::handshakes::Handshakes;
use crate::health::{
    Clock, Evidence, Leak, Lock, Peer, Probe, Standing, Uplink, Verdict, classify,
};
use crate::probe::uplink::{self, Device, UplinkVerdict};
use crate::probe::{
    HandshakeOutcome, HandshakeRequest, ProbeError, Reply, TunnelRequest, Wanted, ask_through,
    echo_marked, handshake,
};
use crate::state::{PathState, StateError, Store, Timestamp};

/// What the kernel and the state file say, without a probe; cheap enough for every scrape.
#[derive(Debug)]
pub struct Sight {
    pub state: Result<PathState, StateError>,
    pub walls: Result<Walls, firewall::NftError>,
    pub device: Result<DeviceView, DeviceError>,
    pub uplinks: Result<Uplinked, String>,
    /// How long each of these took to read.
    pub took: Took,
}

#[derive(Debug, Clone, Default)]
pub struct Uplinked {
    /// By which packets can leave now: what tells whether the uplink works.
    pub in_use: Vec<Device>,
    /// These, and those that were one at the last load and still exist: an unplugged cable takes
    /// the route, and brings it back. And those by which the workload enters. All are to be covered
    /// by the watch.
    pub to_cover: Vec<Device>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Took {
    pub state: Duration,
    pub nftables: Duration,
    pub wireguard: Duration,
    pub uplink: Duration,
}

/// One health check, whole.
#[derive(Debug, Clone)]
pub struct Cycle {
    pub evidence: Evidence,
    pub verdict: Verdict,
    /// From the first try of the tunnel probe to its answer, where it was answered.
    pub probe_took: Option<Duration>,
    /// Of the peer, as the verdict saw it.
    pub received_bytes: Option<u64>,
    pub sent_bytes: Option<u64>,
    pub last_handshake: Option<SystemTime>,
}

pub fn look(path: &PathConfig, store: &Store) -> Sight {
    look_by(path, store, Walls::read)
}

fn look_by(
    path: &PathConfig,
    store: &Store,
    walls: impl FnOnce() -> Result<Walls, firewall::NftError>,
) -> Sight {
    let mut took = Took::default();
    let state = timed(&mut took.state, || store.read(&path.name));
    let recorded = recorded_uplinks(&state);
    Sight {
        walls: timed(&mut took.nftables, walls),
        device: timed(&mut took.wireguard, || device::read(&path.interface)),
        uplinks: timed(&mut took.uplink, || uplinks(path, &recorded)),
        state,
        took,
    }
}

/// One look at all paths.
#[derive(Debug)]
pub struct Looked {
    /// In the order of the paths.
    pub sights: Vec<Sight>,
    /// What the walls are in all of them; `None` where they could not be read.
    pub reading: Option<Reading>,
}

/// The same of all paths, each question asked once for all, and all of it within `limit`: what has
/// not answered by then is an error, and holds up nothing else.
pub fn look_at_all(
    paths: &[PathConfig],
    store: &Store,
    reader: &Arc<Reader>,
    limit: Duration,
) -> Looked {
    let started = Instant::now();
    let reader = Arc::clone(reader);
    let walls = bounded::start("nftables", move || (reader.walls(started), started.elapsed()));
    let devices: Vec<device::Asked> =
        paths.iter().map(|path| device::ask(&path.interface)).collect();
    let own: Vec<_> = paths.iter().map(|path| own(path, store)).collect();
    let mut routing = Duration::ZERO;
    // The tunnels are the same for all.
    let tunnels = paths.first().map(|path| path.tunnels.as_slice()).unwrap_or_default();
    let routed = timed(&mut routing, || routed(tunnels));
    let devices: Vec<_> =
        devices.into_iter().map(|asked| (asked.wait(limit), started.elapsed())).collect();
    let late = |late| (Err(firewall::NftError::Hung(late)), started.elapsed());
    let (walls, nftables) = walls.wait(limit).unwrap_or_else(late);
    let walls = walls.map_err(Arc::new);
    let sight = |((path, (state, took)), (device, wireguard)): ((&PathConfig, (_, Took)), _)| {
        let mut uplink = Duration::ZERO;
        let recorded = recorded_uplinks(&state);
        let uplinks = timed(&mut uplink, || uplinks_by(path, &recorded, || routed.clone()));
        let shared = |error: &Arc<_>| firewall::NftError::Shared(Arc::clone(error));
        let walls = walls.as_ref().map(|reading| reading.walls.clone()).map_err(shared);
        let took = Took { nftables, wireguard, uplink: routing + uplink, ..took };
        Sight { state, walls, device, uplinks, took }
    };
    let sights = paths.iter().zip(own).zip(devices).map(sight).collect();
    Looked { sights, reading: walls.ok() }
}

fn own(path: &PathConfig, store: &Store) -> (Result<PathState, StateError>, Took) {
    let mut took = Took::default();
    (timed(&mut took.state, || store.read(&path.name)), took)
}

fn recorded_uplinks(state: &Result<PathState, StateError>) -> Vec<Device> {
    let intended = state.as_ref().ok().and_then(|state| state.intended.as_ref());
    intended.map(|intended| intended.uplinks.clone()).unwrap_or_default()
}

fn timed<T>(took: &mut Duration, read: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let outcome = read();
    *took = started.elapsed();
    outcome
}

/// The uplinks: as configured, or every device that holds a default route.
pub fn uplinks(path: &PathConfig, recorded: &[Device]) -> Result<Uplinked, String> {
    uplinks_by(path, recorded, || routed(&path.tunnels))
}

/// Every device that holds a default route, and is no tunnel of ours.
fn routed(tunnels: &[String]) -> Result<Vec<Device>, String> {
    let tunnels: Vec<&str> = tunnels.iter().map(String::as_str).collect();
    uplink::default_route_devices(&tunnels).map_err(chain)
}

fn uplinks_by(
    path: &PathConfig,
    recorded: &[Device],
    routed: impl FnOnce() -> Result<Vec<Device>, String>,
) -> Result<Uplinked, String> {
    let known = |listed: &[String]| -> Vec<Device> {
        listed.iter().filter_map(|name| uplink::device(name)).collect()
    };
    let in_use = match &path.uplinks {
        Uplinks::Named(names) => known(names),
        Uplinks::Auto => routed()?,
    };
    let still = recorded.iter().filter_map(|device| uplink::device(&device.name));
    let entrances = known(path.workload.interfaces());
    let mut to_cover: Vec<Device> = in_use.iter().cloned().chain(still).chain(entrances).collect();
    to_cover.sort();
    to_cover.dedup();
    Ok(Uplinked { in_use, to_cover })
}

/// Rules of other programs that block what the path needs. Reads the whole ruleset: for people only.
pub fn in_the_way(path: &PathConfig) -> Result<Vec<Blocked>, firewall::NftError> {
    let uplinks = uplinks(path, &[]).map(|uplinks| uplinks.in_use).unwrap_or_default();
    let uplink = match uplinks.as_slice() {
        [only] => Some(only.name.as_str()),
        _ => None,
    };
    foreign::blocked(&Rules::of(path), uplink)
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
    let before = device::read(&path.interface).ok();
    let received = before.as_ref().and_then(|view| Some(view.peer()?.received_bytes));
    let (probe, probe_took) = probe(path, received);
    let sight = look_by(path, store, walls);
    let mut evidence = sight.evidence(path, probe, settling, handshakes);
    // A peer that had roamed when the probe was sent explains its silence, though it has been set
    // back since.
    let had_roamed = sight
        .active(path)
        .zip(before)
        .is_some_and(|(active, before)| before.likeness(active) == Likeness::Roamed);
    if had_roamed && matches!(evidence.probe, Probe::Silent { .. }) {
        evidence.peer = Peer::Roamed;
    }
    let verdict = classify(&evidence, path.health.handshake_stale_after);
    let peer = sight.device.ok().and_then(|view| view.peer().cloned());
    Cycle {
        evidence,
        verdict,
        probe_took,
        received_bytes: peer.as_ref().map(|peer| peer.received_bytes),
        sent_bytes: peer.as_ref().map(|peer| peer.sent_bytes),
        last_handshake: peer.and_then(|peer| peer.last_handshake),
    }
}

/// What the device has received from its peer until now.
fn received(path: &PathConfig) -> Option<u64> {
    device::read(&path.interface).ok()?.peer().map(|peer| peer.received_bytes)
}

fn probe(path: &PathConfig, before: Option<u64>) -> (Probe, Option<Duration>) {
    let Some(wanted) = &path.health.probe else {
        return (Probe::Off, None);
    };
    let request = TunnelRequest {
        interface: &path.interface,
        question: &wanted.question,
        route: if path.workload == Workload::Host { Wanted::Route } else { Wanted::Nothing },
        timeout: wanted.timeout,
    };
    match ask_through(&request) {
        Ok(Reply::Answered { took }) => (Probe::Answered, Some(took)),
        Ok(Reply::Silent) => {
            // A device that was replaced meanwhile starts at nothing; that is no traffic.
            let received = before.zip(received(path)).map(|(old, new)| new.saturating_sub(old));
            (Probe::Silent { received: received.unwrap_or(0) }, None)
        }
        Err(error) => (Probe::Unknown(format!("tunnel probe: {}", chain(error))), None),
    }
}

/// What time servers correct at a stroke on an ordinary day; it has passed before it matters.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// A handshake takes one round trip; an endpoint that needs two seconds is a bad one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A real handshake with an endpoint of the path, beside the device.
pub fn shake_hands(path: &PathConfig, endpoint: &Endpoint) -> Result<HandshakeOutcome, ProbeError> {
    handshake(&HandshakeRequest {
        address: endpoint.address,
        private_key: &endpoint.private_key,
        public_key: endpoint.public_key,
        preshared_key: endpoint.preshared_key.as_ref(),
        fwmark: path.fwmark,
        timeout: HANDSHAKE_TIMEOUT,
    })
}

/// As for a handshake.
const ECHO_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the endpoint's host answers an echo beside the tunnel: it tells a blocked port from a
/// dead host. Some providers never answer one.
pub fn echo_endpoint(path: &PathConfig, endpoint: &Endpoint) -> Result<Reply, ProbeError> {
    echo_marked(endpoint.address.ip(), path.fwmark, ECHO_TIMEOUT)
}

impl Sight {
    pub fn evidence(
        &self,
        path: &PathConfig,
        probe: Probe,
        settling: bool,
        handshakes: &Handshakes,
    ) -> Evidence {
        Evidence {
            standing: self.standing(path),
            lock: self.lock(),
            leak: self.leak(path),
            uplink: self.uplink(path),
            peer: self.peer(path, handshakes),
            probe,
            clock: self.clock(SystemTime::now()),
            settling,
        }
    }

    pub fn standing(&self, path: &PathConfig) -> Standing {
        let stopped_in_kernel = self.walls.as_ref().is_ok_and(|walls| walls.stops(&path.name));
        match &self.state {
            // The tighter of the two wins.
            _ if stopped_in_kernel => Standing::Stopped,
            Ok(state) if state.latch.is_some() => Standing::Stopped,
            Ok(state) if state.unlocked.is_some() => Standing::Unlocked,
            Ok(_) => Standing::Locked,
            Err(error) => Standing::Unknown(chain(error)),
        }
    }

    pub fn lock(&self) -> Lock {
        let Ok(PathState { intended: Some(_), .. }) = &self.state else {
            return Lock::Unknown("no completed load is on record".into());
        };
        match &self.walls {
            Err(error) => Lock::Unknown(chain(error)),
            Ok(_) if self.integrity().iter().all(|(_, intact)| *intact) => Lock::Intact,
            Ok(_) => Lock::Broken,
        }
    }

    /// Per table, whether it is the intended one. No load on record reads as broken; a kernel that
    /// cannot be read says nothing.
    pub fn integrity(&self) -> Vec<(&'static str, bool)> {
        let Ok(walls) = &self.walls else {
            return Vec::new();
        };
        let intended = self.state.as_ref().ok().and_then(|state| state.intended.as_ref());
        let same = |listing: &Option<Listing>, digest: Option<&String>| {
            digest.is_some() && listing.as_ref().map(Listing::digest).as_ref() == digest
        };
        // The rules of a cgroup that was made anew still look the same.
        let same_cgroups = intended.is_none_or(|intended| {
            intended
                .rules
                .cgroups()
                .iter()
                .all(|name| intended.cgroups.get(name).copied() == firewall::cgroup::id(name))
        });
        let killswitch = intended.map(|intended| &intended.killswitch);
        vec![
            ("killswitch", same_cgroups && same(&walls.killswitch, killswitch)),
            ("watch", same(&walls.watch, intended.map(|intended| &intended.watch))),
        ]
    }

    /// Whether the guard holds copies of the very walls that are intended. Without a daemon it does
    /// not: that is no breach, the walls hold without it.
    pub fn guarded(&self) -> bool {
        let intended = self.state.as_ref().ok().and_then(|state| state.intended.as_ref());
        let (Ok(walls), Some(intended)) = (&self.walls, intended) else {
            return false;
        };
        let same = |copy: &Option<Listing>, digest: &String| {
            copy.as_ref().is_some_and(|copy| copy.digest() == *digest)
        };
        same(&walls.guard.killswitch, &intended.killswitch)
            && same(&walls.guard.watch, &intended.watch)
    }

    /// The uplinks of now, each with whether the watch was attached to it, by name and index: a
    /// renamed or recreated device is another one.
    pub fn coverage(&self) -> Vec<(&Device, bool)> {
        let intended = self.state.as_ref().ok().and_then(|state| state.intended.as_ref());
        let attached = intended.map(|intended| intended.uplinks.as_slice()).unwrap_or_default();
        self.uplinks
            .iter()
            .flat_map(|found| &found.to_cover)
            .map(|device| (device, attached.contains(device)))
            .collect()
    }

    pub fn leak(&self, path: &PathConfig) -> Leak {
        let walls = match &self.walls {
            Ok(walls) => walls,
            Err(error) => return Leak::Unknown(chain(error)),
        };
        match &self.state {
            Ok(state) => leak(state, walls.counts(&path.name).leaked),
            Err(error) => Leak::Unknown(chain(error)),
        }
    }

    /// By the gateways of the family that the tunnel's own packets are of.
    fn uplink(&self, path: &PathConfig) -> Uplink {
        let endpoint = self.active(path).unwrap_or(path.primary()).address.ip();
        match &self.uplinks {
            Err(why) => Uplink::Unknown(why.clone()),
            Ok(found) => match uplink::uplink(&found.in_use, endpoint) {
                Ok(UplinkVerdict::Up) => Uplink::Up,
                Ok(UplinkVerdict::Down(why)) => Uplink::Down(why),
                Err(error) => Uplink::Unknown(chain(error)),
            },
        }
    }

    /// The wall clock against what the device says, and against what state has kept over a reboot.
    fn clock(&self, now: SystemTime) -> Clock {
        let live = self.device.as_ref().ok().and_then(|view| view.peer()?.last_handshake);
        let kept = self.state.as_ref().ok().and_then(|state| state.latest_handshake);
        let latest = live.max(kept.map(Timestamp::time));
        match latest.and_then(|latest| latest.duration_since(now).ok()) {
            Some(behind) if behind > CLOCK_TOLERANCE => Clock::Behind(behind),
            _ => Clock::Right,
        }
    }

    fn peer(&self, path: &PathConfig, handshakes: &Handshakes) -> Peer {
        let view = match &self.device {
            Ok(view) => view,
            Err(error) => return Peer::Unknown(chain(error)),
        };
        let active = self.state.as_ref().ok().and_then(|state| path.endpoint(&state.active));
        match active.map(|endpoint| view.likeness(endpoint)) {
            Some(Likeness::Same) => {
                let at = view.peer().and_then(|peer| peer.last_handshake);
                Peer::Active { handshake_age: at.map(|at| handshakes.age(at)) }
            }
            Some(Likeness::Roamed) => Peer::Roamed,
            _ => Peer::Other,
        }
    }

    /// The endpoint that state names, if the config still has it.
    pub fn active<'a>(&self, path: &'a PathConfig) -> Option<&'a Endpoint> {
        path.endpoint(&self.state.as_ref().ok()?.active)
    }
}

/// A leak is what the kernel counted above the baseline, and nothing else is; wherever it counted.
pub fn leak(state: &PathState, leaked: Leaked) -> Leak {
    let more =
        |count: Option<Count>, baseline| count.map_or(0, |count| above(count.packets, baseline));
    let seen = more(leaked.watch, state.leak_baseline)
        + more(leaked.guard, state.guard_baseline)
        + state.leaks_carried;
    match (seen, leaked.watch) {
        (0, None) => Leak::Unknown("the leak counter is not there".into()),
        (0, Some(_)) => Leak::None,
        (packets, _) => Leak::Seen(packets),
    }
}

/// What has been counted until now is dealt with.
pub fn forgive(state: &mut PathState, leaked: Leaked) {
    state.leak_baseline = leaked.watch.map_or(state.leak_baseline, |count| count.packets);
    state.guard_baseline = leaked.guard.map_or(0, |count| count.packets);
    state.leaks_carried = 0;
}

/// Takes down what the guard counted, for its counters end with it, and that the watch's counter was
/// reset, before it has come as far again; whether there was anything.
pub fn carry(state: &mut PathState, leaked: Leaked) -> bool {
    let guard = leaked.guard.map_or(0, |count| count.packets);
    let new = above(guard, state.guard_baseline);
    let reset = leaked.watch.is_some_and(|count| count.packets < state.leak_baseline);
    let moved = reset || guard != state.guard_baseline;
    state.leaks_carried += new;
    state.guard_baseline = guard;
    if reset {
        state.leak_baseline = 0;
    }
    moved
}

/// A count below the baseline has begun anew, at nothing: what it has reached since is above.
fn above(packets: u64, baseline: u64) -> u64 {
    if packets < baseline { packets } else { packets - baseline }
}

/// By the wall clock, for people. `None`: never. Not negative when the clock was set back.
pub fn handshake_age(view: &DeviceView) -> Option<Duration> {
    let at = view.peer()?.last_handshake?;
    Some(SystemTime::now().duration_since(at).unwrap_or_default())
}

/// An error and its causes in one line.
pub fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(watch: impl Into<Option<u64>>, guard: impl Into<Option<u64>>) -> Leaked {
        let count = |packets: Option<u64>| packets.map(|packets| Count { packets, bytes: 0 });
        Leaked { watch: count(watch.into()), guard: count(guard.into()) }
    }

    fn state(leak_baseline: u64) -> PathState {
        let mut state = PathState::new("primary".parse().expect("a name"));
        state.leak_baseline = leak_baseline;
        state
    }

    #[test]
    fn s3_a_counter_that_began_anew_hides_no_leak() {
        let leak = |packets| leak(&state(50), counted(packets, None));
        assert_eq!(leak(50), Leak::None);
        assert_eq!(leak(53), Leak::Seen(3));
        assert_eq!(leak(40), Leak::Seen(40));
        assert_eq!(leak(0), Leak::None);
    }

    #[test]
    fn s3_what_the_guard_counted_outlives_the_guard_and_a_release_ends_it() {
        let mut state = state(7);
        assert_eq!(leak(&state, counted(7, 5)), Leak::Seen(5));
        // The watch is gone, and its count with it: what the guard saw is a leak all the same.
        assert_eq!(leak(&state, counted(None, 5)), Leak::Seen(5));
        assert!(matches!(leak(&state, counted(None, 0)), Leak::Unknown(_)));

        assert!(carry(&mut state, counted(None, 5)));
        assert_eq!(leak(&state, counted(0, 5)), Leak::Seen(5), "counted once");
        assert!(!carry(&mut state, counted(None, 5)), "nothing new");
        assert_eq!(leak(&state, counted(0, None)), Leak::Seen(5), "the guard has ended");
        // Another guard, which begins at nothing, and counts up to where the first one was.
        assert!(carry(&mut state, counted(0, 0)));
        assert_eq!(leak(&state, counted(0, 5)), Leak::Seen(10));

        // The watch's began anew as well, and has come as far again: what was dealt with hides nothing.
        assert_eq!(leak(&state, counted(7, 0)), Leak::Seen(12));

        forgive(&mut state, counted(2, 5));
        assert_eq!(leak(&state, counted(2, 5)), Leak::None);
        assert_eq!(leak(&state, counted(2, None)), Leak::None, "nor when the guard ends");
        assert_eq!(leak(&state, counted(2, 6)), Leak::Seen(1));
    }
}
