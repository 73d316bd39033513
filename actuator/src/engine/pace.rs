//! When a silent tunnel is no evidence yet: right after the machine slept, right after an uplink came
//! back, and right after it was up though an alert said otherwise. An alert from before that finds
//! nothing to act on until the tunnel had time to return.
//!
//! Not by how far the daemon's own cycles are apart: many dead candidates of one path take a while,
//! and must not hold up another.

use std::time::{Duration, Instant};

use egress::clock::Uptime;

/// Two clocks are read one after the other, on a machine that may be busy.
const SLEPT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Pace {
    /// The latest look, by the clock that goes on while the machine sleeps and by the one that
    /// stands still.
    looked: (Uptime, Instant),
    calm_until: Uptime,
    /// An alert found the tunnel up. It may be told again for minutes, also of another outage, of which
    /// nobody has seen a run of cycles yet.
    contradicted: bool,
}

impl Pace {
    pub fn new(now: (Uptime, Instant)) -> Self {
        Self { looked: now, calm_until: now.0, contradicted: false }
    }

    /// Whether it is too early to call the tunnel down.
    pub fn is_settling(&mut self, now: (Uptime, Instant), settle: Duration) -> bool {
        let awake = now.1.saturating_duration_since(self.looked.1);
        if now.0.since(self.looked.0) > awake + SLEPT {
            self.calm_until = now.0 + settle;
        }
        self.looked = now;
        now.0 < self.calm_until
    }

    pub fn found_up(&mut self) {
        self.contradicted = true;
    }

    /// Whether a look that has found the tunnel down by now is too early; the first one begins the wait.
    /// Two looks may go on at once, and what one of them begins holds for the other.
    pub fn is_too_early(&mut self, now: Uptime, settle: Duration) -> bool {
        if std::mem::take(&mut self.contradicted) {
            self.calm_until = now + settle;
        }
        now < self.calm_until
    }

    pub fn uplink_is_down(&mut self, now: Uptime, settle: Duration) {
        self.calm_until = now + settle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(10);
    const HOUR: Duration = Duration::from_secs(3600);

    /// So long after `start` by each of the two clocks.
    fn after(start: (Uptime, Instant), boot: Duration, awake: Duration) -> (Uptime, Instant) {
        (start.0 + boot, start.1 + awake)
    }

    #[test]
    fn what_was_asked_before_a_suspend_waits_after_it() {
        let start = (Uptime::now(), Instant::now());
        let mut pace = Pace::new(start);
        assert!(!pace.is_settling(start, SETTLE), "a start is no reason to wait");
        let busy = after(start, HOUR, HOUR);
        assert!(!pace.is_settling(busy, SETTLE), "held up, and not asleep");
        let resumed = after(busy, HOUR, Duration::ZERO);
        assert!(pace.is_settling(resumed, SETTLE));
        let soon = after(resumed, SETTLE / 2, SETTLE / 2);
        assert!(pace.is_settling(soon, SETTLE), "not for one look only");
        assert!(!pace.is_settling(after(resumed, SETTLE, SETTLE), SETTLE));
    }

    #[test]
    fn s4_what_found_the_tunnel_up_waits_when_it_is_down_after_all() {
        let start = (Uptime::now(), Instant::now());
        let mut pace = Pace::new(start);
        assert!(!pace.is_too_early(start.0, SETTLE), "nobody said otherwise");
        pace.found_up();
        let down = after(start, HOUR, HOUR);
        assert!(!pace.is_settling(down, SETTLE), "nothing is down yet");
        assert!(pace.is_too_early(down.0, SETTLE));
        assert!(pace.is_too_early(down.0, SETTLE), "nor for who looked at the same time");
        let soon = after(down, SETTLE / 2, SETTLE / 2);
        assert!(pace.is_settling(soon, SETTLE) && pace.is_too_early(soon.0, SETTLE));
        let late = after(down, SETTLE, SETTLE);
        assert!(!pace.is_settling(late, SETTLE), "the wait is not begun anew");
        assert!(!pace.is_too_early(late.0, SETTLE));
    }

    #[test]
    fn what_was_asked_while_an_uplink_was_down_waits_when_it_is_back() {
        let start = (Uptime::now(), Instant::now());
        let mut pace = Pace::new(start);
        pace.uplink_is_down(start.0, SETTLE);
        assert!(pace.is_settling(after(start, SETTLE / 2, SETTLE / 2), SETTLE));
        assert!(!pace.is_settling(after(start, SETTLE, SETTLE), SETTLE));
    }
}
