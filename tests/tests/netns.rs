//! One service in a network namespace of its own: the tunnel is its only way out, whatever fails on the
//! host or inside.

use std::net::SocketAddr;
use std::time::Duration;

use lab::addresses::{NAMES, TUNNEL, TUNNEL_SERVER, WORLD, WORLD_V6};
use lab::programs::{kill, tunnel_down};
use lab::{Direction, EgressConfig, Endpoint, Keepalive, Ns, World, eventually, inside};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
const NETNS: &str = "media";
const PORT: u16 = 8080;
/// The provider forwards it to the service.
const FORWARDED: u16 = 9000;

/// A host with nothing on it but the two programs and their configuration.
fn configure(world: &mut World) {
    world.forget_tunnel();
    for (endpoint, file) in [(Endpoint::A, "primary.conf"), (Endpoint::B, "backup.conf")] {
        world.provider_file(endpoint, file, &endpoint.socket().to_string(), "");
    }
    let text = format!(
        "paths:\n  - name: media\n    interface: {TUNNEL}\n    workload: {{netns: {NETNS}}}\n    \
         endpoints:\n      - {{name: primary, wg_quick: primary.conf}}\n      \
         - {{name: backup, wg_quick: backup.conf}}\n    health: {{interval: 1s, settle: 1s, \
         standby_interval: 1s, probe: {{target: {TUNNEL_SERVER}, timeout: 500ms}}}}\n"
    );
    world.write_file("egress.yml", &text, 0o644);
}

/// A command line that runs inside the namespace.
fn in_netns<'a>(line: &[&'a str]) -> Vec<&'a str> {
    [&["ip", "netns", "exec", NETNS], line].concat()
}

fn services() -> [SocketAddr; 3] {
    [(WORLD, PORT).into(), (WORLD_V6, PORT).into(), NAMES]
}

/// As which address each service has seen the program inside; what failed is left out.
fn reached(world: &World) -> Vec<String> {
    let lab = World::program("lab").display().to_string();
    let services = services().map(|service| service.to_string()).join(",");
    let line = [&lab, "reach", "--timeout-ms", "800", "--services", &services];
    let said = world.run(Ns::Egress, &in_netns(&line));
    let answers: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
    let answers = answers.as_object().cloned().unwrap_or_default();
    let answered = |(how, answer): (&String, &Value)| {
        let answer = answer.as_str().unwrap_or_default();
        (!answer.starts_with("failed")).then(|| format!("{how} as {answer}"))
    };
    answers.iter().filter_map(answered).collect()
}

#[track_caller]
fn reaches_the_world(world: &World, when: &str) {
    let all = services().len() * 2;
    eventually(SOON, &format!("{when}: TCP and UDP of both families and DNS"), || {
        reached(world).len() == all
    });
}

#[track_caller]
fn reaches_nothing(world: &World, when: &str) {
    assert_eq!(reached(world), [""; 0], "{when}");
    nothing_outside(world, when);
}

#[track_caller]
fn nothing_outside(world: &World, when: &str) {
    assert_eq!(world.observed_outside(), 0, "{when}: {:?}", world.observations());
}

fn inside_ok(world: &World, line: &[&str]) -> String {
    world.exec_ok(Ns::Egress, &in_netns(line))
}

