//! What anybody can make us say is said seldom: a crowd must not fill the disk with our log of it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Often enough for a person who looks on.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Seldom(Mutex<Told>);

#[derive(Default)]
struct Told {
    at: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether this one is told; with it, how many since the last were not.
    pub fn tell(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.at.is_some_and(|at| now.duration_since(at) < PAUSE) {
            told.unsaid += 1;
            return None;
        }
        told.at = Some(now);
        Some(std::mem::take(&mut told.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_is_told_and_the_others_are_counted() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let told =
            [0, 1, 999, 1000, 1001, 5000].map(|ms| seldom.tell(start + Duration::from_millis(ms)));
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
