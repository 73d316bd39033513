//! How every path stands, for people and for the metrics page. `docs/status.schema.json` is the
//! contract of its JSON.

use std::time::{Duration, Instant};

use egress::bounded::TimedOut;
use egress::clock::Moment;
use egress::config::{Endpoint, PathConfig};
use egress::cut::Way;
use egress::device::DeviceError;
use egress::error::chain;
use egress::firewall::NftError;
use egress::firewall::foreign::Blocked;
use egress::health::{Leak, Standing};
use egress::names::PathName;
use egress::observe::{self, Sight, handshake_age};
use egress::pins;
use egress::state::{Latch, Timestamp};
use egress::waiting::Waiting;
use serde::Serialize;

use super::Silence;
use super::board::{Board, Busy, View};
use super::flows::{self, LeakedFlow};
use crate::history::Decision;

/// Of the JSON's form: it grows, and this is raised when something changes its meaning or goes.
const SCHEMA: u32 = 1;

/// How long the kernel is read for: as long as a device may take to answer.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Decisions that fit on a screen.
const DECISIONS: usize = 10;

#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub schema: u32,
    /// Of the reporting program: the daemon, or a command where there is no daemon.
    pub pid: u32,
    /// Whether that is the daemon.
    pub daemon: bool,
    /// Whether an alert has ever reached that daemon.
    pub heard: bool,
    /// `None`: no `watchdog` in the config, or no daemon that could hear it.
    pub watchdog: Option<Silence>,
    /// How long ago the kernel was read for this; but for what is latched and cut.
    pub age_seconds: u64,
    /// What the engine is doing; `None`: nothing that takes long.
    pub busy: Option<Busy>,
    /// What is waited for, the longest wait first.
    pub waiting: Vec<Waiting>,
    pub paths: Vec<PathStatus>,
}

/// Who asks for a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// With the latest decisions, and what other firewalls keep from passing.
    ByPeople,
    ByMetrics,
}

#[derive(Debug, Clone, Serialize)]
pub struct PathStatus {
    pub path: String,
    pub standing: Word,
    pub active_endpoint: Option<String>,
    /// Unix time of the choice, and why it was made.
    pub active_since: Option<u64>,
    pub active_reason: Option<String>,
    pub primary_endpoint: String,
    pub live_endpoint: Option<String>,
    pub handshake_age_seconds: Option<u64>,
    /// Whether a hard stop is on record, in state or in the kernel's own table.
    pub latched: bool,
    /// How the kernel is seen to cut the path; `None`: it is not.
    pub cut: Option<CutStatus>,
    /// Whether the killswitch that is seen in the kernel is the intended one; `None`: it cannot be
    /// read.
    pub locked: Option<bool>,
    /// `None`: the rules cannot be read.
    pub rules_intact: Option<bool>,
    /// Whether the daemon holds copies of both walls that others cannot change.
    pub guarded: bool,
    pub uplinks: Vec<Coverage>,
    pub leaked_packets: Option<u64>,
    pub leak_baseline: Option<u64>,
    /// While there is a leak or a stop: the latest flows that leaked, the last one first.
    pub leaked_flows: Vec<LeakedFlow>,
    pub stop: Option<Stop>,
    /// A person took the lock off.
    pub unlocked: Option<Given>,
    pub paused_until: Option<u64>,
    pub exhausted: bool,
    pub last_converge: Option<u64>,
    pub last_release: Option<Given>,
    pub problems: Vec<String>,
    /// Every configured endpoint, in order.
    pub endpoints: Vec<EndpointStatus>,
    /// The latest, oldest first.
    pub decisions: Vec<Decision>,
}

/// How a path stands, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Locked,
    /// A hard stop is latched, and the kernel is seen to cut the path.
    Stopped,
    /// A hard stop is latched, and the kernel is not seen to cut the path.
    Latched,
    /// A person took the lock off.
    Unlocked,
    /// It should be locked, and the killswitch is not there.
    Open,
    /// State or rules cannot be read.
    Unknown,
}

