//! What was measured, as a section of the page, as a total, and as what is wrong with it.

use std::fmt::Write as _;
use std::path::Path;

use clap::ValueEnum as _;
use lab::setups::{Cell, Moment, Scope, Setup};

use crate::{Matrix, Outcome};

/// The section begins with this line.
const HEADING: &str = "## Set-ups\n";

fn cells(matrix: &Matrix) -> impl Iterator<Item = (Setup, Scope, Moment, &Cell)> {
    matrix.iter().flat_map(|((setup, scope), outcome)| {
        let cells: &[(Moment, Cell)] = match outcome {
            Outcome::Measured(cells) => cells,
            Outcome::NotHere(_) => &[],
        };
        cells.iter().map(move |(moment, cell)| (*setup, *scope, *moment, cell))
    })
}

/// Every cell under the lock that leaked, every control that is blind, and what did not work.
pub fn wrong(matrix: &Matrix) -> Vec<String> {
    let mut wrong = Vec::new();
    for (setup, scope, moment, cell) in cells(matrix) {
        let name = format!("{}, {}, {}", setup.name(), scope.name(), moment.name());
        if moment != Moment::Unlocked && moment.is_promised(scope) && cell.leaked() > 0 {
            wrong.push(format!("leak: {name}: {:?} of {}", cell.outside, cell.tried));
            wrong.extend(cell.flows.iter().map(|flow| format!("    {flow}")));
        }
        wrong.extend(cell.wrong.iter().map(|what| format!("wrong: {name}: {what}")));
    }
    wrong
}

pub fn not_here(matrix: &Matrix) -> Vec<String> {
    let line = |((setup, scope), outcome): (&(Setup, Scope), &Outcome)| match outcome {
        Outcome::NotHere(why) => Some(format!("{}, {}: {why}", setup.name(), scope.name())),
        Outcome::Measured(_) => None,
    };
    matrix.iter().filter_map(line).collect()
}

pub fn total(matrix: &Matrix) -> String {
    let locked = || cells(matrix).filter(|(_, _, moment, _)| *moment != Moment::Unlocked);
    let control = cells(matrix).filter(|(_, _, moment, _)| *moment == Moment::Unlocked);
    format!(
        "{} packets sent under the lock in {} cells, {} seen outside, in {} cells; without it {} seen",
        locked().map(|(_, _, _, cell)| cell.tried).sum::<u64>(),
        locked().count(),
        locked().map(|(_, _, _, cell)| cell.leaked()).sum::<u64>(),
        locked().filter(|(_, _, _, cell)| cell.leaked() > 0).count(),
        control.map(|(_, _, _, cell)| cell.leaked()).sum::<u64>(),
    )
}

/// Replaces the section at the end of the file, or adds it there.
pub fn write(file: &Path, matrix: &Matrix) {
    let old = std::fs::read_to_string(file).unwrap_or_default();
    let kept = old.find(HEADING).map_or(&*old, |start| &old[..start]);
    let text = format!("{}\n\n{}", kept.trim_end(), section(matrix));
    std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn section(matrix: &Matrix) -> String {
    let mut text = format!("{HEADING}\n{ABOUT}\n{}.\n", total(matrix));
    for scope in Scope::value_variants() {
        let _ = writeln!(text, "\n### Workload `{}`\n", scope.name());
        text.push_str("| set-up |");
        for moment in Moment::value_variants() {
            let _ = write!(text, " {} |", moment.title());
        }
        text.push_str(" sent under the lock |\n|---|");
        text.push_str(&"--:|".repeat(Moment::value_variants().len() + 1));
        text.push('\n');
        for setup in Setup::value_variants() {
            let Some(outcome) = matrix.get(&(*setup, *scope)) else { continue };
            let _ = write!(text, "| {} |", setup.title());
            let Outcome::Measured(cells) = outcome else {
                let _ = writeln!(text, "{} not run |", " |".repeat(Moment::value_variants().len()));
                continue;
            };
            let mut sent = 0;
            for moment in Moment::value_variants() {
                let cell = cells.iter().find(|(at, _)| at == moment).map(|(_, cell)| cell);
                let seen = cell.map(|cell| cell.leaked().to_string()).unwrap_or_default();
                let _ = write!(text, " {seen} |");
                if *moment != Moment::Unlocked {
                    sent += cell.map_or(0, |cell| cell.tried);
                }
            }
            let _ = writeln!(text, " {sent} |");
        }
    }
    text
}

const ABOUT: &str = "\
What surrounds the host, times the kinds of workload, times the moments. Each cell is the number of
packets that left outside the tunnel, counted at the far end of every link by which the host can send.
A volley is UDP, TCP, ICMP and DNS of both families to the world, to the LAN and past the tunnel:
where the routing table leads, bound to each device, and from each address; for `host` also frames by
AF_PACKET, which only the watch sees. Strangers connect to the workload's service past the tunnel. In
the healthy moment the workload reaches the world through the tunnel by TCP, UDP, DNS and ICMP of both
families, a port that the provider forwards answers, other machines on the uplink are not cut off, and
nothing counts as a leak. One column need not be 0: `cgroups` without the killswitch, for they have one
wall ([threat model](threat-model.md)). \"No lock\" is the positive control: each kind must be seen, and
each link.
";
