//! `POST /api/v1/alerts`: Alertmanager's notifications, version 4. Also the metrics path,
//! `/-/healthy`, `/-/ready` and a landing page.
//!
//! Replies: 200 done or nothing to do, with an outcome per alert; 400 malformed; 401; 405; 413; 503
//! try again. From the network one can only tighten (S6): there is no route that releases or fails back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use egress::names::PathName;
use hyper::body::Bytes;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;
use web::body::{Body, BodyError};
use web::{Answer, Refusal, Request, answer};

use crate::delivery::{Deliveries, Handled};
use crate::engine::{Outcome, Shared, Verdicts, Wanted};
use crate::metrics::Metrics;
use crate::notification::Notification;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Ten thousand alerts of ours are 6 MiB; nobody has more than a few.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// Where notifications arrive.
pub const ROUTE: &str = "/api/v1/alerts";

/// How long an answer is awaited that another act may hold up; then it is "try again". All of an answer
/// has to be there within a second.
const ANSWER_LIMIT: Duration = Duration::from_millis(800);

/// How long the engine is awaited before a hard stop that is asked for is made without it.
const PATIENCE: Duration = Duration::from_millis(300);

pub struct Webhook {
    engine: Shared,
    metrics: Arc<Metrics>,
    telemetry_path: String,
    deliveries: Deliveries,
    pages: Turns,
}

impl Webhook {
    pub fn new(engine: Shared, telemetry_path: String) -> Self {
        let metrics = engine.board().metrics();
        let deliveries = Deliveries::default();
        Self { engine, metrics, telemetry_path, deliveries, pages: Turns::new() }
    }

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
            "/-/ready" if !self.engine.board().is_ready() => {
                let said = format!("not yet: {}\n", self.engine.board().why_busy());
                answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, said)
            }
            "/-/healthy" | "/-/ready" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/" => answer(StatusCode::OK, "text/html; charset=utf-8", self.landing()),
            _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        }
    }

    fn reject(&self, reason: &'static str, status: StatusCode) -> Answer {
        self.metrics.turned_away(reason);
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
        // What is no notification takes no turn: a crowd of such must not be waited for.
        let Some((notification, body)) = parse(body).await else {
            return self.reject("parse", StatusCode::BAD_REQUEST);
        };
        let hard_stops = notification.hard_stops(&self.engine.board().view().config);
        let handled = self.deliveries.take(notification, &self.engine);
        let Some(outcomes) = self.outcomes(handled, hard_stops).await else {
            let why = self.engine.board().why_busy();
            let said = format!("try again: {why}\n");
            return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, said);
        };
        let retry = outcomes.iter().any(Outcome::retry);
        let status = if retry { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let reply = Reply { outcomes: outcomes.iter().map(Outcome::word).collect() };
        let Ok(said) = serde_json::to_string(&reply) else {
            return answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "no answer\n");
        };
        answer(status, JSON, Bytes::from_owner(Told { said, _body: body }))
    }

    /// What became of a notification, if that is known in time. A hard stop does not wait for the
    /// engine: where that is busy, the path is cut without it.
    async fn outcomes(
        &self,
        handled: Option<Handled>,
        hard_stops: Vec<PathName>,
    ) -> Option<Arc<Verdicts>> {
        let started = Instant::now();
        let mut handled = handled;
        if let Some(handled) = &mut handled
            && let Ok(outcomes) = tokio::time::timeout(PATIENCE, handled.outcomes()).await
        {
            return outcomes;
        }
        if !hard_stops.is_empty() {
            let board = Arc::clone(self.engine.board());
            let cut = tokio::task::spawn_blocking(move || board.cut_without_engine(&hard_stops));
            // What is not done in time is done all the same.
            let rest = ANSWER_LIMIT.saturating_sub(started.elapsed());
            tokio::time::timeout(rest, cut).await.ok();
        }
        let rest = ANSWER_LIMIT.saturating_sub(started.elapsed());
        tokio::time::timeout(rest, handled?.outcomes()).await.ok()?
    }

    async fn metrics(&self, limit: Duration) -> Answer {
        let board = Arc::clone(self.engine.board());
        let page = self.pages.take(move || board.metrics().page(&board.status(Wanted::ByMetrics)));
        match tokio::time::timeout(limit, page).await {
            Ok(Some(page)) => answer(StatusCode::OK, METRICS, page),
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

/// What is answered to a notification.
#[derive(Serialize)]
struct Reply {
    /// One per alert, in the order of the alerts.
    outcomes: Vec<&'static str>,
}

/// An answer, and what it answers: a large one gives the only large buffer back when its answer,
/// which may be large too, has gone; or those who read no answers could have any number of them.
struct Told {
    said: String,
    _body: Body,
}

impl AsRef<[u8]> for Told {
    fn as_ref(&self) -> &[u8] {
        self.said.as_bytes()
    }
}

/// Who wants a page waits here in order, and not each on a thread of its own: threads are
/// memory, and whoever asks for pages without end must not be ahead of an alert.
struct Turns(Arc<Semaphore>);

impl Turns {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Runs it when it is its turn, to the end though nobody waits for it any more.
    async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = Arc::clone(&self.0).acquire_owned().await.ok()?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.ok()
    }
}

/// A small one is read in microseconds; a large one away from the threads that serve others.
async fn parse(body: Body) -> Option<(Notification, Body)> {
    let is_small = matches!(body, Body::Small(_));
    let parse = move || Notification::parse(&body).map(|notification| (notification, body));
    if is_small { parse() } else { tokio::task::spawn_blocking(parse).await.ok()? }
}

fn allow(mut answer: Answer, methods: &'static str) -> Answer {
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

/// Counts who was not let in. Without a path it was a connection, which may have been a notification.
pub fn refused(metrics: &Metrics, refusal: Refusal, path: &str) {
    if path == ROUTE || path.is_empty() {
        metrics.turned_away(refusal.word());
    } else {
        tracing::debug!(reason = refusal.word(), path, "turned away");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_has_its_turn_and_keeps_it_though_nobody_waits() {
        let turns = Turns::new();
        let (open, door) = mpsc::channel::<()>();
        let first = turns.take(move || door.recv().is_ok());
        // It has begun, and whoever asked for it is gone.
        assert!(tokio::time::timeout(Duration::from_millis(100), first).await.is_err());
        let mut second = std::pin::pin!(turns.take(|| true));
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err());
        open.send(()).expect("the first still waits");
        assert_eq!(second.await, Some(true));
    }
}
