//! Outages of a path's endpoints: what was sent before, what still answered, how long each lasted.
//!
//! The evidence that tells an IDS/IPS block from a dead provider (`DESIGN.md`, section 11). A
//! failover ends the outage of the path, not the measurement: the endpoint goes on being probed.
//! Measures only: the recording rules name the cause, and nothing acts on it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use egress::clock::Uptime;
use egress::health::Verdict;
use egress::names::EndpointName;
use egress::probe::HandshakeOutcome;
use egress::run::GAP;
use egress::state::Timestamp;

/// The throughput before an onset is a mean over this long: longer than a burst, shorter than the
/// hours that a busy line stays busy.
const WINDOW: Duration = Duration::from_secs(300);

/// An outage that lasts longer tells nothing about a block time any more, and its endpoint is asked
/// as seldom as any other standby.
const WATCHED: Duration = Duration::from_secs(900);

/// A peer that lives and forwards nothing answers our data with a keepalive after ten seconds. After
/// fifteen the server shakes hands anew by itself, which a block of one direction lets in.
const FLAT: Duration = Duration::from_secs(14);

/// What one cycle showed of the active endpoint.
#[derive(Debug)]
pub struct Seen<'a> {
    pub now: Uptime,
    pub interval: Duration,
    pub active: &'a EndpointName,
    pub verdict: &'a Verdict,
    pub traffic: Option<Traffic>,
}

/// The device's counters for its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
}

/// What one endpoint answered beside the tunnel; `None`: was not asked.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub handshake: Option<HandshakeOutcome>,
    pub echo: Option<bool>,
    /// Something was to be asked and could not be, for a reason on this host.
    pub failed: bool,
}

impl Asked {
    fn shook_hands(&self) -> Option<bool> {
        let outcome = self.handshake.as_ref()?;
        Some(matches!(outcome, HandshakeOutcome::Completed { .. }))
    }
}

/// What spoke for which cause. `None`: not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs {
    /// A handshake from a fresh socket, while the tunnel was silent.
    pub handshake: Option<bool>,
    /// The endpoint's host said no: it is there, and nothing on the way swallowed the question.
    pub refused: Option<bool>,
    /// An echo to the endpoint; known only where it answered one before the outage.
    pub echo: Option<bool>,
    /// Another endpoint shook hands.
    pub standby: Option<bool>,
    /// Anything at all came in by the tunnel in the first seconds.
    pub received: Option<bool>,
    /// The uplink was found to be down while it lasted.
    pub uplink_down: bool,
}

impl Signs {
    /// As the label `sign` has them.
    pub fn named(self) -> [(&'static str, Option<bool>); 6] {
        [
            ("handshake", self.handshake),
            ("refused", self.refused),
            ("echo", self.echo),
            ("standby", self.standby),
            ("received", self.received),
            ("uplink_down", Some(self.uplink_down)),
        ]
    }
}

/// One outage of one endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Outage {
    pub onset_at: Timestamp,
    /// Sent to the endpoint since the device was pointed at it or its last outage began.
    pub sent_bytes: u64,
    /// Mean over the minutes before, bytes per second.
    pub throughput: f64,
    pub signs: Signs,
    /// `None`: it lasts.
    pub lasted: Option<Duration>,
    onset: Uptime,
    /// Whether the endpoint answered an echo before.
    echoed: bool,
    /// The device's count when it began.
    received_before: Option<u64>,
}

/// What became known, for the histograms.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Began { endpoint: EndpointName, sent_bytes: u64, throughput: f64 },
    Ended { endpoint: EndpointName, lasted: Duration },
}

#[derive(Debug, Clone, Default)]
pub struct Outages {
    latest: BTreeMap<EndpointName, Outage>,
    half_open: BTreeMap<EndpointName, Duration>,
    echoes: BTreeMap<EndpointName, bool>,
    active: Option<EndpointName>,
    /// Whether the latest cycle found the active endpoint up.
    was_up: bool,
    /// When, and the device's counters, up to [`WINDOW`] ago.
    window: VecDeque<(Uptime, Traffic)>,
    /// The device's count of sent bytes from which `sent_bytes` counts.
    mark: u64,
}

impl Outages {
    pub fn latest(&self) -> impl Iterator<Item = (&EndpointName, &Outage)> {
        self.latest.iter()
    }

    pub fn half_open(&self, endpoint: &EndpointName) -> Duration {
        self.half_open.get(endpoint).copied().unwrap_or_default()
    }

    /// Whether its end is being waited for closely.
    pub fn watches(&self, endpoint: &EndpointName, now: Uptime) -> bool {
        self.latest
            .get(endpoint)
            .is_some_and(|outage| outage.lasted.is_none() && now.since(outage.onset) < WATCHED)
    }

    /// When the endpoint's outage began, while it lasts.
    pub fn onset(&self, endpoint: &EndpointName) -> Option<Uptime> {
        let outage = self.latest.get(endpoint)?;
        outage.lasted.is_none().then_some(outage.onset)
    }

    /// Forgets endpoints that are no longer configured.
    pub fn retain(&mut self, configured: impl Fn(&EndpointName) -> bool) {
        self.latest.retain(|name, _| configured(name));
        self.half_open.retain(|name, _| configured(name));
        self.echoes.retain(|name, _| configured(name));
    }

