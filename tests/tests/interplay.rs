//! Beside other firewalls, loaded before ours and after: nothing leaks, and what must work works.
//! S1, S2. Their rules are recorded from the programs themselves (scripts/record-firewalls.sh).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::addresses::{ECHO_HOLE, EGRESS, ROUTER, WORLD, WORLD_HOLE};
use lab::container::BRIDGE;
use lab::programs::tunnel_down;
use lab::{Class, Direction, EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, World};
use lab::{Workload, eventually, inside};

const SOON: Duration = Duration::from_secs(20);

/// On the LAN as the router is, and in nobody's `management`.
const STRANGER: &str = "10.0.0.9";
const SSH: u16 = 22;
const PUBLISHED: u16 = 8080;

/// Another firewall: what it loads, and its tables, which a restart of it takes away.
struct Other {
    rules: &'static str,
    tables: &'static [&'static str],
}

const DOCKER: Other = Other {
    rules: include_str!("../fixtures/firewalls/docker.nft"),
    tables: &["ip nat", "ip filter"],
};
const UFW: Other = Other {
    rules: include_str!("../fixtures/firewalls/ufw.nft"),
    tables: &["ip filter", "ip6 filter"],
};
const FIREWALLD: Other = Other {
    rules: include_str!("../fixtures/firewalls/firewalld.nft"),
    tables: &["inet firewalld"],
};
/// Flushes the whole ruleset, ours included, before it loads its own.
const NFTABLES_SERVICE: Other = Other {
    rules: include_str!("../fixtures/firewalls/nftables-service.nft"),
    tables: &["inet filter"],
};

/// A host with a container, and services that are talked to from outside.
struct Host<'world> {
    world: &'world mut World,
    workload: Workload,
    _services: [lab::Process; 3],
    /// Once there is a lock to keep.
    actuator: Option<lab::Process>,
}

impl<'world> Host<'world> {
    /// The other firewall is loaded first. Every kind of leak is seen past it, the container's too.
    fn beside(world: &'world mut World, other: &Other) -> Self {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.exec_ok(Ns::Router, &["ip", "address", "add", "10.0.0.9/24", "dev", "lan"]);
        world.add_container();
        world.nft(Ns::Egress, other.rules);
        world.masquerade_container();
        world.write_config(&EgressConfig {
            path_lines: vec![
                format!("management: [{ROUTER}]"),
                format!("allow_interfaces: [{BRIDGE}]"),
            ],
            ..EgressConfig::quick()
        });
        let services = [
            world.listen(Ns::Egress, SSH),
            world.listen(Ns::Container, 80),
            world.start_dhcp_server(),
        ];
        assert!(world.positive_control() > 0);
        world.route_outside(WORLD_HOLE);
        let workload = world.start_workload();
        let mut host = Self { world, workload, _services: services, actuator: None };
        assert!(host.container_gets_out(), "the container's packets would be seen");
        assert!(host.reaches(STRANGER, SSH), "a stranger's connection would be answered");
        host.world.actuator_ok(&["converge"]);
        host.actuator = Some(host.world.start_actuator());
        host
    }

    /// Whether the router sees what the container sends past the tunnel.
    fn container_gets_out(&mut self) -> bool {
        self.world.reset_observer();
        let lab = World::program("lab").display().to_string();
        let target = ECHO_HOLE.to_string();
        let line = [&lab, "leak", "--kind", "udp4", "--count", "5", "--target", &target];
        self.world.exec_ok(Ns::Container, &line);
        self.world.observed(Class::WorldBound) > 0
    }

    fn reaches(&mut self, source: &str, port: u16) -> bool {
        let source: IpAddr = source.parse().expect("an address");
        let target = SocketAddr::new(EGRESS.into(), port);
        self.world.open_session(Ns::Router, source, target).goes_on()
    }

    fn assert_tight(&mut self, when: &str) {
        self.world.reset_observer();
        // Frames past the IP stack are stopped by the watch, and are leaks to act on: last of all.
        for kind in Leak::ALL.into_iter().filter(|kind| !Leak::FRAMES.contains(kind)) {
            self.world.send_outside(kind, 3);
        }
        assert_eq!(self.world.observed_outside(), 0, "{when}: {:?}", self.world.observations());
        assert!(!self.container_gets_out(), "{when}: {:?}", self.world.observations());
        assert_eq!(self.world.observed_outside(), 0, "{when}: {:?}", self.world.observations());
    }

