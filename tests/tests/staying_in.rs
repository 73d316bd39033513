//! What must get through the lock: whoever looks after the host, its address, its own bridges. And
//! what must not come along with it. S1, S2.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::addresses::{EGRESS, ROUTER, WORLD};
use lab::container::{BRIDGE, BRIDGE_ADDRESS, CONTAINER};
use lab::programs::{EXPORTER, leak, tunnel_down};
use lab::{Class, EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, Session, World};
use lab::{Direction, eventually, inside};

const SOON: Duration = Duration::from_secs(20);

/// On the LAN as the router is, and in nobody's `management`.
const STRANGER: &str = "10.0.0.9";
const SSH: u16 = 22;
const WEB: u16 = 8080;

fn config(world: &World, lines: &[&str]) {
    let path_lines = lines.iter().map(|&line| line.to_owned()).collect();
    world.write_config(&EgressConfig { path_lines, ..EgressConfig::quick() });
}

fn management() -> String {
    format!("management: [{ROUTER}]")
}

fn add_stranger(world: &World) {
    let address = format!("{STRANGER}/24");
    world.exec_ok(Ns::Router, &["ip", "address", "add", &address, "dev", "lan"]);
}

fn session(world: &mut World, source: &str, port: u16) -> Session {
    let source: IpAddr = source.parse().expect("an address");
    world.open_session(Ns::Router, source, SocketAddr::new(EGRESS.into(), port))
}

/// A script that runs a command of `actuator` as `sudo` would: nothing is left of the environment.
fn script(world: &World, arguments: &[&str]) -> String {
    let line = world.program_line("actuator", arguments).join(" ");
    format!("#!/bin/sh\nenv -i PATH=\"$PATH\" {line}\nexit $?\n")
}

#[track_caller]
fn told(session: &Session) -> String {
    eventually(SOON, "the command has ended", || {
        let log = session.log();
        if log.contains("exit Some(") { Ok(log) } else { Err(log) }
    })
}

#[test]
fn converge_refuses_to_cut_the_session_it_is_asked_from() {
    inside("converge_refuses_to_cut_the_session_it_is_asked_from", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        add_stranger(world);
        config(world, &[&management()]);
        let router = ROUTER.to_string();
        let converge = script(world, &["converge"]);
        let _sshd = world.listen_as_sshd(Ns::Egress, SSH, &converge);
        let _web = world.listen(Ns::Egress, WEB);
        let mut visitor = session(world, STRANGER, WEB);
        assert!(visitor.goes_on());

        let asked = told(&session(world, STRANGER, SSH));
        assert!(asked.contains("exit Some(3)"), "{asked}");
        let own = format!("would cut the session you ask from, {STRANGER}:");
        assert!(asked.contains(&own), "{asked}");
        assert!(asked.contains("-> 10.0.0.2:8080 (lab)"), "what else is cut: {asked}");
        assert!(asked.contains("add 10.0.0.9 to `management`, or use --force"), "{asked}");
        assert!(visitor.goes_on(), "nothing was loaded");

        // Where no SSH server is above it, the environment of a process above it tells.
        let line = world.program_line("actuator", &["converge"]).join(" ");
        let through = format!("env -i PATH=\"$PATH\" {line}; true");
        let told_by = [("SSH_CONNECTION", "10.0.0.9 40000 10.0.0.2 22")];
        let mut by_sudo =
            world.spawn_with_env(Ns::Egress, "sudo", &["sh", "-c", &through], &told_by);
        assert!(by_sudo.wait(SOON).is_some());
        assert!(
            by_sudo.log().contains("ask from, 10.0.0.9:40000 -> 10.0.0.2:22"),
            "{}",
            by_sudo.log()
        );

        // From `management` it is done, the session hears of it, and who was cut off is said.
        let asked = told(&session(world, &router, SSH));
        assert!(asked.contains("killswitch and watch loaded"), "{asked}");
        assert!(asked.contains("exit Some(0)"), "{asked}");
        assert!(asked.contains("cut off 10.0.0.9:"), "{asked}");
        assert!(!visitor.goes_on(), "and it was");

        // A later edit that drops one's own address is refused as well, also by the daemon.
        let _actuator = world.start_actuator();
        config(world, &["management: [10.0.0.7]"]);
        let asked = told(&session(world, &router, SSH));
        assert!(asked.contains("exit Some(3)"), "{asked}");
        assert!(asked.contains("add 10.0.0.1 to `management`"), "{asked}");
        assert_eq!(world.actuator(&["converge", "--check"]).exit, 2, "nothing was changed");

        let forced = script(world, &["converge", "--force"]);
        let _forced = world.listen_as_sshd(Ns::Egress, 2222, &forced);
        let mut last = session(world, &router, 2222);
        eventually(SOON, "the edit is in force", || {
            world.actuator(&["converge", "--check"]).exit == 0
        });
        assert!(!last.goes_on() && !last.log().contains("exit"), "{}", last.log());
    });
}

