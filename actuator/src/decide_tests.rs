//! The decision as a table; its promises over random histories are in `engine/histories_tests.rs`.

use super::*;

#[derive(Debug, Clone)]
struct Sight {
    leak: Leak,
    tunnel: Tunnel,
    rules: Rules,
    candidates: Vec<Candidate>,
}

impl Seen for Sight {
    fn leak(&mut self) -> Leak {
        self.leak
    }
    fn tunnel(&mut self) -> Tunnel {
        self.tunnel
    }
    fn rules(&mut self) -> Rules {
        self.rules
    }
    fn candidate(&mut self, endpoint: usize) -> Candidate {
        self.candidates[endpoint]
    }
}

const ENDPOINTS: usize = 4;

fn down() -> Sight {
    Sight {
        leak: Leak::None,
        tunnel: Tunnel::NotAnswering,
        rules: Rules::Intact,
        candidates: vec![Candidate::Alive; ENDPOINTS],
    }
}

fn standing(active: usize, hold: Hold) -> Standing {
    Standing { endpoints: ENDPOINTS, active: Some(active), hold }
}

fn failover(of: usize) -> Ask {
    Ask::Failover { endpoint: Some(of) }
}

fn decided(ask: Ask, standing: Standing, change: impl FnOnce(&mut Sight)) -> Action {
    let mut sight = down();
    change(&mut sight);
    decide(Cause::Alert(ask), standing, &mut sight)
}

#[test]
fn the_table() {
    use Action::{HardStop, Nothing, Repair, Switch};
    let open = standing(0, Hold::None);
    let asked = |change: fn(&mut Sight)| decided(failover(0), open, change);
    // S9: the next one that lives, in order.
    assert_eq!(asked(|_| {}), Switch { to: 1 });
    assert_eq!(asked(|s| s.candidates[1] = Candidate::Dead), Switch { to: 2 });
    let dead = |s: &mut Sight| s.candidates = vec![Candidate::Dead; ENDPOINTS];
    assert_eq!(asked(dead), Nothing(Idle::NoReachableStandby));
    // Where the config turns the question off, the next one is taken unasked, and forward all the same.
    let unasked = |s: &mut Sight| s.candidates = vec![Candidate::Unasked; ENDPOINTS];
    assert_eq!(asked(unasked), Switch { to: 1 });
    assert_eq!(decided(failover(2), standing(2, Hold::None), unasked), Switch { to: 3 });
    assert_eq!(decided(failover(3), standing(3, Hold::None), unasked), Nothing(Idle::Exhausted));
    // S8: only while the named endpoint is the active one, and its tunnel still silent.
    let stale = decided(failover(1), open, |_| {});
    assert_eq!(stale, Nothing(Idle::StaleEndpoint));
    let unknown = decided(Ask::Failover { endpoint: None }, open, |_| {});
    assert_eq!(unknown, Nothing(Idle::StaleEndpoint));
    let gone = Standing { active: None, ..open };
    assert_eq!(
        decided(Ask::Failover { endpoint: None }, gone, |_| {}),
        Nothing(Idle::StaleEndpoint)
    );
    assert_eq!(asked(|s| s.tunnel = Tunnel::Answering), Nothing(Idle::Recovered));
    assert_eq!(asked(|s| s.tunnel = Tunnel::UplinkDown), Nothing(Idle::UplinkDown));
    // S7: what is unknown is no ground for a switch.
    assert_eq!(asked(|s| s.tunnel = Tunnel::Unknown), Nothing(Idle::Unclear));
    assert_eq!(asked(|s| s.leak = Leak::Unknown), Nothing(Idle::Unclear));
    // S3: the leak wins, whatever was asked.
    for ask in [failover(0), failover(3), Ask::HardStop, Ask::Repair] {
        assert_eq!(decided(ask, open, |s| s.leak = Leak::Above), HardStop);
        let paused = standing(0, Hold::Paused);
        assert_eq!(decided(ask, paused, |s| s.leak = Leak::Above), HardStop);
    }
    // S7: a leak that cannot be checked is asked about again; one that was released is over.
    assert_eq!(decided(Ask::HardStop, open, |s| s.leak = Leak::Unknown), Nothing(Idle::Unclear));
    // S6: an edited list is nobody's before a converge; a leak stops all the same.
    let drifted = standing(0, Hold::Drifted);
    assert_eq!(decided(failover(0), drifted, |_| {}), Nothing(Idle::Unclear));
    assert_eq!(decided(failover(0), drifted, |s| s.leak = Leak::Above), HardStop);
    assert_eq!(decided(Ask::HardStop, open, |_| {}), Nothing(Idle::AlreadyReleased));
    // S5: never in a ring.
    let last = standing(ENDPOINTS - 1, Hold::None);
    assert_eq!(decided(failover(ENDPOINTS - 1), last, |_| {}), Nothing(Idle::Exhausted));
    // Holds.
    let stopped = standing(0, Hold::Stopped);
    for ask in [failover(0), Ask::HardStop] {
        assert_eq!(decided(ask, stopped, |_| {}), Nothing(Idle::AlreadyStopped));
    }
    assert_eq!(decided(Ask::Repair, stopped, |s| s.rules = Rules::Broken), Repair);
    assert_eq!(decided(Ask::Repair, stopped, |s| s.rules = Rules::Unknown), Repair);
    assert_eq!(decided(Ask::Repair, stopped, |_| {}), Nothing(Idle::Intact));
    assert_eq!(decided(failover(0), standing(0, Hold::Paused), |_| {}), Nothing(Idle::Paused));
    for ask in [failover(0), Ask::HardStop, Ask::Repair] {
        let unlocked = standing(0, Hold::Unlocked);
        assert_eq!(decided(ask, unlocked, |s| s.leak = Leak::Above), Nothing(Idle::Unlocked));
    }
    // Repair looks for itself.
    assert_eq!(decided(Ask::Repair, open, |_| {}), Nothing(Idle::Intact));
    assert_eq!(decided(Ask::Repair, open, |s| s.rules = Rules::Broken), Repair);
    assert_eq!(decided(Ask::Repair, open, |s| s.rules = Rules::Unknown), Repair);
}

#[test]
fn s7_a_latch_that_is_not_enforced_is_cut_whatever_is_asked() {
    let not_cut = standing(0, Hold::NotCut);
    for ask in [failover(0), Ask::HardStop, Ask::Repair] {
        assert_eq!(decided(ask, not_cut, |_| {}), Action::HardStop);
    }
}

#[test]
fn s3_s7_what_the_daemon_finds_itself_stops_an_open_path_once() {
    let own = [
        Cause::LeakAtStart,
        Cause::LeakCounterLost,
        Cause::StateMissing,
        Cause::RepairFailed,
        Cause::WatchdogSilent,
    ];
    for cause in own {
        let by = |hold| decide(cause, standing(0, hold), &mut down());
        for hold in [Hold::None, Hold::Paused, Hold::Drifted, Hold::NotCut] {
            assert_eq!(by(hold), Action::HardStop, "{cause:?}, {hold:?}");
        }
        assert_eq!(by(Hold::Stopped), Action::Nothing(Idle::AlreadyStopped));
        assert_eq!(by(Hold::Unlocked), Action::Nothing(Idle::Unlocked));
    }
}