    /// What must work, ending with a failover from `from` to `to`.
    fn assert_works(&mut self, when: &str) {
        self.workload.wait_for_exit(Exit::A, SOON);
        let said = self.world.actuator(&["validate"]);
        assert!(said.exit == 0 && !said.out.contains("block"), "{when}: {said:?}");
        let world = WORLD.to_string();
        eventually(SOON, &format!("{when}: the container is let into the tunnel"), || {
            self.world.ping(Ns::Container, &world)
        });
        assert!(self.reaches(&ROUTER.to_string(), SSH), "{when}: management is answered");
        assert!(!self.reaches(STRANGER, SSH), "{when}: nobody else is");
        assert!(self.world.gets_a_lease(), "{when}: DHCP");
        self.world.reset_observer();

        self.world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, &format!("{when}: the primary is seen to be down"), || {
            self.world.actuator(&["validate"]).out.contains("tunnel-down")
        });
        eventually(SOON, &format!("{when}: a failover"), || {
            let (_, outcomes) = self.world.notify(&[tunnel_down("primary")]);
            if outcomes == ["switched"] { Ok(()) } else { Err(outcomes) }
        });
        self.workload.wait_for_exit(Exit::B, SOON);
        self.world.heal(Endpoint::A);
        self.world.actuator_ok(&["converge"]);
        self.workload.wait_for_exit(Exit::A, SOON);
        assert_eq!(self.world.observed_outside(), 0, "{when}: {:?}", self.world.observations());
    }

    /// The other one restarts with ours loaded: its tables go, and come after ours.
    fn restart(&mut self, other: &Other) {
        for table in other.tables {
            let line: Vec<&str> =
                ["nft", "delete", "table"].into_iter().chain(table.split(' ')).collect();
            self.world.exec_ok(Ns::Egress, &line);
        }
        self.world.nft(Ns::Egress, other.rules);
    }

    fn assert_frames_are_stopped(&mut self) {
        self.world.reset_observer();
        for kind in Leak::FRAMES {
            self.world.send_outside(kind, 3);
        }
        assert_eq!(self.world.observed_outside(), 0, "{:?}", self.world.observations());
    }

    fn walls(&self) -> String {
        let list = |family, table| {
            self.world.exec_ok(Ns::Egress, &["nft", "--stateless", "list", "table", family, table])
        };
        list("inet", "vpn_egress") + &list("netdev", "vpn_egress_watch")
    }
}

/// Both orders: theirs first, then ours first.
fn beside(world: &mut World, other: &Other) {
    let mut host = Host::beside(world, other);
    host.assert_tight("loaded before ours");
    host.assert_works("loaded before ours");
    let walls = host.walls();
    host.restart(other);
    assert_eq!(host.walls(), walls, "nothing of ours is changed");
    host.assert_tight("loaded after ours");
    host.assert_works("loaded after ours");
    host.assert_frames_are_stopped();
}

#[test]
fn s1_s2_beside_docker() {
    inside("s1_s2_beside_docker", |world| beside(world, &DOCKER));
}

#[test]
fn s1_s2_beside_ufw() {
    inside("s1_s2_beside_ufw", |world| beside(world, &UFW));
}

#[test]
fn s1_s2_beside_firewalld() {
    inside("s1_s2_beside_firewalld", |world| beside(world, &FIREWALLD));
}

