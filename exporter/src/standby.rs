//! What the endpoints answer beside the tunnel: a real handshake with each that is not in use, and
//! an echo from each.

use std::collections::BTreeMap;
use std::thread;

use egress::clock::Uptime;
use egress::config::{Endpoint, PathConfig, ProbeInterval};
use egress::health::Verdict;
use egress::names::EndpointName;
use egress::observe::{chain, echo_endpoint, shake_hands};
use egress::probe::{ProbeError, Reply};

use crate::outage::Asked;

#[derive(Debug, Default)]
pub struct Standbys {
    latest: BTreeMap<EndpointName, Answers>,
}

#[derive(Debug)]
struct Answers {
    at: Uptime,
    /// Whether the tunnel was at the endpoint, and worked.
    in_use: bool,
    asked: Asked,
}

/// Who is asked what, and how soon again.
pub struct Round<'a> {
    pub path: &'a PathConfig,
    pub active: Option<&'a EndpointName>,
    pub verdict: &'a Verdict,
    /// Endpoints that are out, and whose return is awaited: asked each cycle.
    pub watched: Vec<EndpointName>,
    /// When the outage of the active endpoint began: what was answered before tells nothing of it.
    pub onset: Option<Uptime>,
}

impl Standbys {
    /// Asks what is due, and says what was asked: a handshake of every standby, and of the active
    /// endpoint only while its tunnel does not answer, because a handshake from a second socket
    /// makes a working peer roam away. An endpoint that is the same peer by another address counts
    /// as the active one.
    pub fn look(&mut self, round: &Round) -> Vec<(EndpointName, Asked)> {
        let Round { path, active, verdict, .. } = round;
        let down = matches!(verdict, Verdict::TunnelDown(_));
        // A stopped path lets no probe out, an absent uplink carries none: neither tells anything
        // about an endpoint, so what was known before is dropped rather than kept as if new.
        if matches!(verdict, Verdict::Stopped | Verdict::UplinkDown(_)) || active.is_none() {
            self.latest.clear();
            return Vec::new();
        }
        // An endpoint that left the config, or is not asked any more, leaves no series behind.
        self.latest.retain(|name, _| {
            path.endpoint(name).is_some_and(|one| path.probe_interval(one) != ProbeInterval::Off)
        });
        let live = active.and_then(|active| path.endpoint(active));
        let mut asked = Vec::new();
        for endpoint in &path.endpoints {
            let in_use = !down && live.is_some_and(|live| live.is_same_peer(endpoint));
            if !self.due(round, endpoint, in_use) {
                continue;
            }
            let started = Uptime::now();
            let answer = ask(path, endpoint, in_use);
            let answers = Answers { at: started, in_use, asked: answer.clone() };
            self.latest.insert(endpoint.name.clone(), answers);
            asked.push((endpoint.name.clone(), answer));
        }
        asked
    }

    pub fn latest(&self) -> BTreeMap<EndpointName, Asked> {
        self.latest.iter().map(|(name, answers)| (name.clone(), answers.asked.clone())).collect()
    }

    fn due(&self, round: &Round, endpoint: &Endpoint, in_use: bool) -> bool {
        let ProbeInterval::Every(usual) = round.path.probe_interval(endpoint) else {
            return false;
        };
        let Some(answers) = self.latest.get(&endpoint.name) else {
            return true;
        };
        // The tunnel shows by itself when the active endpoint is back; and an answer to each of our
        // handshakes would keep the server from the keepalives that show that it lives.
        let active = round.active == Some(&endpoint.name);
        let watched = round.watched.contains(&endpoint.name) && !active;
        let interval = if watched { round.path.health.interval } else { usual };
        // Into use or out of use: what is known is of the other kind.
        answers.in_use != in_use
            || answers.at.elapsed() >= interval
            || round.onset.is_some_and(|onset| answers.at < onset)
    }
}

fn ask(path: &PathConfig, endpoint: &Endpoint, in_use: bool) -> Asked {
    let told = |error: ProbeError| {
        let error = chain(error);
        tracing::debug!(path = %path.name, endpoint = %endpoint.name, error, "not probed");
    };
    // Both at once: of an endpoint that is silent each takes its whole timeout.
    let (handshake, echo) = thread::scope(|scope| {
        let echo = scope.spawn(|| echo_endpoint(path, endpoint).map_err(told));
        let handshake = (!in_use).then(|| shake_hands(path, endpoint).map_err(told));
        (handshake, echo.join().unwrap_or(Err(())))
    });
    Asked {
        failed: echo.is_err() || matches!(handshake, Some(Err(()))),
        handshake: handshake.and_then(Result::ok),
        echo: echo.ok().map(|outcome| matches!(outcome, Reply::Answered { .. })),
    }
}
