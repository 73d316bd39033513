//! `POST /api/v1/alerts`: Alertmanager's notifications, version 4. Also the metrics path,
//! `/-/healthy`, `/-/ready` and a landing page.
//!
//! Replies: 200 done or nothing to do, with an outcome per alert; 400 malformed; 401; 405; 413; 503
//! try again. From the network one can only tighten (S6): there is no route that releases or fails back.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::json;
use web::body::BodyError;
use web::{Answer, Refusal, Request, answer};

use crate::engine::{Outcome, Shared};
use crate::metrics::Metrics;
use crate::notification::Notification;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Ten thousand alerts of ours are 6 MiB; nobody has more than a few.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// Where notifications arrive.
pub const ROUTE: &str = "/api/v1/alerts";

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
            let notification = Notification::parse(&body)?;
            Some(notification.handle(&mut engine.lock()))
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
            engine.metrics().page(&engine.standings(), engine.silence().as_ref())
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
