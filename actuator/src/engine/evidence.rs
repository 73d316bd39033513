//! What the actuator sees for itself before it acts.
//!
//! To prove that a tunnel is silent takes a probe's whole timeout, and a handshake with a candidate
//! must not be followed at once by another with the same keys. So the daemon runs health cycles of
//! its own, and where the latest one already says *down*, a look at the device is enough to see
//! that nothing has changed since.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use egress::config::PathConfig;
use egress::device::{self, Likeness};
use egress::firewall;
use egress::health::{EXPLAINED_BYTES, Lock, Verdict};
use egress::names::EndpointName;
use egress::observe::{self, chain};
use egress::state::{PathState, Store};

use super::answers;
use crate::decide::{Candidate, Leak, Rules, Seen, Tunnel};

/// A responder ignores an initiation within 20 ms of the last one from the same key, and rounds
/// timestamps down to 17 ms: leave both behind before the device shakes hands after a probe.
pub const AFTER_PROBE: Duration = Duration::from_millis(40);

/// A cycle is recent for this many intervals: the one that was due may just be running.
const RECENT: u32 = 2;

/// The daemon's own latest cycle of each path.
#[derive(Debug, Default)]
pub struct Latest(Mutex<BTreeMap<String, Look>>);

/// One cycle, and which candidates answered in it.
#[derive(Debug, Clone)]
pub struct Look {
    pub ended: Instant,
    pub active: EndpointName,
    pub verdict: Verdict,
    pub received_bytes: Option<u64>,
    pub last_handshake: Option<SystemTime>,
    pub candidates: BTreeMap<EndpointName, (Instant, bool)>,
}

impl Latest {
    pub fn of(&self, path: &PathConfig) -> Option<Look> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path.name.as_str()).cloned()
    }

    fn put(&self, path: &PathConfig, look: Look) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(path.name.to_string(), look);
    }

    /// One cycle. While the tunnel is down, the endpoints it could fail forward to are asked too.
    pub fn cycle(&self, path: &PathConfig, store: &Store) {
        let Ok(state) = store.read(&path.name) else {
            return;
        };
        let settling = state.changed.age() < path.health.settle;
        let cycle = observe::check(path, store, settling);
        let peer = device::read(&path.interface).ok().and_then(|view| view.peer().cloned());
        let mut look = Look {
            ended: Instant::now(),
            active: state.active.clone(),
            verdict: cycle.verdict,
            received_bytes: cycle.received_bytes,
            last_handshake: peer.and_then(|peer| peer.last_handshake),
            candidates: BTreeMap::new(),
        };
        self.put(path, look.clone());
        if !matches!(look.verdict, Verdict::TunnelDown(_)) {
            return;
        }
        let active = path.position(&state.active).unwrap_or(path.endpoints.len());
        for candidate in path.endpoints.iter().skip(active + 1) {
            let alive = answers(path, candidate);
            look.candidates.insert(candidate.name.clone(), (Instant::now(), alive));
            self.put(path, look.clone());
            if alive {
                break;
            }
        }
    }
}

/// A fresh look at one path, for one decision.
pub struct Fresh<'a> {
    pub path: &'a PathConfig,
    pub store: &'a Store,
    pub state: &'a PathState,
    pub latest: Option<Look>,
    /// What was seen, for the log and the latch.
    pub notes: Vec<String>,
}

impl Fresh<'_> {
    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn window(&self) -> Duration {
        self.path.health.interval * RECENT
    }

    /// The daemon's latest cycle, if it said down of this endpoint and nothing came since.
    fn still_down(&self) -> Option<String> {
        let latest = self.latest.as_ref()?;
        let Verdict::TunnelDown(reason) = latest.verdict else {
            return None;
        };
        let recent = latest.ended.elapsed() <= self.window() && latest.active == self.state.active;
        let view = device::read(&self.path.interface).ok()?;
        let active = self.path.endpoint(&self.state.active)?;
        let peer = view.peer()?;
        let since = peer.received_bytes.saturating_sub(latest.received_bytes?);
        let silent = since <= EXPLAINED_BYTES && peer.last_handshake == latest.last_handshake;
        let same = view.likeness(active) == Likeness::Same;
        (recent && silent && same).then(|| format!("{reason}, {since} bytes since"))
    }
}

impl Seen for Fresh<'_> {
    fn leak(&mut self) -> Leak {
        match firewall::leaked(self.path) {
            Ok(Some(count)) if count.packets <= self.state.leak_baseline => Leak::None,
            Ok(Some(count)) => {
                let (now, baseline) = (count.packets, self.state.leak_baseline);
                self.note(format!("{now} leaked packets, baseline {baseline}"));
                Leak::Above
            }
            Ok(None) => {
                self.note("the leak counter is not there");
                Leak::Unknown
            }
            Err(error) => {
                self.note(chain(error));
                Leak::Unknown
            }
        }
    }

    fn tunnel(&mut self) -> Tunnel {
        if let Some(evidence) = self.still_down() {
            self.note(evidence);
            return Tunnel::NotAnswering;
        }
        let settling = self.state.changed.age() < self.path.health.settle;
        let cycle = observe::check(self.path, self.store, settling);
        self.note(cycle.verdict.to_string());
        match cycle.verdict {
            Verdict::Up => Tunnel::Answering,
            Verdict::TunnelDown(_) => Tunnel::NotAnswering,
            Verdict::UplinkDown(_) => Tunnel::UplinkDown,
            Verdict::Leak(_) | Verdict::Stopped | Verdict::Roamed | Verdict::Unknown(_) => {
                Tunnel::Unknown
            }
        }
    }

    fn rules(&mut self) -> Rules {
        match observe::look(self.path, self.store).lock() {
            Lock::Intact => Rules::Intact,
            Lock::Broken => Rules::Broken,
            Lock::Unknown(why) => {
                self.note(why);
                Rules::Unknown
            }
        }
    }

    fn candidate(&mut self, endpoint: usize) -> Candidate {
        let candidate = &self.path.endpoints[endpoint];
        let name = &candidate.name;
        let known = self.latest.as_ref().and_then(|look| look.candidates.get(name)).copied();
        // What is on record is seconds old, and is renewed by the next cycle: to ask again here
        // would make a leak wait behind a dead candidate's timeout.
        let known = known.filter(|(at, _)| at.elapsed() <= self.window());
        let (at, alive) = known.unwrap_or_else(|| {
            let alive = answers(self.path, candidate);
            (Instant::now(), alive)
        });
        if alive {
            thread::sleep(AFTER_PROBE.saturating_sub(at.elapsed()));
        }
        self.note(format!("{name} {}", if alive { "answers" } else { "does not answer" }));
        if alive { Candidate::Alive } else { Candidate::Dead }
    }
}
