//! What a look tells: evidence for the verdict, and what is published beside it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Devices, Sight, leak};
use crate::config::{Endpoint, PathConfig};
use crate::cut;
use crate::device::{DeviceView, Likeness};
use crate::error::chain;
use crate::firewall::{self, Coverage, Covered, Listing};
use crate::handshakes::Handshakes;
use crate::health::{Clock, Evidence, Leak, Lock, Peer, Probe, Standing, Uplink};
use crate::probe::uplink::{self, Device, UplinkVerdict};
use crate::state::{StateError, Timestamp};

/// What time servers correct at a stroke on an ordinary day; it has passed before it matters.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

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

    /// Latched is what state records, or the kernel's stop table where state cannot be written;
    /// stopped is what the kernel is seen to do about it.
    pub fn standing(&self, path: &PathConfig) -> Standing {
        let in_kernel = self.walls.as_ref().is_ok_and(|walls| walls.stops(&path.name));
        let latched = in_kernel || self.state.as_ref().is_ok_and(|state| state.latch.is_some());
        if latched {
            return match cut::seen(path) {
                Some(_) => Standing::Stopped,
                None => Standing::Latched,
            };
        }
        match &self.state {
            Ok(state) if state.unlocked.is_some() => Standing::Unlocked,
            Ok(_) => Standing::Locked,
            Err(error) => Standing::Unknown(chain(error)),
        }
    }

    pub fn lock(&self) -> Lock {
        if !self.state.as_ref().is_ok_and(|state| state.intended.is_some()) {
            return Lock::Unknown("no completed load is on record".into());
        }
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
            digest.is_some() && listing.as_ref().map(Listing::digest) == digest.map(String::as_str)
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

    /// The devices that packets can leave by now, each with whether the watch was attached to it as it
    /// is: a renamed or recreated device is another one.
    pub fn coverage(&self) -> Result<Vec<(Device, bool)>, &String> {
        let unknown = Coverage::default();
        let recorded = match &self.state {
            Ok(state) => match &state.intended {
                Some(intended) => &intended.coverage,
                // Before a first load nobody knows which devices are to be covered.
                None => return Ok(Vec::new()),
            },
            Err(StateError::Missing { .. }) => return Ok(Vec::new()),
            // Unknown is not covered (S7).
            Err(_) => &unknown,
        };
        let wanted = self.devices.as_ref()?.wanted(recorded);
        let attached = |one: &Covered| {
            recorded.covers(one) && self.walls.as_ref().is_ok_and(|walls| walls.watches(one))
        };
        Ok(wanted.devices.iter().map(|one| (one.device.clone(), attached(one))).collect())
    }

    /// Whether the watch is as the devices of now demand. A list that cannot be had says no.
    pub fn is_covered(&self) -> bool {
        let intended = self.state.as_ref().ok().and_then(|state| state.intended.as_ref());
        let current = |devices: &Arc<Devices>| {
            intended.is_some_and(|it| *devices.wanted(&it.coverage) == it.coverage)
        };
        self.devices.as_ref().is_ok_and(current)
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

    /// By the way that the tunnel's own packets take.
    fn uplink(&self, path: &PathConfig) -> Uplink {
        let endpoint = self.active(path).unwrap_or(path.primary());
        match uplink::verdict(path, endpoint) {
            Ok(UplinkVerdict::Up) => Uplink::Up,
            Ok(UplinkVerdict::Down(why)) => Uplink::Down(why),
            Err(error) => Uplink::Unknown(chain(error)),
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

/// By the wall clock, for people. `None`: never. Not negative when the clock was set back.
pub fn handshake_age(view: &DeviceView) -> Option<Duration> {
    let at = view.peer()?.last_handshake?;
    Some(SystemTime::now().duration_since(at).unwrap_or_default())
}
