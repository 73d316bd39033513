//! The actuator's metrics: what it counted, and how the paths stand at the scrape.

use std::time::Instant;

use egress::cut::Way;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};
use web::{Exposition, Refusal};

use crate::engine::{PathStatus, Status, Word};
use crate::seldom::Seldom;

pub struct Metrics {
    registry: Registry,
    pub failovers: IntCounterVec,
    pub failover_failures: IntCounterVec,
    pub failover_duration: HistogramVec,
    pub alerts: IntCounterVec,
    rejected: IntCounterVec,
    rejections_told: Seldom,
    pub repairs: IntCounterVec,
    pub set_backs: IntCounterVec,
    pub heartbeat: IntGauge,
}

/// A switch is a few milliseconds, or seconds where candidates have to be asked first.
const BUCKETS: [f64; 10] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 2.5, 10.0];

/// What usually becomes of an alert, each from the first scrape on.
const OUTCOMES: [(&str, &[&str]); 4] = [
    (
        "failover",
        &[
            "switched",
            "recovered",
            "stale_endpoint",
            "already_stopped",
            "hard_stopped",
            "uplink_down",
            "exhausted",
            "no_reachable_standby",
            "paused",
            "unclear",
            "failed",
        ],
    ),
    ("hard-stop", &["hard_stopped", "already_stopped", "already_released", "failed"]),
    ("repair", &["repaired", "intact", "hard_stopped", "failed"]),
    ("heartbeat", &["heartbeat"]),
];

/// Why a notification was turned away, beside who sent it; each from the first scrape on.
const REJECTIONS: [&str; 5] = ["body", "busy", "method", "parse", "too_large"];

/// Every word that can be a `reason` label of a notification turned away.
pub fn rejections() -> impl Iterator<Item = &'static str> {
    REJECTIONS.into_iter().chain(Refusal::ALL.map(Refusal::word))
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels).expect("valid names");
            registry.register(Box::new(counter.clone())).expect("registered once");
            counter
        };
        let failovers = counter(
            "vpn_egress_actuator_failovers_total",
            "Switches to a later endpoint, on an alert.",
            &["path", "from", "to"],
        );
        let failover_failures = counter(
            "vpn_egress_actuator_failover_failures_total",
            "Failovers that were asked for and due, and could not be done.",
            &["path", "reason"],
        );
        let alerts = counter(
            "vpn_egress_actuator_alerts_total",
            "Alerts received, by the action they ask for and what became of them.",
            &["action", "outcome"],
        );
        for (action, outcomes) in OUTCOMES {
            for outcome in outcomes {
                alerts.with_label_values(&[action, outcome]);
            }
        }
        let rejected = counter(
            "vpn_egress_actuator_notifications_rejected_total",
            "Notifications turned away before their alerts were looked at.",
            &["reason"],
        );
        for reason in rejections() {
            rejected.with_label_values(&[reason]);
        }
        let repairs = counter(
            "vpn_egress_actuator_repairs_total",
            "Tables that others had changed or removed, and that were put back.",
            &["path", "table"],
        );
        let set_backs = counter(
            "vpn_egress_actuator_peers_set_back_total",
            "Times that the live peer had roamed from its configured address, and was set back.",
            &["path"],
        );
        let duration = HistogramOpts::new(
            "vpn_egress_actuator_failover_duration_seconds",
            "From an alert's turn to the device being switched.",
        );
        let failover_duration =
            HistogramVec::new(duration.buckets(BUCKETS.to_vec()), &["path"]).expect("valid names");
        registry.register(Box::new(failover_duration.clone())).expect("registered once");
        let heartbeat = IntGauge::new(
            "vpn_egress_actuator_last_heartbeat_timestamp_seconds",
            "Unix time of the latest watchdog alert; 0 is never.",
        )
        .expect("valid name");
        registry.register(Box::new(heartbeat.clone())).expect("registered once");
        Self {
            registry,
            failovers,
            failover_failures,
            failover_duration,
            alerts,
            rejected,
            rejections_told: Seldom::default(),
            repairs,
            set_backs,
            heartbeat,
        }
    }

    /// Counts a notification that was turned away, and tells of it, if seldom.
    pub fn turned_away(&self, reason: &'static str) {
        self.rejected.with_label_values(&[reason]).inc();
        if let Some(unsaid) = self.rejections_told.tell(Instant::now()) {
            tracing::warn!(reason, unsaid, "notification turned away");
        }
    }

    /// Every expected series is there before its first event.
    pub fn prepare(&self, path: &str, endpoints: &[String]) {
        for (from, later) in endpoints.iter().zip(1..) {
            for to in endpoints.iter().skip(later) {
                self.failovers.with_label_values(&[path, from, to]);
            }
        }
        for reason in ["exhausted", "failed", "no_reachable_standby"] {
            self.failover_failures.with_label_values(&[path, reason]);
        }
        for table in ["killswitch", "watch", "stop"] {
            self.repairs.with_label_values(&[path, table]);
        }
        self.set_backs.with_label_values(&[path]);
        self.failover_duration.with_label_values(&[path]);
    }

    pub fn page(&self, status: &Status) -> String {
        let mut page = Exposition::new();
        page.gauge("vpn_egress_actuator_build_info", "Version of the actuator; always 1.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        page.extend(self.registry.gather());
        page.gauge(
            "vpn_egress_actuator_status_age_seconds",
            "How long ago the kernel was read for the series below that tell of paths.",
        )
        .sample(&[], seconds(status.age_seconds));
        page.gauge(
            "vpn_egress_actuator_busy_seconds",
            "How long the act that is under way has taken so far; 0 is none.",
        )
        .sample(&[], seconds(status.busy.as_ref().map_or(0, |busy| busy.seconds)));
        standing(&mut page, &status.paths);
        if let Some(silence) = &status.watchdog {
            page.gauge(
                "vpn_egress_actuator_heartbeat_silent",
                "Whether the watchdog has stayed away for longer than `watchdog.silent_after`.",
            )
            .sample(&[], f64::from(u8::from(silence.silent)));
        }
        page.render()
    }
}

