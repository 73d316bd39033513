//! What only a person may do, each act with its reason: release, unlock, pause.

use std::time::Duration;

use egress::clock::Moment;
use egress::config::PathConfig;
use egress::error::chain;
use egress::fault::{self, Point};
use egress::firewall;
use egress::observe;
use egress::state::{Act, PathState, StateError, Timestamp};
use egress::tunnel::{self, By, maker};

use super::{Engine, EngineError, transition};
use crate::control::Reply;
use crate::history::{Decision, NOTHING};

type Step = Result<Option<String>, EngineError>;

impl Engine {
    /// Lifts the hard stop. The leak that caused it is dealt with up to the count of now.
    pub fn release(&mut self, only: Option<&str>, reason: &str) -> Reply {
        self.each_path(only, "release", reason, "nothing to release", |engine, path| {
            engine.release_path(path, reason)
        })
    }

    /// Takes the lock off; `converge` puts it on again.
    pub fn unlock(&mut self, only: Option<&str>, reason: &str) -> Reply {
        self.each_path(only, "unlock", reason, "already unlocked", |engine, path| {
            engine.unlock_path(path, reason)
        })
    }

    /// Takes the tunnel down that a converge brought up; the lock stays.
    pub fn down(&mut self, only: Option<&str>) -> Reply {
        let none = "nothing to take down: no converge has brought this tunnel up";
        self.each_path(only, "down", "down", none, |engine, path| {
            let mut state = engine.store.read(&path.name)?;
            let Some(up) = state.brought_up.take() else { return Ok(None) };
            if up.device == By::Others {
                return Err(EngineError::Refused(format!(
                    "refused: interface {0} was brought up by {1}; take it down by that",
                    path.interface,
                    maker(&path.interface)
                )));
            }
            // On record first: the daemon makes again what is ours.
            engine.store.write(&path.name, &state)?;
            tunnel::take_down(&up.tunnel)?;
            tracing::warn!(path = %path.name, interface = path.interface, "taken down");
            let lock = if state.unlocked.is_some() { "there is no lock" } else { "the lock stays" };
            Ok(Some(format!(
                "interface {} and its routing are gone, {lock}; `actuator converge` brings it up",
                path.interface
            )))
        })
    }

    /// No automatic failover for a while; a leak still stops.
    pub fn pause(&mut self, only: Option<&str>, time: Duration) -> Reply {
        let reason = format!("for {} s", time.as_secs());
        self.each_path(only, "pause", &reason, "nothing to pause", |engine, path| {
            let mut state = engine.store.read(&path.name)?;
            fault::point(Point::PauseDue);
            state.pause(time, &Moment::now());
            engine.store.write(&path.name, &state)?;
            fault::point(Point::PauseRecorded);
            tracing::warn!(path = %path.name, seconds = time.as_secs(), "failover paused");
            Ok(Some(format!("no automatic failover for {} s; a leak still stops", time.as_secs())))
        })
    }

    /// Of `only` this path, where one is named.
    fn each_path(
        &mut self,
        only: Option<&str>,
        ask: &str,
        reason: &str,
        none: &str,
        act: impl Fn(&mut Self, &PathConfig) -> Step,
    ) -> Reply {
        let mut lines = Vec::new();
        let mut paths = self.paths();
        if let Some(only) = only {
            let known: Vec<String> = paths.iter().map(|path| path.name.to_string()).collect();
            paths.retain(|path| path.name.as_str() == only);
            if paths.is_empty() {
                let known = known.join(", ");
                return Reply::refused(vec![format!("no path is named {only}; known: {known}")]);
            }
        }
        // Each is its own: one that has to wait keeps none from what was asked for all.
        let mut refused = false;
        for path in paths {
            let done = act(self, &path);
            let (action, outcome) = match &done {
                Ok(Some(done)) => (ask, done.clone()),
                Ok(None) => (NOTHING, none.to_owned()),
                Err(error) => (NOTHING, chain(error)),
            };
            self.record(&path, Decision::new(ask, action, outcome).because(reason));
            match done {
                Ok(done) => {
                    let done = done.unwrap_or_else(|| none.to_owned());
                    lines.push(format!("{}: {done}", path.name));
                }
                Err(error) => {
                    lines.push(format!("{}: {}", path.name, chain(error)));
                    refused = true;
                }
            }
        }
        if refused { Reply::refused(lines) } else { Reply::done(lines) }
    }

