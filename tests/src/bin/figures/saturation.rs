//! False failovers of a tunnel that carries all it can, by the whole loop as shipped.

use std::thread;
use std::time::{Duration, Instant};

use lab::programs::{ACTUATOR, EXPORTER};
use lab::{Direction, EgressConfig, Endpoint, Exit, Instances, Load, eventually};

use super::{PATIENCE, Part, in_a_world, locked};

const LOOK: Duration = Duration::from_secs(5);
const FAILOVERS: &str =
    "vpn_egress_actuator_failovers_total{from=\"primary\",path=\"media\",to=\"backup\"}";

/// Each kind of traffic in a world of its own, all at once; or only one kind.
pub fn of_every_kind(minutes: u32, only: Option<u32>) {
    let kinds = 0..u32::try_from(Load::ALL.len()).expect("a handful");
    thread::scope(|scope| {
        for kind in kinds.filter(|kind| only.is_none_or(|only| only == *kind)) {
            scope.spawn(move || print!("{}", in_a_world(Part::Saturation, minutes, kind)));
        }
    });
}

pub fn of_one_kind(kind: u32, minutes: u32) {
    let load = Load::ALL[kind as usize];
    let mut world = locked(&EgressConfig::default());
    let _parts = world.start_loop(Instances::One);
    let workload = world.start_workload();
    workload.wait_for_exit(Exit::A, PATIENCE);
    eventually(PATIENCE, "a cycle finds the path up", || {
        world.metric(EXPORTER, "vpn_egress_cycles_total{path=\"media\",verdict=\"up\"}") > Some(0.0)
    });

    let _saturation = world.saturate(load);
    let started = Instant::now();
    let failovers = || world.metric(ACTUATOR, FAILOVERS).unwrap_or(0.0);
    while started.elapsed() < Duration::from_secs(60) * minutes && failovers() == 0.0 {
        thread::sleep(LOOK);
    }
    let (false_failovers, lasted) = (failovers(), started.elapsed());

    let carried = world.line();
    let seconds = lasted.as_secs();
    let over = |expression: &str| {
        let asked = world.query(&expression.replace("TIME", &format!("{seconds}s")));
        asked.first().map_or(0.0, |(_, value)| *value)
    };
    let lost = 1.0 - over("avg_over_time(vpn_egress_tunnel_probe_success[TIME])");
    let run = over("max_over_time(vpn_egress_consecutive_down_cycles{endpoint=\"primary\"}[TIME])");
    let fired = over("count_over_time(ALERTS{alertname=\"VpnEgressTunnelDown\"}[TIME])");
    let cycles = over("increase(vpn_egress_cycles_total{verdict=\"up\"}[TIME])");
    println!(
        "{load:?}: {:.1} min, packets dropped by the line {:.0} %, probes lost {:.1} %, cycles up \
         {cycles:.0}, longest run of down cycles {run}, evaluations that fired {fired}, false \
         failovers {false_failovers}",
        lasted.as_secs_f64() / 60.0,
        100.0 * ratio(carried.dropped, carried.arrived),
        100.0 * lost,
    );
    if false_failovers > 0.0 {
        return;
    }
    // The control: of the same path, at the same load, a real outage.
    world.blackhole(Endpoint::A, Direction::Both);
    let fault = Instant::now();
    workload.wait_for_exit(Exit::B, PATIENCE);
    println!(
        "{load:?}: then a real outage, failed over in {:.1} s; packets outside the tunnel: {}",
        fault.elapsed().as_secs_f64(),
        world.observed_outside(),
    );
}

#[allow(clippy::cast_precision_loss)] // Counts of an hour.
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
