//! Whether a path needs anything, by the snapshot of the round. Holds no lock of the engine's and changes
//! nothing: while nothing changes, this is all that the daemon does.
//!
//! Only ever answers yes where the engine, with the same sight, would do nothing. Whatever is unclear is
//! no: the engine then reads for itself what it is about to change.

use egress::config::PathConfig;
use egress::device::Likeness;
use egress::health::{Leak, Standing};
use egress::links::Network;
use egress::observe::{self, Sight};
use egress::state::{PathState, Timestamp};

use super::board::{Board, View};
use super::bring_up::{Look, missing};
use super::{Engine, transition};

/// Rules of ours that do not show by where packets go (what keeps local networks local) are read after
/// so many rounds.
const WHOLE_LOOK: u64 = 30;

impl Board {
    /// Whether the path is as state has it, so that nothing is to be done about it in this round.
    pub(super) fn is_quiet(
        &self,
        view: &View,
        path: &PathConfig,
        sight: &Sight,
        round: u64,
    ) -> bool {
        let Ok(state) = &sight.state else { return false };
        if self.stops.pending(&path.name).is_some() || view.unsettled.contains(&path.name) {
            return false;
        }
        match sight.standing(path) {
            Standing::Unlocked => return true,
            Standing::Locked => {}
            Standing::Stopped | Standing::Latched | Standing::Unknown(_) => return false,
        }
        let is_locked = sight.integrity().iter().all(|(_, intact)| *intact)
            && sight.is_covered()
            && (sight.guarded() || self.guard_rests());
        is_locked
            && sight.leak(path) == Leak::None
            && !has_news(self, path, sight, state)
            && (Engine::drifted(path, state) || self.is_in_place(path, sight, state, round))
    }

    /// Whether device and routing are where state has them.
    fn is_in_place(&self, path: &PathConfig, sight: &Sight, state: &PathState, round: u64) -> bool {
        if self.stops.has_set_down(&path.name) {
            return false;
        }
        let look = if round.is_multiple_of(WHOLE_LOOK) { Look::Whole } else { Look::AtWhatItDoes };
        let Ok(devices) = &sight.devices else { return false };
        is_brought_up(path, state, look, &devices.network) && is_at_endpoint(path, sight, state)
    }
}

/// Whether there is something to write down.
fn has_news(board: &Board, path: &PathConfig, sight: &Sight, state: &PathState) -> bool {
    let Ok(walls) = &sight.walls else { return true };
    let peer = sight.device.as_ref().ok().and_then(|view| view.peer());
    let handshake = peer.and_then(|peer| peer.last_handshake).map(Timestamp::from);
    board.latest.is_clock_proven(&path.name)
        || handshake.is_some_and(|at| transition::is_news(state, at))
        || observe::has_moved(state, walls.counts(&path.name).leaked)
}

fn is_brought_up(path: &PathConfig, state: &PathState, look: Look, network: &Network) -> bool {
    let Some(up) = &state.brought_up else { return true };
    missing(up, path, look, network)
        .is_ok_and(|plan| plan.is_none_or(|plan| plan.pieces.is_empty()))
}

/// A device that cannot be read is left to its owner.
fn is_at_endpoint(path: &PathConfig, sight: &Sight, state: &PathState) -> bool {
    let (Ok(view), Some(active)) = (&sight.device, path.endpoint(&state.active)) else {
        return true;
    };
    view.likeness(active) == Likeness::Same && view.fwmark == Some(path.fwmark)
}
