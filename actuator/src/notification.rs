//! One notification of Alertmanager, version 4: from its bytes to an outcome for each of its alerts.
//!
//! Leaks first: a leak must never wait behind a switch (S3). And each thing that is asked is decided
//! once, however many alerts ask it: ten thousand of them must not hold up the next notification.

use egress::config::Config;
use egress::names::PathName;
use egress::state::Timestamp;
use serde::Deserialize;

use crate::decide::Ask;
use crate::engine::{Engine, Outcome, Verdicts};
use crate::frugal;

/// The version that this is written for. A later one is read too: what counts in it is checked.
const VERSION: u64 = 4;

/// What one notification may add to a counter.
const MOST_TRUNCATED: u64 = 1_000_000;

/// The parts that count. Unknown fields are ignored: they grow.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Notification {
    #[serde(deserialize_with = "frugal::alerts")]
    alerts: Vec<Alert>,
    #[serde(default, deserialize_with = "frugal::number")]
    version: Option<u64>,
    /// How many alerts the sender left out.
    #[serde(default, rename = "truncatedAlerts", deserialize_with = "frugal::number")]
    truncated: Option<u64>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Alert {
    #[serde(rename = "status", deserialize_with = "frugal::firing")]
    firing: bool,
    #[serde(default)]
    labels: frugal::Labels,
}

/// All that a decision looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Asks(PathName, Ask),
    Heartbeat,
    /// Nothing to decide.
    Known(Outcome),
}

impl Notification {
    pub fn parse(body: &[u8]) -> Option<Self> {
        if !frugal::is_plain(body) {
            return None;
        }
        let parsed: Self = serde_json::from_slice(body).ok()?;
        if parsed.version != Some(VERSION) {
            tracing::warn!(known = VERSION, "a notification of another version: read all the same");
        }
        Some(parsed)
    }

    /// How many alerts there are.
    pub fn len(&self) -> usize {
        self.alerts.len()
    }

    /// The paths for which a hard stop is asked.
    pub fn hard_stops(&self, config: &Config) -> Vec<PathName> {
        let asks = |alert: &&Alert| {
            let host = alert.labels.get("host").is_none_or(|host| *host == config.host);
            alert.firing && host && alert.label("action") == "hard-stop"
        };
        let path = |alert: &Alert| Some(config.path(alert.label("path"))?.name.clone());
        let mut paths: Vec<PathName> = self.alerts.iter().filter(asks).filter_map(path).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// Handles all alerts; the outcomes are in their order.
    pub fn handle(&self, engine: &mut Engine) -> Verdicts {
        // A counter that overflows would fall; nobody has left out as many.
        let truncated = self.truncated.unwrap_or(0).min(MOST_TRUNCATED);
        if truncated > 0 {
            tracing::warn!(truncated, "alerts were left out: set `max_alerts: 0`");
            engine.metrics().alerts.with_label_values(&["other", "truncated"]).inc_by(truncated);
        }
        let subjects: Vec<Subject> =
            self.alerts.iter().map(|alert| subject(engine, alert)).collect();
        let outcomes = decided(&subjects, |subject| match subject {
            Subject::Asks(path, ask) => engine.alert(path, *ask),
            Subject::Heartbeat => {
                let now = i64::try_from(Timestamp::now().0).unwrap_or(i64::MAX);
                engine.metrics().heartbeat.set(now);
                engine.heartbeat();
                Outcome::Heartbeat
            }
            Subject::Known(outcome) => outcome.clone(),
        });
        for (alert, outcome) in self.alerts.iter().zip(&outcomes) {
            let action = known_action(alert.label("action"));
            engine.metrics().alerts.with_label_values(&[action, outcome.word()]).inc();
        }
        outcomes
    }
}

impl Alert {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).unwrap_or_default()
    }
}

fn subject(engine: &Engine, alert: &Alert) -> Subject {
    if !alert.firing {
        return Subject::Known(Outcome::Resolved);
    }
    if alert.labels.get("host").is_some_and(|host| *host != engine.config().host) {
        return Subject::Known(Outcome::OtherHost);
    }
    if alert.label("action") == "heartbeat" {
        return Subject::Heartbeat;
    }
    match engine.asked(alert.label("action"), alert.label("path"), alert.label("endpoint")) {
        Ok((path, ask)) => Subject::Asks(path, ask),
        Err(outcome) => Subject::Known(outcome),
    }
}

