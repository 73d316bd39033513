//! The daemon's own care, every second: what is missing is put back at once, a new uplink is
//! covered, a peer that roamed is set back, and a device that is not where state says it is
//! brought there. None of it ever changes the choice of endpoint.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egress::config::PathConfig;
use egress::cut::{self, Way};
use egress::device::{self, Likeness};
use egress::error::chain;
use egress::firewall::{Guard, StopKind};
use egress::health::{Leak, Standing};
use egress::observe::{self, Host, Sight};
use egress::state::{Latch, PathState, StateError, Timestamp};

use super::alert::Outcome;
use super::load::kind_of_unknown;
use super::stop::Cut;
use super::transition::shook_hands;
use super::{Engine, flows};
use crate::decide::{self, Action, Cause, Hold, Unseen};
use crate::history::Decision;

/// How long the kernel is read for at the start: as long as a device may take to answer.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// What is done about a path's device and routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    /// They are kept as state has them.
    Kept,
    /// The tunnel was taken from the path to cut it.
    LeftAlone,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Found,
    /// Rules that others changed, or an uplink that was not covered.
    Disturbed,
}

impl Engine {
    /// One round of all paths at once, for the start.
    fn keep(&mut self) {
        self.mind_the_heartbeat();
        let host = self.board.kernel.host(Instant::now());
        for path in self.paths() {
            self.keep_path(&path, &host);
        }
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
        let paths = self.paths();
        let sights =
            observe::look_at_all(&paths, &self.store, &self.board.kernel, READ_LIMIT).sights;
        for (path, sight) in paths.into_iter().zip(sights) {
            if let (Standing::Locked, Leak::Seen(packets)) =
                (sight.standing(&path), sight.leak(&path))
            {
                let evidence = format!("{packets} packets above the baseline at the start");
                if let Err(error) = self.stop_for(Cause::LeakAtStart, &path, Hold::None, &evidence)
                {
                    tracing::error!(path = %path.name, error = chain(error), "hard stop failed");
                }
            }
        }
        self.keep();
        self.begun = true;
    }

