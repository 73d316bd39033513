//! The rules in the kernel: killswitch, watch and hard stop, each replaced in one transaction, read
//! back and compared. What is loaded is decided elsewhere; here it is only written and seen.

mod canonical;
pub mod cgroup;
mod counter;
pub mod coverage;
mod deny_all;
mod dsl;
mod dump;
pub mod enforced;
mod facts;
pub mod flows;
pub mod foreign;
mod guard;
pub mod inside;
mod killswitch;
mod leaks;
mod listing;
mod needed;
mod netlink;
mod nft;
mod permits;
mod reader;
mod reading;
mod rules;
mod sessions;
mod stop;
mod table;
mod tagged;
mod transaction;
mod watch;
mod ways;
mod xt;

use std::io;

use nftables::types::NfFamily;

pub use counter::Counters;
pub use coverage::{Basis, Coverage, Covered, Role};
pub use guard::Guard;
pub use listing::{Count, Listing};
pub use netlink::{generation, is_of_our_tables};
pub use nft::NftError;
pub use reader::{Reader, Reading};
pub use rules::{Probe, Protocol, Rules};
pub use stop::StopKind;
use table::TableSpec;

use crate::config::PathConfig;
use crate::fault::{self, Point};
use crate::links;
use crate::names::PathName;

/// The three tables as the kernel has them; `None` is a table that is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Walls {
    pub killswitch: Option<Listing>,
    pub watch: Option<Listing>,
    pub stop: Option<Listing>,
    /// The guard's copies, as if they were the originals.
    pub guard: Copies,
}

/// What the guard holds; `None` is a copy that is not there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Copies {
    pub killswitch: Option<Listing>,
    pub watch: Option<Listing>,
    /// Looked at only where the stop itself is there.
    pub stop: Option<Listing>,
}

/// What was counted as leaked: by the watch, and by its copy where the watch was not there to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leaked {
    pub watch: Option<Count>,
    pub guard: Option<Count>,
}

impl Leaked {
    pub fn sum(&self) -> Option<Count> {
        sum(self.watch, self.guard)
    }
}

fn sum(one: Option<Count>, other: Option<Count>) -> Option<Count> {
    let add = |one: Count, other: Count| Count {
        packets: one.packets + other.packets,
        bytes: one.bytes + other.bytes,
    };
    one.zip(other).map(|(one, other)| add(one, other)).or(one).or(other)
}

/// A counter of a wall, and the same one of the guard's copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Both {
    pub wall: Option<Count>,
    pub guard: Option<Count>,
}

/// A path's counters. `None` is a counter that is not there: never zero (S7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub blocked: Both,
    pub leaked: Leaked,
    pub other_frames: Both,
}

impl Walls {
    pub fn read() -> Result<Self, NftError> {
        let stop = Listing::read(NfFamily::INet, stop::TABLE)?;
        let stop_copy = || guard::read(NfFamily::INet, guard::STOP);
        Ok(Self {
            killswitch: Listing::read(NfFamily::INet, killswitch::TABLE)?,
            watch: Listing::read(NfFamily::NetDev, watch::TABLE)?,
            guard: Copies {
                killswitch: guard::read(NfFamily::INet, guard::KILLSWITCH)?,
                watch: guard::read(NfFamily::NetDev, guard::WATCH)?,
                stop: stop.as_ref().map_or(Ok(None), |_| stop_copy())?,
            },
            stop,
        })
    }

    pub fn counts(&self, path: &PathName) -> Counts {
        let counter = |table: &Option<Listing>, what| {
            table.as_ref().and_then(|listing| listing.counter(&permits::named(path, what)))
        };
        let both = |wall: &_, copy: &_, what| Both {
            wall: counter(wall, what),
            guard: counter(copy, what),
        };
        Counts {
            blocked: both(&self.killswitch, &self.guard.killswitch, "blocked"),
            leaked: Leaked {
                watch: counter(&self.watch, "leaked"),
                guard: counter(&self.guard.watch, "leaked"),
            },
            other_frames: both(&self.watch, &self.guard.watch, "other_frames"),
        }
    }

