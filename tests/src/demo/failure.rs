//! Why the demonstration ended early: what was claimed and did not come true, and whose log tells.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two looks. Each look starts a few processes.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Failure {
    pub what: String,
    /// Programs whose logs are worth showing.
    pub logs: &'static [&'static str],
}

pub type Done<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), logs: &[] }
    }
}

/// A claim that holds now, or the end.
pub fn ensure(holds: bool, claim: &str, seen: impl Display) -> Done {
    if holds { Ok(()) } else { Err(Failure::new(format!("not true: {claim}; seen: {seen}"))) }
}

pub trait Whose<T> {
    /// Names the programs whose logs tell more.
    fn see_logs(self, logs: &'static [&'static str]) -> Done<T>;
}

impl<T> Whose<T> for Done<T> {
    fn see_logs(self, logs: &'static [&'static str]) -> Self {
        self.map_err(|failure| Failure { logs, ..failure })
    }
}

/// Looks until it is there, and not for longer than `limit`. An `Err` is what is seen so far.
pub fn within<T, S: Display>(
    limit: Duration,
    claim: &str,
    mut look: impl FnMut() -> Result<T, S>,
) -> Done<T> {
    let started = Instant::now();
    loop {
        let seen = match look() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if started.elapsed() > limit {
            let limit = limit.as_secs();
            return Err(Failure::new(format!("not within {limit} s: {claim}; seen: {seen}")));
        }
        std::thread::sleep(PAUSE);
    }
}
