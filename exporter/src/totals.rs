//! What the walls have counted, as counters that never fall while this process lives. A wall's
//! counter begins anew with its table, and the guard's copy ends with the daemon: added up, either
//! would look like a reset, and each packet before it like a new one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use egress::config::PathConfig;
use egress::firewall::{Both, Count, Counts, Reading};
use egress::names::PathName;

/// As the page shows them; `None` is a counter that neither the wall nor its copy has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    pub blocked: Option<Count>,
    pub leaked: Option<Count>,
    pub other_frames: Option<Count>,
}

#[derive(Debug, Default)]
pub struct Totals(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Of the latest reading that was added.
    at: Option<Instant>,
    paths: BTreeMap<PathName, [Sum; 3]>,
}

/// One counter's sum, and how far each of its parts has been added.
#[derive(Debug, Default)]
struct Sum {
    total: Count,
    wall: Part,
    guard: Part,
    is_there: bool,
}

/// A counter in one table.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    count: Count,
    /// The table's handle.
    table: Option<u64>,
}

impl Totals {
    /// Adds a reading, where it is not older than the latest one, and says the totals.
    pub fn add(&self, reading: &Reading, paths: &[PathConfig]) -> BTreeMap<PathName, Total> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.at.is_none_or(|at| at < reading.at) {
            inner.at = Some(reading.at);
            // A path that left the config leaves nothing behind.
            inner.paths.retain(|name, _| paths.iter().any(|path| path.name == *name));
            for path in paths {
                let counts = reading.walls.counts(&path.name);
                inner.add(&path.name, &counts, reading.walls.table_handles());
            }
        }
        inner.paths.iter().map(|(name, sums)| (name.clone(), total(sums))).collect()
    }
}

impl Inner {
    fn add(&mut self, path: &PathName, counts: &Counts, tables: [[Option<u64>; 2]; 2]) {
        let leaked = Both { wall: counts.leaked.watch, guard: counts.leaked.guard };
        let [killswitch, watch] = tables;
        let parts = [(counts.blocked, killswitch), (leaked, watch), (counts.other_frames, watch)];
        let sums = self.paths.entry(path.clone()).or_default();
        sums.iter_mut().zip(parts).for_each(|(sum, (both, tables))| sum.add(both, tables));
    }
}

impl Sum {
    fn add(&mut self, now: Both, [wall, guard]: [Option<u64>; 2]) {
        self.is_there = now.wall.or(now.guard).is_some();
        let parts = [(&mut self.wall, now.wall, wall), (&mut self.guard, now.guard, guard)];
        for (before, count, table) in parts {
            // One that is gone begins at nothing when it is back.
            let now = Part { count: count.unwrap_or_default(), table };
            let from = if now.began_anew(*before) { Count::default() } else { before.count };
            self.total.packets += now.count.packets - from.packets;
            self.total.bytes += now.count.bytes - from.bytes;
            *before = now;
        }
    }

    fn shown(&self) -> Option<Count> {
        self.is_there.then_some(self.total)
    }
}

impl Part {
    /// Whether it began at nothing since; also where it has come as far as before by now.
    fn began_anew(self, before: Self) -> bool {
        let fell = |now: u64, before: u64| now < before;
        self.table != before.table
            || fell(self.count.packets, before.count.packets)
            || fell(self.count.bytes, before.count.bytes)
    }
}

fn total([blocked, leaked, other_frames]: &[Sum; 3]) -> Total {
    Total { blocked: blocked.shown(), leaked: leaked.shown(), other_frames: other_frames.shown() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(wall: impl Into<Option<u64>>, guard: impl Into<Option<u64>>) -> Both {
        let count =
            |packets: Option<u64>| packets.map(|packets| Count { packets, bytes: 10 * packets });
        Both { wall: count(wall.into()), guard: count(guard.into()) }
    }

    #[test]
    fn a_total_never_falls_and_counts_nothing_twice() {
        let mut sum = Sum::default();
        // What the parts have counted, and in which table.
        let history = [
            (both(1000, 50), [1, 2], Some(1050), "what had been counted before"),
            (both(1001, 52), [1, 2], Some(1053), "each counts"),
            (both(1001, None), [1, 0], Some(1053), "the daemon ended, and the guard with it"),
            (both(1001, 0), [1, 3], Some(1053), "another guard"),
            (both(1001, 3), [1, 3], Some(1056), "which counts"),
            (both(None, 4), [0, 3], Some(1057), "the table is gone, its copy is not"),
            (both(2, 4), [4, 3], Some(1059), "the table is back, and began at nothing"),
            (both(2, 4), [5, 3], Some(1061), "made anew unseen, and as far by now"),
            (both(None, None), [0, 0], None, "neither is there: nothing is said"),
            (both(5, None), [6, 0], Some(1066), "and goes on from where it was"),
        ];
        for (now, tables, total, why) in history {
            sum.add(now, tables.map(|table| (table != 0).then_some(table)));
            assert_eq!(sum.shown().map(|count| count.packets), total, "{why}");
            assert_eq!(
                sum.shown().map(|count| count.bytes),
                total.map(|total| 10 * total),
                "{why}"
            );
        }
    }
}
