//! The probes against a real far side: what each kind asks through the tunnel and where it must not
//! go, who is asked beside the tunnel and how often, and that nobody notices.

use std::time::Duration;

use lab::addresses::{TUNNEL_SERVER, WORLD};
use lab::programs::{ACTUATOR, EXPORTER, tunnel_down};
use lab::{
    Class, Direction, EgressConfig, Endpoint, Exit, Keepalive, Ns, Process, World, eventually,
    inside,
};

const SOON: Duration = Duration::from_secs(30);

/// Where the far side of the tunnel takes connections, where it answers queries, and where nobody
/// listens.
const TAKEN: u16 = 7132;
const RESOLVER: u16 = 53;
const CLOSED: u16 = 7133;

/// What `write_config` writes.
const USUAL: &str = "probe: {target: 10.64.0.1, timeout: 500ms}";

fn icmp() -> String {
    format!("{{kind: icmp, target: {TUNNEL_SERVER}, timeout: 500ms}}")
}

fn tcp(port: u16) -> String {
    format!("{{kind: tcp, target: \"{TUNNEL_SERVER}:{port}\", timeout: 500ms}}")
}

fn dns() -> String {
    format!("{{kind: dns, target: {TUNNEL_SERVER}, query: example.com, timeout: 500ms}}")
}

/// What answers at the far side, but for the echo.
fn start_far_side(world: &World) -> [Process; 2] {
    let lab = World::program("lab").display().to_string();
    let start = |name, port| {
        let listen = format!("--listen={TUNNEL_SERVER}:{port}");
        world.spawn(Ns::VpnA, name, &[&lab, name, &listen])
    };
    [start("sink", TAKEN), start("resolver", RESOLVER)]
}

/// A config with this probe, and the host or some of its users locked in.
fn configure(world: &World, workload: &str, probe: &str) {
    world.write_config(&EgressConfig { workload: workload.into(), ..EgressConfig::quick() });
    world.edit_config(USUAL, &format!("probe: {probe}"));
}

/// The page of one cycle.
fn once(world: &World) -> String {
    let line = world.program_line("exporter", &["--once"]);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    world.exec_ok(Ns::Egress, &line)
}

fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(&format!("{series} ")))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Of one cycle: whether the probe was answered, and whether it could be made.
fn probed(world: &World) -> (Option<f64>, Option<f64>) {
    let page = once(world);
    let made = value(&page, "vpn_egress_collector_success{collector=\"probe\"}");
    (value(&page, "vpn_egress_tunnel_probe_success{path=\"media\"}"), made)
}

const ANSWERED: (Option<f64>, Option<f64>) = (Some(1.0), Some(1.0));
const NOT_MADE: (Option<f64>, Option<f64>) = (None, Some(0.0));

#[test]
fn a_tunnel_probe_of_any_kind_goes_through_the_tunnel_or_nowhere() {
    inside("a_tunnel_probe_of_any_kind_goes_through_the_tunnel_or_nowhere", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        let _far = start_far_side(world);
        let kinds = [icmp(), tcp(TAKEN), tcp(CLOSED), dns()];
        // Without a lock: nothing but the probe itself keeps it in. A port that refuses answers too.
        let all = |world: &World, workload: &str, wanted| {
            for kind in &kinds {
                configure(world, workload, kind);
                eventually(SOON, &format!("{kind} of {workload}: {wanted:?}"), || {
                    let seen = probed(world);
                    if seen == wanted { Ok(()) } else { Err(seen) }
                });
            }
        };
        all(world, "host", ANSWERED);

        world.remove_tunnel_routes();
        // The control: what is not bound to the tunnel goes by the uplink now, and the router sees it.
        world.reset_observer();
        world.ping(Ns::Egress, &TUNNEL_SERVER.to_string());
        for way in [format!("tcp/{TUNNEL_SERVER}/{TAKEN}"), format!("udp/{TUNNEL_SERVER}/53")] {
            let line = format!("timeout 1 bash -c 'echo > /dev/{way}'");
            world.run(Ns::Egress, &["sh", "-c", &line]);
        }
        for class in [Class::Icmp4, Class::Tcp4, Class::Udp4] {
            assert!(world.observed(class) > 0, "the router sees {class}");
        }

        world.reset_observer();
        // The host's own traffic has no way into the tunnel: a probe that had would tell of a path
        // that nobody has. A scoped workload has routes of its own, of which the host's say nothing.
        all(world, "host", NOT_MADE);
        all(world, "{users: [nobody]}", ANSWERED);
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn a_dead_far_side_is_down_by_every_kind_of_probe() {
    inside("a_dead_far_side_is_down_by_every_kind_of_probe", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        let far = start_far_side(world);
        let down = |world: &World| {
            eventually(SOON, "the tunnel is seen to be down", || {
                let said = world.actuator(&["validate"]);
                let wanted = "tunnel-down (probe lost and nothing received)";
                if said.out.contains(wanted) { Ok(()) } else { Err(said) }
            });
        };
        let up = |world: &World| {
            eventually(SOON, "the path is up", || {
                let said = world.actuator(&["validate"]);
                if said.exit == 0 { Ok(()) } else { Err(said) }
            });
        };
        for kind in [tcp(TAKEN), tcp(CLOSED), dns()] {
            configure(world, "host", &kind);
            world.actuator_ok(&["converge"]);
            up(world);
            world.server_forwards(Endpoint::A, false);
            down(world);
            world.server_forwards(Endpoint::A, true);
            up(world);
        }
        // The resolver ends, and its host says that the port is closed: no name is resolved. At once:
        // a host that says so again and again would send more than an idle one.
        drop(far);
        let said = world.actuator(&["validate"]);
        assert!(said.out.contains("tunnel-down"), "{said:?}");
    });
}

#[test]
fn a_tunnel_that_loses_three_of_four_packets_answers_every_kind_of_probe() {
    inside("a_tunnel_that_loses_three_of_four_packets_answers_every_kind_of_probe", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        let _far = start_far_side(world);
        let patient = |probe: String| probe.replace("500ms", "900ms");
        let kinds = [icmp(), tcp(TAKEN), tcp(CLOSED), dns()].map(patient);
        for kind in &kinds {
            configure(world, "host", kind);
            eventually(SOON, &format!("{kind}: answered"), || {
                let seen = probed(world);
                if seen == ANSWERED { Ok(()) } else { Err(seen) }
            });
        }
        world.lose_three_of_four(Endpoint::A);
        for kind in &kinds {
            configure(world, "host", kind);
            for nth in 0..3 {
                assert_eq!(probed(world), ANSWERED, "{kind}, {nth}");
            }
        }
    });
}

