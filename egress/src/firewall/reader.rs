//! The walls, read for many who ask: however many paths and scrapes there are, the kernel is asked
//! once for all, and for the rules only where one may have changed.
//!
//! Each transaction, of whomever, makes the ruleset's generation one more. While that stays, so do
//! the rules, and what moves are the counters. Must never
//! answer with what was read before it was asked for, nor with zero for what could not be read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nftables::types::NfFamily;

use super::listing::Listing;
use super::{Copies, NftError, Walls, counter, guard, killswitch, netlink, watch};

/// A listing is believed no longer, though nothing seems to have changed.
const BELIEVED: Duration = Duration::from_secs(30);

/// Shared by all who ask.
#[derive(Debug, Default)]
pub struct Reader(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    listed: Option<Listed>,
    told: Option<Told>,
}

/// What was listed last, with nobody writing meanwhile.
#[derive(Debug)]
struct Listed {
    generation: u32,
    at: Instant,
    walls: Walls,
}

/// What was read, and when that began.
#[derive(Debug, Clone)]
pub struct Reading {
    pub at: Instant,
    /// Of the ruleset. `None`: somebody wrote while it was read.
    pub generation: Option<u32>,
    pub walls: Walls,
}

#[derive(Debug)]
struct Told {
    began: Instant,
    generation: Option<u32>,
    walls: Result<Walls, Arc<NftError>>,
}

impl Reader {
    /// The walls as they were at some moment after `since`. Who asks while somebody is told waits,
    /// and takes what comes next together with all others.
    pub fn walls(&self, since: Instant) -> Result<Reading, NftError> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.told.as_ref().is_none_or(|told| told.began < since) {
            let began = Instant::now();
            let walls = latest.read().map_err(Arc::new);
            let generation = latest.listed.as_ref().map(|listed| listed.generation);
            latest.told = Some(Told { began, generation, walls });
        }
        let told = latest.told.as_ref().expect("told just now");
        let walls = told.walls.clone().map_err(NftError::Shared)?;
        Ok(Reading { at: told.began, generation: told.generation, walls })
    }
}

impl Latest {
    fn read(&mut self) -> Result<Walls, NftError> {
        if let Some(walls) = self.listed.as_ref().and_then(Listed::counted) {
            return Ok(walls);
        }
        self.listed = None;
        let before = netlink::generation().ok();
        let walls = Walls::read()?;
        let after = netlink::generation().ok();
        // Where somebody wrote meanwhile it may be of two minds, and is not kept.
        if let (Some(generation), true) = (before, before == after) {
            self.listed = Some(Listed { generation, at: Instant::now(), walls: walls.clone() });
        }
        Ok(walls)
    }
}

impl Listed {
    /// The same rules with the counters of now; `None`: the rules have to be read.
    fn counted(&self) -> Option<Walls> {
        let stands = || netlink::generation().is_ok_and(|now| now == self.generation);
        if self.at.elapsed() >= BELIEVED || !stands() {
            return None;
        }
        let Walls { killswitch, watch, stop, guard } = &self.walls;
        let walls = Walls {
            killswitch: counted(killswitch.as_ref(), NfFamily::INet, killswitch::TABLE)?,
            watch: counted(watch.as_ref(), NfFamily::NetDev, watch::TABLE)?,
            // Nothing of it is shown that moves.
            stop: stop.clone(),
            guard: Copies {
                killswitch: counted(guard.killswitch.as_ref(), NfFamily::INet, guard::KILLSWITCH)?,
                watch: counted(guard.watch.as_ref(), NfFamily::NetDev, guard::WATCH)?,
                stop: guard.stop.clone(),
            },
        };
        // Counters of other rules than these, where they were replaced meanwhile.
        stands().then_some(walls)
    }
}

/// The outer `None`: not understood.
#[allow(clippy::option_option)]
fn counted(listed: Option<&Listing>, family: NfFamily, table: &str) -> Option<Option<Listing>> {
    let Some(listed) = listed.filter(|listed| listed.has_counters()) else {
        return Some(listed.cloned());
    };
    match counter::all(family, table) {
        Ok(counters) => listed.counted(counters).map(Some),
        Err(error) => {
            tracing::debug!(%error, table, "the counters could not be read apart from the rules");
            None
        }
    }
}
