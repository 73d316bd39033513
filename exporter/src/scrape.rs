//! Routes: the metrics path (default `/metrics`), `/-/healthy`, `/-/ready`, and a landing page.

use std::sync::Arc;
use std::time::Duration;

use egress::state::Store;
use hyper::{Method, StatusCode};
use web::{Answer, Request, answer};

use crate::collect;
use crate::current::Current;
use crate::cycles::Cycles;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Prometheus' default scrape timeout, where a client does not announce one.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
/// Left for the answer to travel.
const MARGIN: Duration = Duration::from_millis(200);

pub struct Scrapes {
    pub current: Arc<Current>,
    pub store: Store,
    pub cycles: Cycles,
    pub telemetry_path: String,
}

impl Scrapes {
    pub async fn answer(&self, request: &Request) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
        }
        match request.uri().path() {
            path if path == self.telemetry_path => self.metrics(timeout(request)).await,
            "/-/healthy" => answer(StatusCode::OK, TEXT, "healthy\n"),
            "/-/ready" if self.cycles.ready() => answer(StatusCode::OK, TEXT, "ready\n"),
            "/-/ready" => {
                answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "no health cycle has ended yet\n")
            }
            "/" => answer(StatusCode::OK, "text/html; charset=utf-8", self.landing()),
            _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        }
    }

    async fn metrics(&self, limit: Duration) -> Answer {
        let (current, store, cycles) =
            (Arc::clone(&self.current), self.store.clone(), self.cycles.clone());
        let page = tokio::task::spawn_blocking(move || collect::page(&current, &store, &cycles));
        match tokio::time::timeout(limit, page).await {
            Ok(Ok(page)) => answer(StatusCode::OK, METRICS, page),
            _ => {
                answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the kernel did not answer in time\n")
            }
        }
    }

    fn landing(&self) -> String {
        format!(
            "<!doctype html><title>vpn-egress exporter</title><h1>vpn-egress exporter</h1>\
             <p>Version {}</p><p><a href=\"{path}\">{path}</a></p>",
            env!("CARGO_PKG_VERSION"),
            path = self.telemetry_path,
        )
    }
}

fn timeout(request: &Request) -> Duration {
    let announced = request.headers().get("X-Prometheus-Scrape-Timeout-Seconds");
    let seconds = announced.and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
    let announced = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    announced.unwrap_or(SCRAPE_TIMEOUT).saturating_sub(MARGIN)
}
