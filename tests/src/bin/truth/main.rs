//! The truth table: what goes wrong with a tunnel, what the evidence shows of it, which alerts fire
//! by the shipped rules on a real Prometheus, and what the actuator does.
//!
//! Fails where anything is not as `situation.rs` has it.

mod look;
mod page;
mod situation;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum as _};
use lab::side_by_side::{run_again, side_by_side};

use look::{Intervals, Seen};
use situation::Situation;

#[derive(Parser)]
#[command(about = "Measures the truth table")]
struct Arguments {
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Situation>,
    /// Of the health cycles.
    #[arg(long, default_value = "quick")]
    intervals: Intervals,
    /// Worlds at the same time; most of a world's time is waiting.
    #[arg(long, default_value_t = 6)]
    jobs: usize,
    /// Where to write the page.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Inside a world of its own: look at one row.
    #[arg(long, hide = true)]
    inside: bool,
}

pub type Table = BTreeMap<Situation, Seen>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen = |one: &&Situation| arguments.only.is_empty() || arguments.only.contains(one);
    let mut rows: Vec<Situation> =
        Situation::value_variants().iter().filter(chosen).copied().collect();
    if arguments.inside {
        lab::enter_for_bin();
        let seen = look::look(rows[0], arguments.intervals);
        println!("{}", serde_json::to_string(&seen).expect("a row is JSON"));
        // Without taking the world down: it ends with this process.
        std::process::exit(0);
    }
    // What takes longest begins first.
    rows.sort_by_key(|row| *row != Situation::HandshakeStale);
    let started = Instant::now();
    let results = side_by_side(&rows, arguments.jobs, |row| world(row, arguments.intervals));
    let (mut table, mut wrong) = (Table::new(), Vec::new());
    for (row, result) in results {
        match result {
            Ok(seen) => drop(table.insert(row, seen)),
            Err(said) => wrong.push(format!("{}: {said}", row.name())),
        }
    }
    for (row, seen) in &table {
        println!("{}: {}", row.name(), page::line(seen));
        wrong.extend(page::wrong(*row, seen));
    }
    println!("{} rows in {:.0} s", table.len(), started.elapsed().as_secs_f64());
    if let Some(file) = &arguments.page {
        let text = page::page(&table, arguments.intervals);
        std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    for line in &wrong {
        eprintln!("{line}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn world(row: Situation, intervals: Intervals) -> Result<Seen, String> {
    let intervals = intervals.to_possible_value().map(|value| value.get_name().to_owned());
    let arguments = [
        "--inside".to_owned(),
        "--only".to_owned(),
        row.name(),
        "--intervals".to_owned(),
        intervals.unwrap_or_default(),
    ];
    run_again(&arguments)
}
