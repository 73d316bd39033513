//! How every path stands, for people and for the metrics page.

use std::fmt::Write as _;

use egress::clock::Moment;
use egress::config::PathConfig;
use egress::health::{Leak, Standing};
use egress::observe::{self, chain, handshake_age};
use egress::state::Timestamp;
use serde::Serialize;

use super::Engine;

#[derive(Debug, Serialize)]
pub struct PathStatus {
    pub path: String,
    /// locked, stopped, unlocked or unknown.
    pub standing: &'static str,
    pub active_endpoint: Option<String>,
    pub primary_endpoint: String,
    pub live_endpoint: Option<String>,
    pub handshake_age_seconds: Option<u64>,
    pub rules_intact: bool,
    pub uplinks: Vec<Coverage>,
    pub leaked_packets: Option<u64>,
    pub leak_baseline: Option<u64>,
    pub stop: Option<Stop>,
    pub paused_until: Option<u64>,
    pub exhausted: bool,
    pub last_converge: Option<u64>,
    pub problems: Vec<String>,
    /// Every configured endpoint, in order.
    pub endpoints: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Coverage {
    pub device: String,
    pub covered: bool,
}

#[derive(Debug, Serialize)]
pub struct Stop {
    pub reason: String,
    pub evidence: String,
    pub since: Option<u64>,
}

impl Engine {
    pub fn status(&self) -> Vec<PathStatus> {
        self.config.paths.iter().map(|path| self.path_status(path)).collect()
    }

    fn path_status(&self, path: &PathConfig) -> PathStatus {
        let sight = observe::look(path, &self.store);
        let state = sight.state.as_ref().ok();
        let live = sight.device.as_ref().ok().and_then(|view| view.live(&path.endpoints));
        let standing = sight.standing(path);
        let latch = state.and_then(|state| state.latch.as_ref());
        let stop = match (&standing, latch) {
            (_, Some(latch)) => Some(Stop {
                reason: latch.reason.clone(),
                evidence: latch.evidence.clone(),
                since: Some(latch.at.0),
            }),
            (Standing::Stopped, None) => Some(Stop {
                reason: "the kernel's stop table is engaged".to_owned(),
                evidence: String::new(),
                since: None,
            }),
            _ => None,
        };
        let count = sight.walls.as_ref().ok().and_then(|walls| walls.counts(&path.name).leaked);
        PathStatus {
            path: path.name.to_string(),
            standing: match standing {
                Standing::Locked => "locked",
                Standing::Stopped => "stopped",
                Standing::Unlocked => "unlocked",
                Standing::Unknown(_) => "unknown",
            },
            active_endpoint: state.map(|state| state.active.to_string()),
            primary_endpoint: path.primary().name.to_string(),
            live_endpoint: live.map(|(endpoint, _)| endpoint.name.to_string()),
            handshake_age_seconds: sight
                .device
                .as_ref()
                .ok()
                .and_then(handshake_age)
                .map(|age| age.as_secs()),
            rules_intact: {
                let integrity = sight.integrity();
                !integrity.is_empty() && integrity.iter().all(|(_, intact)| *intact)
            },
            uplinks: sight
                .coverage()
                .into_iter()
                .map(|(device, covered)| Coverage { device: device.name.clone(), covered })
                .collect(),
            leaked_packets: count.map(|count| count.packets),
            leak_baseline: state.map(|state| state.leak_baseline),
            stop,
            // By the clock of now, whatever it was when the pause began.
            paused_until: state
                .and_then(|state| state.pause_left(&Moment::now()))
                .map(|left| Timestamp::now().0 + left.as_secs()),
            exhausted: self.exhausted.get(path.name.as_str()).copied().unwrap_or(false),
            last_converge: state.and_then(|state| state.last_converge).map(|at| at.0),
            problems: problems(&sight, path),
            endpoints: path.endpoints.iter().map(|one| one.name.to_string()).collect(),
        }
    }
}

fn problems(sight: &observe::Sight, path: &PathConfig) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(sight.state.as_ref().err().map(chain));
    problems.extend(sight.walls.as_ref().err().map(chain));
    problems.extend(sight.device.as_ref().err().map(chain));
    problems.extend(sight.uplinks.as_ref().err().cloned());
    if let Leak::Seen(packets) = sight.leak(path) {
        problems.push(format!("leak: {packets} packets above the baseline"));
    }
    problems
}

impl PathStatus {
    /// Whether everything is as it should be.
    pub fn healthy(&self) -> bool {
        let covered = self.uplinks.iter().all(|uplink| uplink.covered);
        self.standing == "locked" && self.rules_intact && covered && self.problems.is_empty()
    }

    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("path {}: {}", self.path, self.standing)];
        let mut add = |label: &str, text: String| lines.push(format!("  {label:<12}{text}"));
        if let Some(stop) = &self.stop {
            let mut text = stop.reason.clone();
            if let Some(since) = stop.since {
                let _ = write!(text, ", {} s ago", Timestamp(since).age().as_secs());
            }
            if !stop.evidence.is_empty() {
                let _ = write!(text, " ({})", stop.evidence);
            }
            add("hard stop", text);
        }
        if let Some(active) = &self.active_endpoint {
            let role = if *active == self.primary_endpoint { "primary" } else { "backup" };
            add("endpoint", format!("{active} ({role})"));
        }
        add(
            "handshake",
            match self.handshake_age_seconds {
                Some(age) => format!("{age} s ago"),
                None => "never".to_owned(),
            },
        );
        add("rules", if self.rules_intact { "intact" } else { "not the intended ones" }.to_owned());
        for uplink in &self.uplinks {
            let covered = if uplink.covered { "watched" } else { "NOT watched yet" };
            add("uplink", format!("{} {covered}", uplink.device));
        }
        if let (Some(leaked), Some(baseline)) = (self.leaked_packets, self.leak_baseline) {
            add("leaked", format!("{leaked} packets, {baseline} of them dealt with"));
        }
        if let Some(until) = self.paused_until {
            let left = until.saturating_sub(Timestamp::now().0);
            add("paused", format!("no automatic failover for {left} s"));
        }
        if self.exhausted {
            add("exhausted", "no later endpoint is left to fail forward to".to_owned());
        }
        for problem in &self.problems {
            add("problem", problem.clone());
        }
        lines
    }
}
