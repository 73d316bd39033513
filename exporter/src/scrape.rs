//! Routes: the metrics path (default `/metrics`), `/-/healthy`, `/-/ready`, and a landing page.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, StatusCode};
use web::{Answer, Request, answer};

use crate::collect::Collect;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub struct Scrapes {
    pub collect: Arc<Collect>,
    pub telemetry_path: String,
}

/// Collectors get half of the time that Prometheus waits; the rest is for the page, on a busy machine.
const COLLECTORS: u32 = 2;

impl Scrapes {
    pub async fn answer(&self, request: &Request) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            path if path == self.telemetry_path => self.metrics(web::scrape_timeout(request)).await,
            "/-/healthy" => answer(StatusCode::OK, TEXT, "healthy\n"),
            "/-/ready" if self.collect.cycles.ready() => answer(StatusCode::OK, TEXT, "ready\n"),
            "/-/ready" => {
                answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "no health cycle has ended yet\n")
            }
            "/" => answer(StatusCode::OK, "text/html; charset=utf-8", self.landing()),
            _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        }
    }

    async fn metrics(&self, limit: Duration) -> Answer {
        let collect = Arc::clone(&self.collect);
        let page = tokio::task::spawn_blocking(move || collect.page(limit / COLLECTORS));
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
