//! What both programs cost on a host where nothing happens: processor, memory, and processes that they
//! start. And how long the first converge of so many paths takes.

use std::time::{Duration, Instant};

use lab::many::Many;
use lab::programs::EXPORTER;
use lab::{Ns, Process, World, eventually};

use super::PATIENCE;
use super::scrape::{children_faults, memory, processor};

const PATHS: [u32; COUNT as usize] = [1, 10, 100];
pub const COUNT: u32 = 3;

/// After the start: first looks, first cycles, and what is allocated for them.
const WARM_UP: Duration = Duration::from_secs(20);

/// The size by its number: each has a world of its own. An hour is extrapolated from `minutes`.
pub fn of_size(number: u32, minutes: u32) {
    let paths = PATHS[number as usize];
    let world = World::build();
    let _tunnels = world.write_many(Many { paths, endpoints: 2 });
    let started = Instant::now();
    super::scrape::converge(&world);
    println!("paths {paths:>3}: first converge {:.2} s", started.elapsed().as_secs_f64());
    let actuator = start(&world, "actuator", &["serve"]);
    let exporter = start(&world, "exporter", &[]);
    eventually(PATIENCE, "a first cycle of every path", || {
        world.http_get(&format!("{EXPORTER}/-/ready")).is_ok_and(|answer| answer.status == 200)
    });
    std::thread::sleep(WARM_UP);
    let programs = [("actuator", &actuator), ("exporter", &exporter)];
    let began = Instant::now();
    let before = programs.map(|(_, program)| (processor(program), children_faults(program)));
    std::thread::sleep(Duration::from_secs(60) * minutes);
    let hours = began.elapsed().as_secs_f64() / 3600.0;
    for ((name, program), (used, faults)) in programs.into_iter().zip(before) {
        let used = processor(program).saturating_sub(used).as_secs_f64() / hours;
        // A process that was started and waited for has had page faults.
        let started = if children_faults(program) == faults { "none" } else { "SOME" };
        println!(
            "paths {paths:>3}, idle for {minutes} min: {name} {used:.1} s of processor an hour, {} MiB, \
             processes started: {started}",
            memory(program) / 1024,
        );
    }
}

/// With the log level that is shipped.
fn start(world: &World, program: &str, arguments: &[&str]) -> Process {
    let line = world.program_line(program, arguments);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    world.spawn(Ns::Egress, program, &line)
}