fn standing(page: &mut Exposition, status: &[PathStatus]) {
    let mut desired = page.gauge(
        "vpn_egress_actuator_desired_endpoint",
        "Whether this is the endpoint that state says the path is to use.",
    );
    for one in status.iter().filter(|one| one.active_endpoint.is_some()) {
        for endpoint in &one.endpoints {
            let endpoint = &endpoint.endpoint;
            let is_desired = one.active_endpoint.as_ref() == Some(endpoint);
            let labels = [("path", one.path.as_str()), ("endpoint", endpoint.as_str())];
            desired.sample(&labels, f64::from(u8::from(is_desired)));
        }
    }
    let mut cut = page.gauge(
        "vpn_egress_actuator_cut",
        "Whether the kernel is seen to cut the path by this way for a hard stop.",
    );
    for one in status {
        for way in Way::ALL {
            let is_by = one.cut.as_ref().is_some_and(|cut| cut.by == way);
            cut.sample(&[("path", &one.path), ("by", way.word())], f64::from(u8::from(is_by)));
        }
    }
    let mut gauge = |name, help, value: fn(&PathStatus) -> Option<f64>| {
        let mut family = page.gauge(name, help);
        for one in status {
            if let Some(value) = value(one) {
                family.sample(&[("path", &one.path)], value);
            }
        }
    };
    gauge(
        "vpn_egress_actuator_hard_stop_engaged",
        "Whether the path is cut, tunnel included, until a person releases it.",
        |one| Some(f64::from(u8::from(one.standing == Word::Stopped))),
    );
    gauge(
        "vpn_egress_actuator_latched",
        "Whether a hard stop is on record, in state or in the kernel's own table.",
        |one| Some(f64::from(u8::from(one.latched))),
    );
    gauge(
        "vpn_egress_actuator_locked",
        "Whether the killswitch that is seen in the kernel is the intended one.",
        |one| one.locked.map(|locked| f64::from(u8::from(locked))),
    );
    gauge(
        "vpn_egress_actuator_cut_timestamp_seconds",
        "Unix time since which the kernel is seen to cut the path; 0 is not cut.",
        |one| Some(seconds(one.cut.as_ref().and_then(|cut| cut.since).unwrap_or(0))),
    );
    gauge(
        "vpn_egress_actuator_hard_stop_timestamp_seconds",
        "Unix time at which the hard stop was engaged; 0 is not engaged.",
        |one| Some(seconds(one.stop.as_ref().and_then(|stop| stop.since).unwrap_or(0))),
    );
    gauge(
        "vpn_egress_actuator_exhausted",
        "Whether a failover was due with no later endpoint left.",
        |one| Some(f64::from(u8::from(one.exhausted))),
    );
    gauge(
        "vpn_egress_actuator_paused",
        "Whether automatic failover is paused by a person.",
        |one| Some(f64::from(u8::from(one.paused_until.is_some()))),
    );
    gauge(
        "vpn_egress_actuator_unlocked",
        "Whether a person took the lock off; converge puts it on again.",
        |one| Some(f64::from(u8::from(one.unlocked.is_some()))),
    );
    gauge(
        "vpn_egress_actuator_last_converge_timestamp_seconds",
        "Unix time of the latest converge; 0 is never.",
        |one| Some(seconds(one.last_converge.unwrap_or(0))),
    );
}

/// Exact until the year 285 million.
#[allow(clippy::cast_precision_loss)]
fn seconds(timestamp: u64) -> f64 {
    timestamp as f64
}
