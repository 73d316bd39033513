//! Counts the run of consecutive tunnel-down cycles of the active endpoint (S4).
//!
//! Every other verdict, another active endpoint and a gap in the cycles end the run. How many are
//! too many is for the alerting rules to say.

use std::time::Duration;

use crate::clock::Uptime;
use crate::health::Verdict;
use crate::names::EndpointName;

/// A cycle that comes later than this many intervals after the last one is no successor of it:
/// the machine slept, or the program was held up.
pub const GAP: u32 = 3;

#[derive(Debug)]
pub struct Run {
    interval: Duration,
    settle: Duration,
    /// Until then nothing is called down.
    calm_until: Uptime,
    last: Option<Uptime>,
    down: Option<(EndpointName, u32)>,
}

impl Run {
    pub fn new(interval: Duration, settle: Duration, now: Uptime) -> Self {
        Self { interval, settle, calm_until: now + settle, last: None, down: None }
    }

    /// Goes on at another pace: a config that was converged asks for other cycles.
    pub fn follow(&mut self, interval: Duration, settle: Duration) {
        (self.interval, self.settle) = (interval, settle);
    }

    /// Whether it is too early to judge: after a start, a resume, an uplink that came back, and
    /// after the last deliberate change of the path, `changed` ago.
    pub fn settling(&mut self, now: Uptime, changed: Option<Duration>) -> bool {
        if self.last.is_some_and(|last| now.since(last) > self.interval * GAP) {
            self.down = None;
            self.calm_until = now + self.settle;
        }
        now < self.calm_until || changed.is_some_and(|age| age < self.settle)
    }

    /// Adds a cycle that ended `now`.
    pub fn note(&mut self, now: Uptime, active: Option<&EndpointName>, verdict: &Verdict) {
        self.last = Some(now);
        if matches!(verdict, Verdict::UplinkDown(_)) {
            self.calm_until = now + self.settle;
        }
        self.down = match (verdict, active) {
            (Verdict::TunnelDown(_), Some(active)) => {
                Some((active.clone(), self.count(active) + 1))
            }
            _ => None,
        };
    }

    /// Consecutive tunnel-down cycles of `endpoint`.
    pub fn count(&self, endpoint: &EndpointName) -> u32 {
        match &self.down {
            Some((down, count)) if down == endpoint => *count,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::DownReason::{HandshakeStale, Unreachable};

    const INTERVAL: Duration = Duration::from_secs(5);
    const SETTLE: Duration = Duration::from_secs(10);

    fn name(text: &str) -> EndpointName {
        text.parse().expect("a name")
    }

    /// The count of `a` after these verdicts, a cycle each interval.
    fn after(verdicts: &[Verdict]) -> u32 {
        let start = Uptime::now();
        let mut run = Run::new(INTERVAL, SETTLE, start);
        for (verdict, at) in verdicts.iter().zip(1..) {
            let now = start + INTERVAL * at;
            run.settling(now, None);
            run.note(now, Some(&name("a")), verdict);
        }
        run.count(&name("a"))
    }

    #[test]
    fn s4_stale_and_unreachable_cycles_add_up_to_one_run() {
        let stale = Verdict::TunnelDown(HandshakeStale);
        let silent = Verdict::TunnelDown(Unreachable);
        assert_eq!(after(&[stale.clone(), silent.clone(), stale, silent]), 4);
    }

    #[test]
    fn s4_every_other_verdict_ends_the_run() {
        let down = || Verdict::TunnelDown(Unreachable);
        let others = [
            Verdict::Up,
            Verdict::UplinkDown("no carrier".into()),
            Verdict::Stopped,
            Verdict::Roamed,
            Verdict::Leak(1),
            Verdict::Unknown("why".into()),
        ];
        for other in others {
            assert_eq!(after(&[down(), down(), other.clone()]), 0, "{other}");
            assert_eq!(after(&[down(), down(), other, down()]), 1);
        }
    }

    #[test]
    fn s4_another_endpoint_begins_its_own_run() {
        let start = Uptime::now();
        let mut run = Run::new(INTERVAL, SETTLE, start);
        let down = Verdict::TunnelDown(Unreachable);
        run.note(start, Some(&name("a")), &down);
        run.note(start, Some(&name("b")), &down);
        assert_eq!((run.count(&name("a")), run.count(&name("b"))), (0, 1));
        run.note(start, None, &down);
        assert_eq!(run.count(&name("b")), 0);
    }

    #[test]
    fn s4_a_gap_ends_the_run_and_what_follows_settles() {
        let start = Uptime::now();
        let mut run = Run::new(INTERVAL, SETTLE, start);
        let down = Verdict::TunnelDown(Unreachable);
        assert!(run.settling(start, None), "a fresh start settles");
        let calm = start + SETTLE;
        assert!(!run.settling(calm, None));
        run.note(calm, Some(&name("a")), &down);
        let resumed = calm + INTERVAL * 100;
        assert!(run.settling(resumed, None));
        assert_eq!(run.count(&name("a")), 0);
    }

    #[test]
    fn s4_a_slower_pace_is_no_gap() {
        let start = Uptime::now();
        let mut run = Run::new(INTERVAL, SETTLE, start);
        let down = Verdict::TunnelDown(Unreachable);
        run.follow(INTERVAL * 5, SETTLE);
        for cycle in 1..=3 {
            let now = start + INTERVAL * 5 * cycle;
            assert!(!run.settling(now, None), "cycle {cycle}");
            run.note(now, Some(&name("a")), &down);
        }
        assert_eq!(run.count(&name("a")), 3);
    }

    #[test]
    fn a_change_and_a_returning_uplink_are_given_time() {
        let start = Uptime::now();
        let mut run = Run::new(INTERVAL, SETTLE, start);
        let later = start + INTERVAL * 3;
        assert!(run.settling(later, Some(Duration::from_secs(9))));
        assert!(!run.settling(later, Some(Duration::from_secs(10))));
        run.note(later, Some(&name("a")), &Verdict::UplinkDown("no carrier".into()));
        assert!(run.settling(later + INTERVAL, None));
        assert!(!run.settling(later + SETTLE, None));
    }
}
