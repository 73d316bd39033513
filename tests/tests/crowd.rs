//! A crowd at the webhook: it takes neither the memory nor the time that an alert needs.

use lab::crowds::{Door, Seen, Size};
use lab::programs::ACTUATOR;
use lab::{EgressConfig, Endpoint, Keepalive, Process, World, inside};

/// The whole program, in whatever build the test is of.
const MOST_MEMORY_KIB: u64 = 64 * 1024;

/// Several times the places that there are. How long an alert takes in a crowd of ten thousand is
/// measured by `figures --only crowd`; here it is acted on, however busy the machine.
const SIZE: Size = Size { held: 2_000, seconds: 1 };
/// Each of these costs a handshake.
const SIZE_BY_TLS: Size = Size { held: 600, seconds: 1 };

/// What the actuator does to a crowd; without it there was none.
#[derive(Clone, Copy)]
enum Fate {
    /// Its connections are ended, to make room.
    Ended,
    /// It is answered so.
    Answered(u16),
    /// It is turned away for this reason, and does not listen to it.
    Rejected(&'static str),
}

use Fate::{Answered, Ended, Rejected};

const CROWDS: [(&str, Fate); 10] = [
    ("idle", Ended),
    ("slow", Ended),
    ("half", Ended),
    ("gibibyte", Rejected("too_large")),
    ("malformed", Answered(400)),
    ("nested", Answered(400)),
    ("text", Answered(400)),
    ("many", Answered(200)),
    ("small", Answered(400)),
    ("pages", Answered(200)),
];

const STRANGERS: [(&str, Fate); 5] =
    [("idle", Ended), ("hello", Ended), ("slow", Ended), ("half", Ended), ("small", Answered(401))];

const INSIDERS: [(&str, Fate); 3] =
    [("half", Ended), ("nested", Answered(400)), ("many", Answered(200))];

fn endure(world: &World, actuator: &Process, door: &Door, size: Size, crowds: &[(&str, Fate)]) {
    for &(kind, fate) in crowds {
        let seen = world.crowd(actuator, door, kind, size);
        assert!(!seen.took.is_empty() && seen.failed == 0, "{kind}: {seen:?}");
        assert!(seen.peak_kib < MOST_MEMORY_KIB, "{kind}: {seen:?}");
        assert!(was_there(world, size, &seen, fate), "{kind}: {seen:?}");
    }
}

fn was_there(world: &World, size: Size, seen: &Seen, fate: Fate) -> bool {
    match fate {
        // More than there are places for: who came before a good notification had to go.
        Ended => seen.ended > size.held as u64 / 2,
        Answered(status) => seen.answers.contains_key(&status.to_string()),
        Rejected(reason) => {
            let name = "vpn_egress_actuator_notifications_rejected_total";
            let counted = world.metric(ACTUATOR, &format!("{name}{{reason=\"{reason}\"}}"));
            counted.is_some_and(|count| count > 0.0)
        }
    }
}

#[test]
fn s3_no_crowd_takes_the_memory_or_the_turn_of_an_alert() {
    inside("s3_no_crowd_takes_the_memory_or_the_turn_of_an_alert", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        world.actuator_ok(&["converge"]);

        let (mut actuator, door) = world.start_open_actuator();
        endure(world, &actuator, &door, SIZE, &CROWDS);
        actuator.stop();

        let (actuator, door) = world.start_actuator_behind_tls();
        endure(world, &actuator, &door, SIZE_BY_TLS, &STRANGERS);
        endure(world, &actuator, &door.open_to_the_crowd(), SIZE_BY_TLS, &INSIDERS);
    });
}
