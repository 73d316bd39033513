//! The lock is there before the network is: S1, S7. A boot is played by emptying the kernel.

use std::time::Duration;

use lab::addresses::UPLINK;
use lab::{
    EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, Tampering, World, eventually, inside,
};

const SOON: Duration = Duration::from_secs(20);
const TUNNEL_SERVER: &str = "10.64.0.1";

fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::quick());
    assert!(world.positive_control() > 0);
    world.actuator_ok(&["converge"]);
}

#[track_caller]
fn assert_tight(world: &World, when: &str) {
    for kind in Leak::UNPRIVILEGED {
        world.send_outside(kind, 3);
    }
    assert_eq!(world.observed_outside(), 0, "{when}: {:?}", world.observations());
}

fn has_killswitch(world: &World) -> bool {
    world.run(Ns::Egress, &["nft", "list", "table", "inet", "vpn_egress"]).status.success()
}

#[test]
fn s1_the_lock_is_there_before_the_uplink_has_an_address() {
    inside("s1_the_lock_is_there_before_the_uplink_has_an_address", |world| {
        locked(world);
        let state = std::fs::read(world.state_file()).expect("state");
        world.exec_ok(Ns::Egress, &["ip", "link", "set", UPLINK, "down"]);
        world.exec_ok(Ns::Egress, &["ip", "-4", "address", "flush", "dev", UPLINK]);
        world.tamper_with(Tampering::Flush);

        let said = world.actuator_ok(&["killswitch", "load"]);
        assert_eq!(said.trim(), "locked as converged");
        assert_eq!(std::fs::read(world.state_file()).expect("state"), state, "nothing is recorded");
        world.exec_ok(Ns::Egress, &["ip", "address", "add", "10.0.0.2/24", "dev", UPLINK]);
        world.exec_ok(Ns::Egress, &["ip", "link", "set", UPLINK, "up"]);
        world.exec_ok(Ns::Egress, &["ip", "route", "add", "default", "via", "10.0.0.1"]);
        assert_tight(world, "the uplink came up");

        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        eventually(SOON, "the watch covers it", || world.status()["uplinks"][0]["covered"] == true);
        assert_tight(world, "the daemon has started");
        // A leak by definition, which would stop a daemon that starts after it: so it comes last.
        world.send_outside(Leak::Packet, 3);
        assert_tight(world, "frames past the IP stack");
    });
}

#[test]
fn s7_a_config_that_became_unreadable_locks_as_converged_or_altogether() {
    inside("s7_a_config_that_became_unreadable_locks_as_converged_or_altogether", |world| {
        locked(world);
        let config = world.scratch().join("egress.yml");
        let good = std::fs::read(&config).expect("a config");
        let state = std::fs::read(world.state_file()).expect("state");
        std::fs::write(&config, "paths: [nonsense").expect("written");

        // As converged, by the state file alone.
        for command in [&["killswitch", "load"][..], &["serve"]] {
            world.tamper_with(Tampering::Flush);
            let said = world.actuator(command);
            assert_eq!(said.exit, 78, "{said:?}");
            assert!(said.err.contains("locked as converged"), "{said:?}");
            assert_tight(world, "as converged");
            assert!(world.ping(Ns::Egress, TUNNEL_SERVER), "the tunnel is permitted");
        }

        // Nobody knows what was converged: nothing is permitted, the tunnel neither.
        std::fs::write(world.state_file(), b"torn").expect("written");
        world.tamper_with(Tampering::Flush);
        let said = world.actuator(&["killswitch", "load"]);
        assert!(said.exit == 78 && said.err.contains("nothing is permitted"), "{said:?}");
        assert_tight(world, "blank");
        assert!(!world.ping(Ns::Egress, TUNNEL_SERVER), "the tunnel is not permitted");
        let said = world.actuator(&["status"]);
        assert!(said.exit == 78 && said.out.contains("the lock permits nothing"), "{said:?}");

        // What is loaded stays.
        std::fs::write(world.state_file(), &state).expect("written");
        let said = world.actuator(&["killswitch", "load"]);
        assert!(said.err.contains("the lock that is loaded stays"), "{said:?}");
        assert!(!world.ping(Ns::Egress, TUNNEL_SERVER));

        // The config is good again.
        std::fs::write(&config, good).expect("written");
        world.actuator_ok(&["converge"]);
        eventually(SOON, "the tunnel is permitted", || world.ping(Ns::Egress, TUNNEL_SERVER));
        assert_eq!(world.status()["standing"], "locked");
        assert_tight(world, "converged again");

        // A host that nobody ever converged is left alone.
        std::fs::remove_dir_all(world.scratch().join("state")).expect("removed");
        std::fs::write(&config, "paths: [nonsense").expect("written");
        world.tamper_with(Tampering::Flush);
        let said = world.actuator(&["killswitch", "load"]);
        assert!(said.exit == 78 && said.err.contains("never converged"), "{said:?}");
        assert!(!has_killswitch(world));
    });
}

#[test]
fn s7_what_keeps_the_daemon_from_starting_does_not_keep_the_lock_off() {
    inside("s7_what_keeps_the_daemon_from_starting_does_not_keep_the_lock_off", |world| {
        locked(world);
        // Somebody else listens where the daemon would.
        world.tamper_with(Tampering::Flush);
        let taken = world.start_exporter();
        let said = world.actuator(&["serve", "--web.listen-address=127.0.0.1:9061"]);
        assert_eq!(said.exit, 3, "{said:?}");
        assert_tight(world, "the port is taken");
        drop(taken);

        // A state that is missing: stopped, from the boot on, and no state is made.
        std::fs::remove_file(world.state_file()).expect("removed");
        world.tamper_with(Tampering::Flush);
        let said = world.actuator_ok(&["killswitch", "load"]);
        assert!(said.contains("and stopped"), "{said}");
        assert_eq!(world.status()["standing"], "stopped");
        assert!(!world.state_file().exists());
        assert_tight(world, "stopped");
    });
}
