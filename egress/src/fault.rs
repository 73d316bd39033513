//! Points at which a test ends the program, as a power cut or `kill -9` would: one per step of every
//! act. In a release build there is nothing of it.
//!
//! `VPN_EGRESS_FAULTS` names a file. Where it exists, every point that is reached adds its name to
//! the file `NAME.reached`; where it says `kill N`, the process ends itself at the Nth of them, and
//! where it says `panic THREAD`, that thread of the daemon panics at its next round; where it says
//! `hang THREAD`, that thread hangs there.

macro_rules! points {
    ($($point:ident $name:literal,)*) => {
        /// A step that has just been done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $($point,)* }

        impl Point {
            pub const ALL: &'static [Self] = &[$(Self::$point,)*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

points! {
    StateWritten "state.written_beside",
    StateRenamed "state.renamed",
    StateAside "state.set_aside",
    HardStopDue "hard_stop.due",
    HardStopCut "hard_stop.cut",
    HardStopLatched "hard_stop.latched",
    SwitchDue "switch.due",
    SwitchIntended "switch.intended",
    SwitchDone "switch.done",
    LoadDue "load.due",
    LoadKillswitch "load.killswitch",
    LoadWatch "load.watch",
    LoadDrained "load.drained",
    LoadRecorded "load.recorded",
    ConvergeDue "converge.due",
    ConvergeLifted "converge.stop_lifted",
    ConvergeDone "converge.steps_done",
    ConvergeRecorded "converge.recorded",
    TunnelIntended "tunnel.intended",
    TunnelDevice "tunnel.device",
    TunnelMade "tunnel.made",
    ReleaseDue "release.due",
    ReleaseLoaded "release.loaded",
    ReleaseRecorded "release.recorded",
    ReleaseLifted "release.lifted",
    UnlockDue "unlock.due",
    UnlockRecorded "unlock.recorded",
    UnlockWatchOff "unlock.watch_off",
    UnlockDone "unlock.done",
    PauseDue "pause.due",
    PauseRecorded "pause.recorded",
    RepairDue "repair.due",
    RepairDone "repair.done",
}

#[cfg(not(debug_assertions))]
pub const fn point(_: Point) {}

#[cfg(not(debug_assertions))]
pub const fn round_of(_: &str) {}

#[cfg(debug_assertions)]
pub use armed::{point, round_of};

#[cfg(debug_assertions)]
mod armed {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::path::PathBuf;

    use nix::sys::signal::{Signal, raise};

    use super::Point;

    /// What the test wants, if there is one that wants something.
    fn wanted() -> Option<(PathBuf, String)> {
        let file = PathBuf::from(std::env::var_os("VPN_EGRESS_FAULTS")?);
        let wanted = fs::read_to_string(&file).ok()?;
        Some((file.with_extension("reached"), wanted.trim().to_owned()))
    }

    pub fn point(point: Point) {
        let Some((reached, wanted)) = wanted() else {
            return;
        };
        let opened = OpenOptions::new().append(true).create(true).open(&reached);
        let _ = opened.and_then(|mut file| writeln!(file, "{}", point.name()));
        let count = fs::read_to_string(&reached).unwrap_or_default().lines().count();
        if wanted == format!("kill {count}") {
            let _ = raise(Signal::SIGKILL);
        }
    }

    /// A thread of the daemon begins another round.
    pub fn round_of(thread: &str) {
        let Some((reached, wanted)) = wanted() else {
            return;
        };
        assert!(wanted != format!("panic {thread}"), "a test wants thread {thread} to die");
        if wanted == format!("hang {thread}") {
            let _ = fs::write(reached, &wanted);
            loop {
                std::thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let mut names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
