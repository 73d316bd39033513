//! S8 with everything that tells of an incident doubled. `figures --only incidents` measures more.

use lab::incidents::Backup;
use lab::{EgressConfig, Endpoint, Exit, Keepalive, inside};

#[test]
fn s8_two_prometheis_and_two_alertmanagers_make_one_switch_per_incident() {
    inside("s8_two_prometheis_and_two_alertmanagers_make_one_switch_per_incident", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        world.actuator_ok(&["converge"]);
        let _doubled = world.start_doubled_loop();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, std::time::Duration::from_secs(20));
        for backup in [Backup::Alive, Backup::DeadAtFirst] {
            let incident = world.incident(&workload, backup);
            assert!((incident.switches - 1.0).abs() < 0.5, "{backup:?}: {incident:?}");
        }
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}
