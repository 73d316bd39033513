//! Waiting for what is going to be true. The one place in the lab that polls.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How often the condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What one look at a condition gave.
pub trait Observed {
    type Value;

    /// The value once the condition holds, else what was seen instead.
    fn settled(self) -> Result<Self::Value, String>;
}

impl Observed for bool {
    type Value = ();

    fn settled(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".into()) }
    }
}

impl<T> Observed for Option<T> {
    type Value = T;

    fn settled(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".into())
    }
}

impl<T, E: Debug> Observed for Result<T, E> {
    type Value = T;

    fn settled(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Looks until the condition holds and returns its value; panics with `what` and the last
/// observation when it does not hold within `limit`. A `Result` condition names what it saw.
#[track_caller]
pub fn eventually<O: Observed>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> O,
) -> O::Value {
    let started = Instant::now();
    loop {
        let seen = match look().settled() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}; last seen: {seen}");
        std::thread::sleep(POLL);
    }
}