    /// The handles of killswitch and watch, each with that of its copy: where one is another than
    /// before, its counters began at nothing.
    pub fn table_handles(&self) -> [[Option<u64>; 2]; 2] {
        let handle = |table: &Option<Listing>| table.as_ref().map(Listing::table_handle);
        [
            [handle(&self.killswitch), handle(&self.guard.killswitch)],
            [handle(&self.watch), handle(&self.guard.watch)],
        ]
    }

    /// How the kernel's own stop table cuts this path, if it does.
    pub fn stop_kind(&self, path: &PathName) -> Option<StopKind> {
        let listing = self.stop.as_ref()?;
        let has = |chain: &str| listing.has_chain(&permits::named(path, chain));
        let cut = listing.counter(&permits::named(path, stop::STOPPED)).is_some();
        cut.then(|| if has(stop::NO_STATE) { StopKind::NoState } else { StopKind::Latched })
    }

    /// Whether the watch is attached to the device.
    pub fn watches(&self, covered: &Covered) -> bool {
        let chain = watch::chain_of(covered);
        self.watch.as_ref().is_some_and(|listing| listing.has_chain(&chain))
    }

    /// Whether the path's rules are in the killswitch.
    pub fn holds(&self, path: &PathName) -> bool {
        let blocked = permits::named(path, "blocked");
        self.killswitch.as_ref().is_some_and(|listing| listing.counter(&blocked).is_some())
    }

    /// Whether the lock is the one that permits nothing.
    pub fn is_blank(&self) -> bool {
        self.holds(&rules::blank_name())
    }

    pub fn stops(&self, path: &PathName) -> bool {
        self.stop_kind(path).is_some()
    }

    /// Whether the guard holds a copy of the very stop that is in the kernel.
    pub fn stop_is_guarded(&self) -> bool {
        let (stop, copy) = (self.stop.as_ref(), self.guard.stop.as_ref());
        stop.zip(copy).is_some_and(|(stop, copy)| stop.digest() == copy.digest())
    }
}

/// Whether there is a table of this name in the kernel, made by any program.
pub fn is_table(name: &str) -> bool {
    let of = |family| netlink::has_table(family, name).unwrap_or(false);
    of(NfFamily::IP) || of(NfFamily::INet)
}

/// The leak counters alone, for the moment before an action, when milliseconds count.
pub fn leaked(path: &PathName) -> Result<Leaked, NftError> {
    let name = permits::named(path, "leaked");
    let of = |table: &str| counter::read(table, &name).map_err(NftError::unread);
    Ok(Leaked { watch: of(watch::TABLE)?, guard: of(guard::WATCH)? })
}

/// Makes the guard's copies those of the walls as they were loaded with these devices.
pub fn hold(guard: &mut Guard, paths: &[Rules], coverage: &Coverage) -> Result<(), NftError> {
    let paths = present(paths);
    guard.hold_walls(killswitch::table(&paths), watch::table(&paths, coverage))
}

/// Makes the guard's copy of the stop what [`set_stop`] makes the stop.
pub fn hold_stop(
    guard: &mut Guard,
    paths: &[(Rules, StopKind)],
    living: &[Rules],
) -> Result<(), NftError> {
    let Some(stop) = stop_table(paths, living) else {
        guard.let_stop_go();
        return Ok(());
    };
    guard.hold_stop(stop)
}

/// The first wall. Needs no device to exist.
pub fn load_killswitch(paths: &[Rules]) -> Result<Listing, NftError> {
    // Before, so that no session stands still; after, for those that were opened in between.
    sessions::keep(paths);
    let loaded = transaction::replace(&killswitch::table(&present(paths)))?;
    sessions::keep(paths);
    Ok(loaded)
}