fn reachable(world: &World, endpoint: &str, method: &str) -> Option<f64> {
    let labels = format!("{{endpoint=\"{endpoint}\",method=\"{method}\",path=\"media\"}}");
    world.metric(EXPORTER, &format!("vpn_egress_endpoint_reachable{labels}"))
}

/// Cycles that ended so far.
fn cycles(world: &World) -> f64 {
    let page = world.http_get(&format!("{EXPORTER}/metrics")).expect("a page").body;
    let lines = page.lines().filter(|line| line.starts_with("vpn_egress_cycles_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn is_down(world: &World) -> bool {
    world.actuator(&["validate"]).out.contains("tunnel-down")
}

#[test]
fn s9_an_endpoint_whose_probe_is_off_is_asked_before_a_switch_and_never_else() {
    inside("s9_an_endpoint_whose_probe_is_off_is_asked_before_a_switch_and_never_else", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        let backup = "      - name: backup\n";
        let off = format!("{backup}        probe_interval: off\n");
        // Its twin: the primary's server and keys by another address.
        let twin = "      - {name: twin, wg_quick: twin.conf}\n";
        let conf = std::fs::read_to_string(world.scratch().join("a.conf")).expect("a.conf");
        let v6 = format!("[{}]", Endpoint::A.address_v6());
        let conf = conf.replace(&Endpoint::A.address().to_string(), &v6);
        world.write_file("twin.conf", &conf, 0o600);
        world.edit_config(backup, &format!("{twin}{off}"));
        world.actuator_ok(&["converge"]);
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        world.count_handshakes();
        let _exporter = world.start_exporter();

        // Once it has looked at the twin, it has looked at all.
        eventually(SOON, "the twin was asked", || reachable(world, "twin", "icmp"));
        let then = cycles(world);
        eventually(SOON, "more cycles", || cycles(world) >= then + 3.0);
        for method in ["handshake", "icmp"] {
            assert_eq!(reachable(world, "backup", method), None, "{method}: its probe is off");
        }
        // A handshake with the primary's keys would take the tunnel's answers away from it.
        assert_eq!(reachable(world, "twin", "handshake"), None);
        assert_eq!(world.handshakes().0, 0, "nobody was asked for a handshake");

        // S9: before a switch it is asked all the same. The twin is dead with the primary.
        let _actuator = world.start_actuator();
        world.stop_server(Endpoint::B);
        world.stop_server(Endpoint::A);
        eventually(SOON, "the primary is seen to be down", || is_down(world));
        let refused = (503, vec!["no_reachable_standby".to_owned()]);
        assert_eq!(world.notify(&[tunnel_down("primary")]), refused);
        world.start_server(Endpoint::B);
        eventually(SOON, "the backup is found alive", || {
            world.notify(&[tunnel_down("primary")]) == (200, vec!["switched".into()])
        });
        assert_eq!(world.active_endpoint(), "backup");
    });
}

#[test]
fn a_failover_to_the_next_asks_nobody_and_goes_forward() {
    inside("a_failover_to_the_next_asks_nobody_and_goes_forward", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        world.edit_config("    health:\n", "    health:\n      failover_to: next\n");
        world.edit_config("standby_interval: 1s", "standby_interval: off");
        world.actuator_ok(&["converge"]);
        let _actuator = world.start_actuator();
        let _exporter = world.start_exporter();
        world.stop_server(Endpoint::B);
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is seen to be down", || is_down(world));
        let own = world.exec_ok(Ns::Egress, &["wg", "show", "wg0", "listen-port"]);
        world.nft(
            Ns::Router,
            &format!(
                "table inet asked {{ counter others {{ }}\n chain forward {{ type filter hook \
                 forward priority -20; iifname \"lan\" udp dport 51820 udp sport != {} counter \
                 name others; }}\n}}\n",
                own.trim()
            ),
        );
        let then = cycles(world);
        eventually(SOON, "more cycles", || cycles(world) >= then + 2.0);
        assert_eq!(world.notify(&[tunnel_down("primary")]), (200, vec!["switched".into()]));
        assert_eq!(world.active_endpoint(), "backup");
        let counted =
            world.exec_ok(Ns::Router, &["nft", "list", "counters", "table", "inet", "asked"]);
        assert!(counted.contains("packets 0 "), "somebody was asked: {counted}");
        // Forward only, and the last one is the last one.
        eventually(SOON, "nothing is left to fail forward to", || {
            world.notify(&[tunnel_down("backup")]) == (200, vec!["exhausted".into()])
        });
        // Nor is a person's failback held up by a primary that is dead.
        assert!(world.actuator_ok(&["converge"]).contains("backup -> primary (failback)"));
        assert_eq!(
            world.metric(ACTUATOR, "vpn_egress_actuator_exhausted{path=\"media\"}"),
            Some(0.0)
        );
    });
}

