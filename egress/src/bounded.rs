//! A bound on calls that have none: a hung WireGuard daemon or `nft` must not hang its caller, nor
//! use up the process by a thread per try.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The call did not return in time, or an earlier one of its kind still has not. Its thread is left
/// behind; it ends when the far end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct TimedOut(pub Duration);

/// Ends with the call of its kind, also where that panics: what is over is not overdue.
struct Over(Option<String>);

impl Drop for Over {
    fn drop(&mut self) {
        if let Some(kind) = &self.0 {
            overdue().remove(kind);
        }
    }
}

/// Kinds of calls of which one is overdue.
static OVERDUE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A call under way, on a thread of its own.
#[derive(Debug)]
pub struct Pending<T> {
    kind: String,
    since: Instant,
    /// `None`: it was not made.
    answer: Option<Receiver<T>>,
}

/// Starts `call`. While a call of the same `kind` is overdue, no other is made.
pub fn start<T: Send + 'static>(
    kind: &str,
    call: impl FnOnce() -> T + Send + 'static,
) -> Pending<T> {
    let since = Instant::now();
    if overdue().contains(kind) {
        return Pending { kind: kind.to_owned(), since, answer: None };
    }
    let (answer, wait) = mpsc::sync_channel(1);
    let own_kind = kind.to_owned();
    let spawned = thread::Builder::new().name("bounded".to_owned()).spawn(move || {
        let mut given_up = Over(Some(own_kind));
        if answer.send(call()).is_ok() {
            // Somebody waited: it was never overdue, and another of its kind may be by now.
            given_up.0 = None;
        }
    });
    Pending { kind: kind.to_owned(), since, answer: spawned.is_ok().then_some(wait) }
}

impl<T> Pending<T> {
    /// Waits until `limit` after the start; what was not made is not waited for.
    pub fn wait(self, limit: Duration) -> Result<T, TimedOut> {
        let wait = self.answer.ok_or(TimedOut(limit))?;
        wait.recv_timeout(limit.saturating_sub(self.since.elapsed())).map_err(|error| {
            // Marked before the receiver is dropped, so that the thread cannot miss it. A call that
            // panicked is over: the next one is made again.
            if error == RecvTimeoutError::Timeout {
                overdue().insert(self.kind);
            }
            TimedOut(limit)
        })
    }
}

/// Runs `call` and waits for it no longer than `limit`.
pub fn bounded<T: Send + 'static>(
    kind: &str,
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    start(kind, call).wait(limit)
}

fn overdue() -> MutexGuard<'static, BTreeSet<String>> {
    OVERDUE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_is_an_error_once() {
        let limit = Duration::from_secs(60);
        assert!(bounded("panics", limit, || panic!("on purpose")).is_err());
        assert_eq!(bounded("panics", limit, || 7), Ok(7), "and the next one is made");
        // Where it was given up before it panicked.
        let (release, held) = mpsc::channel::<()>();
        let short = Duration::from_millis(10);
        let late = bounded("panics late", short, move || {
            held.recv().ok();
            panic!("on purpose");
        });
        assert!(late.is_err());
        release.send(()).expect("still held");
        let started = Instant::now();
        while bounded("panics late", limit, || 7) != Ok(7) {
            assert!(started.elapsed() < limit);
            thread::yield_now();
        }
    }

    #[test]
    fn what_hangs_is_given_up_and_not_tried_again_until_it_is_over() {
        let (release, held) = mpsc::channel::<()>();
        let limit = Duration::from_millis(10);
        let hung = bounded("a", limit, move || held.recv().is_ok());
        assert_eq!(hung, Err(TimedOut(limit)));
        let patience = Duration::from_secs(60);
        assert_eq!(bounded("a", patience, || 7), Err(TimedOut(patience)), "no second one");
        assert_eq!(bounded("b", patience, || 7), Ok(7), "others are not concerned");
        release.send(()).expect("still held");
        let started = Instant::now();
        while bounded("a", patience, || 7) != Ok(7) {
            assert!(started.elapsed() < patience);
            thread::yield_now();
        }
    }
}
