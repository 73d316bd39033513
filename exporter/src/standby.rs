//! What the endpoints answer beside the tunnel: a real handshake with each that is not in use, and
//! an echo from each.

use std::collections::BTreeMap;
use std::thread;

use egress::clock::Uptime;
use egress::config::{Endpoint, PathConfig, ProbeInterval};
use egress::error::chain;
use egress::health::Verdict;
use egress::names::EndpointName;
use egress::observe::{echo_endpoint, shake_hands};
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
    /// Asks the one that is due and has waited longest, and says what it was asked; `None`: nobody
    /// is due. One at a time: a dead one takes its whole timeout, and by the next the path may have
    /// been switched.
    pub fn look(&mut self, round: &Round) -> Option<(EndpointName, Asked)> {
        // A stopped path lets no probe out, an absent uplink carries none: neither tells anything
        // about an endpoint, so what was known before is dropped rather than kept as if new.
        let blind = matches!(round.verdict, Verdict::Stopped | Verdict::UplinkDown(_));
        if blind || round.active.is_none() {
            self.latest.clear();
            return None;
        }
        let path = round.path;
        // An endpoint that left the config, or is not asked any more, leaves no series behind.
        self.latest.retain(|name, _| {
            path.endpoint(name).is_some_and(|one| path.probe_interval(one) != ProbeInterval::Off)
        });
        let (endpoint, in_use) = self.next(round)?;
        let at = Uptime::now();
        let asked = ask(path, endpoint, in_use);
        let answers = Answers { at, in_use, asked: asked.clone() };
        self.latest.insert(endpoint.name.clone(), answers);
        Some((endpoint.name.clone(), asked))
    }

    /// Who is asked next, and whether the tunnel is at it and works. A handshake is asked of every
    /// standby, and of the active endpoint only while its tunnel does not answer, because a handshake
    /// from a second socket makes a working peer roam away. An endpoint that is the same peer by
    /// another address counts as the active one.
    fn next<'a>(&self, round: &Round<'a>) -> Option<(&'a Endpoint, bool)> {
        let down = matches!(round.verdict, Verdict::TunnelDown(_));
        let live = round.active.and_then(|active| round.path.endpoint(active));
        let all = round.path.endpoints.iter().map(|endpoint| {
            (endpoint, !down && live.is_some_and(|live| live.is_same_peer(endpoint)))
        });
        all.filter(|(endpoint, in_use)| self.due(round, endpoint, *in_use))
            .min_by_key(|(endpoint, _)| self.latest.get(&endpoint.name).map(|answers| answers.at))
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

#[cfg(test)]
mod tests {
    use std::fs;

    use egress::config::Config;
    use egress::health::Verdict;

    use super::*;

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=";

    /// A path with three endpoints, all of them due at any time.
    fn path() -> PathConfig {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("key");
        fs::write(&file, KEY).expect("written");
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("its own");
        let endpoint = |name: &str, last: u8| {
            format!(
                "      - {{name: {name}, address: \"198.51.100.{last}:51820\", private_key_file: \"{}\", \
                 public_key: \"{}\"}}\n",
                file.display(),
                KEY.replacen('A', &char::from(b'A' + last).to_string(), 1),
            )
        };
        let endpoints: String =
            [("a", 1), ("b", 2), ("c", 3)].map(|(n, l)| endpoint(n, l)).concat();
        let text = format!(
            "paths:\n  - name: media\n    interface: wg0\n    fwmark: 1\n    \
             health: {{standby_interval: 1ms}}\n    endpoints:\n{endpoints}"
        );
        let config = Config::of_text(&directory.path().join("egress.yml"), text);
        config.expect("a config").paths.remove(0)
    }

    #[test]
    fn who_has_waited_longest_is_next_so_that_dead_ones_keep_nobody_else_waiting() {
        let path = path();
        let active = path.endpoints[0].name.clone();
        let round = Round {
            path: &path,
            active: Some(&active),
            verdict: &Verdict::Up,
            watched: Vec::new(),
            onset: None,
        };
        let mut standbys = Standbys::default();
        let mut order = Vec::new();
        for _ in 0..6 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            let (endpoint, in_use) = standbys.next(&round).expect("one is due");
            assert_eq!(in_use, endpoint.name == active, "only the active one is in use");
            let answers = Answers { at: Uptime::now(), in_use, asked: Asked::default() };
            standbys.latest.insert(endpoint.name.clone(), answers);
            order.push(endpoint.name.to_string());
        }
        assert_eq!(order, ["a", "b", "c", "a", "b", "c"]);
    }
}
