//! Whether the controller still has this host's exemption: asked rarely, on a thread of its own, so
//! that neither a scrape nor a cycle ever waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use egress::clock::Uptime;
use egress::config::ids::Unifi as Wanted;
use egress::error::chain;
use ids::Unifi;

use crate::current::Current;

/// How often it is asked whether a look is due, or the config another one.
const TICK: Duration = Duration::from_secs(1);

/// The latest look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// `None`: unknown, which is not absent.
    pub present: Option<bool>,
    pub took: Duration,
}

/// What the looks have shown; nothing where no controller is configured, or none was asked yet.
#[derive(Debug, Clone, Default)]
pub struct Exemption(Arc<Mutex<Option<Look>>>);

impl Exemption {
    /// A thread that ends with the process.
    pub fn start(current: &Arc<Current>) -> Self {
        let exemption = Self::default();
        let own = exemption.clone();
        let current = Arc::clone(current);
        thread::spawn(move || own.watch(&current));
        exemption
    }

    /// One look, for `--once`.
    pub fn once(current: &Current) -> Self {
        let exemption = Self::default();
        if current.get().ids.unifi.is_some() {
            exemption.look(current);
        }
        exemption
    }

    pub fn latest(&self) -> Option<Look> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, look: Option<Look>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = look;
    }

    fn watch(&self, current: &Current) {
        let mut asked: Option<(Wanted, Uptime)> = None;
        loop {
            let wanted = current.get().ids.unifi.clone();
            let due = match (&wanted, &asked) {
                (Some(wanted), Some((before, at))) => {
                    wanted != before || at.elapsed() >= wanted.poll_interval
                }
                (Some(_), None) => true,
                (None, _) => {
                    self.set(None);
                    asked = None;
                    false
                }
            };
            if let Some(wanted) = wanted.filter(|_| due) {
                asked = Some((wanted, Uptime::now()));
                self.look(current);
            }
            thread::sleep(TICK);
        }
    }

    fn look(&self, current: &Current) {
        let started = Uptime::now();
        let before = self.latest().map(|look| look.present);
        let answer = Unifi::of(&current.get()).and_then(|unifi| unifi.check());
        let present = match answer {
            Ok((present, _)) => Some(present),
            Err(error) => {
                tracing::warn!(error = chain(error), "whether this host is exempt is not known");
                None
            }
        };
        if before != Some(present) {
            tracing::info!(?present, "exemption from inspection");
        }
        self.set(Some(Look { present, took: started.elapsed() }));
    }
}
