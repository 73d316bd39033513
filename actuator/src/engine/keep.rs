//! The daemon's own care, every second: what is missing is put back at once, a new uplink is
//! covered, a peer that roamed is set back, and a device that is not where state says it is
//! brought there. None of it ever changes the choice of endpoint.

use std::cell::RefCell;

use egress::config::PathConfig;
use egress::device::{self, Likeness};
use egress::error::chain;
use egress::firewall::{Guard, StopKind};
use egress::health::{Leak, Standing};
use egress::observe::{self, Sight};
use egress::state::{Latch, PathState, StateError, Timestamp};

use super::Engine;
use super::alert::Outcome;
use super::load::kind_of_unknown;
use super::transition::shook_hands;
use crate::history::Decision;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Found,
    /// Rules that others changed, or an uplink that was not covered.
    Disturbed,
}

impl Engine {
    /// Whether all was in order.
    pub fn keep(&mut self) -> Order {
        self.mind_the_heartbeat();
        let orders = self.paths().iter().map(|path| self.keep_path(path)).collect::<Vec<_>>();
        if orders.contains(&Order::Disturbed) { Order::Disturbed } else { Order::Found }
    }

    /// From now on copies of the walls are held that nobody else can change.
    pub fn stand_guard(&mut self) {
        self.guard = RefCell::new(Some(Guard::default()));
    }

    /// Takes the copies off, before the walls are.
    pub(super) fn unguard(&self) {
        if let Some(guard) = &mut *self.guard.borrow_mut() {
            guard.let_walls_go();
        }
    }

    /// The daemon's first look. A leak from before it was there was told to nobody who could act,
    /// and the alert of it may be over: it is acted on now.
    pub fn begin(&mut self) {
        for path in self.paths() {
            let sight = observe::look(&path, &self.store);
            if let (Standing::Locked, Leak::Seen(packets)) =
                (sight.standing(&path), sight.leak(&path))
            {
                let evidence = format!("{packets} packets above the baseline at the start");
                if let Err(error) = self.hard_stop(&path, "leak", &evidence) {
                    tracing::error!(path = %path.name, error = chain(error), "hard stop failed");
                }
            }
        }
        self.keep();
        self.begun = true;
    }

    fn keep_path(&mut self, path: &PathConfig) -> Order {
        let sight = observe::look(path, &self.store);
        let standing = sight.standing(path);
        let mut state = match sight.state {
            Ok(ref state) => state.clone(),
            Err(ref error) => {
                self.stop_for_missing_state(path, &sight, error);
                return Order::Found;
            }
        };
        match standing {
            Standing::Unlocked => return Order::Found,
            Standing::Stopped => self.keep_stopped(path, &sight, &mut state),
            Standing::Locked | Standing::Unknown(_) => {}
        }
        if self.leak_was_lost(path, &sight) {
            let evidence = "a leak was counted, then the counter was removed";
            if let Err(error) = self.hard_stop(path, "leak", evidence) {
                tracing::error!(path = %path.name, error = chain(error), "hard stop failed");
            }
            return Order::Disturbed;
        }
        self.keep_handshake(path, &sight, &mut state);
        self.carry_leaks(path, &sight, &mut state);
        let intact = sight.integrity().iter().all(|(_, intact)| *intact);
        let covered = sight.is_covered();
        let mut locked = intact;
        if !intact {
            let outcome = self.repair_or_stop(path, &mut state);
            locked = outcome == Outcome::Repaired;
            let outcome = outcome.to_string();
            if self.begun {
                self.record(path, Decision::new("care", "repair", outcome).of(&state.active));
            }
        } else if !covered {
            match self.load(path, self.rules(path), &mut state) {
                Ok(()) => tracing::info!(path = %path.name, "the watch covers the devices of now"),
                Err(error) => {
                    tracing::error!(path = %path.name, error = chain(error), "uplink not covered");
                }
            }
        } else if !sight.guarded() {
            self.guard_again(path, &state);
        }
        // An edited config is not the host's before a converge makes it so: until then nothing of
        // it is brought to the device, whose endpoints the loaded lock may not permit (S2).
        if !Self::drifted(path, &state) {
            if locked {
                self.keep_tunnel(path, &mut state);
            }
            self.keep_device(path, &sight, &state);
        }
        if intact && covered { Order::Found } else { Order::Disturbed }
    }

    /// What the guard's copy of the watch has counted is taken down: it ends with the daemon.
    fn carry_leaks(&self, path: &PathConfig, sight: &Sight, state: &mut PathState) {
        let Ok(walls) = &sight.walls else {
            return;
        };
        if observe::carry(state, walls.counts(&path.name).leaked)
            && let Err(error) = self.store.write(&path.name, state)
        {
            tracing::error!(path = %path.name, error = chain(error), "leak not recorded");
        }
    }

