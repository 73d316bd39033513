//! The third axis of the leak matrix: what surrounds the host under test. `make matrix` measures it
//! at length. S1, S2.

use std::process::Command;
use std::time::Duration;

use lab::programs::EXPORTER;
use lab::setups::{Bench, Moment, NotHere, Scope, Setup};
use lab::{World, eventually, inside_with_users};

const SOON: Duration = Duration::from_secs(20);

/// Nothing leaves outside the tunnel at any of these moments, and what must work does.
#[track_caller]
fn holds(world: &mut World, setup: Setup, scope: Scope, moments: &[Moment]) {
    let mut bench = match Bench::build(world, setup, scope) {
        Ok(bench) => bench,
        Err(NotHere(why)) => {
            println!("NOT SHOWN: {}: {why}", setup.title());
            return;
        }
    };
    for &moment in [Moment::Unlocked].iter().chain(moments) {
        let cell = bench.measure(moment);
        let name = format!("{}, {}, {}", setup.title(), scope.name(), moment.title());
        assert!(cell.wrong.is_empty(), "{name}: {:#?}", cell.wrong);
        if moment != Moment::Unlocked {
            assert_eq!(cell.leaked(), 0, "{name}: {:?} {:#?}", cell.outside, cell.flows);
        }
    }
}

#[test]
#[ignore = "on an IPv6-only uplink users have no IPv4 through the tunnel yet"]
fn s1_nothing_leaks_in_any_set_up_and_every_control_sees_it() {
    // Few worlds at once: other tests have theirs at the same time.
    let mut command = Command::new(World::program("setups"));
    let output = command.args(["--quick", "--jobs", "3"]).output().expect("the set-ups run");
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("seen outside") && !said.contains(" 0 packets sent"), "{said}");
}

#[test]
fn s1_what_others_reroute_is_judged_where_it_leaves() {
    inside_with_users("s1_what_others_reroute_is_judged_where_it_leaves", |world| {
        let moments =
            [Moment::Healthy, Moment::HardStop, Moment::KillswitchAlone, Moment::WatchAlone];
        holds(world, Setup::ResolverDnat, Scope::Host, &moments);
    });
}

#[test]
fn s1_users_reach_the_world_by_the_tunnel_and_nothing_else() {
    inside_with_users("s1_users_reach_the_world_by_the_tunnel_and_nothing_else", |world| {
        holds(world, Setup::Multipath, Scope::Users, &[Moment::Healthy, Moment::HardStop]);
    });
}

#[test]
fn s5_routing_of_users_that_others_remove_is_put_back() {
    inside_with_users("s5_routing_of_users_that_others_remove_is_put_back", |world| {
        holds(world, Setup::Networkd, Scope::Users, &[Moment::Healthy]);
    });
}

#[test]
fn s1_a_cgroups_answers_leave_by_the_tunnel_or_not_at_all() {
    inside_with_users("s1_a_cgroups_answers_leave_by_the_tunnel_or_not_at_all", |world| {
        let moments = [Moment::Healthy, Moment::DaemonKilled, Moment::KillswitchAlone];
        holds(world, Setup::Plain, Scope::Cgroups, &moments);
    });
}

#[test]
fn s1_a_container_reaches_the_world_by_the_tunnel_and_nothing_else() {
    inside_with_users("s1_a_container_reaches_the_world_by_the_tunnel_and_nothing_else", |world| {
        holds(world, Setup::SecondCard, Scope::Interfaces, &[Moment::Healthy, Moment::HardStop]);
    });
}

#[test]
fn s1_every_device_that_a_packet_can_leave_by_is_covered() {
    inside_with_users("s1_every_device_that_a_packet_can_leave_by_is_covered", |world| {
        holds(world, Setup::ResolverDnat, Scope::Host, &[Moment::WatchAlone]);
        world.actuator_ok(&["converge"]);
        let _exporter = world.start_exporter();
        for device in ["eth0", "eth1"] {
            let series = format!("vpn_egress_uplink_covered{{device=\"{device}\",path=\"media\"}}");
            eventually(SOON, &series, || world.metric(EXPORTER, &series) == Some(1.0));
        }
    });
}

#[test]
fn s1_a_macvlan_guest_is_neither_cut_nor_counted() {
    inside_with_users("s1_a_macvlan_guest_is_neither_cut_nor_counted", |world| {
        let moments = [Moment::Healthy, Moment::HardStop];
        holds(world, Setup::MacvlanGuest, Scope::Host, &moments);
    });
}

#[test]
fn s1_a_bridged_machine_is_neither_cut_nor_counted() {
    inside_with_users("s1_a_bridged_machine_is_neither_cut_nor_counted", |world| {
        holds(world, Setup::BridgedVm, Scope::Host, &[Moment::Healthy, Moment::HardStop]);
    });
}
