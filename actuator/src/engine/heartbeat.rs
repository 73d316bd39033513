//! The dead man's switch: the watchdog of the alerting rules fires always, and where it stays away,
//! no alert would come either. By the boot clock: a stepped wall clock is no silence.

use egress::clock::Uptime;
use egress::config::{Config, Watchdog, WhenSilent};
use egress::error::chain;
use egress::health::Standing;
use egress::observe;
use serde::Serialize;

use super::Engine;
use crate::decide::{Cause, Hold};

/// When the watchdog was heard last.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// The start counts as one: an Alertmanager that never comes is silent too.
    last: Uptime,
    /// Told once per silence, and acted on once: a person who releases the stop knows of it.
    told: bool,
    /// Any at all, since the start.
    heard: bool,
}

/// For the status and the metrics page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Silence {
    pub silent: bool,
    /// Since the last heartbeat, or the start.
    pub since_seconds: u64,
    pub silent_after_seconds: u64,
    pub hard_stop: bool,
}

impl Heartbeat {
    pub fn new() -> Self {
        Self { last: Uptime::now(), told: false, heard: false }
    }

    /// Whether any came since the start: without one, none of Prometheus, Alertmanager and the way
    /// between is known to be there.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// `None`: the config has no `watchdog`.
    pub fn silence(&self, config: &Config) -> Option<Silence> {
        let Watchdog { silent_after, when_silent } = config.watchdog?;
        let since = self.last.elapsed();
        Some(Silence {
            silent: since >= silent_after,
            since_seconds: since.as_secs(),
            silent_after_seconds: silent_after.as_secs(),
            hard_stop: when_silent == WhenSilent::HardStop,
        })
    }
}

impl Engine {
    /// The watchdog arrived.
    pub fn heartbeat(&mut self) {
        let heard = Heartbeat { heard: true, ..Heartbeat::new() };
        if std::mem::replace(&mut self.heartbeat, heard).told {
            tracing::info!("the heartbeat is back");
        }
    }

    /// Looks whether the heartbeat stays away, and does what the config says then.
    pub(super) fn mind_the_heartbeat(&mut self) {
        let Some(silence) = self.heartbeat.silence(&self.config).filter(|silence| silence.silent)
        else {
            return;
        };
        if std::mem::replace(&mut self.heartbeat.told, true) {
            return;
        }
        let evidence = format!("no heartbeat for {} s", silence.since_seconds);
        tracing::error!(evidence, "the watchdog is silent: no alert may reach this host");
        if !silence.hard_stop {
            return;
        }
        for path in self.paths() {
            if observe::look(&path, &self.store).standing(&path) != Standing::Locked {
                continue;
            }
            if let Err(error) = self.stop_for(Cause::WatchdogSilent, &path, Hold::None, &evidence) {
                tracing::error!(path = %path.name, error = chain(error), "hard stop failed");
                // It is tried again at the next look.
                self.heartbeat.told = false;
            }
        }
    }
}
