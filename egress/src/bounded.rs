//! A bound on calls that have none: a hung WireGuard daemon or `nft` must not hang its caller.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The call did not return in time. Its thread is left behind; it ends when the far end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct TimedOut(pub Duration);

/// Runs `call` on a thread of its own and waits for it no longer than `limit`.
pub fn bounded<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    let (answer, wait) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // Nobody waits any more once the limit has passed; that is no error of this thread.
        let _ = answer.send(call());
    });
    wait.recv_timeout(limit).map_err(|_| TimedOut(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_given_up() {
        let (_never, wait) = mpsc::channel::<()>();
        let limit = Duration::from_millis(10);
        assert_eq!(bounded(limit, move || wait.recv()), Err(TimedOut(limit)));
        assert_eq!(bounded(Duration::from_secs(60), || 7), Ok(7));
    }
}
