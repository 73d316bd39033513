//! Whether large packets pass the tunnel as small ones do. Where they do not, the tunnel looks well to
//! every small probe, and users see connections that open and then stand still.

use std::time::Duration;

use crate::config::{PathConfig, Question};
use crate::error::chain;
use crate::netns::within;
use crate::probe::{Reply, fill_through};

/// Asks by packets as large as the tunnel's MTU, right after the probe was answered in this time.
/// `None`: it cannot be known, for the probe had no answer, is no echo, or could not be made. Waits no
/// longer than that probe would have had left.
pub fn large_pass(path: &PathConfig, answered: Option<Duration>) -> Option<bool> {
    let probe = path.health.probe.as_ref()?;
    let Question::Icmp(target) = probe.question else { return None };
    let left = probe.timeout.saturating_sub(answered?);
    let fill = || fill_through(&path.interface, target, left);
    match within(path.workload.netns(), fill).ok()? {
        Ok(reply) => Some(matches!(reply, Reply::Answered { .. })),
        Err(error) => {
            tracing::debug!(path = %path.name, error = chain(error), "no large packet was sent");
            None
        }
    }
}
