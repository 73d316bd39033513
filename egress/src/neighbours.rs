//! Packets that wait for a neighbour's address were let out before the lock was loaded. They are
//! dropped at the watch, but would be counted there, so they are thrown away first.

use std::process::Command;
use std::time::Duration;

use crate::process;

/// `ip neigh flush` asks the kernel twice; it answers at once.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Deletes the unresolved entries of all devices, and with them the packets that they hold.
/// A failure is no reason to stop: those packets are dropped all the same.
pub fn drain() {
    for family in ["-4", "-6"] {
        let mut flush = Command::new("ip");
        flush.args([family, "neigh", "flush", "nud", "incomplete"]);
        let outcome = process::run(flush, b"", FLUSH_TIMEOUT);
        if !outcome.as_ref().is_ok_and(|output| output.status.success()) {
            tracing::debug!(?outcome, "neighbour queues could not be drained");
        }
    }
}
