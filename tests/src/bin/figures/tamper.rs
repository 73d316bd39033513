//! From each of the five tamperings to intact rules, with traffic that would use any gap.

use std::time::Duration;

use lab::{EgressConfig, Exit, Leak, Tampering, eventually};

use super::summary::Summary;
use super::{PATIENCE, locked, say_outside};

pub fn tamperings(rounds: u32) {
    let mut world = locked(&EgressConfig::quick());
    let _actuator = world.start_actuator();
    let workload = world.start_workload();
    workload.wait_for_exit(Exit::A, PATIENCE);
    eventually(PATIENCE, "the guard stands", || world.status()["guarded"] == true);
    let _leaking = world.start_leaking(&Leak::UNPRIVILEGED);
    for tampering in Tampering::ALL {
        let mut times = Summary::new("ms");
        for round in 0..rounds {
            times.add(world.tamper_and_await(tampering).as_secs_f64() * 1000.0);
            eventually(PATIENCE, "the guard stands", || world.status()["guarded"] == true);
            // The next is to find a daemon at rest, as in life, at another phase of its beat.
            std::thread::sleep(Duration::from_millis(1200 + u64::from(round) * 137 % 1000));
        }
        println!("{:<35}{times}", format!("{}:", tampering.name()));
    }
    say_outside(&world);
}
