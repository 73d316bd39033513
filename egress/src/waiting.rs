//! What this process waits for right now, for people: a wait that is safe has no short limit, so it
//! must be possible to see what it is for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

static WAITS: Mutex<Waits> = Mutex::new(Waits { next: 0, begun: BTreeMap::new() });

struct Waits {
    next: u64,
    begun: BTreeMap<u64, (String, Instant)>,
}

/// A wait under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    #[serde(rename = "for")]
    pub what: String,
    pub seconds: u64,
}

/// Ends the wait when it is dropped.
#[derive(Debug)]
pub struct Shown(u64);

/// Shows that `what` is waited for, until what is returned is dropped.
pub fn on(what: impl Into<String>) -> Shown {
    let mut waits = waits();
    let id = waits.next;
    waits.next += 1;
    waits.begun.insert(id, (what.into(), Instant::now()));
    Shown(id)
}

impl Drop for Shown {
    fn drop(&mut self) {
        waits().begun.remove(&self.0);
    }
}

/// The waits that have lasted for `least` at least, the longest first.
pub fn current(least: Duration) -> Vec<Waiting> {
    let waits = waits();
    let mut long: Vec<_> = waits
        .begun
        .values()
        .map(|(what, since)| (what, since.elapsed()))
        .filter(|(_, lasted)| *lasted >= least)
        .collect();
    long.sort_by_key(|(_, lasted)| std::cmp::Reverse(*lasted));
    let shown = |(what, lasted): (&String, Duration)| Waiting {
        what: what.clone(),
        seconds: lasted.as_secs(),
    };
    long.into_iter().map(shown).collect()
}

fn waits() -> MutexGuard<'static, Waits> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_shown_while_it_lasts() {
        let is_shown = |what: &str| current(Duration::ZERO).iter().any(|wait| wait.what == what);
        let one = on("one of this test");
        let other = on("another of this test");
        assert!(is_shown("one of this test") && is_shown("another of this test"));
        drop(one);
        assert!(!is_shown("one of this test") && is_shown("another of this test"));
        drop(other);
        let _long = on("a long one");
        assert!(!current(Duration::from_secs(60)).iter().any(|wait| wait.what == "a long one"));
    }
}
