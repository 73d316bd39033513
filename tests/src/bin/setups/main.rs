//! The third axis of the leak matrix: every set-up times every kind of workload times every moment,
//! each with its positive control.
//!
//! Fails where a packet left outside the tunnel, where a control is blind, and where something
//! does not work that must.

mod page;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum as _};
use lab::World;
use lab::setups::{Bench, Cell, Moment, NotHere, Scope, Setup};
use lab::side_by_side::{run_again, side_by_side};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(about = "Measures the leak matrix in every set-up")]
struct Arguments {
    /// Only these set-ups.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Setup>,
    /// Only these kinds of workload.
    #[arg(long, value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// Only these moments; the positive control is always among them.
    #[arg(long, value_delimiter = ',')]
    moments: Vec<Moment>,
    /// Each set-up with the whole host and one other kind, healthy and by each wall alone.
    #[arg(long, conflicts_with_all = ["scopes", "moments"])]
    quick: bool,
    /// Worlds at the same time; most of a world's time is waiting.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Where to write the page's section on set-ups: at the end of this file, in place of the last.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Results of an earlier part of the same measurement: taken in, and written back with these.
    #[arg(long)]
    results: Option<PathBuf>,
    /// Inside a world of its own: measure one set-up with one kind of workload.
    #[arg(long, hide = true)]
    inside: bool,
}

/// What one world gave: its cells, or why this machine cannot make it.
#[derive(Clone, Serialize, Deserialize)]
pub enum Outcome {
    Measured(Vec<(Moment, Cell)>),
    NotHere(String),
}

/// One world.
type Job = (Setup, Scope);
pub type Matrix = BTreeMap<Job, Outcome>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let jobs = jobs(&arguments);
    let moments = moments(&arguments);
    if arguments.inside {
        lab::enter_with_users_for_bin();
        let outcome = measure(jobs[0], &moments);
        println!("{}", serde_json::to_string(&outcome).expect("an outcome is JSON"));
        // Without taking the world down: it ends with this process.
        std::process::exit(0);
    }
    let started = Instant::now();
    let results = side_by_side(&jobs, arguments.jobs, |job| world(job, &moments));
    let mut matrix = Matrix::new();
    let mut wrong = Vec::new();
    for (job, outcome) in results {
        match outcome {
            Ok(outcome) => drop(matrix.insert(job, outcome)),
            Err(said) => wrong.push(format!("{}, {}: {said}", job.0.name(), job.1.name())),
        }
    }
    if let Some(file) = &arguments.results {
        let earlier = std::fs::read_to_string(file).unwrap_or_else(|_| "[]".into());
        let earlier: Vec<(Job, Outcome)> = serde_json::from_str(&earlier)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for (job, outcome) in earlier {
            match (matrix.get(&job), &outcome) {
                // Run elsewhere, for this kernel cannot make it.
                (Some(Outcome::NotHere(_)), Outcome::Measured(_)) | (None, _) => {
                    matrix.insert(job, outcome);
                }
                _ => {}
            }
        }
        let all: Vec<_> = matrix.iter().collect();
        let text = serde_json::to_string(&all).expect("outcomes are JSON");
        std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    if let Some(file) = &arguments.page {
        page::write(file, &matrix);
    }
    wrong.extend(page::wrong(&matrix));
    for line in page::not_here(&matrix) {
        println!("NOT SHOWN: {line}");
    }
    println!("{}", page::total(&matrix));
    println!("{} worlds in {:.0} s", jobs.len(), started.elapsed().as_secs_f64());
    for line in &wrong {
        println!("{line}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn jobs(arguments: &Arguments) -> Vec<Job> {
    let chosen = |setup: &&Setup| arguments.only.is_empty() || arguments.only.contains(setup);
    let mut jobs = Vec::new();
    for (number, &setup) in Setup::value_variants().iter().enumerate() {
        if !chosen(&&setup) {
            continue;
        }
        if arguments.quick {
            // The other kinds take turns.
            let other = Scope::SCOPED[number % Scope::SCOPED.len()];
            jobs.extend([(setup, Scope::Host), (setup, other)]);
            continue;
        }
        let chosen =
            |scope: &&Scope| arguments.scopes.is_empty() || arguments.scopes.contains(scope);
        jobs.extend(Scope::value_variants().iter().filter(chosen).map(|&scope| (setup, scope)));
    }
    jobs
}

fn moments(arguments: &Arguments) -> Vec<Moment> {
    if arguments.quick {
        return Moment::QUICK.into();
    }
    let chosen = |moment: &&Moment| {
        **moment == Moment::Unlocked
            || arguments.moments.is_empty()
            || arguments.moments.contains(moment)
    };
    Moment::value_variants().iter().filter(chosen).copied().collect()
}

fn measure((setup, scope): Job, moments: &[Moment]) -> Outcome {
    let mut world = World::build();
    let mut bench = match Bench::build(&mut world, setup, scope) {
        Ok(bench) => bench,
        Err(NotHere(why)) => return Outcome::NotHere(why),
    };
    Outcome::Measured(moments.iter().map(|&moment| (moment, bench.measure(moment))).collect())
}

fn world((setup, scope): Job, moments: &[Moment]) -> Result<Outcome, String> {
    let moments: Vec<String> = moments.iter().map(|moment| moment.name()).collect();
    run_again(&[
        "--inside".into(),
        "--only".into(),
        setup.name(),
        "--scopes".into(),
        scope.name(),
        "--moments".into(),
        moments.join(","),
    ])
}
