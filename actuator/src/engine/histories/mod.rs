//! The promises over random histories: alerts, leaks, restarts, reboots, converges, releases,
//! pauses, unlocks, edits of the config and steps of the clock.

mod host;

use std::cell::RefCell;
use std::collections::BTreeSet;

use egress::health;
use egress::observe::leak;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestCaseError, TestRunner};

use self::host::{Draw, Host, NAMES, paths};
use super::alert::Outcome;
use super::transition::{Enforced, switched};
use crate::decide::{self, Action, Ask, Candidate, Cause, Hold, Idle, Leak, Seen, Tunnel, decide};

const CASES: u32 = 100_000;
const EVENTS: usize = 30;

struct Sight {
    leak: Leak,
    tunnel: Tunnel,
    rules: decide::Rules,
    alive: u64,
}

impl Sight {
    fn lives(&self, endpoint: usize) -> bool {
        self.alive >> endpoint & 1 == 1
    }
}

impl Seen for Sight {
    fn leak(&mut self) -> Leak {
        self.leak
    }
    fn tunnel(&mut self) -> Tunnel {
        self.tunnel
    }
    fn rules(&mut self) -> decide::Rules {
        self.rules
    }
    fn candidate(&mut self, endpoint: usize) -> Candidate {
        if self.lives(endpoint) { Candidate::Alive } else { Candidate::Dead }
    }
}

/// One alert, decided and done, with every promise checked on it.
fn alert(host: &mut Host, draw: &mut Draw) -> Result<&'static str, TestCaseError> {
    let (path, _) = &host.paths[host.hand];
    // Most alerts are about the active endpoint; the others are late, or of another config.
    let named = match draw.of(8) {
        0..4 => host.state.active.clone(),
        _ => draw.from(&NAMES).parse().expect("a name"),
    };
    let failover = Ask::Failover { endpoint: path.position(&named) };
    let ask = match draw.of(8) {
        0..6 => failover,
        6 => Ask::HardStop,
        _ => Ask::Repair,
    };
    let readable = draw.of(8) != 7;
    let mut sight = Sight {
        leak: match leak(&host.state, host.counted()) {
            _ if !readable => Leak::Unknown,
            health::Leak::None => Leak::None,
            _ => Leak::Above,
        },
        tunnel: draw.from(&[
            Tunnel::NotAnswering,
            Tunnel::NotAnswering,
            Tunnel::NotAnswering,
            Tunnel::Answering,
            Tunnel::UplinkDown,
            Tunnel::Unknown,
        ]),
        rules: draw.from(&[decide::Rules::Intact, decide::Rules::Broken, decide::Rules::Unknown]),
        alive: 15 - draw.of(16),
    };
    host.enforced = if draw.of(8) == 7 { Enforced::NotCut } else { Enforced::Cut };
    let before = host.standing();
    let action = decide(Cause::Alert(ask), before, &mut sight);
    let paused = host.pause.is_some_and(|until| host.now.uptime < until);
    match action {
        Action::Switch { to } => {
            let from = host.state.active.clone();
            prop_assert_eq!(before.hold, Hold::None, "S3, S6: a switch under a hold");
            prop_assert!(!host.leaking, "S3: a switch at or after a leak");
            prop_assert!(!paused, "a switch in a pause");
            prop_assert_eq!(host.hand, host.converged, "S6: by a list that is nobody's");
            prop_assert_eq!(&named, &from, "S8: not the active endpoint");
            prop_assert_eq!(sight.tunnel, Tunnel::NotAnswering, "S7, S8");
            prop_assert!(Some(to) > before.active, "S5: back, or in a ring");
            prop_assert!(sight.lives(to), "S9: to a dead endpoint");
            let later = before.active.expect("there is one") + 1..to;
            prop_assert!(!later.into_iter().any(|i| sight.lives(i)), "S9: not the next one");
            prop_assert!(host.left.insert(from), "S8: twice from one endpoint");
            switched(&mut host.state, &path.endpoints[to].name, host.now.wall);
        }
        Action::HardStop => {
            host.enforced = Enforced::Cut;
            prop_assert!(host.leaking, "S3, S7: a stop without a leak, or for a released one");
            host.stop();
        }
        Action::Repair => {
            prop_assert_eq!(ask, Ask::Repair);
            prop_assert!(sight.rules != decide::Rules::Intact);
        }
        Action::Nothing(idle) => {
            prop_assert!(
                before.hold != Hold::NotCut,
                "S3: a latch that is not enforced was let be"
            );
            let open = !matches!(before.hold, Hold::Stopped | Hold::Unlocked);
            prop_assert!(!(open && readable && host.leaking), "S3: a leak was let pass");
            prop_assert!(idle != Idle::Intact || sight.rules == decide::Rules::Intact, "S7");
            prop_assert!(idle != Idle::Paused || paused || host.pause.is_none());
            let due = before.hold == Hold::None
                && ask == failover
                && named == host.state.active
                && sight.tunnel == Tunnel::NotAnswering
                && readable
                && before
                    .active
                    .is_some_and(|at| (at + 1..before.endpoints).any(|later| sight.lives(later)));
            prop_assert!(!due, "a switch that was due was not made: {idle:?}");
        }
    }

    // What the engine makes of its state is what was decided.
    prop_assert_eq!(host.standing(), before.after(action));
    Ok(word(action))
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Nothing(idle) => Outcome::Idle(idle).word(),
        Action::Switch { .. } => "switched",
        Action::HardStop => "hard_stopped",
        Action::Repair => "repaired",
    }
}

fn is_stopped(host: &Host) -> bool {
    matches!(host.standing().hold, Hold::Stopped | Hold::NotCut)
}

#[test]
fn promises_hold_over_any_history() {
    let paths = paths();
    let history = prop::collection::vec(any::<u64>(), 1..EVENTS);
    let mut runner = TestRunner::new(Cases { cases: CASES, ..Cases::default() });
    let outcomes = RefCell::new(BTreeSet::new());
    let outcome = runner.run(&history, |history| {
        let mut host = Host::new(&paths);
        for number in history {
            let draw = &mut Draw(number);
            let (active, stopped) = (host.state.active.clone(), is_stopped(&host));
            if draw.of(2) == 0 {
                outcomes.borrow_mut().insert(alert(&mut host, draw)?);
            } else {
                host.play(draw);
            }
            // S5, S6: what changes the choice is a switch or a converge, and nothing else.
            let left = host.left.is_empty() || host.left.contains(&active);
            prop_assert!(host.state.active == active || left, "{active} was left by neither");
            // S3, S6: a stop is lifted by a release, and by nothing else.
            prop_assert!(!stopped || is_stopped(&host) == host.leaking);
        }
        Ok(())
    });
    outcome.expect("the promises");
    // Histories that never get there would show nothing.
    assert_eq!(outcomes.borrow().len(), 14, "{outcomes:?}");
}