/// Both walls as the config asks for them, in nft's own language.
pub fn text(paths: &[PathConfig]) -> Result<String, NftError> {
    let rules: Vec<Rules> = paths.iter().map(Rules::of).collect();
    let killswitch = killswitch::table(&rules).text();
    Ok(format!("{killswitch}\n{}", watch::table(&rules, &now(&rules)?).text()))
}

/// The paths, without the cgroups that are not there: no rule can name one, and one bad rule must
/// not keep the others from being loaded. Nothing runs in what does not exist.
pub fn present(paths: &[Rules]) -> Vec<Rules> {
    let there = |path: &Rules| {
        let mut path = path.clone();
        path.keep_cgroups(|name| cgroup::id(name).is_some());
        path
    };
    paths.iter().map(there).collect()
}

/// What has to be covered of the devices of now.
fn now(paths: &[Rules]) -> Result<Coverage, NftError> {
    let links = links::all().map_err(NftError::Devices)?;
    Ok(Coverage::of(Basis::of(paths), &links))
}

/// How often the devices are listed again where one went away meanwhile.
const ATTACHMENTS: usize = 3;

/// The second wall, in a transaction of its own: a device that vanishes must not undo the lock. On
/// every device that there is now; says on which.
pub fn load_watch(paths: &[Rules]) -> Result<(Listing, Coverage), NftError> {
    let attach = || {
        let coverage = now(paths)?;
        transaction::replace(&watch::table(paths, &coverage)).map(|listing| (listing, coverage))
    };
    let mut outcome = attach();
    for _ in 1..ATTACHMENTS {
        let Err(error) = &outcome else { break };
        tracing::warn!(%error, "the watch could not be attached, trying once more");
        outcome = attach();
    }
    outcome
}

/// Cuts exactly these paths, and none of the `living`; with none to cut, lifts every stop.
pub fn set_stop(paths: &[(Rules, StopKind)], living: &[Rules]) -> Result<(), NftError> {
    match stop_table(paths, living) {
        Some(stop) => transaction::replace(&stop).map(|_| ()),
        None => transaction::remove(NfFamily::INet, stop::TABLE).map(|_| ()),
    }
}

fn stop_table(paths: &[(Rules, StopKind)], living: &[Rules]) -> Option<TableSpec> {
    let cut: Vec<Rules> = paths.iter().map(|(path, _)| path.clone()).collect();
    let kinds = paths.iter().map(|(_, kind)| *kind);
    let cut: Vec<(Rules, StopKind)> = present(&cut).into_iter().zip(kinds).collect();
    (!cut.is_empty()).then(|| stop::table(&cut, &present(living)))
}

/// Refuses everything, for a boot, until [`load_killswitch`] replaces it in its own transaction.
pub fn deny_all() -> Result<(), NftError> {
    deny_all::load()
}

/// Whether [`deny_all`] is in force: no lock has been loaded since.
pub fn is_all_denied() -> bool {
    netlink::has_table(NfFamily::INet, deny_all::TABLE).unwrap_or(false)
}

/// Whether a killswitch is loaded, whatever is in it. Asked without `nft`.
pub fn is_locked() -> io::Result<bool> {
    netlink::has_table(NfFamily::INet, killswitch::TABLE)
}

/// For a host whose lock a person has taken off meanwhile.
pub fn lift_deny_all() -> Result<(), NftError> {
    if is_all_denied() { deny_all::remove() } else { Ok(()) }
}

/// Takes both walls off, and what refuses everything where they were never loaded. Only ever on a
/// person's word.
pub fn unlock() -> Result<(), NftError> {
    lift_deny_all()?;
    transaction::remove(NfFamily::NetDev, watch::TABLE)?;
    fault::point(Point::UnlockWatchOff);
    transaction::remove(NfFamily::INet, killswitch::TABLE)?;
    Ok(())
}

#[cfg(test)]
mod snapshots;