/// One outcome per subject, in the order of the subjects. `decide` is asked leaks first, and once
/// per subject that differs: those are as many as there are endpoints, and a few.
fn decided(subjects: &[Subject], mut decide: impl FnMut(&Subject) -> Outcome) -> Verdicts {
    let mut order: Vec<&Subject> = Vec::new();
    for subject in subjects {
        if !order.contains(&subject) {
            order.push(subject);
        }
    }
    order.sort_by_key(|subject| !matches!(subject, Subject::Asks(_, Ask::HardStop)));
    let known: Vec<(&Subject, Outcome)> =
        order.into_iter().map(|subject| (subject, decide(subject))).collect();
    let outcome = |subject| known.iter().find(|(one, _)| *one == subject).map(|(_, it)| it.clone());
    subjects.iter().filter_map(outcome).collect()
}

/// A label value comes from this list, never from the sender, who could make any number of them.
fn known_action(action: &str) -> &'static str {
    ["failover", "hard-stop", "repair", "heartbeat"]
        .into_iter()
        .find(|known| *known == action)
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Idle;

    fn parse(body: &str) -> Option<Notification> {
        Notification::parse(body.as_bytes())
    }

    #[test]
    fn a_notification_may_grow_fields_but_not_lose_its_alerts() {
        let grown = r#"{"version":"5","new":1,"truncatedAlerts":"many",
            "alerts":[{"status":"firing","labels":{"a":"b"},"x":[]}]}"#;
        assert_eq!(parse(grown).expect("parsed").alerts.len(), 1);
        for other in ["4", "\"4\"", "null", "true", "-1", "0.5", "[[]]", "{\"a\":{}}", "\"x\""] {
            let body = format!(r#"{{"version":{other},"truncatedAlerts":{other},"alerts":[]}}"#);
            assert!(parse(&body).is_some(), "{body}");
        }
        assert!(parse(r#"{"alerts":[]}"#).is_some());
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"alerts":[{}]}"#,
            r#"{"alerts":[{"status":"firing","labels":[]}]}"#,
            r#"{"alerts":[{"status":"firing","labels":{"path":1}}]}"#,
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
        // Cut short anywhere, it is none.
        let whole = r#"{"alerts":[{"status":"firing","labels":{"action":"repair"}}]}"#;
        assert!(parse(whole).is_some());
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_none(), "{}", &whole[..length]);
        }
        assert!(parse(&"[".repeat(100_000)).is_none());
        assert!(parse(&format!(r#"{{"alerts":[],"x":{}"#, "[".repeat(100_000))).is_none());
    }

    #[test]
    fn labels_of_our_metrics_are_not_the_senders_to_choose() {
        assert_eq!(known_action("failover"), "failover");
        assert_eq!(known_action("x\"y"), "other");
    }

    fn asks(ask: Ask) -> Subject {
        Subject::Asks("media".parse().expect("a name"), ask)
    }

    fn failover(endpoint: usize) -> Subject {
        asks(Ask::Failover { endpoint: Some(endpoint) })
    }

    #[test]
    fn s3_leaks_are_decided_first_and_every_alert_gets_its_outcome() {
        let resolved = Subject::Known(Outcome::Resolved);
        let mixed =
            [failover(0), resolved, asks(Ask::Repair), asks(Ask::HardStop), Subject::Heartbeat];
        let mut order = Vec::new();
        let outcomes = decided(&mixed, |subject| {
            order.push(subject.clone());
            match subject {
                Subject::Asks(_, Ask::Failover { .. }) => Outcome::Idle(Idle::AlreadyStopped),
                Subject::Asks(_, Ask::HardStop) => Outcome::HardStopped,
                Subject::Asks(_, Ask::Repair) => Outcome::Repaired,
                Subject::Heartbeat => Outcome::Heartbeat,
                Subject::Known(outcome) => outcome.clone(),
            }
        });
        assert_eq!(order[0], asks(Ask::HardStop));
        assert_eq!(order.len(), mixed.len());
        let words: Vec<&str> = outcomes.iter().map(Outcome::word).collect();
        let in_order = ["already_stopped", "resolved_ignored", "repaired", "hard_stopped"];
        assert_eq!(words[..4], in_order);
        assert_eq!(words[4], "heartbeat");
    }

    #[test]
    fn s8_the_same_ten_thousand_times_is_decided_once() {
        let mut many = vec![failover(0); 5000];
        many.extend(vec![failover(1); 5000]);
        let mut decisions = 0;
        let outcomes = decided(&many, |_| {
            decisions += 1;
            Outcome::Idle(Idle::StaleEndpoint)
        });
        assert_eq!((decisions, outcomes.len()), (2, 10_000));
    }
}
