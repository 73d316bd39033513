//! The clocks. The wall clock can be stepped, by a person, a time server or a board that starts in
//! the past; time since boot cannot, and ends with the boot. What waits goes by the second where it
//! can, so that a step neither ends a wait nor makes it last.

use std::fs;
use std::ops::Add;
use std::sync::OnceLock;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::state::Timestamp;

/// Time since boot, suspend included. `Instant` stands still while the machine sleeps, and then
/// evidence of hours ago would pass for a moment old.
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

    pub fn as_secs(self) -> u64 {
        self.0.as_secs()
    }
}

impl Add<Duration> for Uptime {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

/// A moment by both clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub wall: Timestamp,
    /// Which boot it is; another one has another name, at random.
    pub boot: String,
    /// Seconds since that boot.
    pub uptime: u64,
}

impl Moment {
    pub fn now() -> Self {
        static BOOT: OnceLock<String> = OnceLock::new();
        // Where the kernel does not say, every boot is the same one: the wall clock is not asked.
        let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            wall: Timestamp::now(),
            boot: BOOT.get_or_init(read).trim().to_owned(),
            uptime: Uptime::now().as_secs(),
        }
    }
}
