//! What an act makes of a path's state, and how the path stands by it. No kernel, no file: the engine
//! writes what comes out, and the property tests run the same lines over random histories.

use egress::clock::Moment;
use egress::config::PathConfig;
use egress::firewall::{Leaked, Rules};
use egress::names::EndpointName;
use egress::observe::forgive;
use egress::state::{Act, Latch, PathState, Timestamp};

use crate::decide::{Hold, Standing};

/// What the kernel is seen to do about a latch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    Cut,
    NotCut,
}

/// How the path stands. `rules` are those of the config in hand.
pub fn standing(
    path: &PathConfig,
    rules: &Rules,
    state: &PathState,
    enforced: Enforced,
    now: &Moment,
) -> Standing {
    let drifted = state.intended.as_ref().is_some_and(|intended| intended.rules != *rules);
    let hold = match state {
        PathState { latch: Some(_), .. } => match enforced {
            Enforced::Cut => Hold::Stopped,
            Enforced::NotCut => Hold::NotCut,
        },
        PathState { unlocked: Some(_), .. } => Hold::Unlocked,
        _ if drifted => Hold::Drifted,
        _ if state.pause_left(now).is_some() => Hold::Paused,
        _ => Hold::None,
    };
    Standing { endpoints: path.endpoints.len(), active: path.position(&state.active), hold }
}

/// The path's endpoint is another one.
pub fn switched(state: &mut PathState, to: &EndpointName, at: Timestamp) {
    state.active = to.clone();
    state.changed = at;
    // The device shakes hands by this clock now, as the candidate has.
    state.latest_handshake = Some(at);
}

/// Keeps the time of a handshake that was completed. Returns whether that is news worth a write:
/// ten minutes are the most that a clock can be behind unnoticed after a reboot.
pub fn shook_hands(state: &mut PathState, at: Timestamp) -> bool {
    let is_news = is_news(state, at);
    if is_news {
        state.latest_handshake = Some(at);
    }
    is_news
}

/// Whether [`shook_hands`] would write it down.
pub fn is_news(state: &PathState, at: Timestamp) -> bool {
    const APART: u64 = 10 * 60;
    // A responder has accepted it, so an earlier one is news too: the clock was wrong before.
    state.latest_handshake.is_none_or(|known| known.0.abs_diff(at.0) >= APART)
}

/// The path is latched. Engaging twice is harmless: the first reason stays, and by which way the path
/// was cut is what was seen last.
pub fn stopped(state: &mut PathState, latch: Latch) {
    let by = latch.by;
    let kept = state.latch.get_or_insert(latch);
    kept.by = by.or(kept.by);
}

/// The stop is lifted, and with it is dealt what was leaked up to now; what it was for.
pub fn released(state: &mut PathState, leaked: Leaked, act: Act) -> Option<Latch> {
    forgive(state, leaked);
    state.changed = act.at;
    state.last_release = Some(act);
    state.latch.take()
}
