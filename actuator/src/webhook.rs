//! `POST /api/v1/alerts`: Alertmanager's notifications, version 4. Also the metrics path,
//! `/-/healthy`, `/-/ready` and a landing page.
//!
//! Replies: 200 done or nothing to do, with an outcome per alert; 400 malformed; 401; 413; 503 try
//! again. From the network one can only tighten (S6): there is no route that releases or fails back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use egress::state::Timestamp;
use http_body_util::{BodyExt as _, Limited};
use hyper::header::AUTHORIZATION;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;
use web::{Answer, Request, answer};

use crate::engine::{Engine, Outcome, Shared, Verdicts};
use crate::metrics::Metrics;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Ten thousand alerts of ours are 6 MiB; nobody has more than a few.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// A notification arrives in one go; who takes longer holds a connection for no good reason.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The parts of a notification that count. Unknown fields are ignored: they grow.
#[derive(Debug, Deserialize)]
struct Notification {
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

pub struct Webhook {
    pub engine: Shared,
    pub metrics: Arc<Metrics>,
    pub token: Option<Vec<u8>>,
    pub telemetry_path: String,
}

impl Webhook {
    pub async fn answer(&self, request: Request) -> Answer {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::POST, "/api/v1/alerts") => self.alerts(request).await,
            (_, "/api/v1/alerts") => self.reject("method", StatusCode::METHOD_NOT_ALLOWED),
            (&Method::GET, path) if path == self.telemetry_path => self.metrics().await,
            (&Method::GET, "/-/healthy" | "/-/ready") => answer(StatusCode::OK, TEXT, "ok\n"),
            (&Method::GET, "/") => {
                answer(StatusCode::OK, "text/html; charset=utf-8", self.landing())
            }
            _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        }
    }

    fn reject(&self, reason: &'static str, status: StatusCode) -> Answer {
        self.metrics.rejected.with_label_values(&[reason]).inc();
        tracing::warn!(reason, %status, "notification turned away");
        answer(status, TEXT, format!("{reason}\n"))
    }

    async fn alerts(&self, request: Request) -> Answer {
        if !self.authorised(&request) {
            return self.reject("auth", StatusCode::UNAUTHORIZED);
        }
        let body = Limited::new(request.into_body(), BODY_LIMIT).collect();
        let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return self.reject("too_large", StatusCode::PAYLOAD_TOO_LARGE);
            }
            Ok(Err(_)) | Err(_) => return self.reject("body", StatusCode::BAD_REQUEST),
        };
        let Ok(notification) = serde_json::from_slice::<Notification>(&body) else {
            return self.reject("parse", StatusCode::BAD_REQUEST);
        };
        let engine = self.engine.clone();
        let handled =
            tokio::task::spawn_blocking(move || handle(&mut engine.lock(), &notification.alerts));
        let Ok(outcomes) = handled.await else {
            return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "try again\n");
        };
        let retry = outcomes.iter().any(Outcome::retry);
        let status = if retry { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let words: Vec<&str> = outcomes.iter().map(Outcome::word).collect();
        answer(status, JSON, json!({ "outcomes": words }).to_string())
    }

    fn authorised(&self, request: &Request) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let given = request.headers().get(AUTHORIZATION).map(hyper::header::HeaderValue::as_bytes);
        let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
        given.is_some_and(|given| bool::from(given.ct_eq(token)))
    }

    async fn metrics(&self) -> Answer {
        let engine = self.engine.clone();
        let page = tokio::task::spawn_blocking(move || {
            let engine = engine.lock();
            engine.metrics().page(&engine.standings())
        });
        match page.await {
            Ok(page) => answer(StatusCode::OK, METRICS, page),
            Err(_) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "try again\n"),
        }
    }

    fn landing(&self) -> String {
        format!(
            "<!doctype html><title>vpn-egress actuator</title><h1>vpn-egress actuator</h1>\
             <p>Version {}</p><p><a href=\"{path}\">{path}</a></p>",
            env!("CARGO_PKG_VERSION"),
            path = self.telemetry_path,
        )
    }
}

/// The alerts of one notification, leaks first: a leak must never wait behind a switch (S3).
fn handle(engine: &mut Engine, alerts: &[Alert]) -> Verdicts {
    let mut order: Vec<usize> = (0..alerts.len()).collect();
    order.sort_by_key(|&index| alerts[index].action() != "hard-stop");
    let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(alerts.len());
    // The same alert ten thousand times is one alert: it must not hold up the next notification.
    let mut decided: BTreeMap<[Option<&str>; 4], Outcome> = BTreeMap::new();
    for index in order {
        let alert = &alerts[index];
        let outcome = decided.entry(alert.key()).or_insert_with(|| one(engine, alert)).clone();
        let action = known_action(alert.action());
        engine.metrics().alerts.with_label_values(&[action, outcome.word()]).inc();
        outcomes.push((index, outcome));
    }
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn one(engine: &mut Engine, alert: &Alert) -> Outcome {
    if alert.status != "firing" {
        return Outcome::Resolved;
    }
    if alert.action() == "heartbeat" {
        let now = i64::try_from(Timestamp::now().0).unwrap_or(i64::MAX);
        engine.metrics().heartbeat.set(now);
        return Outcome::Heartbeat;
    }
    let path = alert.labels.get("path").map_or("", String::as_str);
    engine.alert(alert.action(), path, alert.labels.get("endpoint").map(String::as_str))
}

impl Alert {
    /// All that a decision looks at.
    fn key(&self) -> [Option<&str>; 4] {
        let label = |name| self.labels.get(name).map(String::as_str);
        [Some(&self.status), label("action"), label("path"), label("endpoint")]
    }

    fn action(&self) -> &str {
        self.labels.get("action").map_or("", String::as_str)
    }
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

    #[test]
    fn a_notification_may_grow_fields_but_not_lose_its_alerts() {
        let grown =
            r#"{"version":"5","new":1,"alerts":[{"status":"firing","labels":{"a":"b"},"x":[]}]}"#;
        let parsed: Notification = serde_json::from_str(grown).expect("parsed");
        assert_eq!(parsed.alerts.len(), 1);
        for bad in
            ["{}", "[]", r#"{"alerts":[{}]}"#, r#"{"alerts":[{"status":"firing","labels":[]}]}"#]
        {
            assert!(serde_json::from_str::<Notification>(bad).is_err(), "{bad}");
        }
        let nested = "[".repeat(100_000);
        assert!(serde_json::from_str::<Notification>(&nested).is_err());
    }

    #[test]
    fn labels_of_our_metrics_are_not_the_senders_to_choose() {
        assert_eq!(known_action("failover"), "failover");
        assert_eq!(known_action("x\"y"), "other");
    }
}
