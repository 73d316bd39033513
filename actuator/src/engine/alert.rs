//! One alert, from its labels to its outcome.

use std::fmt;
use std::time::Instant;

use egress::clock::Moment;
use egress::config::PathConfig;
use egress::cut::Way;
use egress::error::chain;
use egress::firewall::Rules;
use egress::names::PathName;

use super::evidence::Fresh;
use super::load::kind_of_unknown;
use super::stop::Cut;
use super::transition::{Enforced, standing};
use super::{Engine, name_at};
use crate::decide::{Action, Ask, Cause, Hold, Idle, decide};
use crate::history::{self, Decision};

/// What became of an alert; the word is the `outcome` label and the webhook's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Switched {
        from: String,
        to: String,
    },
    HardStopped,
    Repaired,
    Idle(Idle),
    /// The kernel or the disk refused.
    Failed(String),
    UnknownPath,
    /// Its label `host` names another one.
    OtherHost,
    UnknownAction,
    Heartbeat,
    /// Resolved alerts never do anything: a dead Prometheus resolves everything.
    Resolved,
}

/// All outcomes of one notification, in the order of its alerts.
pub type Verdicts = Vec<Outcome>;

impl Outcome {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Switched { .. } => "switched",
            Self::HardStopped => "hard_stopped",
            Self::Repaired => "repaired",
            Self::Failed(_) => "failed",
            Self::UnknownPath => "unknown_path",
            Self::OtherHost => "other_host",
            Self::UnknownAction => "unknown_action",
            Self::Heartbeat => "heartbeat",
            Self::Resolved => "resolved_ignored",
            Self::Idle(idle) => match idle {
                Idle::AlreadyStopped => "already_stopped",
                Idle::AlreadyReleased => "already_released",
                Idle::StaleEndpoint => "stale_endpoint",
                Idle::Recovered => "recovered",
                Idle::UplinkDown => "uplink_down",
                Idle::Exhausted => "exhausted",
                Idle::NoReachableStandby => "no_reachable_standby",
                Idle::Paused => "paused",
                Idle::Unlocked => "unlocked",
                Idle::Intact => "intact",
                Idle::Unclear => "unclear",
            },
        }
    }

    /// Whether the sender should try again: 503.
    pub fn retry(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Idle(Idle::NoReachableStandby | Idle::Unclear))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Switched { from, to } => write!(f, "switched from {from} to {to}"),
            other => f.write_str(other.word()),
        }
    }
}

impl Engine {
    /// What a firing alert asks of which path, by its labels; or the outcome where that is nothing.
    pub fn asked(
        &self,
        action: &str,
        path: &str,
        endpoint: &str,
    ) -> Result<(PathName, Ask), Outcome> {
        let path = self.config.path(path).ok_or(Outcome::UnknownPath)?;
        let place = endpoint.parse().ok().and_then(|name| path.position(&name));
        let ask = match action {
            "failover" => Ask::Failover { endpoint: place },
            "hard-stop" => Ask::HardStop,
            "repair" => Ask::Repair,
            _ => return Err(Outcome::UnknownAction),
        };
        Ok((path.name.clone(), ask))
    }

    /// Decides what is asked, and does it.
    pub fn alert(&mut self, path: &PathName, ask: Ask) -> Outcome {
        let Some(path) = self.config.path(path.as_str()).cloned() else {
            return Outcome::UnknownPath;
        };
        let started = Instant::now();
        let outcome = self.decide_and_act(ask, &path);
        if let Ask::Failover { .. } = ask {
            self.account(&path, &outcome, started);
        }
        outcome
    }

