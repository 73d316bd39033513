//! One clock for all processes of the lab: an `Instant` cannot be exchanged between them.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The time since some moment that is the same for all processes of the machine.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .unwrap_or_else(|error| panic!("reading the clock: {error}"));
    Duration::from(now)
}

/// The same moment by both clocks.
pub(crate) struct Clock {
    instant: Instant,
    monotonic: Duration,
}

impl Clock {
    pub(crate) fn read() -> Self {
        Self { instant: Instant::now(), monotonic: monotonic() }
    }

    /// A moment of the past, written down by another process in nanoseconds.
    pub(crate) fn instant(&self, nanoseconds: u64) -> Instant {
        let ago = self.monotonic.saturating_sub(Duration::from_nanos(nanoseconds));
        self.instant.checked_sub(ago).unwrap_or(self.instant)
    }
}
