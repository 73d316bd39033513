//! How old a handshake is, where the wall clock may be stepped: its time is the wall clock's, the
//! time since this process saw it is not.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::clock::Uptime;

/// What one process has seen of one device.
#[derive(Debug, Default)]
pub struct Handshakes(Mutex<Option<Seen>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: SystemTime,
    /// How old it was when it was first seen.
    age: Duration,
    first: Uptime,
    latest_look: Uptime,
}

impl Handshakes {
    /// The age of the handshake that is the latest one `now`.
    pub fn age(&self, at: SystemTime) -> Duration {
        self.age_by(at, SystemTime::now(), Uptime::now())
    }

    fn age_by(&self, at: SystemTime, now: SystemTime, uptime: Uptime) -> Duration {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let by_wall = now.duration_since(at).unwrap_or_default();
        let next = match *seen {
            Some(same) if same.at == at => Seen { latest_look: uptime, ..same },
            // A new one is no older than the last look, whatever the wall clock says.
            Some(other) => Seen {
                at,
                age: by_wall.min(uptime.since(other.latest_look)),
                first: uptime,
                latest_look: uptime,
            },
            None => Seen { at, age: by_wall, first: uptime, latest_look: uptime },
        };
        *seen = Some(next);
        next.age + uptime.since(next.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn a_step_of_the_clock_does_not_age_a_handshake() {
        let (wall, up) = (SystemTime::now(), Uptime::now());
        for stepped in [wall + DAY, wall - DAY] {
            let handshakes = Handshakes::default();
            assert_eq!(handshakes.age_by(wall - seconds(20), wall, up), seconds(20));
            let age = handshakes.age_by(wall - seconds(20), stepped, up + seconds(5));
            assert_eq!(age, seconds(25));
            // Unseen ones go on ageing.
            let age = handshakes.age_by(wall - seconds(20), stepped, up + seconds(300));
            assert_eq!(age, seconds(320));
        }
    }

    #[test]
    fn no_age_is_negative_nor_jumps_when_the_clock_is_stepped() {
        let (wall, up) = (SystemTime::now(), Uptime::now());
        // Seen for the first time by a clock that was set back meanwhile.
        let handshakes = Handshakes::default();
        assert_eq!(handshakes.age_by(wall, wall - DAY, up), Duration::ZERO);
        assert_eq!(handshakes.age_by(wall, wall - DAY, up + seconds(9)), seconds(9));
        // Back and forth, while it is known.
        for (nth, stepped) in [wall + DAY, wall - DAY, wall + DAY, wall].into_iter().enumerate() {
            let later = seconds(10 + nth as u64);
            assert_eq!(handshakes.age_by(wall, stepped, up + later), later);
        }
    }

    #[test]
    fn a_new_handshake_is_no_older_than_the_last_look() {
        let (wall, up) = (SystemTime::now(), Uptime::now());
        let handshakes = Handshakes::default();
        handshakes.age_by(wall, wall, up);
        // Made just before the clock was set forward by a day.
        let age = handshakes.age_by(wall + seconds(1), wall + DAY, up + seconds(5));
        assert_eq!(age, seconds(5));
        let age =
            handshakes.age_by(wall + DAY + seconds(60), wall + DAY + seconds(62), up + seconds(67));
        assert_eq!(age, seconds(2));
    }
}
