//! What the candidates of a failover have answered while the tunnel is down, and when that is enough.

use std::time::Duration;

use egress::clock::Uptime;

/// WireGuard retries a handshake every 5 s, and up to a third of a second later.
const RETURN: Duration = Duration::from_secs(6);

/// What a candidate has shown in this run of down cycles.
#[derive(Debug, Clone, Copy)]
pub struct Probed {
    at: Uptime,
    /// Since when it has answered without a miss.
    alive_since: Option<Uptime>,
    /// It was silent before, in the same run.
    returned: bool,
}

impl Probed {
    pub fn new(before: Option<Self>, alive: bool, at: Uptime) -> Self {
        let silent = |before: Self| before.returned || before.alive_since.is_none();
        Self {
            at,
            alive_since: alive.then(|| before.and_then(|one| one.alive_since).unwrap_or(at)),
            returned: before.is_some_and(silent),
        }
    }

    pub fn answers(&self) -> bool {
        self.alive_since.is_some()
    }

    /// How long ago it was asked.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// Where everything was dead and comes back, the tunnel comes back too, a handshake's retry
    /// later than a probe: it is given that time, or the end of an outage would cost a switch (S5).
    pub fn counts(&self, now: Uptime) -> bool {
        self.alive_since.is_some_and(|since| !self.returned || now.since(since) >= RETURN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a candidate with these answers, two seconds apart, counts after the last of them.
    fn counts(answers: &[bool]) -> bool {
        let mut at = Uptime::now();
        let mut probed = None;
        for alive in answers {
            at = at + Duration::from_secs(2);
            probed = Some(Probed::new(probed, *alive, at));
        }
        probed.is_some_and(|probed| probed.counts(at))
    }

    #[test]
    fn s5_a_candidate_that_returns_with_everything_else_is_given_time() {
        assert!(counts(&[true]), "never silent: an ordinary failover does not wait");
        assert!(counts(&[true, true]));
        assert!(!counts(&[false]));
        assert!(!counts(&[false, true]), "just back: the tunnel may be back too");
        assert!(!counts(&[false, true, true, true]));
        assert!(counts(&[false, true, true, true, true]), "six seconds later it is the only one");
        assert!(!counts(&[false, true, true, true, false, true]), "a miss begins anew");
    }
}
