//! The lab itself: each fault does what it says, and ends when it is mended.

use std::time::{Duration, Instant};

use lab::addresses::TUNNEL_SERVER;
use lab::{
    Direction, Endpoint, Exit, IpsBlock, Keepalive, Ns, Signature, Workload, World, eventually,
};

const SOON: Duration = Duration::from_secs(10);
/// A peer that lost its session is asked for a new one 15 s after the last answer, then every 5 s.
const NEW_SESSION: Duration = Duration::from_secs(45);
/// So many requests in a row without an answer are no accident: half a second at 50 ms.
const SILENCE: Duration = Duration::from_millis(500);

/// A workload that is being answered by exit A.
fn workload(world: &mut World) -> Workload {
    let workload = world.start_workload();
    workload.wait_for_exit(Exit::A, SOON);
    workload
}

/// Waits until nothing sent for a while was answered.
#[track_caller]
fn await_silence(workload: &Workload) {
    let since = Instant::now();
    eventually(SOON, "the workload is no longer answered", || {
        let last = workload.answers().last().map(|answer| answer.received);
        last.is_none_or(|last| last.elapsed() > SILENCE) && since.elapsed() > SILENCE
    });
}

#[test]
fn a_blackhole_swallows_each_direction_and_heals() {
    lab::inside("a_blackhole_swallows_each_direction_and_heals", |world| {
        let workload = workload(world);
        for direction in [Direction::Both, Direction::FromServer, Direction::ToServer] {
            world.blackhole(Endpoint::A, direction);
            await_silence(&workload);
            assert!(!world.ping(Ns::Egress, &TUNNEL_SERVER.to_string()));
            world.heal(Endpoint::A);
            workload.wait_for_exit(Exit::A, SOON);
        }
        world.blackhole(Endpoint::B, Direction::Both);
        workload.wait_for_exit(Exit::A, SOON);

        world.blackhole(Endpoint::A, Direction::Both);
        world.switch_tunnel(Endpoint::A, Keepalive::every(1));
        await_silence(&workload);
        assert_eq!(world.latest_handshake(), None, "no handshake gets through");
    });
}

#[test]
fn a_blocked_port_still_answers_a_ping_and_a_blocked_flow_a_new_socket() {
    lab::inside("a_blocked_port_still_answers_a_ping_and_a_blocked_flow_a_new_socket", |world| {
        let workload = workload(world);
        let address = Endpoint::A.address().to_string();
        world.block_port(Endpoint::A);
        await_silence(&workload);
        assert!(world.ping(Ns::Router, &address));
        world.heal(Endpoint::A);
        workload.wait_for_exit(Exit::A, SOON);

        let port = world.exec_ok(Ns::Egress, &["wg", "show", "wg0", "listen-port"]);
        world.block_flow(Endpoint::A, port.trim().parse().expect("a port"));
        await_silence(&workload);
        world.exec_ok(Ns::Egress, &["wg", "set", "wg0", "listen-port", "40000"]);
        workload.wait_for_exit(Exit::A, NEW_SESSION);
    });
}

#[test]
fn a_server_that_forwards_nothing_still_shakes_hands() {
    lab::inside("a_server_that_forwards_nothing_still_shakes_hands", |world| {
        let workload = workload(world);
        world.server_forwards(Endpoint::A, false);
        await_silence(&workload);
        world.switch_tunnel(Endpoint::A, Keepalive::every(1));
        eventually(SOON, "a new handshake completes", || world.latest_handshake());
        assert!(!world.ping(Ns::Egress, &TUNNEL_SERVER.to_string()));
        world.server_forwards(Endpoint::A, true);
        workload.wait_for_exit(Exit::A, SOON);
    });
}

#[test]
fn a_server_that_stopped_comes_back_with_the_same_keys() {
    lab::inside("a_server_that_stopped_comes_back_with_the_same_keys", |world| {
        let workload = workload(world);
        world.stop_server(Endpoint::A);
        await_silence(&workload);
        world.start_server(Endpoint::A);
        workload.wait_for_exit(Exit::A, NEW_SESSION);
    });
}

#[test]
fn a_rotated_key_ends_the_session_until_it_is_restored() {
    lab::inside("a_rotated_key_ends_the_session_until_it_is_restored", |world| {
        let workload = workload(world);
        world.rotate_key(Endpoint::A);
        await_silence(&workload);
        world.switch_tunnel(Endpoint::A, Keepalive::every(1));
        await_silence(&workload);
        assert_eq!(world.latest_handshake(), None, "the wrong key does not answer");
        world.restore_key(Endpoint::A);
        workload.wait_for_exit(Exit::A, NEW_SESSION);
    });
}

#[test]
fn the_uplink_goes_down_and_comes_back() {
    lab::inside("the_uplink_goes_down_and_comes_back", |world| {
        let workload = workload(world);
        world.uplink_down();
        await_silence(&workload);
        assert_eq!(world.observed_outside(), 0);
        world.uplink_up();
        workload.wait_for_exit(Exit::A, SOON);
        world.positive_control();
    });
}

#[test]
fn a_deleted_tunnel_lets_an_unlocked_host_out_until_it_is_created_again() {
    lab::inside("a_deleted_tunnel_lets_an_unlocked_host_out_until_it_is_created_again", |world| {
        let workload = workload(world);
        world.delete_tunnel();
        workload.wait_for_exit(Exit::Direct, SOON);
        assert!(world.observed_outside() > 0);
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        workload.wait_for_exit(Exit::A, SOON);
    });
}

#[test]
fn an_ips_blocks_by_chance_and_a_new_flow_gets_through_unless_the_port_is_blocked() {
    lab::inside(
        "an_ips_blocks_by_chance_and_a_new_flow_gets_through_unless_the_port_is_blocked",
        |world| {
            const BLOCK_TIME: Duration = Duration::from_secs(300);
            let workload = workload(world);
            for block in [IpsBlock::AddressAndPort, IpsBlock::Flow] {
                world.ips_on(Signature::FourBits, block, BLOCK_TIME);
                await_silence(&workload);
                world.exec_ok(Ns::Egress, &["wg", "set", "wg0", "listen-port", "0"]);
                world.switch_tunnel(Endpoint::A, Keepalive::OFF);
                if block == IpsBlock::Flow {
                    eventually(SOON, "a new flow shakes hands", || world.latest_handshake());
                } else {
                    await_silence(&workload);
                    assert_eq!(world.latest_handshake(), None, "blocked from every port");
                }
                world.ips_off();
                workload.wait_for_exit(Exit::A, NEW_SESSION);
            }
        },
    );
}
