//! Ways out that need neither a hole nor a capability: others' addresses, sockets from before,
//! what the kernel sends by itself. S1.

use std::time::Duration;

use lab::addresses::{
    ECHO, EGRESS, EGRESS_V6, ROUTER, TUNNEL_CLIENT, TUNNEL_CLIENT_V6, UPLINK, WORLD, WORLD_HOLE,
    WORLD_HOLE_V6, WORLD_V6,
};
use lab::container::BRIDGE;
use lab::{Class, EgressConfig, Endpoint, Keepalive, Leak, Ns, Sender, World};
use lab::{eventually, inside, inside_with_users};

const SOON: Duration = Duration::from_secs(20);
const LOCKED: u32 = 1000;
/// The first of its subordinate ids.
const SUBORDINATE: u32 = 100_000;

fn config(world: &World, workload: &str, lines: &[String]) {
    world.write_config(&EgressConfig {
        workload: workload.into(),
        path_lines: lines.to_vec(),
        ..EgressConfig::quick()
    });
}

/// Echo requests of the container under an address that is somebody else's, which the host cannot
/// forward: their time ends here, or they are too large.
fn provoke_errors(world: &World) {
    let (world_v4, hole, hole_v6) =
        (WORLD.to_string(), WORLD_HOLE.to_string(), WORLD_HOLE_V6.to_string());
    let (router, world_v6) = (ROUTER.to_string(), WORLD_V6.to_string());
    for source in [&world_v4, &router] {
        let line = ["ping", "-n", "-c2", "-i0.2", "-W1", "-t1", "-I", source, &hole];
        world.run(Ns::Container, &line);
        let line = ["ping", "-n", "-c2", "-i0.2", "-W1", "-M", "do", "-s1450", "-I", source, &hole];
        world.run(Ns::Container, &line);
    }
    let line = ["ping", "-n", "-c2", "-i0.2", "-W1", "-t1", "-I", &world_v6, &hole_v6];
    world.run(Ns::Container, &line);
}

#[test]
fn s1_the_host_quotes_its_guest_to_no_spoofed_address() {
    inside("s1_the_host_quotes_its_guest_to_no_spoofed_address", |world| {
        world.forget_tunnel();
        world.add_container();
        let spoofed = [format!("{WORLD}/32"), format!("{ROUTER}/32"), format!("{WORLD_V6}/128")];
        for address in &spoofed {
            world.exec_ok(Ns::Container, &["ip", "addr", "add", address, "dev", "lo"]);
        }
        // Without masquerading, as for a network that is routed.
        world.exec_ok(Ns::Egress, &["nft", "delete", "table", "inet", "lab_bridge"]);
        world.reset_observer();
        provoke_errors(world);
        let seen = |world: &World| (world.observed(Class::Icmp4), world.observed(Class::Icmp6));
        let (v4, v6) = seen(world);
        assert!(v4 >= 4 && v6 >= 2, "without a lock: {:?}", world.observations());

        config(world, &format!("{{interfaces: [{BRIDGE}]}}"), &[format!("management: [{ROUTER}]")]);
        world.actuator_ok(&["converge"]);
        world.masquerade_container();
        let target = WORLD_HOLE.to_string();
        eventually(SOON, "the container gets out by the tunnel", || {
            world.ping(Ns::Container, &target)
        });
        world.reset_observer();
        provoke_errors(world);
        assert_eq!(seen(world), (0, 0), "{:?}", world.observations());
    });
}

/// Counts what is delivered to this host under the tunnel's address.
const ARRIVALS: &str = "table inet arrivals {
    counter by_uplink { }
    counter by_tunnel { }
    chain input {
        type filter hook input priority 300;
        ip daddr 10.64.0.2 iifname eth0 counter name by_uplink
        ip6 daddr fd00:64::2 iifname eth0 counter name by_uplink
        ip daddr 10.64.0.2 iifname wg0 counter name by_tunnel
        ip6 daddr fd00:64::2 iifname wg0 counter name by_tunnel
    }
}
";