#[test]
fn s1_a_namespace_leads_out_by_the_tunnel_and_by_nothing_else() {
    inside("s1_a_namespace_leads_out_by_the_tunnel_and_by_nothing_else", |world| {
        configure(world);
        assert!(world.positive_control() > 0, "the observer sees what leaves without a lock");
        let lab = World::program("lab").display().to_string();
        let ports = format!("{PORT},{}", NAMES.port());
        let _world = world.spawn(Ns::World, "services", &[&lab, "service", "--ports", &ports]);
        let check = world.actuator(&["converge", "--check"]);
        assert_eq!(check.exit, 2, "{check:?}");
        let said = world.actuator_ok(&["converge"]);
        assert_eq!(check.out.replace("would change", "changed"), said);
        for piece in ["network namespace media", "wall inside media", "moved into media"] {
            assert!(said.contains(piece), "{piece}: {said}");
        }
        assert!(world.actuator_ok(&["converge"]).contains("nothing to change"));
        world.reset_observer();
        reaches_the_world(world, "healthy");
        assert!(!world.has_tunnel(), "the device is not on the host");

        let port = FORWARDED.to_string();
        let service = in_netns(&[&lab, "service", "--ports", &port]);
        let _service = world.spawn(Ns::Egress, "service", &service);
        let exit = Endpoint::A.address().to_string();
        world.nft(
            Endpoint::A.ns(),
            &format!(
                "add table ip forwarded\nadd chain ip forwarded in {{ type nat hook prerouting \
                 priority dstnat; }}\nadd rule ip forwarded in ip daddr {exit} tcp dport {FORWARDED} \
                 dnat to 10.64.0.2\n"
            ),
        );
        let to = format!("{exit}:{FORWARDED}");
        eventually(SOON, "an inbound connection by the forwarded port", || {
            let line = [&lab, "reach", "--timeout-ms", "800", "--services", &to];
            let said = world.exec_ok(Ns::World, &line);
            said.contains(&format!("\"tcp {to}\":\"{WORLD}\""))
        });
        nothing_outside(world, "healthy");

        inside_ok(world, &["nft", "flush", "ruleset"]);
        reaches_the_world(world, "without the wall inside");
        nothing_outside(world, "without the wall inside");
        inside_ok(world, &["ip", "link", "del", TUNNEL]);
        reaches_nothing(world, "without the tunnel and the wall");

        let mut actuator = world.start_actuator();
        reaches_the_world(world, "the daemon has made both again");
        assert!(inside_ok(world, &["nft", "list", "ruleset"]).contains("policy drop"));
        inside_ok(world, &["ip", "link", "del", TUNNEL]);
        reaches_the_world(world, "the daemon has made the device again");
        kill(&mut actuator);
        reaches_the_world(world, "without a daemon");
        world.exec_ok(Ns::Egress, &["nft", "flush", "ruleset"]);
        reaches_the_world(world, "without the host's rules");
        nothing_outside(world, "without the host's rules");
        let _actuator = world.start_actuator();

        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is left", || {
            world.notify(&[tunnel_down("primary")]).1 == ["switched"]
        });
        reaches_the_world(world, "by the backup");
        nothing_outside(world, "a failover");
        world.heal(Endpoint::A);
        assert_eq!(world.active_endpoint(), "backup");

        // A hard stop cuts the tunnel's own packets, on the host.
        world.lose_state("media");
        eventually(SOON, "the path is cut", || world.standing("media") == "stopped");
        world.reset_observer();
        reaches_nothing(world, "a hard stop");
        let whole = world.actuator(&["status"]);
        assert!(whole.exit != 0, "{whole:?}");
        world.actuator_ok(&["converge"]);
        reaches_the_world(world, "the stop is lifted");
        nothing_outside(world, "to the end");
        for secret in world.secrets() {
            assert!(!actuator.log().contains(&secret), "S10");
        }
    });
}

#[test]
fn s1_a_namespace_that_is_deleted_is_made_again() {
    inside("s1_a_namespace_that_is_deleted_is_made_again", |world| {
        configure(world);
        let lab = World::program("lab").display().to_string();
        let ports = format!("{PORT},{}", NAMES.port());
        let _world = world.spawn(Ns::World, "services", &[&lab, "service", "--ports", &ports]);
        world.actuator_ok(&["converge"]);
        world.reset_observer();
        let _actuator = world.start_actuator();
        reaches_the_world(world, "healthy");
        // As a reboot leaves it: no namespace, and what ran in it is gone.
        world.exec_ok(Ns::Router, &["ip", "netns", "del", NETNS]);
        reaches_the_world(world, "made again");

        // A program that stays inside keeps the namespace alive, without a name.
        let stays = in_netns(&["sleep", "60"]);
        let _stays = world.spawn(Ns::Egress, "stays", &stays);
        world.exec_ok(Ns::Router, &["ip", "netns", "del", NETNS]);
        reaches_the_world(world, "made again beside the old one");
        nothing_outside(world, "all the time");

        let said = world.actuator_ok(&["down"]);
        assert!(said.contains("the lock stays"), "{said}");
        reaches_nothing(world, "taken down");
    });
}

