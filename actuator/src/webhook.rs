//! `POST /api/v1/alerts`: Alertmanager's notifications, version 4. Also the metrics path,
//! `/-/healthy`, `/-/ready` and a landing page.
//!
//! Replies: 200 done or nothing to do, with an outcome per alert; 400 malformed; 401; 405; 413; 503
//! try again. From the network one can only tighten (S6): there is no route that releases or fails back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use egress::state::Timestamp;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use web::body::BodyError;
use web::{Answer, Refusal, Request, answer};

use crate::engine::{Engine, Outcome, Shared, Verdicts};
use crate::frugal;
use crate::metrics::Metrics;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Ten thousand alerts of ours are 6 MiB; nobody has more than a few.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// Where notifications arrive.
pub const ROUTE: &str = "/api/v1/alerts";

/// The parts of a notification that count. Unknown fields are ignored: they grow.
#[derive(Debug, Deserialize)]
struct Notification {
    #[serde(deserialize_with = "frugal::alerts")]
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    status: String,
    #[serde(default, deserialize_with = "frugal::labels")]
    labels: BTreeMap<String, String>,
}

pub struct Webhook {
    pub engine: Shared,
    pub metrics: Arc<Metrics>,
    pub telemetry_path: String,
}

impl Webhook {
    pub async fn answer(&self, request: Request) -> Answer {
        let path = request.uri().path().to_owned();
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        match path.as_str() {
            ROUTE if request.method() == Method::POST => self.alerts(request).await,
            ROUTE => allow(self.reject("method", StatusCode::METHOD_NOT_ALLOWED), "POST"),
            _ if !reads => {
                allow(answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n"), "GET, HEAD")
            }
            path if path == self.telemetry_path => {
                self.metrics(web::scrape_timeout(&request)).await
            }
            "/-/healthy" | "/-/ready" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/" => answer(StatusCode::OK, "text/html; charset=utf-8", self.landing()),
            _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        }
    }

    fn reject(&self, reason: &'static str, status: StatusCode) -> Answer {
        turned_away(&self.metrics, reason, status);
        answer(status, TEXT, format!("{reason}\n"))
    }

    async fn alerts(&self, request: Request) -> Answer {
        let body = match web::body::read(request, BODY_LIMIT).await {
            Ok(body) => body,
            Err(BodyError::TooLarge) => {
                return self.reject("too_large", StatusCode::PAYLOAD_TOO_LARGE);
            }
            Err(BodyError::Broken) => return self.reject("body", StatusCode::BAD_REQUEST),
            Err(BodyError::Busy) => return self.reject("busy", StatusCode::SERVICE_UNAVAILABLE),
        };
        let engine = self.engine.clone();
        // A large body is held to the end: what is made of it takes memory too.
        let handled = tokio::task::spawn_blocking(move || {
            let notification = serde_json::from_slice::<Notification>(&body).ok()?;
            Some(handle(&mut engine.lock(), &notification.alerts))
        });
        let outcomes = match handled.await {
            Ok(Some(outcomes)) => outcomes,
            Ok(None) => return self.reject("parse", StatusCode::BAD_REQUEST),
            Err(_) => return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "try again\n"),
        };
        let retry = outcomes.iter().any(Outcome::retry);
        let status = if retry { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let words: Vec<&str> = outcomes.iter().map(Outcome::word).collect();
        answer(status, JSON, json!({ "outcomes": words }).to_string())
    }

    async fn metrics(&self, limit: Duration) -> Answer {
        let engine = self.engine.clone();
        let page = tokio::task::spawn_blocking(move || {
            let engine = engine.lock();
            engine.metrics().page(&engine.standings())
        });
        match tokio::time::timeout(limit, page).await {
            Ok(Ok(page)) => answer(StatusCode::OK, METRICS, page),
            _ => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "try again\n"),
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

fn allow(mut answer: Answer, methods: &'static str) -> Answer {
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

fn turned_away(metrics: &Metrics, reason: &'static str, status: StatusCode) {
    metrics.rejected.with_label_values(&[reason]).inc();
    tracing::warn!(reason, %status, "notification turned away");
}

/// Counts who was not let in. Without a path it was a connection, which may have been a notification.
pub fn refused(metrics: &Metrics, refusal: Refusal, path: &str) {
    if path == ROUTE || path.is_empty() {
        turned_away(metrics, refusal.word(), refusal.status());
    } else {
        tracing::debug!(reason = refusal.word(), path, "turned away");
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
