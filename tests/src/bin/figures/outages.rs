//! How often the cause of an outage is told rightly, and how soon.

use std::thread;

use lab::{Outage, World};

use super::summary::Summary;
use super::{Part, in_a_world};

/// Each kind in a world of its own, all at once: most of an outage is waiting.
pub fn of_every_kind(rounds: u32) {
    let kinds = 0..u32::try_from(Outage::ALL.len()).expect("a handful");
    let said = thread::scope(|scope| {
        let started: Vec<_> = kinds
            .map(|kind| scope.spawn(move || in_a_world(Part::Outages, rounds, kind)))
            .collect();
        let said = started.into_iter().map(|one| one.join().expect("it ends"));
        said.collect::<String>()
    });
    print!("{said}");
}

pub fn of_one_kind(kind: u32, rounds: u32) {
    let kind = Outage::ALL[kind as usize];
    let mut world = World::build();
    world.lock_for_outages();
    let _exporter = world.start_exporter();
    let _prometheus = world.start_prometheus_for_outages();
    let (mut right, mut alert, mut volume) = (0, 0, None);
    let mut after = Summary::new("s");
    for _ in 0..rounds {
        let judged = world.outage(kind, &mut volume);
        right += u32::from(judged.cause == kind.cause());
        alert += u32::from(judged.suspected == kind.suspected());
        after.add(judged.after.as_secs_f64());
    }
    let (name, cause) = (format!("{kind:?}"), kind.cause());
    println!(
        "{name:<16} {cause:<22} said {right} of {rounds}, alert right {alert} of {rounds}, {after}"
    );
}
