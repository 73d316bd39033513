//! Whether the endpoints that are not in use would answer: a real handshake with each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use egress::config::{Endpoint, PathConfig};
use egress::health::Verdict;
use egress::names::EndpointName;
use egress::observe::{chain, shake_hands};
use egress::probe::HandshakeOutcome;

#[derive(Debug, Default)]
pub struct Standbys {
    latest: BTreeMap<EndpointName, (Instant, Option<HandshakeOutcome>)>,
}

impl Standbys {
    /// Probes what is due: every standby, and the active endpoint only while its tunnel does not
    /// answer, because a handshake from a second socket makes a working peer roam away.
    pub fn look(&mut self, path: &PathConfig, active: Option<&EndpointName>, verdict: &Verdict) {
        let down = matches!(verdict, Verdict::TunnelDown(_));
        // A stopped path lets no probe out, an absent uplink carries none: neither tells anything
        // about an endpoint, so what was known before is dropped rather than kept as if new.
        if matches!(verdict, Verdict::Stopped | Verdict::UplinkDown(_)) || active.is_none() {
            self.latest.clear();
            return;
        }
        // An endpoint that left the config leaves no series behind.
        self.latest.retain(|name, _| path.endpoint(name).is_some());
        for endpoint in &path.endpoints {
            let is_active = active == Some(&endpoint.name);
            if is_active && !down {
                self.latest.remove(&endpoint.name);
            } else if self.due(&endpoint.name, path.health.standby_interval) {
                let outcome = probe(path, endpoint);
                self.latest.insert(endpoint.name.clone(), (Instant::now(), outcome));
            }
        }
    }

    pub fn latest(&self) -> BTreeMap<EndpointName, Option<HandshakeOutcome>> {
        let outcome = |(name, (_, outcome)): (&EndpointName, &(Instant, _))| {
            (name.clone(), Clone::clone(outcome))
        };
        self.latest.iter().map(outcome).collect()
    }

    fn due(&self, endpoint: &EndpointName, interval: Duration) -> bool {
        self.latest.get(endpoint).is_none_or(|(at, _)| at.elapsed() >= interval)
    }
}

fn probe(path: &PathConfig, endpoint: &Endpoint) -> Option<HandshakeOutcome> {
    match shake_hands(path, endpoint) {
        Ok(outcome) => Some(outcome),
        Err(error) => {
            let error = chain(error);
            tracing::debug!(path = %path.name, endpoint = %endpoint.name, error, "not probed");
            None
        }
    }
}