#[test]
fn probes_of_standbys_are_all_answered_and_the_tunnel_beside_them_notices_nothing() {
    inside(
        "probes_of_standbys_are_all_answered_and_the_tunnel_beside_them_notices_nothing",
        |world| {
            world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
            world.write_config_with_standbys(40);
            world.actuator_ok(&["converge"]);
            let paced = "while head -c 100000 /dev/zero; do sleep 0.05; done";
            let mut transfer = world.start_transfer(paced);
            let mut exporter = world.start_exporter();
            let window = Duration::from_secs(3);
            let beside = world.probe_beside(&mut transfer, &mut exporter, window, 300);
            // A busy machine may lose a packet; a server that takes offence loses many.
            let lost = beside.begun.saturating_sub(beside.answered);
            assert!(lost * 100 <= beside.begun, "{beside}");
            assert_eq!((beside.roamed, beside.broken), (0, false), "{beside}");
            // It went on in both; how fast is measured by `figures --only probes`.
            assert!(beside.with.bytes > 1_000_000 && beside.without.bytes > 1_000_000, "{beside}");
        },
    );
}

/// Whether large packets pass, and small ones, each as one cycle has it.
fn passing(world: &World) -> (Option<f64>, Option<f64>) {
    let page = once(world);
    let of =
        |name: &str| value(&page, &format!("vpn_egress_tunnel_{name}_success{{path=\"media\"}}"));
    (of("large_probe"), of("probe"))
}

#[test]
fn large_packets_that_vanish_are_told_and_a_path_that_says_how_large_they_may_be_is_well() {
    inside(
        "large_packets_that_vanish_are_told_and_a_path_that_says_how_large_they_may_be_is_well",
        |world| {
            world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
            // Of a host behind the far side, so that there is a way to be narrow.
            configure(world, "host", &format!("{{target: {WORLD}, timeout: 2s}}"));
            world.edit_config("      interval: 1s", "      interval: 5s");
            world.actuator_ok(&["converge"]);
            assert_eq!(passing(world), (Some(1.0), Some(1.0)));

            world.drop_large(Endpoint::A);
            assert_eq!(passing(world), (Some(0.0), Some(1.0)), "on the way to the endpoint");
            let said = world.actuator(&["validate"]);
            assert!(said.exit == 0 && said.out.contains("set a smaller `mtu`"), "{said:?}");
            world.heal(Endpoint::A);
            assert_eq!(passing(world), (Some(1.0), Some(1.0)));
            let said = world.actuator_ok(&["validate"]);
            assert!(!said.contains("mtu"), "{said}");

            world.blackhole(Endpoint::A, Direction::Both);
            assert_eq!(
                passing(world),
                (None, Some(0.0)),
                "where none pass, large ones tell nothing"
            );
            world.heal(Endpoint::A);

            // Narrow behind the far side, which may not say so.
            let narrow = format!(
                "ip route add {WORLD} $(ip -o route show default | sed 's/default//') mtu lock 1300"
            );
            world.exec_ok(Ns::VpnA, &["sh", "-c", &narrow]);
            world.nft(
                Ns::VpnA,
                "table inet mute { chain output { type filter hook output priority 0; \
                 icmp type destination-unreachable drop; }; }",
            );
            assert_eq!(passing(world), (Some(0.0), Some(1.0)), "behind the far side");
            // And may: from then on the host's packets are as large as they may be.
            world.exec_ok(Ns::VpnA, &["nft", "delete", "table", "inet", "mute"]);
            eventually(SOON, "the path says how large", || {
                passing(world) == (Some(1.0), Some(1.0))
            });
        },
    );
}