fn arrived(world: &World, how: &str) -> u64 {
    let text = world.exec_ok(Ns::Egress, &["nft", "reset", "counter", "inet", "arrivals", how]);
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().and_then(|packets| packets.parse().ok()).expect("a counter")
}

#[test]
fn s1_the_tunnels_address_answers_through_the_tunnel_only() {
    inside_with_users("s1_the_tunnels_address_answers_through_the_tunnel_only", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.nft(Ns::Egress, ARRIVALS);
        let (v4, v6) = (TUNNEL_CLIENT.to_string(), TUNNEL_CLIENT_V6.to_string());
        for (address, gateway) in [(&v4, EGRESS.to_string()), (&v6, EGRESS_V6.to_string())] {
            let line = ["ip", "route", "add", address, "via", &gateway, "dev", "lan"];
            world.exec_ok(Ns::Router, &line);
        }
        let knock = |world: &World, ns: Ns| {
            for address in [&v4, &v6] {
                world.run(ns, &["ping", "-n", "-c2", "-i0.2", "-W1", address]);
            }
        };
        knock(world, Ns::Router);
        assert!(arrived(world, "by_uplink") >= 4, "without a lock a neighbour reaches it");

        world.forget_tunnel();
        for workload in ["host".to_owned(), format!("{{users: [{LOCKED}]}}")] {
            config(world, &workload, &[]);
            world.actuator_ok(&["converge"]);
            knock(world, Ns::Router);
            assert_eq!(arrived(world, "by_uplink"), 0, "{workload}");
            eventually(SOON, "the tunnel's own way is open", || {
                knock(world, Ns::VpnA);
                arrived(world, "by_tunnel") >= 4
            });
        }
    });
}

#[test]
#[ignore = "fails until flows of the workload from before the lock die with it"]
fn s1_what_closed_sockets_still_send_dies_with_the_lock() {
    inside_with_users("s1_what_closed_sockets_still_send_dies_with_the_lock", |world| {
        if !world.has_users() {
            return;
        }
        world.forget_tunnel();
        // A route that leads past the tunnel, whoever made it.
        world.route_outside(WORLD_HOLE);
        let lab = world.program_for_all("lab");
        // It reads once the lock is there; then what waited in the closed socket flows.
        let line = [&*lab, "sink", "--listen", "0.0.0.0:7302", "--delay-ms", "9000"];
        let _sink = world.spawn(Ns::World, "sink", &line);
        let leave = |world: &World| {
            let uid = format!("--reuid={LOCKED}");
            let target = format!("{WORLD_HOLE}:7302");
            let line = ["setpriv", &uid, "--clear-groups", &lab, "orphan", "--to", &target];
            let said = eventually(SOON, "the sink listens", || {
                let said = world.run(Ns::Egress, &line);
                said.status.success().then_some(said.stdout).ok_or(said.stderr)
            });
            assert!(String::from_utf8_lossy(&said).contains("left to the kernel"));
        };
        leave(world);
        std::thread::sleep(Duration::from_secs(6));
        world.reset_observer();
        eventually(SOON, "without a lock a closed socket goes on sending", || {
            world.observed(Class::Tcp4) > 2
        });

        leave(world);
        config(world, &format!("{{users: [{LOCKED}]}}"), &[]);
        world.actuator_ok(&["converge"]);
        world.reset_observer();
        std::thread::sleep(Duration::from_secs(12));
        assert_eq!(world.observed(Class::Tcp4), 0, "{:?}", world.observations());
    });
}