#[test]
fn a_management_session_older_than_the_lock_survives() {
    inside("a_management_session_older_than_the_lock_survives", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        add_stranger(world);
        config(world, &[&management()]);
        let _sshd = world.listen(Ns::Egress, SSH);
        let mut ours = session(world, &ROUTER.to_string(), SSH);
        let mut strangers = session(world, STRANGER, SSH);
        assert!(ours.goes_on() && strangers.goes_on());
        // Nothing on this host has asked for connection tracking: neither is known to the kernel.
        let tracked =
            world.exec_ok(Ns::Egress, &["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]);
        assert_eq!(tracked.trim(), "0");
        world.actuator_ok(&["converge"]);
        for _ in 0..20 {
            assert!(ours.goes_on());
        }
        assert!(!strangers.goes_on());
        // And a new one is as good as an old one.
        assert!(session(world, &ROUTER.to_string(), SSH).goes_on());
    });
}

#[test]
fn management_reaches_a_stopped_host_whose_lease_is_renewed() {
    inside("management_reaches_a_stopped_host_whose_lease_is_renewed", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        config(world, &[&management()]);
        let _server = world.start_dhcp_server();
        let mut client = world.start_dhcp_client();
        let leases = |client: &lab::Process| client.log().matches("leased 10.0.0.2").count();
        eventually(SOON, "a lease", || leases(&client) > 0);
        let _sshd = world.listen(Ns::Egress, SSH);
        let mut ours = session(world, &ROUTER.to_string(), SSH);
        assert!(ours.goes_on());
        world.actuator_ok(&["converge"]);
        let _actuator = world.start_actuator();
        world.send_outside(Leak::Packet, 3);
        assert_eq!(world.notify(&[leak()]).1, ["hard_stopped"]);

        world.reset_observer();
        let before = leases(&client);
        let renewed = 4 * SOON;
        eventually(renewed, "renewed past its end", || leases(&client) >= before + 3);
        assert!(world.observed(Class::Dhcp) >= 3);
        assert!(ours.goes_on(), "management is answered");
        assert!(session(world, &ROUTER.to_string(), SSH).goes_on());
        assert_eq!(world.observed(Class::Tunnel), 0, "it is stopped");
        assert_eq!(world.observed(Class::WorldBound), 0, "{:?}", world.observations());

        // Without a renewal the address goes: the lease did hold it.
        client.stop();
        eventually(renewed, "the lease ends", || {
            let addresses = world.exec_ok(Ns::Egress, &["ip", "-4", "address", "show", "eth0"]);
            if addresses.contains("10.0.0.2") { Err(addresses) } else { Ok(()) }
        });
        assert!(!session(world, &ROUTER.to_string(), SSH).goes_on());
    });
}

