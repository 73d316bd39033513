//! Time since boot, suspend included. `Instant` stands still while the machine sleeps, and then
//! evidence of hours ago would pass for a moment old.

use std::ops::Add;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    pub fn now() -> Self {
        let at = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has it since 2.6.39");
        Self(at.into())
    }

    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

impl Add<Duration> for Uptime {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}
