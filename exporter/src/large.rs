//! When it is asked whether large packets pass the tunnel too.

use std::time::Duration;

use egress::config::PathConfig;
use egress::observe::large_pass;

/// Cycles from one answer to the next question: it is a large packet each way, and the answer seldom
/// another one. What was not answered is asked for again at the next cycle.
const RARELY: u32 = 12;

/// What is known of one path.
#[derive(Debug, Default)]
pub struct Large {
    latest: Option<bool>,
    /// Cycles until it is asked for again.
    rest: u32,
}

impl Large {
    /// Whether they pass, after a cycle whose probe was answered in this time; `None`: that is not known.
    pub fn after(&mut self, path: &PathConfig, answered: Option<Duration>) -> Option<bool> {
        if answered.is_none() {
            // Where small ones are lost, large ones tell nothing.
            *self = Self::default();
            return None;
        }
        self.next(|| large_pass(path, answered))
    }

    fn next(&mut self, ask: impl FnOnce() -> Option<bool>) -> Option<bool> {
        if self.rest > 0 {
            self.rest -= 1;
        } else {
            self.latest = ask();
            self.rest = if self.latest == Some(true) { RARELY - 1 } else { 0 };
        }
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_asked_for_rarely_and_what_did_not_at_every_cycle() {
        let (mut large, mut asked) = (Large::default(), 0);
        let mut cycles = |count: u32, answer| {
            asked = 0;
            let said = (0..count)
                .map(|_| {
                    large.next(|| {
                        asked += 1;
                        answer
                    })
                })
                .last()
                .flatten();
            (said, asked)
        };
        assert_eq!(cycles(RARELY, Some(true)), (Some(true), 1));
        assert_eq!(cycles(RARELY, Some(true)), (Some(true), 1));
        assert_eq!(cycles(3, Some(false)), (Some(false), 3));
        assert_eq!(cycles(2, None), (None, 2), "not asked is not lost");
        assert_eq!(cycles(1, Some(true)), (Some(true), 1));
    }
}
