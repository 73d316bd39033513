//! What becomes of the choice when the list of endpoints is edited: nothing before a converge, and
//! by it what `docs/decisions.md` says.

use std::time::Duration;

use lab::programs::{kill, tunnel_down};
use lab::{Direction, EgressConfig, Endpoint, Exit, Keepalive, World, eventually, inside};

const SOON: Duration = Duration::from_secs(20);

fn await_down(world: &World) {
    eventually(SOON, "the tunnel is seen to be down", || {
        world.actuator(&["validate"]).out.contains("tunnel-down")
    });
}

#[test]
fn s5_s6_an_edited_list_is_carried_out_by_a_converge_and_by_nothing_else() {
    inside("s5_s6_an_edited_list_is_carried_out_by_a_converge_and_by_nothing_else", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        world.actuator_ok(&["converge"]);
        let mut actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);

        // The active one is renamed. A daemon that is restarted has the new file only, and waits.
        world.edit_config("name: primary", "name: first");
        kill(&mut actuator);
        let _actuator = world.start_actuator();
        world.blackhole(Endpoint::A, Direction::Both);
        for named in ["primary", "first"] {
            let (status, outcomes) = world.notify_once(&[tunnel_down(named)]);
            assert_eq!((status, outcomes), (503, vec!["unclear".to_owned()]), "{named}");
        }
        assert_eq!(world.active_endpoint(), "primary");
        world.heal(Endpoint::A);
        eventually(SOON, "the new name is taken", || world.actuator(&["converge"]).exit == 0);
        assert_eq!(world.active_endpoint(), "first");
        workload.wait_for_exit(Exit::A, SOON);

        // By the new name it is failed away from; then the active one is removed.
        world.blackhole(Endpoint::A, Direction::Both);
        await_down(world);
        assert_eq!(world.notify(&[tunnel_down("primary")]).1, ["stale_endpoint"]);
        assert_eq!(world.notify(&[tunnel_down("first")]).1, ["switched"]);
        workload.wait_for_exit(Exit::B, SOON);
        world.heal(Endpoint::A);
        world.write_config(&EgressConfig { endpoints: vec![Endpoint::A], ..EgressConfig::quick() });
        assert_eq!(world.active_endpoint(), "backup");
        eventually(SOON, "what is left is taken", || world.actuator(&["converge"]).exit == 0);
        assert_eq!(world.active_endpoint(), "primary");
        workload.wait_for_exit(Exit::A, SOON);

        // Reordered: the first of the list is the primary, and forward is down the new list.
        let endpoints = vec![Endpoint::B, Endpoint::A];
        world.write_config(&EgressConfig { endpoints, ..EgressConfig::quick() });
        assert_eq!(world.active_endpoint(), "primary");
        world.actuator_ok(&["converge"]);
        assert_eq!(world.active_endpoint(), "backup");
        workload.wait_for_exit(Exit::B, SOON);
        world.blackhole(Endpoint::B, Direction::Both);
        await_down(world);
        assert_eq!(world.notify(&[tunnel_down("backup")]).1, ["switched"]);
        assert_eq!(world.active_endpoint(), "primary");
        workload.wait_for_exit(Exit::A, SOON);
    });
}