#[test]
fn s1_a_namespace_with_another_way_out_is_refused() {
    inside("s1_a_namespace_with_another_way_out_is_refused", |world| {
        configure(world);
        world.exec_ok(Ns::Egress, &["nsenter", "-t", "1", "-m", "ip", "netns", "add", NETNS]);
        let veth = ["ip", "link", "add", "way0", "type", "veth", "peer", "name", "way1"];
        world.exec_ok(Ns::Egress, &[&veth[..], &["netns", NETNS]].concat());
        let said = world.actuator(&["converge"]);
        let want =
            "network namespace media has other ways out than the tunnel: way1; take them away";
        assert!(said.exit == 3 && said.err.contains(want), "{said:?}");
        world.exec_ok(Ns::Egress, &["ip", "link", "del", "way0"]);
        world.actuator_ok(&["converge"]);

        // One that comes later is told, and held by the wall.
        world.exec_ok(Ns::Egress, &[&veth[..], &["netns", NETNS]].concat());
        for line in [
            &["ip", "addr", "add", "10.99.0.1/30", "dev", "way0"][..],
            &["ip", "link", "set", "way0", "up"],
        ] {
            world.exec_ok(Ns::Egress, line);
        }
        inside_ok(world, &["ip", "addr", "add", "10.99.0.2/30", "dev", "way1"]);
        inside_ok(world, &["ip", "link", "set", "way1", "up"]);
        let ping = in_netns(&["ping", "-c1", "-W1", "10.99.0.1"]);
        assert!(!world.run(Ns::Egress, &ping).status.success(), "the wall holds it");
        let said = world.actuator(&["converge"]);
        assert!(said.exit == 3 && said.err.contains(want), "{said:?}");
        inside_ok(world, &["nft", "flush", "ruleset"]);
        assert!(world.run(Ns::Egress, &ping).status.success(), "and nothing else would");
    });
}

#[test]
fn s1_a_device_made_in_another_namespace_is_refused() {
    inside("s1_a_device_made_in_another_namespace_is_refused", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        let said = world.actuator(&["converge", "--check"]);
        assert!(said.exit == 2 && said.err.is_empty(), "one that was made here: {said:?}");
        // As a host that moves its device into a container's namespace, here a bare one.
        let network = ["ip", "netns", "exec", "bare"];
        for line in [
            &["nsenter", "-t", "1", "-m", "ip", "netns", "add", "bare"][..],
            &["ip", "link", "set", TUNNEL, "netns", "bare"],
            &[&network[..], &["ip", "link", "set", "lo", "up"]].concat(),
            &[&network[..], &["ip", "addr", "add", "10.64.0.2/32", "dev", TUNNEL]].concat(),
            &[&network[..], &["ip", "link", "set", TUNNEL, "up"]].concat(),
            &[&network[..], &["ip", "route", "add", "default", "dev", TUNNEL]].concat(),
        ] {
            world.exec_ok(Ns::Egress, line);
        }
        let ping = [&network[..], &["ping", "-c1", "-W1", "10.64.0.1"]].concat();
        eventually(SOON, "the moved device carries", || {
            world.run(Ns::Egress, &ping).status.success()
        });
        let refused = "was made in another network namespace and moved here";
        for (command, before) in [("converge", "refused: interface wg0 "), ("validate", "wg0 ")] {
            let line = world.program_line("actuator", &[command]);
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            let said = world.run(Ns::Egress, &[&network[..], &line].concat());
            let said = [said.stdout, said.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains(&format!("{before}{refused}")), "{command}: {said}");
            assert!(said.contains("workload: {netns: NAME}"), "the remedy: {said}");
        }
        let rules =
            world.exec_ok(Ns::Egress, &[&network[..], &["nft", "list", "ruleset"]].concat());
        assert_eq!(rules.trim(), "", "nothing was locked");
    });
}
