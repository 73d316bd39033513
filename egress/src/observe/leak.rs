//! What is a leak, and what of it has been dealt with.

use crate::firewall::{Count, Leaked};
use crate::health::Leak;
use crate::state::PathState;

/// A leak is what the kernel counted above the baseline, and nothing else is; wherever it counted.
pub fn leak(state: &PathState, leaked: Leaked) -> Leak {
    let more =
        |count: Option<Count>, baseline| count.map_or(0, |count| above(count.packets, baseline));
    let seen = more(leaked.watch, state.leak_baseline)
        + more(leaked.guard, state.guard_baseline)
        + state.leaks_carried;
    match (seen, leaked.watch) {
        (0, None) => Leak::Unknown("the leak counter is not there".into()),
        (0, Some(_)) => Leak::None,
        (packets, _) => Leak::Seen(packets),
    }
}

/// What has been counted until now is dealt with.
pub fn forgive(state: &mut PathState, leaked: Leaked) {
    state.leak_baseline = leaked.watch.map_or(state.leak_baseline, |count| count.packets);
    state.guard_baseline = leaked.guard.map_or(0, |count| count.packets);
    state.leaks_carried = 0;
}

/// Takes down what the guard counted, for its counters end with it, and that the watch's counter was
/// reset, before it has come as far again; whether there was anything.
pub fn carry(state: &mut PathState, leaked: Leaked) -> bool {
    let moved = has_moved(state, leaked);
    let guard = leaked.guard.map_or(0, |count| count.packets);
    let new = above(guard, state.guard_baseline);
    let reset = is_reset(state, leaked);
    state.leaks_carried += new;
    state.guard_baseline = guard;
    if reset {
        state.leak_baseline = 0;
    }
    moved
}

/// Whether [`carry`] would write anything down.
pub fn has_moved(state: &PathState, leaked: Leaked) -> bool {
    let guard = leaked.guard.map_or(0, |count| count.packets);
    is_reset(state, leaked) || guard != state.guard_baseline
}

fn is_reset(state: &PathState, leaked: Leaked) -> bool {
    leaked.watch.is_some_and(|count| count.packets < state.leak_baseline)
}

/// A count below the baseline has begun anew, at nothing: what it has reached since is above.
fn above(packets: u64, baseline: u64) -> u64 {
    if packets < baseline { packets } else { packets - baseline }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(watch: impl Into<Option<u64>>, guard: impl Into<Option<u64>>) -> Leaked {
        let count = |packets: Option<u64>| packets.map(|packets| Count { packets, bytes: 0 });
        Leaked { watch: count(watch.into()), guard: count(guard.into()) }
    }

    fn state(leak_baseline: u64) -> PathState {
        let mut state = PathState::new("primary".parse().expect("a name"));
        state.leak_baseline = leak_baseline;
        state
    }

    #[test]
    fn s3_a_counter_that_began_anew_hides_no_leak() {
        let leak = |packets| leak(&state(50), counted(packets, None));
        assert_eq!(leak(50), Leak::None);
        assert_eq!(leak(53), Leak::Seen(3));
        assert_eq!(leak(40), Leak::Seen(40));
        assert_eq!(leak(0), Leak::None);
    }

    #[test]
    fn s3_what_the_guard_counted_outlives_the_guard_and_a_release_ends_it() {
        let mut state = state(7);
        assert_eq!(leak(&state, counted(7, 5)), Leak::Seen(5));
        // The watch is gone, and its count with it: what the guard saw is a leak all the same.
        assert_eq!(leak(&state, counted(None, 5)), Leak::Seen(5));
        assert!(matches!(leak(&state, counted(None, 0)), Leak::Unknown(_)));

        assert!(carry(&mut state, counted(None, 5)));
        assert_eq!(leak(&state, counted(0, 5)), Leak::Seen(5), "counted once");
        assert!(!carry(&mut state, counted(None, 5)), "nothing new");
        assert_eq!(leak(&state, counted(0, None)), Leak::Seen(5), "the guard has ended");
        // Another guard, which begins at nothing, and counts up to where the first one was.
        assert!(carry(&mut state, counted(0, 0)));
        assert_eq!(leak(&state, counted(0, 5)), Leak::Seen(10));

        // The watch's began anew as well, and has come as far again: what was dealt with hides nothing.
        assert_eq!(leak(&state, counted(7, 0)), Leak::Seen(12));

        forgive(&mut state, counted(2, 5));
        assert_eq!(leak(&state, counted(2, 5)), Leak::None);
        assert_eq!(leak(&state, counted(2, None)), Leak::None, "nor when the guard ends");
        assert_eq!(leak(&state, counted(2, 6)), Leak::Seen(1));
    }
}