    /// By counters of `host`, and by the rules, the state and the device of now: the work on another
    /// path, or an alert, may have written since.
    pub(super) fn keep_path(&mut self, path: &PathConfig, host: &Arc<Host>) -> Order {
        let host = if host.is_current() {
            Arc::clone(host)
        } else {
            self.board.kernel.host(Instant::now())
        };
        let sight = host.sight(path, &self.store, device::read(path));
        let mut state = match sight.state {
            Ok(ref state) => PathState::clone(state),
            Err(ref error) => {
                self.stop_for_missing_state(path, error);
                return Order::Found;
            }
        };
        let settled = self.settle_latch(path, &mut state).is_some();
        let standing = match sight.standing(path) {
            Standing::Locked if settled => Standing::Latched,
            standing => standing,
        };
        let tunnel = match standing {
            Standing::Unlocked => return Order::Found,
            Standing::Stopped | Standing::Latched => self.keep_stopped(path, &sight, &mut state),
            Standing::Locked | Standing::Unknown(_) => Tunnel::Kept,
        };
        if self.leak_was_lost(path, &sight) {
            let evidence = "a leak was counted, then the counter was removed";
            let hold = match standing {
                Standing::Stopped => Hold::Stopped,
                Standing::Latched => Hold::NotCut,
                Standing::Locked | Standing::Unlocked | Standing::Unknown(_) => Hold::None,
            };
            if let Err(error) = self.stop_for(Cause::LeakCounterLost, path, hold, evidence) {
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
        } else if !covered && sight.walls.is_ok() {
            match self.load(path, self.rules(path), &mut state) {
                Ok(()) => tracing::info!(path = %path.name, "the watch covers the devices of now"),
                Err(error) => {
                    tracing::error!(path = %path.name, error = chain(error), "uplink not covered");
                }
            }
        } else if !sight.guarded() && !self.board.guard_rests() {
            self.guard_again(path, &state);
        }
        // An edited config is not the host's before a converge makes it so: until then nothing of
        // it is brought to the device, whose endpoints the loaded lock may not permit (S2). And a
        // tunnel that was taken to cut the path is given back by a release only.
        if !Self::drifted(path, &state) && tunnel == Tunnel::Kept {
            if self.stops.has_set_down(&path.name) {
                self.give_tunnel_back(path, &mut state, None);
            }
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
                    let seen = flows::with_flows(path, &self.config.paths, "leaked");
                    tracing::warn!(path = %path.name, seen, "a leak is counted, the alert is awaited");
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
    fn stop_for_missing_state(&self, path: &PathConfig, error: &StateError) {
        if cut::by_own_rules(&path.name).is_some() {
            return;
        }
        let why = chain(error);
        if self.stops.look(path).is_some() && self.stops.rules_failed_lately(&path.name) {
            return;
        }
        let kind = kind_of_unknown(path);
        let unseen =
            decide::Standing { endpoints: path.endpoints.len(), active: None, hold: Hold::None };
        if decide::decide(Cause::StateMissing, unseen, &mut Unseen) != Action::HardStop {
            return;
        }
        let (outcome, seen) = match self.engage(path, kind) {
            Ok(cut) => ("stopped", format!("{why}; cut {}", cut.by.explained())),
            Err(error) => ("failed", format!("{why}; NOT cut: {error}")),
        };
        if self.stops.is_news(&path.name, &seen) {
            self.record(path, Decision::new("care", "stop", outcome).seeing(&seen));
            tracing::error!(path = %path.name, why = seen, "no usable state: {outcome}");
        }
    }

    /// State and kernel are brought to say the same: stopped. Whether the tunnel is kept as state
    /// has it, or left as it is.
    fn keep_stopped(&self, path: &PathConfig, sight: &Sight, state: &mut PathState) -> Tunnel {
        let kind = cut::by_rules(&path.name);
        if kind == Some(StopKind::NoState) && state.latch.is_none() {
            // Stopped because state could not be read; it can be read now, and says otherwise.
            let lifted = self.lift_in_kernel(path);
            tracing::warn!(path = %path.name, lifted = lifted.is_ok(), "state is back");
            return Tunnel::Kept;
        }
        if state.latch.is_none() {
            let latch = Latch {
                reason: "the kernel's stop table".to_owned(),
                evidence: "found engaged, with no latch on record".to_owned(),
                at: Timestamp::now(),
                by: Some(Way::Nftables),
            };
            if let Err(error) = self.latch(path, latch.clone()) {
                tracing::error!(path = %path.name, error = chain(error), "latch not recorded");
            }
            state.latch = Some(latch);
        }
        let Some(kind) = kind.filter(|_| cut::by_own_rules(&path.name).is_some()) else {
            self.cut_again(path, state);
            return Tunnel::LeftAlone;
        };
        self.stops.look(path);
        if sight.walls.as_ref().is_ok_and(|walls| !walls.stop_is_guarded()) {
            let table = self.stops.table(&self.config, path, kind);
            self.guard_stop(&table.cut, &table.living);
        }
        match cut::by_tunnel(path) {
            Some(Way::Peer | Way::Link) => Tunnel::LeftAlone,
            Some(Way::Absent | Way::Nftables) | None => Tunnel::Kept,
        }
    }

    /// The rules do not cut a path whose stop is latched: they are put back, and where they cannot
    /// be, its tunnel is taken.
    fn cut_again(&self, path: &PathConfig, state: &mut PathState) {
        let seen = self.stops.look(path);
        if seen.is_some() && self.stops.rules_failed_lately(&path.name) {
            return;
        }
        let cut = match self.stop_by_rules(path, StopKind::Latched) {
            Ok((cut, _)) => Ok((cut, String::new())),
            Err(rules) => match seen.map_or_else(|| self.stops.by_tunnel(path), Ok) {
                Ok(cut) => Ok((cut, rules)),
                Err(tunnel) => Err(format!("nftables: {rules}; {tunnel}")),
            },
        };
        // One line for each change, not one for each round.
        match cut {
            Ok((Cut { by: Way::Nftables, .. }, _)) => {
                self.stops.is_news(&path.name, "cut by nftables");
                tracing::warn!(path = %path.name, cut_by = "nftables", "the hard stop was put back");
                self.metrics.repairs.with_label_values(&[path.name.as_str(), "stop"]).inc();
            }
            Ok((cut, nftables)) => {
                let by = cut.by.word();
                if self.stops.is_news(&path.name, &format!("cut by {by}")) {
                    tracing::error!(
                        path = %path.name, cut_by = by, nftables,
                        "the hard stop is enforced without nftables"
                    );
                }
                if let Some(latch) = state.latch.as_mut().filter(|latch| latch.by.is_none()) {
                    latch.by = Some(cut.by);
                    let latch = latch.clone();
                    if let Err(error) = self.latch(path, latch) {
                        tracing::error!(path = %path.name, error = chain(error), "latch not recorded");
                    }
                }
            }
            Err(why) => {
                if self.stops.is_news(&path.name, &why) {
                    tracing::error!(
                        path = %path.name, why,
                        "a hard stop is latched and NOT enforced: packets may pass; tried again"
                    );
                }
            }
        }
    }

    /// Gives back the tunnel that was taken to cut the path: the device is set up if it was set down
    /// by us, and gets the endpoint that state names. Says what was not possible.
    pub(super) fn give_tunnel_back(
        &mut self,
        path: &PathConfig,
        state: &mut PathState,
        was_cut_by: Option<Way>,
    ) -> Option<String> {
        let was_set_down = was_cut_by == Some(Way::Link) || self.stops.has_set_down(&path.name);
        let mut trouble = None;
        if was_set_down {
            trouble = self.stops.set_up(path).err();
        }
        let disarmed = device::read(path).is_ok_and(|view| view.peers.is_empty());
        if !disarmed && !was_set_down {
            return None;
        }
        if Self::drifted(path, state) {
            return Some("the config has changed: `actuator converge` sets the device".to_owned());
        }
        let active = path.endpoint(&state.active);
        if let Some(active) = active.filter(|_| disarmed) {
            let switched = device::switch(path, path.fwmark, active);
            trouble = trouble.or(switched.err().map(chain));
        }
        // A device that was down has lost its routes.
        self.keep_tunnel(path, state);
        match &trouble {
            None => tracing::info!(path = %path.name, "the tunnel was given back"),
            Some(error) => {
                tracing::error!(path = %path.name, error, "the tunnel was not given back");
            }
        }
        trouble
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