    /// Writes down, seldom, the time of the latest handshake.
    fn keep_handshake(&self, path: &PathConfig, sight: &Sight, state: &mut PathState) {
        let peer = sight.device.as_ref().ok().and_then(|view| view.peer());
        let at = if self.latest.clock_proven(&path.name) {
            tracing::warn!(path = %path.name, "a standby answers by this clock: it is not behind");
            Some(Timestamp::now())
        } else {
            peer.and_then(|peer| peer.last_handshake).map(Timestamp::from)
        };
        let Some(at) = at else { return };
        if shook_hands(state, at)
            && let Err(error) = self.store.write(&path.name, state)
        {
            tracing::error!(path = %path.name, error = chain(error), "handshake not recorded");
        }
    }

    /// Remembers a leak that the alert path has yet to act on, and tells when its counter is gone.
    fn leak_was_lost(&mut self, path: &PathConfig, sight: &Sight) -> bool {
        let gone = sight.walls.as_ref().is_ok_and(|walls| walls.watch.is_none());
        if gone && self.leaking.remove(&path.name) {
            return true;
        }
        match sight.leak(path) {
            Leak::Seen(_) => {
                if self.leaking.insert(path.name.clone()) {
                    tracing::warn!(path = %path.name, "a leak is counted, the alert is awaited");
                }
            }
            // Dealt with; `release` forgets it too.
            Leak::None => {
                self.leaking.remove(&path.name);
            }
            Leak::Unknown(_) => {}
        }
        false
    }

    /// S7: missing state on a configured path means stopped.
    fn stop_for_missing_state(&self, path: &PathConfig, sight: &Sight, error: &StateError) {
        if sight.walls.as_ref().is_ok_and(|walls| walls.stops(&path.name)) {
            return;
        }
        let cut = self.stop_in_kernel(path, kind_of_unknown(path));
        let why = chain(error);
        let outcome = if cut.is_ok() { "stopped" } else { "failed" };
        self.record(path, Decision::new("care", "stop", outcome).seeing(&why));
        tracing::error!(path = %path.name, why, cut = cut.is_ok(), "no usable state: stopped");
    }

    /// State and the kernel's own stop table are brought to say the same: stopped.
    fn keep_stopped(&self, path: &PathConfig, sight: &Sight, state: &mut PathState) {
        let kind = sight.walls.as_ref().ok().and_then(|walls| walls.stop_kind(&path.name));
        if kind == Some(StopKind::NoState) && state.latch.is_none() {
            // Stopped because state could not be read; it can be read now, and says otherwise.
            let lifted = self.lift_in_kernel(path);
            tracing::warn!(path = %path.name, lifted = lifted.is_ok(), "state is back");
            return;
        }
        if kind.is_none() {
            let cut = self.stop_in_kernel(path, StopKind::Latched);
            tracing::warn!(path = %path.name, cut = cut.is_ok(), "the hard stop was put back");
            self.metrics.repairs.with_label_values(&[path.name.as_str(), "stop"]).inc();
        } else if let Some(kind) = kind
            && sight.walls.as_ref().is_ok_and(|walls| !walls.stop_is_guarded())
            && let Ok((mut cut, living)) = self.others_by_stop(path)
        {
            cut.push((self.rules(path), kind));
            self.guard_stop(&cut, &living);
        }
        if state.latch.is_none() {
            state.latch = Some(Latch {
                reason: "the kernel's stop table".to_owned(),
                evidence: "found engaged, with no latch on record".to_owned(),
                at: Timestamp::now(),
            });
            if let Err(error) = self.store.write(&path.name, state) {
                tracing::error!(path = %path.name, error = chain(error), "latch not recorded");
            }
        }
    }

    /// State decides where the device is to be; a device that is not there yet is left to its owner.
    fn keep_device(&self, path: &PathConfig, sight: &Sight, state: &PathState) {
        let (Ok(view), Some(active)) = (&sight.device, path.endpoint(&state.active)) else {
            return;
        };
        let marked = view.fwmark == Some(path.fwmark);
        let outcome = match view.likeness(active) {
            Likeness::Same if marked => return,
            Likeness::Roamed if marked => {
                tracing::warn!(path = %path.name, endpoint = %active.name, "roamed: set back");
                self.metrics.set_backs.with_label_values(&[path.name.as_str()]).inc();
                device::set_back(path, active)
            }
            _ => {
                tracing::warn!(path = %path.name, endpoint = %active.name, "device was elsewhere");
                device::switch(path, path.fwmark, active)
            }
        };
        if let Err(error) = outcome {
            tracing::error!(path = %path.name, error = chain(error), "the device was not corrected");
        }
    }
}
