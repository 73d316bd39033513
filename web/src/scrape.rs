//! How long Prometheus waits for a page.

use std::time::Duration;

use crate::server::Request;

/// Prometheus' default scrape timeout, where a client does not announce one.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Nobody waits longer, whatever a client announces.
const LONGEST: Duration = Duration::from_secs(30);

/// Left for the answer to travel.
const MARGIN: Duration = Duration::from_millis(200);

pub fn scrape_timeout(request: &Request) -> Duration {
    let announced = request.headers().get("X-Prometheus-Scrape-Timeout-Seconds");
    let seconds = announced.and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
    let announced = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    announced.unwrap_or(SCRAPE_TIMEOUT).min(LONGEST).saturating_sub(MARGIN)
}