    pub fn cycle(&mut self, seen: &Seen) -> Option<Event> {
        self.follow(seen);
        let event = match seen.verdict {
            Verdict::Up => self.end(seen.active, seen.now),
            Verdict::TunnelDown(_) if self.was_up => Some(self.begin(seen)),
            Verdict::UplinkDown(_) => {
                let open = self.latest.values_mut().filter(|outage| outage.lasted.is_none());
                open.for_each(|outage| outage.signs.uplink_down = true);
                None
            }
            _ => None,
        };
        if event.is_none() {
            self.note_received(seen);
        }
        self.was_up = matches!(seen.verdict, Verdict::Up);
        event
    }

    /// Keeps the window and the half-open time; both end with a switch, a gap and a device that
    /// counts anew.
    fn follow(&mut self, seen: &Seen) {
        let last = self.window.back().copied();
        let anew = |(at, before): (Uptime, Traffic)| {
            seen.now.since(at) > seen.interval * GAP
                || seen.traffic.is_some_and(|now| now.sent < before.sent)
        };
        if self.active.as_ref() != Some(seen.active) || last.is_some_and(anew) {
            self.window.clear();
            self.active = Some(seen.active.clone());
            self.was_up = false;
            // A switch begins at nothing; a program that has just started has not seen the rest.
            self.mark = 0;
        }
        let Some(traffic) = seen.traffic else { return };
        if let Some((at, before)) = self.window.back()
            && traffic.sent > before.sent
            && traffic.received == before.received
        {
            *self.half_open.entry(seen.active.clone()).or_default() += seen.now.since(*at);
        }
        self.window.push_back((seen.now, traffic));
        while self.window.front().is_some_and(|(at, _)| seen.now.since(*at) > WINDOW) {
            self.window.pop_front();
        }
    }

    fn begin(&mut self, seen: &Seen) -> Event {
        // Up to the cycle before: what was sent into the block is no cause of it.
        let good = self.window.len().saturating_sub(2);
        let (first, last) = (self.window.front(), self.window.get(good));
        let (sent_bytes, throughput) = match (first, last) {
            (Some((from, first)), Some((to, last))) => {
                let time = to.since(*from).as_secs_f64();
                #[allow(clippy::cast_precision_loss)] // exact up to 2^53
                let bytes = last.sent.saturating_sub(first.sent) as f64;
                (last.sent.saturating_sub(self.mark), if time > 0.0 { bytes / time } else { 0.0 })
            }
            _ => (0, 0.0),
        };
        if let Some(traffic) = seen.traffic {
            self.mark = traffic.sent;
        }
        let endpoint = seen.active.clone();
        let outage = Outage {
            onset_at: Timestamp::now(),
            sent_bytes,
            throughput,
            signs: Signs::default(),
            lasted: None,
            onset: seen.now,
            echoed: self.echoes.get(&endpoint).copied().unwrap_or(false),
            received_before: seen.traffic.map(|traffic| traffic.received),
        };
        self.latest.insert(endpoint.clone(), outage);
        Event::Began { endpoint, sent_bytes, throughput }
    }

    fn end(&mut self, endpoint: &EndpointName, now: Uptime) -> Option<Event> {
        let outage = self.latest.get_mut(endpoint).filter(|outage| outage.lasted.is_none())?;
        let lasted = now.since(outage.onset);
        outage.lasted = Some(lasted);
        Some(Event::Ended { endpoint: endpoint.clone(), lasted })
    }

    fn note_received(&mut self, seen: &Seen) {
        let Some(outage) = self.latest.get_mut(seen.active) else { return };
        let (None, Some(traffic)) = (outage.lasted, seen.traffic) else { return };
        let Some(before) = outage.received_before else { return };
        if seen.now.since(outage.onset) > FLAT {
            return;
        }
        // Once something came, the tunnel was no closed door.
        let came = traffic.received > before || outage.signs.received == Some(true);
        outage.signs.received = Some(came);
    }

    /// What an endpoint answered beside the tunnel. `in_use`: the device is at it.
    pub fn asked(
        &mut self,
        endpoint: &EndpointName,
        asked: &Asked,
        in_use: bool,
        now: Uptime,
    ) -> Option<Event> {
        let shook = asked.shook_hands();
        for (name, outage) in &mut self.latest {
            if name != endpoint && outage.lasted.is_none() && shook.is_some() {
                // One that answers is enough.
                outage.signs.standby =
                    Some(shook == Some(true) || outage.signs.standby == Some(true));
            }
        }
        let open = self.latest.get_mut(endpoint).filter(|outage| outage.lasted.is_none());
        let Some(outage) = open else {
            self.echoes.extend(asked.echo.map(|echo| (endpoint.clone(), echo)));
            return None;
        };
        if outage.echoed {
            outage.signs.echo = outage.signs.echo.or(asked.echo);
        }
        if let Some(outcome) = &asked.handshake {
            // Hosts say no only so often: once is enough.
            let refused = matches!(outcome, HandshakeOutcome::Refused(_));
            outage.signs.refused = Some(refused || outage.signs.refused == Some(true));
        }
        if !in_use {
            // The tunnel is elsewhere: the endpoint itself is back.
            return if shook == Some(true) { self.end(endpoint, now) } else { None };
        }
        outage.signs.handshake = outage.signs.handshake.or(shook);
        None
    }
}

#[cfg(test)]
#[path = "outage_tests.rs"]
mod tests;
