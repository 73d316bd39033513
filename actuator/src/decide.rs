//! The decision: how the path stands, what is asked, what is seen -> what is done, how the path
//! stands then, and what becomes of the alert.
//!
//! Pure, and the only place where a breach is turned into an action: every cause of a hard stop enters
//! here. The promises it keeps:
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

/// Why a decision is due: what an alert asks for, or what the daemon has found itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Alert(Ask),
    /// A leak from before the daemon was there: its alert may be over.
    LeakAtStart,
    /// A leak was counted, and its counter was removed before the alert came.
    LeakCounterLost,
    /// State of a configured path is missing or cannot be read (S7).
    StateMissing,
    /// The lock could not be put back.
    RepairFailed,
    /// The watchdog is silent, and the config asks for a hard stop then.
    WatchdogSilent,
}

impl Cause {
    /// The latch's reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Alert(_) | Self::LeakAtStart | Self::LeakCounterLost => "leak",
            Self::StateMissing => "no usable state",
            Self::RepairFailed => "the lock could not be repaired",
            Self::WatchdogSilent => "the watchdog is silent",
        }
    }

    /// Whether it is that packets were to leave outside the tunnel.
    pub fn is_leak(self) -> bool {
        matches!(self, Self::Alert(_) | Self::LeakAtStart | Self::LeakCounterLost)
    }

    /// Who asks, for the history.
    pub fn word(self) -> &'static str {
        match self {
            Self::Alert(ask) => ask.word(),
            Self::WatchdogSilent => "watchdog",
            Self::LeakAtStart | Self::LeakCounterLost | Self::StateMissing | Self::RepairFailed => {
                "care"
            }
        }
    }
}

/// How the path stands, by its state and by what the kernel is seen to enforce.
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
    /// A stop is latched, and the kernel is seen to cut the path.
    Stopped,
    /// A stop is latched, and the kernel is not seen to cut the path.
    NotCut,
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

/// For causes that are their own evidence.
pub struct Unseen;

impl Seen for Unseen {
    fn leak(&mut self) -> Leak {
        Leak::Unknown
    }
    fn tunnel(&mut self) -> Tunnel {
        Tunnel::Unknown
    }
    fn rules(&mut self) -> Rules {
        Rules::Unknown
    }
    fn candidate(&mut self, _: usize) -> Candidate {
        Candidate::Dead
    }
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

pub fn decide(cause: Cause, standing: Standing, seen: &mut impl Seen) -> Action {
    use Action::{HardStop, Nothing, Repair, Switch};
    let ask = match (cause, standing.hold) {
        // What was latched and is not enforced comes before whatever is asked.
        (_, Hold::NotCut) => return HardStop,
        (Cause::Alert(ask), _) => ask,
        (_, Hold::Stopped) => return Nothing(Idle::AlreadyStopped),
        (_, Hold::Unlocked) => return Nothing(Idle::Unlocked),
        (_, Hold::None | Hold::Paused | Hold::Drifted) => return HardStop,
    };
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
        (_, Hold::None | Hold::Paused | Hold::Drifted | Hold::NotCut) => {}
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
