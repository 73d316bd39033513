//! A pause of automatic failover: as long as a person said, whatever becomes of the wall clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::state::{PathState, Timestamp};

/// What the end by the wall clock is checked against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseClock {
    since: Timestamp,
    boot: String,
    /// Where that boot lasts: seconds since it.
    until_uptime: u64,
}

impl PathState {
    pub fn pause(&mut self, time: Duration, now: &Moment) {
        let seconds = time.as_secs();
        self.paused_until = Some(Timestamp(now.wall.0.saturating_add(seconds)));
        self.pause_clock = Some(PauseClock {
            since: now.wall,
            boot: now.boot.clone(),
            until_uptime: now.uptime.saturating_add(seconds),
        });
    }

    /// How much of the pause is left; `None` where there is none.
    ///
    /// In the same boot the wall clock is not asked. After a reboot it is, for nothing else knows
    /// how long the machine was off; but that boot's own time has passed for certain, whatever a
    /// clock that is behind says.
    pub fn pause_left(&self, now: &Moment) -> Option<Duration> {
        let until = self.paused_until?.0;
        let left = match &self.pause_clock {
            Some(clock) if clock.boot == now.boot => clock.until_uptime.checked_sub(now.uptime),
            Some(clock) => {
                let length = until.saturating_sub(clock.since.0);
                until.checked_sub(now.wall.0).min(length.checked_sub(now.uptime))
            }
            // A state of before there was a clock to check against.
            None => until.checked_sub(now.wall.0),
        };
        left.filter(|left| *left > 0).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;
    const HOUR: u64 = 3600;
    const WALL: u64 = 1_800_000_000;

    fn at(wall: u64, boot: &str, uptime: u64) -> Moment {
        Moment { wall: Timestamp(wall), boot: boot.to_owned(), uptime }
    }

    /// What is left, in seconds, of an hour's pause that began at `WALL`, 500 s after boot `a`.
    fn left(now: &Moment) -> u64 {
        let mut state = PathState::new("primary".parse().expect("a name"));
        state.pause(Duration::from_secs(HOUR), &at(WALL, "a", 500));
        state.pause_left(now).map_or(0, |left| left.as_secs())
    }

    #[test]
    fn a_pause_lasts_as_long_as_was_said() {
        assert_eq!(left(&at(WALL, "a", 500)), HOUR);
        assert_eq!(left(&at(WALL + 600, "a", 1100)), HOUR - 600);
        assert_eq!(left(&at(WALL + HOUR, "a", 500 + HOUR)), 0);
        assert_eq!(left(&at(WALL + DAY, "a", 500 + DAY)), 0);
    }

    #[test]
    fn a_step_of_the_clock_neither_ends_a_pause_nor_prolongs_it() {
        for wall in [0, WALL - DAY, WALL + DAY] {
            assert_eq!(left(&at(wall, "a", 1100)), HOUR - 600, "{wall}");
            assert_eq!(left(&at(wall, "a", 500 + HOUR)), 0, "{wall}");
        }
    }

    #[test]
    fn over_a_reboot_the_wall_clock_counts_unless_it_is_behind() {
        assert_eq!(left(&at(WALL + 600, "b", 20)), HOUR - 600);
        assert_eq!(left(&at(WALL + HOUR, "b", 20)), 0);
        // A board without a clock of its own: never for ever, and not cut short.
        for wall in [0, WALL - DAY, WALL - HOUR] {
            assert_eq!(left(&at(wall, "b", 20)), HOUR - 20, "{wall}");
            assert_eq!(left(&at(wall + HOUR, "b", HOUR)), 0, "{wall}");
        }
    }

    #[test]
    fn a_pause_of_an_older_state_goes_by_the_wall_clock() {
        let mut state = PathState::new("primary".parse().expect("a name"));
        state.paused_until = Some(Timestamp(WALL + HOUR));
        let left = |wall| state.pause_left(&at(wall, "a", 5));
        assert_eq!(left(WALL), Some(Duration::from_secs(HOUR)));
        assert_eq!(left(WALL + HOUR), None);
    }
}
