//! What the actuator sees for itself before it acts.
//!
//! To prove that a tunnel is silent takes a probe's whole timeout, and a handshake with a candidate
//! must not be followed at once by another with the same keys. So the daemon runs health cycles of
//! its own, and where the latest one already says *down*, a look at the device is enough to see
//! that nothing has changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use egress::clock::Uptime;
use egress::config::{Endpoint, FailoverTo, PathConfig};
use egress::device::{self, Likeness};
use egress::error::chain;
use egress::firewall;
use egress::handshakes::Handshakes;
use egress::health::{self, EXPLAINED_BYTES, Lock, Verdict};
use egress::names::{EndpointName, PathName};
use egress::observe;
use egress::state::{PathState, Store, Timestamp};

use super::answers;
use super::candidate::Probed;
use super::pace::Pace;
use crate::decide::{Candidate, Leak, Rules, Seen, Tunnel};

/// A responder ignores an initiation within 20 ms of the last one from the same key, and rounds
/// timestamps down to 17 ms: leave both behind before the device shakes hands after a probe.
pub const AFTER_PROBE: Duration = Duration::from_millis(40);

/// A cycle is recent for this many intervals: the one that was due may just be running.
const RECENT: u32 = 2;

/// The daemon's own latest cycle of each path, and what its candidates have shown.
#[derive(Debug, Default)]
pub struct Latest {
    pub(super) looks: Mutex<BTreeMap<PathName, Look>>,
    pub(super) candidates: Mutex<BTreeMap<(PathName, EndpointName), Probed>>,
    /// For people: what every endpoint said when it was last asked.
    asked: Mutex<BTreeMap<(PathName, EndpointName), Asked>>,
    handshakes: Mutex<BTreeMap<PathName, Arc<Handshakes>>>,
    paces: Mutex<BTreeMap<PathName, Pace>>,
    /// Paths whose state says that the clock is behind, while a candidate goes by it.
    pub(super) clock_proven: Mutex<BTreeSet<PathName>>,
}

/// A handshake with an endpoint, beside the device.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub at: Timestamp,
    pub answered: bool,
}

