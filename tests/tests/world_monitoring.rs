//! The lab itself: real Prometheus and Alertmanager in the world.

use std::time::Duration;

use lab::{Instances, World, eventually};

const SOON: Duration = Duration::from_secs(30);

const PROMETHEUS: &str = "
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: itself
    static_configs: [{targets: ['127.0.0.1:9090']}]
";

const ALERTMANAGER: &str = "
route: {receiver: nobody}
receivers: [{name: nobody}]
";

#[test]
fn prometheus_scrapes_and_answers() {
    lab::inside("prometheus_scrapes_and_answers", |world| {
        let mut prometheus = world.start_prometheus(PROMETHEUS);
        let query = format!("http://{}/api/v1/query?query=up", World::PROMETHEUS);
        eventually(SOON, "it has scraped itself", || {
            let body = world.http_get(&query)?.body;
            if body.contains(r#""1"]"#) { Ok(()) } else { Err(body) }
        });
        prometheus.stop();
        assert!(world.http_get(&query).is_err());
    });
}

#[test]
fn two_alertmanagers_share_what_one_is_told() {
    lab::inside("two_alertmanagers_share_what_one_is_told", |world| {
        let running = world.start_alertmanager(ALERTMANAGER, Instances::Two);
        let silence = r#"{"matchers": [{"name": "alertname", "value": "X", "isRegex": false}],
            "startsAt": "2020-01-01T00:00:00Z", "endsAt": "2099-01-01T00:00:00Z",
            "createdBy": "lab", "comment": "seen by both"}"#;
        let url = |index: usize| format!("http://{}/api/v2/silences", running.addresses[index]);
        let answer = world.http_post(&url(0), silence, Some("not asked for")).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        eventually(SOON, "the other one has heard of it", || {
            let body = world.http_get(&url(1))?.body;
            if body.contains("seen by both") { Ok(()) } else { Err(body) }
        });
    });
}
