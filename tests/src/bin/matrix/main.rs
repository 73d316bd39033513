//! The leak matrix: every fault times every kind of traffic, under our lock and, as its positive
//! control, under none; for comparison under two locks that others document.
//!
//! Fails where our lock lets a packet out, or where a control is blind.

mod cell;
mod fault;
mod lock;
mod page;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum as _};
use lab::side_by_side::{run_again, side_by_side};

use cell::{Amount, Kinds, Row};
use fault::Fault;
use lock::Lock;

#[derive(Parser)]
#[command(about = "Measures the leak matrix")]
struct Arguments {
    #[command(flatten)]
    amount: Amount,
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Fault>,
    /// Under these locks.
    #[arg(long, value_delimiter = ',', default_value = "ours,none")]
    locks: Vec<Lock>,
    /// Worlds at the same time; most of a world's time is waiting.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Where to write the page.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Results of an earlier part of the same measurement: taken in, and written back with these.
    #[arg(long)]
    results: Option<PathBuf>,
    /// Inside a world of its own: measure one row with these kinds.
    #[arg(long, hide = true)]
    inside: Option<Kinds>,
}

/// One world.
#[derive(Clone, Copy)]
struct Job {
    fault: Fault,
    lock: Lock,
    kinds: Kinds,
}

pub type Matrix = BTreeMap<(Lock, Fault), Row>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen = |fault: &&Fault| arguments.only.is_empty() || arguments.only.contains(fault);
    let faults: Vec<Fault> = Fault::value_variants().iter().filter(chosen).copied().collect();
    if let Some(kinds) = arguments.inside {
        lab::enter_for_bin();
        let (fault, amount) = (faults[0], arguments.amount);
        let mut stage = cell::Stage::raise(fault, arguments.locks[0], kinds, amount);
        let row = cell::run(&mut stage, fault, amount);
        println!("{}", serde_json::to_string(&row).expect("a row is JSON"));
        // Without taking the world down: it ends with this process.
        std::process::exit(0);
    }
    let started = Instant::now();
    let mut matrix = match measure(&jobs(&faults, &arguments.locks), &arguments) {
        Ok(matrix) => matrix,
        Err(failed) => {
            eprintln!("{failed}");
            return ExitCode::FAILURE;
        }
    };
    let elapsed = started.elapsed();
    if let Some(file) = &arguments.results {
        matrix.extend(earlier(file));
        let all: Vec<_> = matrix.iter().collect();
        let text = serde_json::to_string(&all).expect("rows are JSON");
        std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    if let Some(file) = &arguments.page {
        let text = page::page(&matrix);
        std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    for line in page::totals(&matrix) {
        println!("{line}");
    }
    println!("{} worlds in {:.0} s", jobs(&faults, &arguments.locks).len(), elapsed.as_secs_f64());
    let wrong = page::wrong(&matrix);
    for line in &wrong {
        eprintln!("{line}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// None, where there is no such file yet.
fn earlier(file: &Path) -> Matrix {
    let Ok(text) = std::fs::read_to_string(file) else { return Matrix::new() };
    let rows: Vec<((Lock, Fault), Row)> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    rows.into_iter().collect()
}

fn jobs(faults: &[Fault], locks: &[Lock]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for &fault in faults {
        for &lock in locks {
            let kinds: &[Kinds] =
                if lock == Lock::Ours { &[Kinds::Stack, Kinds::Raw] } else { &[Kinds::All] };
            jobs.extend(kinds.iter().map(|&kinds| Job { fault, lock, kinds }));
        }
    }
    jobs
}

fn measure(jobs: &[Job], arguments: &Arguments) -> Result<Matrix, String> {
    let rows = side_by_side(jobs, arguments.jobs, |job| world(job, arguments.amount));
    let mut matrix = Matrix::new();
    let mut failed = Vec::new();
    for (job, row) in rows {
        match row {
            Ok(row) => {
                let whole = matrix.entry((job.lock, job.fault)).or_default();
                whole.kinds.extend(row.kinds);
                whole.others += row.others;
            }
            Err(said) => {
                failed.push(format!("{} under {}: {said}", job.fault.name(), job.lock.name()));
            }
        }
    }
    if failed.is_empty() { Ok(matrix) } else { Err(failed.join("\n")) }
}

fn world(job: Job, amount: Amount) -> Result<Row, String> {
    let kinds = job.kinds.to_possible_value().map(|value| value.get_name().to_owned());
    let (rate, before, after) = (amount.rate, amount.before, amount.after);
    let arguments = [
        ["--inside".to_owned(), kinds.unwrap_or_default()],
        ["--only".into(), job.fault.name()],
        ["--locks".into(), job.lock.name()],
        ["--rate".into(), rate.to_string()],
        ["--before".into(), before.to_string()],
        ["--after".into(), after.to_string()],
    ];
    run_again(&arguments.concat())
}
