//! Ten thousand handshakes with standbys, half of them at the server that the tunnel is at, beside a
//! transfer that the machine has time for, and again beside one as fast as the tunnel carries it.

use std::time::Duration;

use lab::{EgressConfig, eventually};

use super::{PATIENCE, locked, say_outside};

const STANDBYS: u32 = 100;
/// The exporter probes in every second window; so what the machine does besides falls on both.
const WINDOW: Duration = Duration::from_secs(15);

/// Some megabytes a second: what is lost of it is lost to the probes, not to a processor that has more
/// to do than it can.
const PACED: &str = "while head -c 200000 /dev/zero; do sleep 0.1; done";
const AT_FULL_SPEED: &str = "cat /dev/zero";

/// A thousand handshakes for each round.
pub fn probes(rounds: u32) {
    let mut world = locked(&EgressConfig::quick());
    world.write_config_with_standbys(STANDBYS);
    world.actuator_ok(&["converge"]);
    world.reset_observer();
    let mut exporter = world.start_exporter();
    let handshakes = u64::from(rounds) * 1000;
    for (what, sender) in [("paced", PACED), ("as fast as it goes", AT_FULL_SPEED)] {
        let mut transfer = world.start_transfer(sender);
        eventually(PATIENCE, "the tunnel has a session", || world.latest_handshake());
        let first = world.latest_handshake();
        let beside = world.probe_beside(&mut transfer, &mut exporter, WINDOW, handshakes);
        println!("probes beside a transfer, {what}: {beside}");
        let rekeyed = world.latest_handshake() > first;
        println!(
            "the tunnel's own handshake:        {}",
            if rekeyed { "renewed" } else { "the first" }
        );
    }
    say_outside(&world);
}
