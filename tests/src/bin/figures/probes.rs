//! Ten thousand handshakes with standbys, half of them at the server that the tunnel is at, beside a
//! transfer as fast as the tunnel carries it.

use std::time::Duration;

use lab::{EgressConfig, eventually};

use super::{PATIENCE, locked, say_outside};

const STANDBYS: u32 = 100;
/// The exporter probes in every second window; so what the machine does besides falls on both.
const WINDOW: Duration = Duration::from_secs(15);

/// A thousand handshakes for each round.
pub fn probes(rounds: u32) {
    let mut world = locked(&EgressConfig::quick());
    world.write_config_with_standbys(STANDBYS);
    world.actuator_ok(&["converge"]);
    world.reset_observer();
    let mut transfer = world.start_transfer("cat /dev/zero");
    let mut exporter = world.start_exporter();
    eventually(PATIENCE, "the tunnel has a session", || world.latest_handshake());
    let first = world.latest_handshake();
    let handshakes = u64::from(rounds) * 1000;
    let beside = world.probe_beside(&mut transfer, &mut exporter, WINDOW, handshakes);
    println!("probes beside a transfer:          {beside}");
    let rekeyed = world.latest_handshake() > first;
    println!(
        "the tunnel's own handshake:        {}",
        if rekeyed { "renewed" } else { "the first" }
    );
    say_outside(&world);
}
