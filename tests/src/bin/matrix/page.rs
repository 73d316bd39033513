//! What was measured, as a page, as totals, and as what is wrong with it.

use std::fmt::Write as _;

use clap::ValueEnum as _;
use lab::Kind;

use crate::Matrix;
use crate::cell::{Cell, Row};
use crate::fault::Fault;
use crate::lock::Lock;

/// Every cell under our lock that leaked, every control that is blind, and every forged mark.
pub fn wrong(matrix: &Matrix) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((lock, fault), row) in matrix {
        let name = fault.name();
        for (kind, cell) in &row.kinds {
            let excused = fault.is_known_gap(*kind);
            let kind = kind.name();
            if *lock == Lock::Ours && cell.seen > 0 && !excused {
                wrong.push(format!("leak: {name}, {kind}: {} of {}", cell.seen, cell.tried));
            }
            // A control that sees nothing proves nothing.
            if *lock == Lock::None && cell.seen_since_fault == 0 {
                wrong.push(format!("blind: {name}, {kind}: nothing was seen from the fault on"));
            }
            if cell.tried == 0 {
                wrong.push(format!("nothing was sent: {name}, {kind}"));
            }
            if cell.marked > 0 {
                wrong.push(format!("{name}, {kind}: {} unprivileged marks", cell.marked));
            }
        }
        if *lock == Lock::Ours && row.others > 0 && !fault.is_known_gap(Kind::UdpNew) {
            wrong.push(format!("leak: {name}: {} packets of no kind that was sent", row.others));
        }
    }
    wrong
}

struct Total {
    tried: u64,
    seen: u64,
    leaking: usize,
    cells: usize,
}

fn total(matrix: &Matrix, of: Lock) -> Option<Total> {
    let rows: Vec<&Row> =
        matrix.iter().filter(|((lock, _), _)| *lock == of).map(|(_, row)| row).collect();
    let cells: Vec<&Cell> = rows.iter().flat_map(|row| row.kinds.values()).collect();
    let others: u64 = rows.iter().map(|row| row.others).sum();
    (!cells.is_empty()).then(|| Total {
        tried: cells.iter().map(|cell| cell.tried).sum(),
        seen: cells.iter().map(|cell| cell.seen).sum::<u64>() + others,
        leaking: cells.iter().filter(|cell| cell.seen > 0).count(),
        cells: cells.len(),
    })
}

pub fn totals(matrix: &Matrix) -> Vec<String> {
    let line = |lock: &Lock| {
        let Total { tried, seen, leaking, cells } = total(matrix, *lock)?;
        let name = lock.name();
        Some(format!(
            "{name}: {tried} packets sent, {seen} seen outside, in {leaking} of {cells} cells"
        ))
    };
    Lock::value_variants().iter().filter_map(line).collect()
}

pub fn page(matrix: &Matrix) -> String {
    let mut text = String::from(HEAD);
    text += "| | packets sent | seen outside the tunnel | cells that leaked |\n|---|---|---|---|\n";
    for lock in Lock::value_variants() {
        if let Some(Total { tried, seen, leaking, cells }) = total(matrix, *lock) {
            let _ =
                writeln!(text, "| {} | {tried} | {seen} | {leaking} of {cells} |", lock.title());
        }
    }
    for lock in Lock::value_variants() {
        if total(matrix, *lock).is_some() {
            table(&mut text, matrix, *lock);
        }
    }
    text
}

fn table(text: &mut String, matrix: &Matrix, lock: Lock) {
    let _ = writeln!(text, "\n## {}\n", lock.title());
    text.push_str("| fault |");
    for kind in Kind::value_variants() {
        let _ = write!(text, " {} |", kind.title());
    }
    text.push_str(" sent |\n|---|");
    text.push_str(&"--:|".repeat(Kind::value_variants().len() + 1));
    text.push('\n');
    for fault in Fault::value_variants() {
        let Some(row) = matrix.get(&(lock, *fault)) else { continue };
        let _ = write!(text, "| {} |", fault.title());
        for kind in Kind::value_variants() {
            let seen = row.kinds.get(kind).map(|cell| cell.seen.to_string());
            let _ = write!(text, " {} |", seen.unwrap_or_default());
        }
        let sent: u64 = row.kinds.values().map(|cell| cell.tried).sum();
        let _ = writeln!(text, " {sent} |");
    }
}

const HEAD: &str = "# The leak matrix

Made by `make matrix`; do not edit. Rows are faults, columns are kinds of traffic, and each cell is
the number of packets that the router saw outside the tunnel: the router, not the host under test.
Every cell is a host of its own in the lab. All kinds are sent at once, a third of each bound to the
uplink, a third as the routing table leads, a third by a static route past the tunnel; from before
the lock until after the fault. \"Old\" flows were opened, and answered, before the lock. The frames
by AF_PACKET are sent to hosts of their own: the watch counts them as the leak that they are, and the
hard stop that follows would be all that the other kinds ever met.

The positive control is the same fault and the same traffic without a lock: a cell in which it sees
nothing would prove nothing, and fails the run.

Two cells of our own need not be 0: frames by AF_PACKET on an uplink that was plugged in or renamed a
moment ago. The killswitch does not see them, and the watch is attached when the kernel has told the
daemon of the device. It takes a process with CAP_NET_RAW to be so quick.

";