/// One cycle.
#[derive(Debug, Clone)]
pub struct Look {
    pub(super) ended: Uptime,
    pub(super) active: EndpointName,
    pub(super) verdict: Verdict,
    /// It is unknown, because the clock seems to be behind.
    pub(super) behind: bool,
    pub(super) received_bytes: Option<u64>,
    pub(super) last_handshake: Option<SystemTime>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries are replaced whole, so a panic elsewhere cannot have left one half made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Latest {
    /// Whether [`Self::clock_proven`] has something to report.
    pub(super) fn is_clock_proven(&self, path: &PathName) -> bool {
        locked(&self.clock_proven).contains(path)
    }

    /// Whether a candidate has answered by a clock that state has for behind; told once.
    pub(super) fn clock_proven(&self, path: &PathName) -> bool {
        locked(&self.clock_proven).remove(path)
    }

    pub(super) fn is_settling(&self, path: &PathConfig, state: &PathState) -> bool {
        let settle = path.health.settle;
        let now = (Uptime::now(), Instant::now());
        let settling = self.pace(path, |pace| pace.is_settling(now, settle));
        settling || state.changed.age() < settle
    }

    /// The verdict, unless it is too early for it: the wait may have begun while the look went on.
    pub(super) fn patient(&self, path: &PathConfig, verdict: Verdict) -> Verdict {
        let settle = path.health.settle;
        match verdict {
            Verdict::TunnelDown(reason)
                if self.pace(path, |pace| pace.is_too_early(Uptime::now(), settle)) =>
            {
                Verdict::Unknown(format!("settling: {reason}"))
            }
            other => other,
        }
    }

    /// An alert found the path up.
    pub(super) fn found_up(&self, path: &PathConfig) {
        self.pace(path, Pace::found_up);
    }

    pub(super) fn pace<T>(&self, path: &PathConfig, look: impl FnOnce(&mut Pace) -> T) -> T {
        let mut paces = locked(&self.paces);
        let begun = || Pace::new((Uptime::now(), Instant::now()));
        look(paces.entry(path.name.clone()).or_insert_with(begun))
    }

    pub(super) fn handshakes(&self, path: &PathConfig) -> Arc<Handshakes> {
        Arc::clone(locked(&self.handshakes).entry(path.name.clone()).or_default())
    }

    pub(super) fn of(&self, path: &PathConfig) -> Option<Look> {
        locked(&self.looks).get(&path.name).cloned()
    }

    fn known(&self, path: &PathConfig, candidate: &Endpoint) -> Option<Probed> {
        locked(&self.candidates).get(&(path.name.clone(), candidate.name.clone())).copied()
    }

    pub fn asked(&self, path: &PathName, endpoint: &EndpointName) -> Option<Asked> {
        locked(&self.asked).get(&(path.clone(), endpoint.clone())).copied()
    }

    /// Asks every endpoint but the one in use, all at once, for a person who wants to know. A
    /// handshake beside the device with the keys of the one in use, by whatever address, would make
    /// its peer roam away.
    pub fn ask_standbys(&self, path: &PathConfig, store: &Store) {
        let active = store.read(&path.name).map(|state| state.active).ok();
        let live = device::read(path).ok();
        let live = live.as_ref().and_then(|view| view.live(&path.endpoints));
        let active = active.as_ref().and_then(|active| path.endpoint(active));
        let in_use = [active, live.map(|(live, _)| live)];
        thread::scope(|scope| {
            for endpoint in &path.endpoints {
                if !in_use.iter().flatten().any(|one| one.is_same_peer(endpoint)) {
                    scope.spawn(|| self.ask(path, endpoint));
                }
            }
        });
    }

    fn ask(&self, path: &PathConfig, endpoint: &Endpoint) -> bool {
        let answered = answers(path, endpoint);
        let asked = Asked { at: Timestamp::now(), answered };
        locked(&self.asked).insert((path.name.clone(), endpoint.name.clone()), asked);
        answered
    }

    /// Asks a candidate, and remembers.
    pub(super) fn probe(&self, path: &PathConfig, candidate: &Endpoint) -> Probed {
        let alive = self.ask(path, candidate);
        let probed = Probed::new(self.known(path, candidate), alive, Uptime::now());
        let key = (path.name.clone(), candidate.name.clone());
        locked(&self.candidates).insert(key, probed);
        probed
    }
}

/// A fresh look at one path, for one decision.
pub struct Fresh<'a> {
    pub path: &'a PathConfig,
    pub store: &'a Store,
    pub state: &'a PathState,
    pub latest: &'a Latest,
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
        let latest = self.latest.of(self.path)?;
        let Verdict::TunnelDown(reason) = latest.verdict else {
            return None;
        };
        let recent = latest.ended.elapsed() <= self.window() && latest.active == self.state.active;
        let view = device::read(self.path).ok()?;
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
        let leaked = match firewall::leaked(&self.path.name) {
            Ok(leaked) => leaked,
            Err(error) => {
                self.note(chain(error));
                return Leak::Unknown;
            }
        };
        match observe::leak(self.state, leaked) {
            health::Leak::Seen(packets) => {
                self.note(format!("{packets} leaked packets above the baseline"));
                Leak::Above
            }
            health::Leak::None => Leak::None,
            health::Leak::Unknown(why) => {
                self.note(why);
                Leak::Unknown
            }
        }
    }

    fn tunnel(&mut self) -> Tunnel {
        if let Some(evidence) = self.still_down() {
            self.note(evidence);
            return Tunnel::NotAnswering;
        }
        let settling = self.latest.is_settling(self.path, self.state);
        let cycle =
            observe::check(self.path, self.store, settling, &self.latest.handshakes(self.path));
        let verdict = self.latest.patient(self.path, cycle.verdict);
        self.note(verdict.to_string());
        match verdict {
            Verdict::Up => {
                self.latest.found_up(self.path);
                Tunnel::Answering
            }
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
        if self.path.health.failover_to == FailoverTo::Next {
            self.note(format!("{name} is taken unasked, by the config"));
            return Candidate::Unasked;
        }
        // What is on record is seconds old, and is renewed by the next cycle: to ask again here
        // would make a leak wait behind a dead candidate's timeout.
        let known = self.latest.known(self.path, candidate);
        let recent = known.filter(|probed| probed.age() <= self.window());
        let probed = recent.unwrap_or_else(|| self.latest.probe(self.path, candidate));
        let alive = probed.counts(Uptime::now());
        if alive {
            thread::sleep(AFTER_PROBE.saturating_sub(probed.age()));
        }
        self.note(format!("{name} {}", if alive { "answers" } else { "does not answer" }));
        if alive { Candidate::Alive } else { Candidate::Dead }
    }
}