#[test]
fn local_bridges_in_allow_interfaces_work() {
    inside("local_bridges_in_allow_interfaces_work", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.add_container();
        let _service = world.listen(Ns::Container, 80);
        let reaches = |world: &mut World| {
            let target = SocketAddr::new(CONTAINER.into(), 80);
            world.open_session(Ns::Egress, BRIDGE_ADDRESS.into(), target).goes_on()
        };
        config(world, &[]);
        world.actuator_ok(&["converge"]);
        assert!(!reaches(world), "a bridge is no exception by itself");
        config(world, &[&format!("allow_interfaces: [{BRIDGE}]")]);
        world.actuator_ok(&["converge"]);
        assert!(reaches(world));
        // The container's way out is the tunnel's.
        assert!(world.ping(Ns::Container, &WORLD.to_string()));
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

/// A resolver on the host, which asks another one in the container's stead.
fn resolver(world: &World, upstream: &str) -> lab::Process {
    let lab = World::program("lab").display().to_string();
    let listen = format!("{BRIDGE_ADDRESS}:53");
    let line = [&lab, "forwarder", "--listen", &listen, "--to", upstream];
    let mut process = world.spawn(Ns::Egress, "resolver", &line);
    eventually(SOON, "the resolver listens", || {
        assert!(process.is_alive(), "{}", process.log());
        let table = std::fs::read_to_string(format!("/proc/{}/net/udp", process.pid()));
        table.is_ok_and(|table| table.contains(":0035 "))
    });
    process
}

/// Queries of the container to the resolver on the host; what it answers is who asked upstream.
fn queries(world: &World, name: &str) -> lab::Process {
    let lab = World::program("lab").display().to_string();
    let target = format!("{BRIDGE_ADDRESS}:53");
    world.spawn(Ns::Container, name, &[&lab, "traffic", "--target", &target])
}

#[test]
fn s1_a_containers_resolver_on_the_host_carries_nothing_outside() {
    inside("s1_a_containers_resolver_on_the_host_carries_nothing_outside", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.add_container();
        let lab = World::program("lab").display().to_string();
        let upstreams = [format!("{ROUTER}:53"), format!("{WORLD}:53")];
        let _upstreams = [(Ns::Router, 0), (Ns::World, 1)].map(|(ns, at)| {
            let line = [&lab, "echo", "--listen", &upstreams[at]];
            world.spawn(ns, &format!("upstream-{ns}"), &line)
        });
        // The LAN's resolver, as most hosts have it. Before the lock it is asked outside.
        let outside = resolver(world, &upstreams[0]);
        let asks = queries(world, "queries-before");
        eventually(SOON, "the LAN's resolver answers", || asks.log().contains("10.0.0.2"));
        assert!(world.observed(Class::LanBound) > 0, "the router would see it");
        drop(asks);

        // Whole LAN allowed: not its resolver.
        let lines = [format!("allow_interfaces: [{BRIDGE}]"), "allow: [10.0.0.0/24]".into()];
        config(world, &[&lines[0], &lines[1]]);
        world.actuator_ok(&["converge"]);
        let lan = session_to_router(world);
        assert!(lan, "the rest of the LAN is allowed");
        world.reset_observer();
        let asks = queries(world, "queries-outside");
        let refused = "vpn_egress_blocked_packets_total{path=\"media\"}";
        let _exporter = world.start_exporter();
        eventually(SOON, "its queries are refused", || {
            world.metric(EXPORTER, refused).is_some_and(|count| count > 20.0)
        });
        assert!(!asks.log().contains("received_ns"), "{}", asks.log());
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
        drop((asks, outside));

        // One behind the tunnel is asked there.
        let _inside = resolver(world, &upstreams[1]);
        let asks = queries(world, "queries-inside");
        eventually(SOON, "answered by the tunnel", || {
            let log = asks.log();
            if log.contains("198.51.100.10") { Ok(()) } else { Err(log) }
        });
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn s1_a_locked_bridge_does_not_reach_the_free_hosts_resolver() {
    inside("s1_a_locked_bridge_does_not_reach_the_free_hosts_resolver", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.add_container();
        let lab = World::program("lab").display().to_string();
        let upstream = format!("{ROUTER}:53");
        let line = [&lab, "echo", "--listen", &upstream];
        let _upstream = world.spawn(Ns::Router, "upstream", &line);
        let _resolver = resolver(world, &upstream);
        let asks = queries(world, "queries-before");
        eventually(SOON, "the LAN's resolver answers", || asks.log().contains("10.0.0.2"));
        assert!(world.observed(Class::LanBound) > 0, "the router would see it");
        drop(asks);

        let workload = format!("{{interfaces: [{BRIDGE}]}}");
        world.write_config(&EgressConfig { workload, ..EgressConfig::quick() });
        world.actuator_ok(&["converge"]);
        world.reset_observer();
        let asks = queries(world, "queries-after");
        let _exporter = world.start_exporter();
        let refused = "vpn_egress_blocked_packets_total{path=\"media\"}";
        eventually(SOON, "its queries are refused", || {
            world.metric(EXPORTER, refused).is_some_and(|count| count > 20.0)
        });
        assert!(!asks.log().contains("received_ns"), "{}", asks.log());
        assert_eq!(world.observed(Class::LanBound), 0, "{:?}", world.observations());
    });
}

/// Whether this host can open a connection on its LAN.
fn session_to_router(world: &mut World) -> bool {
    let _service = world.listen(Ns::Router, 445);
    let target = SocketAddr::new(ROUTER.into(), 445);
    world.open_session(Ns::Egress, EGRESS.into(), target).goes_on()
}

#[test]
fn s2_handshakes_complete_with_a_strict_reverse_path() {
    inside("s2_handshakes_complete_with_a_strict_reverse_path", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        for device in ["all", "default", "eth0", "wg0"] {
            world.sysctl(Ns::Egress, &format!("net.ipv4.conf.{device}.rp_filter"), "1");
        }
        config(world, &[]);
        world.actuator_ok(&["converge"]);
        let actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "a failover: the candidate has answered a handshake", || {
            world.notify(&[tunnel_down("primary")]).1 == ["switched"]
        });
        workload.wait_for_exit(Exit::B, SOON);
        world.heal(Endpoint::A);

        // Without the mark on its answers, nothing would have answered.
        drop(actuator);
        let _exporter = world.start_exporter();
        let answers = "vpn_egress_endpoint_reachable{endpoint=\"primary\",method=\"handshake\",path=\"media\"}";
        let is = |value| world.metric(EXPORTER, answers) == Some(value);
        eventually(SOON, "the standby answers", || is(1.0));
        let echo = answers.replace("handshake", "icmp");
        eventually(SOON, "its echo too", || world.metric(EXPORTER, &echo) == Some(1.0));
        world.nft(Ns::Egress, "flush chain inet vpn_egress prerouting");
        eventually(SOON, "its answers go astray", || is(0.0));
        let _actuator = world.start_actuator();
        eventually(SOON, "the daemon has mended it", || is(1.0));
    });
}