#[test]
#[ignore = "fails until DHCP is for the host's own client"]
fn s1_a_program_that_may_bind_low_ports_is_no_dhcp_client() {
    inside_with_users("s1_a_program_that_may_bind_low_ports_is_no_dhcp_client", |world| {
        if !world.has_users() {
            return;
        }
        world.forget_tunnel();
        let lab = world.program_for_all("lab");
        let say = |world: &World| {
            let uid = format!("--reuid={LOCKED}");
            let line = [
                "setpriv",
                &uid,
                "--clear-groups",
                "--inh-caps=+net_bind_service",
                "--ambient-caps=+net_bind_service",
                &lab,
                "shot",
                "--what",
                "udp",
                "--to",
                "255.255.255.255:67",
                "--source-port",
                "68",
                "--device",
                UPLINK,
            ];
            world.run(Ns::Egress, &line);
        };
        world.reset_observer();
        say(world);
        assert!(world.observed(Class::Dhcp) > 0, "without a lock: {:?}", world.observations());
        for workload in ["host".to_owned(), format!("{{users: [{LOCKED}]}}")] {
            config(world, &workload, &[]);
            world.actuator_ok(&["converge"]);
            world.reset_observer();
            say(world);
            assert_eq!(world.observed(Class::Dhcp), 0, "{workload}");
        }
    });
}

#[test]
fn s1_a_users_subordinate_ids_are_locked_with_it() {
    inside_with_users("s1_a_users_subordinate_ids_are_locked_with_it", |world| {
        if !world.has_users() {
            return;
        }
        world.forget_tunnel();
        // A user that every system has.
        let table = world.write_file("subuid", &format!("daemon:{SUBORDINATE}:65536\n"), 0o644);
        let script = format!(
            "[ -e /etc/subuid ] && mount --bind {} /etc/subuid; exec \"$@\"",
            table.display()
        );
        world.run_programs_by(&["sh", "-c", &script, "sh"]);
        config(world, "{users: [daemon]}", &[]);
        world.reset_observer();
        let sent = |world: &World| {
            world.send_as(Sender::User(SUBORDINATE + 7), Leak::Udp4, 3, &[]);
            world.observed(Class::Udp4)
        };
        assert_eq!(sent(world), 3, "without a lock");
        world.actuator_ok(&["converge"]);
        world.reset_observer();
        assert_eq!(sent(world), 0, "{:?}", world.observations());
    });
}

#[test]
#[ignore = "fails until sockets from before the drop of privileges are known"]
fn s1_sockets_that_root_opened_for_a_user_are_the_users() {
    inside_with_users("s1_sockets_that_root_opened_for_a_user_are_the_users", |world| {
        if !world.has_users() {
            return;
        }
        world.forget_tunnel();
        let lab = world.program_for_all("lab");
        let (uid, to) = (LOCKED.to_string(), ECHO.to_string());
        let send = |world: &World| {
            world.exec_ok(Ns::Egress, &[&lab, "stepping-out", "--uid", &uid, "--to", &to]);
            world.observed(Class::Udp4) + world.observed(Class::Tcp4)
        };
        world.reset_observer();
        assert!(send(world) >= 4, "without a lock: {:?}", world.observations());
        config(world, &format!("{{users: [{LOCKED}]}}"), &[]);
        world.actuator_ok(&["converge"]);
        world.reset_observer();
        assert_eq!(send(world), 0, "{:?}", world.observations());
    });
}

#[test]
#[ignore = "fails until the kernel's own reports of a workload's groups are refused"]
fn s1_a_group_that_a_program_joins_is_told_to_nobody() {
    inside_with_users("s1_a_group_that_a_program_joins_is_told_to_nobody", |world| {
        if !world.has_users() {
            return;
        }
        world.forget_tunnel();
        let join = |world: &World| {
            // 28 bits of a group's address are the program's own choice.
            let lab = world.program_for_all("lab");
            let uid = LOCKED.to_string();
            let line = ["stepping-out", "--uid", &uid, "--to", "239.7.7.7:7300", "--join"];
            world.exec_ok(Ns::Egress, &[&[&*lab], &line[..]].concat());
            world.observed(Class::Membership)
        };
        world.reset_observer();
        assert!(join(world) > 0, "without a lock: {:?}", world.observations());
        for workload in ["host".to_owned(), format!("{{users: [{LOCKED}]}}")] {
            config(world, &workload, &[]);
            world.actuator_ok(&["converge"]);
            world.reset_observer();
            assert_eq!(join(world), 0, "{workload}: {:?}", world.observations());
        }
    });
}
