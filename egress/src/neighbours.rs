//! Packets that wait for a neighbour's address were let out before the lock was loaded. They are
//! dropped at the watch, but would be counted there, so they are thrown away first.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::bounded::bounded;

/// `ip neigh flush` asks the kernel twice; it answers at once.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Deletes the unresolved entries of `device`, and with them the packets that they hold.
/// A failure is no reason to stop: those packets are dropped all the same.
pub fn drain(device: &str) {
    let device = device.to_owned();
    let name = device.clone();
    let flushed = bounded("ip neigh", FLUSH_TIMEOUT, move || {
        ["-4", "-6"].map(|family| {
            Command::new("ip")
                .args([family, "neigh", "flush", "dev", &name, "nud", "incomplete"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
        })
    });
    match flushed {
        Ok(outcomes) if outcomes.iter().all(|one| matches!(one, Ok(code) if code.success())) => {}
        outcome => tracing::debug!(device, ?outcome, "neighbour queues could not be drained"),
    }
}