    fn release_path(&mut self, path: &PathConfig, reason: &str) -> Step {
        let sight = observe::look(path, &self.store);
        // What cannot be read cannot be said to be lifted.
        let in_kernel = sight.walls.map(|walls| walls.stops(&path.name))?;
        let (mut state, damaged) = match sight.state {
            Ok(state)
                if state.latch.is_none()
                    && !in_kernel
                    && self.stops.pending(&path.name).is_none() =>
            {
                return Ok(None);
            }
            Ok(state) => (PathState::clone(&state), false),
            Err(StateError::Missing { .. }) if in_kernel => (state_from_device(path), false),
            Err(
                StateError::Damaged { .. }
                | StateError::Newer { .. }
                | StateError::Unreadable { .. },
            ) => (state_from_device(path), true),
            Err(error) => return Err(error.into()),
        };
        fault::point(Point::ReleaseDue);
        // Aside only now that the kernel can be read; the stop itself is lifted last of all.
        let aside = damaged.then(|| self.store.set_aside(&path.name)).transpose()?;
        // The lock below the stop is whole before the stop is lifted.
        if state.unlocked.is_none() {
            self.load(path, self.rules(path), &mut state)?;
        }
        fault::point(Point::ReleaseLoaded);
        let leaked = firewall::leaked(&path.name)?;
        self.leaking.remove(&path.name);
        let act = Act { reason: reason.to_owned(), at: Timestamp::now() };
        let was = transition::released(&mut state, leaked, act);
        self.store.write(&path.name, &state)?;
        fault::point(Point::ReleaseRecorded);
        self.lift_in_kernel(path)?;
        self.stops.forget(&path.name);
        fault::point(Point::ReleaseLifted);
        let by = was.as_ref().and_then(|latch| latch.by);
        let tunnel = self.give_tunnel_back(path, &mut state, by);
        let tunnel = tunnel
            .map_or_else(String::new, |why| format!("; the tunnel was not given back: {why}"));
        let was = was.map_or_else(String::new, |latch| format!(" (was: {})", latch.reason));
        tracing::warn!(path = %path.name, reason, "hard stop released");
        let aside = aside.map_or_else(String::new, |file| {
            format!("; the old state was set aside at {}", file.display())
        });
        Ok(Some(format!("hard stop released{was}, endpoint {}{aside}{tunnel}", state.active)))
    }

    fn unlock_path(&mut self, path: &PathConfig, reason: &str) -> Step {
        let mut state = self.store.read(&path.name)?;
        let stopped =
            observe::look(path, &self.store).walls.is_ok_and(|walls| walls.stops(&path.name));
        if state.latch.is_some() || stopped {
            return Err(EngineError::Refused(
                "refused: a hard stop is latched; `actuator release --reason TEXT` first"
                    .to_owned(),
            ));
        }
        let walls = firewall::Walls::read()?;
        let is_off = !walls.holds(&path.name);
        if state.unlocked.is_some() && is_off {
            return Ok(None);
        }
        fault::point(Point::UnlockDue);
        state.unlocked = Some(Act { reason: reason.to_owned(), at: Timestamp::now() });
        self.store.write(&path.name, &state)?;
        fault::point(Point::UnlockRecorded);
        self.unload(path)?;
        fault::point(Point::UnlockDone);
        tracing::warn!(path = %path.name, reason, "the lock was taken off");
        let stays = match &state.brought_up {
            Some(up) if up.device == By::Us => {
                format!("; interface {} stays, `actuator down` takes it away", path.interface)
            }
            _ => String::new(),
        };
        Ok(Some(format!("the lock is off; `actuator converge` puts it on again{stays}")))
    }
}

/// Where no state is left, the device's live peer tells which endpoint was chosen.
pub(super) fn state_from_device(path: &PathConfig) -> PathState {
    let view = egress::device::read(path).ok();
    let live = view.as_ref().and_then(|view| view.live(&path.endpoints));
    let active = live.map_or_else(|| path.primary(), |(endpoint, _)| endpoint);
    PathState::new(active.name.clone())
}