#[test]
fn s1_s2_beside_nftables_service() {
    inside("s1_s2_beside_nftables_service", |world| {
        let mut host = Host::beside(world, &NFTABLES_SERVICE);
        host.assert_tight("loaded before ours");
        host.assert_works("loaded before ours");
        let walls = host.walls();
        // Its restart flushes every table: the daemon stands guard, and puts ours back. Something
        // tries to get out all the while.
        host.world.reset_observer();
        let lab = World::program("lab").display().to_string();
        let line = [&lab, "leak", "--kind", "udp4", "--count", "65000"];
        let mut attempts = host.world.spawn(Ns::Egress, "attempts", &line);
        host.world.nft(Ns::Egress, NFTABLES_SERVICE.rules);
        assert!(attempts.is_alive(), "it went on beyond the restart");
        eventually(SOON, "the rules are back", || host.world.status()["rules_intact"] == true);
        assert_eq!(host.walls(), walls);
        assert_eq!(host.world.observed_outside(), 0, "{:?}", host.world.observations());
        host.world.masquerade_container();
        host.assert_tight("loaded after ours");
        host.assert_works("loaded after ours");
        host.assert_frames_are_stopped();
    });
}

#[test]
fn s1_a_published_port_answers_management_and_nobody_else() {
    inside("s1_a_published_port_answers_management_and_nobody_else", |world| {
        let mut host = Host::beside(world, &DOCKER);
        let management = ROUTER.to_string();
        assert!(host.reaches(&management, PUBLISHED));
        assert!(!host.reaches(STRANGER, PUBLISHED), "its answers have no way out");
        // Whether it was answered before the lock is what makes the refusal mean something.
        host.world.actuator_ok(&["unlock", "--reason", "a control"]);
        assert!(host.reaches(STRANGER, PUBLISHED));
        assert!(host.reaches(&management, PUBLISHED));
    });
}

#[test]
fn validate_names_the_table_and_chain_that_is_in_the_way() {
    inside("validate_names_the_table_and_chain_that_is_in_the_way", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.add_container();
        let path_lines = vec![format!("allow_interfaces: [{BRIDGE}]")];
        world.write_config(&EgressConfig { path_lines, ..EgressConfig::quick() });
        world.actuator_ok(&["converge"]);
        let target = WORLD.to_string();
        let passes = |world: &World, from| world.ping(from, &target);
        let is_clear = |world: &World| {
            let said = world.actuator(&["validate"]);
            if said.exit == 0 && !said.out.contains("block") { Ok(()) } else { Err(said) }
        };
        // What it does to packets, and what is said of it.
        for (hook, policy, rule, from, said) in [
            (
                "output",
                "accept",
                "ip daddr 198.51.100.0/24 udp dport { 53, 51820 } drop",
                Ns::Egress,
                "table inet theirs, chain base blocks handshakes to 198.51.100.10:51820 (rule",
            ),
            (
                "input",
                "accept",
                "iifname \"wg*\" reject",
                Ns::Egress,
                "table inet theirs, chain base blocks answers out of wg0 (rule",
            ),
            (
                "forward",
                "drop",
                "ct state established,related accept",
                Ns::Container,
                "chain base blocks what is forwarded from br-lab into wg0 (policy drop)",
            ),
        ] {
            eventually(SOON, "nothing is in the way", || is_clear(world));
            assert!(passes(world, from), "{hook}");
            world.nft(
                Ns::Egress,
                &format!(
                    "table inet theirs {{ chain base {{
                        type filter hook {hook} priority 0; policy {policy}; {rule};
                    }}
}}\n"
                ),
            );
            assert!(!passes(world, from), "{hook}: it does block");
            let validated = world.actuator(&["validate"]);
            assert_eq!(validated.exit, 3, "{validated:?}");
            assert!(validated.out.contains(said), "{said}: {validated:?}");
            let status = world.actuator(&["status"]);
            assert!(status.exit == 3 && status.out.contains(said), "{said}: {status:?}");
            world.delete_table("inet", "theirs");
        }
        // A rule that cannot be read with certainty may, and changes no exit code.
        eventually(SOON, "nothing is in the way", || is_clear(world));
        world.nft(
            Ns::Egress,
            "table inet theirs { chain base { type filter hook output priority 0; meta skuid 12345 drop; }\n}\n",
        );
        let validated = world.actuator(&["validate"]);
        assert_eq!(validated.exit, 0, "{validated:?}");
        assert!(validated.out.contains("chain base may block handshakes"), "{validated:?}");
        let status = world.actuator(&["status"]);
        assert!(status.exit == 0 && !status.out.contains("block"), "{status:?}");
    });
}
