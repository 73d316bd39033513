//! The decision: how the path stands, what is asked, what is seen -> what is done, how the path
//! stands then, and what becomes of the alert.
//!
//! Pure, and the only place where a breach is turned into an action. The promises it keeps:
//! a leak never causes a switch (S3); forward only (S5); tighten only (S6); unknown is not
//! healthy (S7); compare and swap (S8); no switch to a dead endpoint (S9).

/// What an alert asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The tunnel of the endpoint at this place in the list is down; `None`: no such endpoint.
    Failover {
        endpoint: Option<usize>,
    },
    HardStop,
    Repair,
}

impl Ask {
    /// The alert's label `action`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failover { .. } => "failover",
            Self::HardStop => "hard-stop",
            Self::Repair => "repair",
        }
    }
}

/// How the path stands, by its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub endpoints: usize,
    /// Place of the active endpoint; `None` where the config no longer has it.
    pub active: Option<usize>,
    pub hold: Hold,
}

/// What keeps automatic action back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    None,
    /// No automatic failover; a leak still stops.
    Paused,
    /// The config in hand is not the one that was converged: its list is nobody's choice yet.
    Drifted,
    Stopped,
    Unlocked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leak {
    None,
    Above,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    NotAnswering,
    Answering,
    UplinkDown,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    Intact,
    Broken,
    Unknown,
}

/// Whether a candidate completed a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidate {
    Alive,
    Dead,
    /// By the config candidates are taken as they come.
    Unasked,
}

/// A fresh look. What costs time is asked for only where the answer can matter.
pub trait Seen {
    fn leak(&mut self) -> Leak;
    fn tunnel(&mut self) -> Tunnel;
    fn rules(&mut self) -> Rules;
    fn candidate(&mut self, endpoint: usize) -> Candidate;
}

/// What is done. It is the alert's outcome too, where it can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Nothing(Idle),
    Switch { to: usize },
    HardStop,
    Repair,
}

/// Why nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    AlreadyStopped,
    AlreadyReleased,
    StaleEndpoint,
    Recovered,
    UplinkDown,
    Exhausted,
    NoReachableStandby,
    Paused,
    Unlocked,
    Intact,
    /// What is seen does not allow a decision; asking again may.
    Unclear,
}

pub fn decide(ask: Ask, standing: Standing, seen: &mut impl Seen) -> Action {
    use Action::{HardStop, Nothing, Repair, Switch};
    match (ask, standing.hold) {
        // The rules below a stop are still put back, so that a release finds them there.
        (Ask::Repair, Hold::Stopped) => {
            return match seen.rules() {
                Rules::Intact => Nothing(Idle::Intact),
                Rules::Broken | Rules::Unknown => Repair,
            };
        }
        (_, Hold::Stopped) => return Nothing(Idle::AlreadyStopped),
        (_, Hold::Unlocked) => return Nothing(Idle::Unlocked),
        (_, Hold::None | Hold::Paused | Hold::Drifted) => {}
    }
    // Whatever was asked: where there is a leak too, the leak wins.
    let leak = seen.leak();
    match (ask, leak) {
        (_, Leak::Above) => return HardStop,
        (Ask::HardStop, Leak::None) => return Nothing(Idle::AlreadyReleased),
        // Rules that were removed are being put back, and the sender asks again. A leak that was
        // counted before they were is remembered; rules that stay away stop the path.
        (Ask::HardStop | Ask::Failover { .. }, Leak::Unknown) => return Nothing(Idle::Unclear),
        (Ask::Repair | Ask::Failover { .. }, _) => {}
    }
    let Ask::Failover { endpoint } = ask else {
        return match seen.rules() {
            Rules::Intact => Nothing(Idle::Intact),
            Rules::Broken | Rules::Unknown => Repair,
        };
    };
    if standing.hold == Hold::Drifted {
        return Nothing(Idle::Unclear);
    }
    let Some(active) = standing.active.filter(|_| endpoint == standing.active) else {
        return Nothing(Idle::StaleEndpoint);
    };
    if standing.hold == Hold::Paused {
        return Nothing(Idle::Paused);
    }
    match seen.tunnel() {
        Tunnel::Answering => return Nothing(Idle::Recovered),
        Tunnel::UplinkDown => return Nothing(Idle::UplinkDown),
        Tunnel::Unknown => return Nothing(Idle::Unclear),
        Tunnel::NotAnswering => {}
    }
    let mut later = active + 1..standing.endpoints;
    if later.is_empty() {
        return Nothing(Idle::Exhausted);
    }
    match later.find(|&candidate| seen.candidate(candidate) != Candidate::Dead) {
        Some(to) => Switch { to },
        None => Nothing(Idle::NoReachableStandby),
    }
}

#[cfg(test)]
impl Standing {
    /// How the path stands once this is done: what the engine's state has to say by then.
    pub fn after(self, action: Action) -> Self {
        match action {
            Action::Switch { to } => Self { active: Some(to), ..self },
            Action::HardStop => Self { hold: Hold::Stopped, ..self },
            Action::Nothing(_) | Action::Repair => self,
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
