//! The moments at which a set-up is measured.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::workload::Scope;

/// A column. Their order is the order in which one world goes through them: a leak that is counted
/// once the killswitch is gone stops the path as soon as a daemon runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Moment {
    /// Without a lock: the positive control.
    Unlocked,
    Healthy,
    Converging,
    HardStop,
    DaemonKilled,
    /// The watch's table is deleted, and no daemon lives.
    KillswitchAlone,
    /// The killswitch's table is deleted, and no daemon lives.
    WatchAlone,
}

impl Moment {
    /// Those of the quick subset.
    pub const QUICK: [Self; 4] =
        [Self::Unlocked, Self::Healthy, Self::KillswitchAlone, Self::WatchAlone];

    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::Unlocked => "no lock",
            Self::Healthy => "healthy",
            Self::Converging => "during a converge",
            Self::HardStop => "hard stop",
            Self::DaemonKilled => "daemon killed",
            Self::KillswitchAlone => "watch deleted",
            Self::WatchAlone => "killswitch deleted",
        }
    }

    /// Whether nothing may leave then. The watch knows a cgroup's packets by the killswitch's mark.
    pub fn is_promised(self, scope: Scope) -> bool {
        !(self == Self::WatchAlone && scope == Scope::Cgroups)
    }

    /// Whether frames by `AF_PACKET` have to be stopped: the killswitch cannot see them.
    pub const fn stops_frames(self) -> bool {
        !matches!(self, Self::KillswitchAlone)
    }
}
