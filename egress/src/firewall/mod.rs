//! The rules in the kernel: killswitch, watch and hard stop, each replaced in one transaction, read
//! back and compared. What is loaded is decided elsewhere; here it is only written and seen.

mod counter;
mod dsl;
mod killswitch;
mod listing;
mod nft;
mod permits;
mod rules;
mod stop;
mod table;
mod transaction;
mod watch;

use nftables::types::NfFamily;

pub use listing::{Count, Listing};
pub use nft::NftError;
pub use rules::Rules;
pub use stop::StopKind;

use crate::names::PathName;
use crate::probe::uplink::{self, Device};

/// The three tables as the kernel has them; `None` is a table that is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Walls {
    pub killswitch: Option<Listing>,
    pub watch: Option<Listing>,
    pub stop: Option<Listing>,
}

/// A path's counters. `None` is a counter that is not there: never zero (S7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub blocked: Option<Count>,
    pub leaked: Option<Count>,
    pub other_frames: Option<Count>,
}

impl Walls {
    pub fn read() -> Result<Self, NftError> {
        Ok(Self {
            killswitch: Listing::read(NfFamily::INet, killswitch::TABLE)?,
            watch: Listing::read(NfFamily::NetDev, watch::TABLE)?,
            stop: Listing::read(NfFamily::INet, stop::TABLE)?,
        })
    }

    pub fn counts(&self, path: &PathName) -> Counts {
        let counter = |table: &Option<Listing>, what| {
            table.as_ref().and_then(|listing| listing.counter(&permits::named(path, what)))
        };
        Counts {
            blocked: counter(&self.killswitch, "blocked"),
            leaked: counter(&self.watch, "leaked"),
            other_frames: counter(&self.watch, "other_frames"),
        }
    }

    /// How the kernel's own stop table cuts this path, if it does.
    pub fn stop_kind(&self, path: &PathName) -> Option<StopKind> {
        let listing = self.stop.as_ref()?;
        let has = |chain: &str| listing.has("chain", &permits::named(path, chain));
        has("output")
            .then(|| if has(stop::NO_STATE) { StopKind::NoState } else { StopKind::Latched })
    }

    pub fn stops(&self, path: &PathName) -> bool {
        self.stop_kind(path).is_some()
    }
}

/// The leak counter alone, for the moment before an action, when milliseconds count.
pub fn leaked(path: &PathName) -> Result<Option<Count>, NftError> {
    let name = permits::named(path, "leaked");
    match counter::read(watch::TABLE, &name) {
        Ok(count) => return Ok(count),
        Err(error) => tracing::debug!(%error, "the leak counter is asked of nft"),
    }
    let listed = nft::list(&["counters", "table", "netdev", watch::TABLE])?;
    Ok(listed.and_then(|objects| Listing::of(objects).counter(&name)))
}

/// The first wall. Does not depend on any device.
pub fn load_killswitch(paths: &[Rules]) -> Result<Listing, NftError> {
    transaction::replace(&killswitch::table(paths))
}

/// The second wall, in a transaction of its own: a device that vanishes must not undo the lock.
pub fn load_watch(paths: &[Rules], uplinks: &[String]) -> Result<(Listing, Vec<Device>), NftError> {
    let attach = || {
        let there: Vec<Device> = uplinks.iter().filter_map(|name| uplink::device(name)).collect();
        let names: Vec<String> = there.iter().map(|device| device.name.clone()).collect();
        transaction::replace(&watch::table(paths, &names)).map(|listing| (listing, there))
    };
    // Once more with the devices that are left, if one went away meanwhile.
    attach().or_else(|error| {
        tracing::warn!(%error, "the watch could not be attached, trying once more");
        attach()
    })
}

/// Cuts exactly these paths; with none, lifts every stop.
pub fn set_stop(paths: &[(Rules, StopKind)]) -> Result<(), NftError> {
    if paths.is_empty() {
        return transaction::remove(NfFamily::INet, stop::TABLE).map(|_| ());
    }
    transaction::replace(&stop::table(paths)).map(|_| ())
}

/// Takes both walls off. Only ever on a person's word.
pub fn unlock() -> Result<(), NftError> {
    transaction::remove(NfFamily::NetDev, watch::TABLE)?;
    transaction::remove(NfFamily::INet, killswitch::TABLE)?;
    Ok(())
}