    fn decide_and_act(&mut self, ask: Ask, path: &PathConfig) -> Outcome {
        let mut state = match self.store.read(&path.name) {
            Ok(state) => state,
            Err(error) => return self.stop_without_state(ask, path, &chain(error)),
        };
        let settled = self.settle_latch(path, &mut state);
        let enforced = match self.stops.look(path) {
            Some(_) => Enforced::Cut,
            None => Enforced::NotCut,
        };
        if let (Some(latch), Enforced::Cut, Ask::HardStop) = (&settled, enforced, ask) {
            // It was cut for this alert already, while the engine was busy with something else.
            let decision = Decision::new(ask.word(), "hard stop", Outcome::HardStopped.word());
            self.record(path, decision.seeing(&latch.evidence).because(&latch.reason));
            return Outcome::HardStopped;
        }
        let standing = standing(path, &Rules::of(path), &state, enforced, &Moment::now());
        let latest = &*self.latest;
        let mut seen = Fresh { path, store: &self.store, state: &state, latest, notes: Vec::new() };
        let cause = Cause::Alert(ask);
        let action = decide(cause, standing, &mut seen);
        if standing.hold == Hold::NotCut {
            seen.notes.push("latched, and not seen cut".to_owned());
        }
        let evidence = seen.notes.join("; ");
        let active = state.active.clone();
        let outcome = match action {
            Action::Nothing(idle) => Outcome::Idle(idle),
            Action::Switch { to } => {
                let endpoint = &path.endpoints[to];
                match self.switch(path, &mut state, endpoint, &format!("failover: {evidence}")) {
                    Ok(()) => Outcome::Switched {
                        from: active.to_string(),
                        to: name_at(path, to).to_string(),
                    },
                    Err(error) => Outcome::Failed(chain(error)),
                }
            }
            Action::HardStop => match self.hard_stop(cause, path, &evidence) {
                Ok(_) => Outcome::HardStopped,
                Err(error) => Outcome::Failed(chain(error)),
            },
            Action::Repair => self.repair_or_stop(path, &mut state),
        };
        if action != Action::HardStop {
            let decision = Decision::new(ask.word(), done(action), outcome.to_string());
            self.record(path, decision.of(&active).seeing(&evidence));
        }
        let path = &path.name;
        // Alertmanager repeats itself; what was dealt with before is no news.
        if matches!(outcome, Outcome::Idle(Idle::AlreadyReleased | Idle::AlreadyStopped)) {
            tracing::debug!(%path, endpoint = %active, ?ask, evidence, %outcome, "decided");
        } else {
            tracing::info!(%path, endpoint = %active, ?ask, evidence, %outcome, "decided");
        }
        outcome
    }

    /// S7: state that should be there and cannot be read means stopped.
    fn stop_without_state(&self, ask: Ask, path: &PathConfig, why: &str) -> Outcome {
        let kind = kind_of_unknown(path);
        let (outcome, seen) = match self.engage(path, kind) {
            Ok(Cut { by: Way::Nftables, .. }) => (Outcome::HardStopped, why.to_owned()),
            Ok(cut) => (Outcome::HardStopped, format!("{why}; cut: {}", cut.by.explained())),
            Err(error) => (Outcome::Failed(error), why.to_owned()),
        };
        if self.stops.is_news(&path.name, &seen) {
            tracing::error!(path = %path.name, why = seen, %outcome, "state cannot be read");
        }
        // The same again and again, for as long as nobody fixes it: recorded like an idle one.
        let decision = Decision::new(ask.word(), history::NOTHING, outcome.to_string());
        self.record(path, decision.seeing(seen));
        outcome
    }

    fn account(&mut self, path: &PathConfig, outcome: &Outcome, started: Instant) {
        let path_name = path.name.to_string();
        let exhausted = *outcome == Outcome::Idle(Idle::Exhausted);
        match outcome {
            Outcome::Switched { from, to } => {
                self.metrics.failovers.with_label_values(&[&path_name, from, to]).inc();
                let took = started.elapsed().as_secs_f64();
                self.metrics.failover_duration.with_label_values(&[&path_name]).observe(took);
            }
            Outcome::Idle(Idle::Exhausted | Idle::NoReachableStandby) | Outcome::Failed(_) => {
                let reason = outcome.word();
                self.metrics
                    .failover_failures
                    .with_label_values(&[path_name.as_str(), reason])
                    .inc();
            }
            _ => {}
        }
        if !matches!(outcome, Outcome::Idle(Idle::StaleEndpoint)) {
            self.exhausted.insert(path_name, exhausted);
        }
    }
}

/// For the history; a hard stop is recorded where it is engaged.
fn done(action: Action) -> &'static str {
    match action {
        Action::Nothing(_) => history::NOTHING,
        Action::Switch { .. } => "switch",
        Action::HardStop => "hard stop",
        Action::Repair => "repair",
    }
}
