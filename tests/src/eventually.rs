//! Waiting for what is going to be true. The one place in the lab that polls.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// The shortest pause between two looks. A look that took longer is followed by a pause as long,
/// within reason: what is waited for needs the processor, too.
const POLL: Duration = Duration::from_millis(20);
/// The longest: a fifth of the quickest of our cycles.
const LONGEST_POLL: Duration = Duration::from_millis(200);

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
        let looked = Instant::now();
        let seen = match look().settled() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}; last seen: {seen}");
        std::thread::sleep(looked.elapsed().clamp(POLL, LONGEST_POLL));
    }
}