#[derive(Debug, Clone, Serialize)]
pub struct EndpointStatus {
    pub endpoint: String,
    pub address: String,
    /// As the config has it, and when `address` was pinned to it.
    pub hostname: Option<String>,
    pub pinned_at: Option<u64>,
    /// The device has it now.
    pub live: bool,
    /// Whether it completed a handshake when it was last asked, beside the device.
    pub reachable: Option<bool>,
    pub asked_at: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Coverage {
    pub device: String,
    pub covered: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct CutStatus {
    pub by: Way,
    /// Unix time; `None` where there is no daemon that could have seen it begin.
    pub since: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Stop {
    pub reason: String,
    pub evidence: String,
    pub since: Option<u64>,
}

/// A person's act.
#[derive(Debug, Clone, Serialize)]
pub struct Given {
    pub reason: String,
    pub at: u64,
}

impl From<&egress::state::Act> for Given {
    fn from(act: &egress::state::Act) -> Self {
        Self { reason: act.reason.clone(), at: act.at.0 }
    }
}

impl Board {
    /// Reads the kernel, however long that takes.
    pub(super) fn read(&self, view: &View, wanted: Wanted) -> Status {
        let paths = &view.config.paths;
        let snapshot = self.kernel.snapshot(paths, Instant::now(), READ_LIMIT);
        let sights = snapshot.sights(paths, &self.store);
        let paths =
            sights.map(|(path, sight)| self.path_status(view, path, &sight, &sight.standing(path)));
        let mut status = self.frame(view, paths.collect());
        if wanted == Wanted::ByPeople {
            for (one, path) in status.paths.iter_mut().zip(&view.config.paths) {
                one.decisions = self.history.last(&path.name, DECISIONS);
                one.problems.extend(in_the_way(path));
            }
        }
        status
    }

    /// By what is on record alone: the kernel was not read within `limit`.
    pub(super) fn unread(&self, view: &View, limit: Duration) -> Status {
        let look = |path: &PathConfig| {
            let late = || TimedOut(limit);
            let sight = Sight {
                state: self.store.shared(&path.name),
                walls: Err(NftError::Hung(late())),
                device: Err(DeviceError::Hung {
                    interface: path.interface.clone(),
                    source: late(),
                }),
                devices: Err("the devices were not read".to_owned()),
                took: observe::Took::default(),
            };
            let standing = Standing::Unknown("the kernel was not read".to_owned());
            self.path_status(view, path, &sight, &standing)
        };
        self.frame(view, view.config.paths.iter().map(look).collect())
    }

    /// Brings to now what does not need more than state and this process: what is latched, what was
    /// seen cut last, the decisions.
    pub(super) fn refresh(&self, view: &View, wanted: Wanted, status: &mut Status) {
        for one in &mut status.paths {
            let Some(path) = view.config.path(&one.path) else { continue };
            let state = self.store.read(&path.name);
            let recorded = state.ok().and_then(|state| state.latch);
            let latch = recorded.or_else(|| self.stops.pending(&path.name));
            if wanted == Wanted::ByPeople {
                one.decisions = self.history.last(&path.name, DECISIONS);
            }
            let Some(latch) = latch else { continue };
            let cut = self.stops.known(&path.name);
            one.latched = true;
            one.cut = cut.map(|cut| CutStatus { by: cut.by, since: Some(cut.since.0) });
            one.standing = if cut.is_some() { Word::Stopped } else { Word::Latched };
            one.stop = Some(latch.into());
        }
    }

    fn frame(&self, view: &View, paths: Vec<PathStatus>) -> Status {
        let watchdog = view.heartbeat.silence(&view.config).filter(|_| self.is_serving());
        Status {
            schema: SCHEMA,
            pid: std::process::id(),
            daemon: self.is_serving(),
            heard: view.heartbeat.heard(),
            watchdog,
            age_seconds: 0,
            busy: None,
            waiting: Vec::new(),
            paths,
        }
    }

    fn path_status(
        &self,
        view: &View,
        path: &PathConfig,
        sight: &Sight,
        standing: &Standing,
    ) -> PathStatus {
        let state = sight.state.as_deref().ok();
        let device = sight.device.as_ref().ok();
        let live = device.and_then(|view| view.live(&path.endpoints));
        let live = live.map(|(endpoint, _)| endpoint.name.clone());
        let count = sight.walls.as_ref().ok();
        let count = count.and_then(|walls| walls.counts(&path.name).leaked.sum());
        let chosen = state.and_then(|state| state.chosen.as_ref());
        let cut = is_stop(sight, standing).then(|| self.stops.look(path)).flatten();
        let killswitch = sight.integrity().into_iter().find(|(table, _)| *table == "killswitch");
        PathStatus {
            path: path.name.to_string(),
            standing: word(standing, sight),
            latched: self.is_latched(path, sight),
            cut: cut.map(|cut| CutStatus {
                by: cut.by,
                since: self.is_serving().then_some(cut.since.0),
            }),
            locked: killswitch.map(|(_, intact)| intact),
            active_endpoint: state.map(|state| state.active.to_string()),
            active_since: chosen.map(|act| act.at.0),
            active_reason: chosen.map(|act| act.reason.clone()),
            primary_endpoint: path.primary().name.to_string(),
            handshake_age_seconds: device.and_then(handshake_age).map(|age| age.as_secs()),
            rules_intact: sight.walls.is_ok().then(|| is_intact(sight)),
            guarded: sight.guarded(),
            uplinks: sight
                .coverage()
                .unwrap_or_default()
                .into_iter()
                .map(|(device, covered)| Coverage { device: device.name, covered })
                .collect(),
            leaked_packets: count.map(|count| count.packets),
            leaked_flows: self.leaked_flows(view, path, sight),
            leak_baseline: state.map(|state| {
                (state.leak_baseline + state.guard_baseline).saturating_sub(state.leaks_carried)
            }),
            stop: stop(standing, sight),
            unlocked: state.and_then(|state| state.unlocked.as_ref()).map(Given::from),
            // By the clock of now, whatever it was when the pause began.
            paused_until: state
                .and_then(|state| state.pause_left(&Moment::now()))
                .map(|left| Timestamp::now().0 + left.as_secs()),
            exhausted: view.exhausted.get(path.name.as_str()).copied().unwrap_or(false),
            last_converge: state.and_then(|state| state.last_converge).map(|at| at.0),
            last_release: state.and_then(|state| state.last_release.as_ref()).map(Given::from),
            problems: problems(sight, path),
            endpoints: path
                .endpoints
                .iter()
                .map(|endpoint| self.endpoint_status(&path.name, endpoint, live.as_ref()))
                .collect(),
            live_endpoint: live.map(|name| name.to_string()),
            decisions: Vec::new(),
        }
    }

    fn leaked_flows(&self, view: &View, path: &PathConfig, sight: &Sight) -> Vec<LeakedFlow> {
        let leaks = matches!(sight.leak(path), Leak::Seen(_)) || self.is_latched(path, sight);
        if leaks && sight.walls.is_ok() {
            flows::leaked_flows(path, &view.config.paths)
        } else {
            Vec::new()
        }
    }

    fn is_latched(&self, path: &PathConfig, sight: &Sight) -> bool {
        let in_state = sight.state.as_ref().is_ok_and(|state| state.latch.is_some());
        let in_kernel = sight.walls.as_ref().is_ok_and(|walls| walls.stops(&path.name));
        in_state || in_kernel || self.stops.pending(&path.name).is_some()
    }

    fn endpoint_status(
        &self,
        path: &PathName,
        endpoint: &Endpoint,
        live: Option<&egress::names::EndpointName>,
    ) -> EndpointStatus {
        let asked = self.latest.asked(path, &endpoint.name);
        EndpointStatus {
            endpoint: endpoint.name.to_string(),
            address: endpoint.address.to_string(),
            hostname: endpoint.hostname.clone(),
            pinned_at: endpoint
                .hostname
                .as_ref()
                .and_then(|host| pins::read(&self.store, path).get(host).map(|pin| pin.at.0)),
            live: live == Some(&endpoint.name),
            reachable: asked.map(|asked| asked.answered),
            asked_at: asked.map(|asked| asked.at.0),
        }
    }
}

/// What was seen; never "locked" of what was not.
fn word(standing: &Standing, sight: &Sight) -> Word {
    let killswitch = sight.walls.as_ref().map(|walls| walls.killswitch.is_some());
    match (standing, killswitch) {
        (Standing::Stopped, _) => Word::Stopped,
        (Standing::Latched, _) => Word::Latched,
        (Standing::Unlocked, _) => Word::Unlocked,
        (Standing::Locked, Ok(true)) => Word::Locked,
        (Standing::Locked, Ok(false)) => Word::Open,
        (Standing::Unknown(_), _) | (Standing::Locked, Err(_)) => Word::Unknown,
    }
}

/// A tunnel that carries nothing is a cut only where one is asked for: it may just not be up yet.
fn is_stop(sight: &Sight, standing: &Standing) -> bool {
    match standing {
        Standing::Stopped | Standing::Latched => true,
        Standing::Unknown(_) => sight.state.is_err(),
        Standing::Locked | Standing::Unlocked => false,
    }
}

fn is_intact(sight: &Sight) -> bool {
    let integrity = sight.integrity();
    !integrity.is_empty() && integrity.iter().all(|(_, intact)| *intact)
}

impl From<Latch> for Stop {
    fn from(latch: Latch) -> Self {
        Self { reason: latch.reason, evidence: latch.evidence, since: Some(latch.at.0) }
    }
}

fn stop(standing: &Standing, sight: &Sight) -> Option<Stop> {
    let latch = sight.state.as_ref().ok().and_then(|state| state.latch.clone());
    match (standing, latch) {
        (_, Some(latch)) => Some(latch.into()),
        (Standing::Stopped | Standing::Latched, None) => Some(Stop {
            reason: "the kernel's stop table is engaged".to_owned(),
            evidence: String::new(),
            since: None,
        }),
        _ => None,
    }
}

fn problems(sight: &Sight, path: &PathConfig) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(sight.state.as_ref().err().map(chain));
    problems.extend(sight.walls.as_ref().err().map(chain));
    problems.extend(sight.device.as_ref().err().map(chain));
    problems.extend(sight.devices.as_ref().err().cloned());
    if let Leak::Seen(packets) = sight.leak(path) {
        problems.push(format!("leak: {packets} packets above the baseline"));
    }
    let unlocked = sight.state.as_ref().is_ok_and(|state| state.unlocked.is_some());
    let any = |walls: &egress::firewall::Walls| walls.killswitch.is_some() || walls.watch.is_some();
    if unlocked && sight.walls.as_ref().is_ok_and(any) {
        problems.push(
            "rules are still loaded: an unlock or a converge was cut short; run either again"
                .to_owned(),
        );
    }
    problems
}

/// What is certain only; `validate` names also what may block.
fn in_the_way(path: &PathConfig) -> Vec<String> {
    match observe::in_the_way(path) {
        Ok(found) => {
            found.blocked.iter().filter(|it| it.is_sure()).map(Blocked::to_string).collect()
        }
        Err(error) => vec![format!("other firewalls were not read: {}", chain(error))],
    }
}

impl Status {
    pub fn healthy(&self) -> bool {
        let silent = self.watchdog.as_ref().is_some_and(|watchdog| watchdog.silent);
        !silent && self.paths.iter().all(PathStatus::healthy)
    }
}

impl PathStatus {
    /// Whether everything is as it should be.
    pub fn healthy(&self) -> bool {
        let covered = self.uplinks.iter().all(|uplink| uplink.covered);
        let intact = self.rules_intact == Some(true);
        self.standing == Word::Locked && intact && covered && self.problems.is_empty()
    }
}
