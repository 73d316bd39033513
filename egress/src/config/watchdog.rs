//! `watchdog`: how long the heartbeat of the alerting rules may stay away, and what is done then.

use std::time::Duration;

use super::cursor::Cursor;
use super::error::{ConfigError, Problem};
use super::shown::Shown;
use super::value;

const WATCHDOG: &[&str] = &["silent_after", "when_silent"];

/// The dead man's switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchdog {
    pub silent_after: Duration,
    pub when_silent: WhenSilent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenSilent {
    /// Say so in log, metric and status.
    Tell,
    /// And cut every path that is locked.
    HardStop,
}

pub(super) fn watchdog(at: &Cursor<'_>) -> Result<Option<Watchdog>, ConfigError> {
    let fields = at.fields(WATCHDOG)?;
    let when_silent = |at: &Cursor<'_>| match at.text()? {
        "tell" => Ok(WhenSilent::Tell),
        "hard-stop" => Ok(WhenSilent::HardStop),
        other => {
            let want = "`tell` or `hard-stop`";
            Err(at.error(Problem::Choice { got: Shown::of(other), want }))
        }
    };
    Ok(Some(Watchdog {
        silent_after: fields.need("silent_after")?.value(value::duration)?,
        when_silent: fields.read("when_silent", WhenSilent::Tell, when_silent)?,
    }))
}
