//! Nothing leaves outside the tunnel: S1, S2. The router counts, not the host under test, and each
//! test proves first that the router would have seen a leak.

use std::time::{Duration, Instant};

use lab::programs::{EXPORTER, kill};
use lab::{Class, EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, World, eventually, inside};

const SOON: Duration = Duration::from_secs(20);

/// A locked path. The positive control comes before the lock: every kind of leak is seen.
fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::quick());
    let seen = world.positive_control();
    assert!(seen >= 3 * Leak::ALL.len() as u64, "{seen}");
    world.actuator_ok(&["converge"]);
}

/// Tries every way out, several times each.
fn try_everything(world: &World) {
    for kind in Leak::ALL {
        world.send_outside(kind, 5);
    }
}

#[track_caller]
fn assert_tight(world: &World, when: &str) {
    assert_eq!(world.observed_outside(), 0, "{when}: {:?}", world.observations());
}

fn count(world: &World, metric: &str) -> f64 {
    let series = format!("vpn_egress_{metric}{{path=\"media\"}}");
    world.metric(EXPORTER, &series).unwrap_or_else(|| panic!("{series} is missing"))
}

#[test]
fn s1_nothing_leaves_outside_the_tunnel_whatever_fails() {
    inside("s1_nothing_leaves_outside_the_tunnel_whatever_fails", |world| {
        locked(world);
        let mut actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        try_everything(world);
        assert_tight(world, "healthy");

        world.delete_tunnel();
        try_everything(world);
        assert_tight(world, "the tunnel device is gone");
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        let back = Instant::now();
        eventually(SOON, "a recreated device is let out", || {
            !workload.answers_since(back).is_empty()
        });

        kill(&mut actuator);
        try_everything(world);
        assert_tight(world, "the actuator was killed");

        // The config changes with each, so that each replaces the rules, with traffic all the time.
        for round in 0..20 {
            let allow = format!("allow: [10.0.0.{}/32]", 100 + round);
            world.write_config(&EgressConfig { path_lines: vec![allow], ..EgressConfig::quick() });
            let said = world.actuator_ok(&["converge"]);
            assert!(said.contains("the config has changed"), "{said}");
            world.send_outside(Leak::Udp4, 5);
            world.send_outside(Leak::Packet, 5);
        }
        assert_tight(world, "rules were replaced");
        let after = Instant::now();
        eventually(SOON, "traffic flows", || !workload.answers_since(after).is_empty());
    });
}

#[test]
fn s1_each_wall_alone_is_enough() {
    inside("s1_each_wall_alone_is_enough", |world| {
        locked(world);
        let _exporter = world.start_exporter();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);

        // Both: the killswitch refuses and counts what comes by the IP stack, the watch the rest.
        for kind in Leak::UNPRIVILEGED {
            let attempts = world.send_outside(kind, 5);
            // A connection attempt is refused by a reset, which comes after the call.
            let refused = matches!(kind, Leak::Tcp4 | Leak::Tcp6) || attempts.sent == 0;
            assert!(refused, "{}: refused at once: {attempts:?}", kind.name());
        }
        assert!(count(world, "blocked_packets_total") >= 25.0);
        assert!(count(world, "leaked_packets_total") < 1.0, "blocked and leaked never mix");
        world.send_outside(Leak::Packet, 5);
        assert!((count(world, "leaked_packets_total") - 5.0).abs() < 0.5);
        assert_tight(world, "both walls");

        // The watch alone: everything is stopped there, and counted.
        world.delete_table("inet", "vpn_egress");
        let broken = "vpn_egress_killswitch_intact{path=\"media\",table=\"killswitch\"}";
        assert_eq!(world.metric(EXPORTER, broken), Some(0.0));
        try_everything(world);
        assert_tight(world, "the watch alone");
        // Five of each kind, tagged frames too.
        assert!(count(world, "leaked_packets_total") >= 5.0 + 5.0 * 10.0);

        // The killswitch alone: everything but frames made by hand, which only the watch can see.
        world.actuator_ok(&["release", "--reason", "nothing to release"]);
        world.actuator_ok(&["converge"]);
        world.delete_table("netdev", "vpn_egress_watch");
        world.reset_observer();
        for kind in Leak::UNPRIVILEGED {
            world.send_outside(kind, 5);
        }
        assert_tight(world, "the killswitch alone");
        let page = world.http_get(&format!("{EXPORTER}/metrics")).expect("a page").body;
        assert!(!page.contains("vpn_egress_leaked_packets_total{"), "S7: missing is never zero");
    });
}

#[test]
fn s2_every_endpoint_is_permitted_by_mark_and_nothing_beside_it() {
    inside("s2_every_endpoint_is_permitted_by_mark_and_nothing_beside_it", |world| {
        locked(world);
        let _exporter = world.start_exporter();
        let reachable = "vpn_egress_endpoint_reachable{endpoint=\"backup\",method=\"handshake\",path=\"media\"}";
        eventually(SOON, "the standby answers a handshake through the lock", || {
            world.metric(EXPORTER, reachable) == Some(1.0)
        });
        assert_tight(world, "handshakes with a standby");
        assert!(world.observed(Class::Tunnel) > 0);

        let lab = World::program("lab").display().to_string();
        let attempt = |mark: &str, target: &str| {
            let kind =
                ["leak", "--kind", "udp4", "--count", "3", "--mark", mark, "--target", target];
            let line: Vec<&str> = std::iter::once(lab.as_str()).chain(kind).collect();
            world.exec_ok(Ns::Egress, &line).contains("\"sent\":3")
        };
        // 51820 is the mark 0xca6c. Forging it takes CAP_NET_RAW: the named limit of S1.
        assert!(attempt("51820", "203.0.113.10:51820"));
        // The neighbours of what is permitted: another port, another address, another mark.
        assert!(!attempt("51820", "203.0.113.10:51821"));
        assert!(!attempt("51820", "203.0.113.11:51820"));
        assert!(!attempt("51821", "203.0.113.10:51820"));
        // An unprivileged program's packet to the endpoint carries no mark.
        assert_eq!(world.send_outside(Leak::Endpoint, 3).sent, 0);
    });
}

#[test]
fn a_metrics_page_is_what_promtool_expects() {
    inside("a_metrics_page_is_what_promtool_expects", |world| {
        locked(world);
        let _exporter = world.start_exporter();
        let _actuator = world.start_actuator();
        let ready = format!("{EXPORTER}/-/ready");
        eventually(SOON, "a first cycle", || world.http_get(&ready).is_ok_and(|r| r.status == 200));
        for base in [EXPORTER, lab::programs::ACTUATOR] {
            let page = world.http_get(&format!("{base}/metrics")).expect("a page").body;
            let checked =
                world.run_within(Ns::Egress, &["promtool", "check", "metrics"], &page, SOON);
            let said = String::from_utf8_lossy(&checked.stderr).into_owned()
                + &String::from_utf8_lossy(&checked.stdout);
            assert!(checked.status.success() && said.trim().is_empty(), "{base}: {said}\n{page}");
        }
        // Textfile mode prints the same metrics, or puts them in place whole.
        let line = [
            World::program("exporter").display().to_string(),
            "--once".into(),
            format!("--config.file={}", world.scratch().join("egress.yml").display()),
            format!("--state.directory={}", world.scratch().join("state").display()),
        ];
        let mut line: Vec<&str> = line.iter().map(String::as_str).collect();
        let once = world.exec_ok(Ns::Egress, &line);
        assert!(once.contains("vpn_egress_endpoint_active{"), "{once}");
        let file = world.scratch().join("vpn_egress.prom");
        let flag = format!("--once.file={}", file.display());
        line.push(&flag);
        assert_eq!(world.exec_ok(Ns::Egress, &line), "", "nothing beside the file");
        let page = std::fs::read_to_string(&file).expect("the file");
        let series = |page: &str| -> Vec<String> {
            let names = page.lines().filter_map(|line| line.rsplit_once(' ').map(|one| one.0));
            names.map(str::to_owned).collect()
        };
        assert_eq!(series(&page), series(&once));
        let checked = world.run_within(Ns::Egress, &["promtool", "check", "metrics"], &page, SOON);
        assert!(checked.status.success() && checked.stdout.is_empty(), "{checked:?}");
        let nowhere = world.scratch().join("nowhere/vpn_egress.prom");
        let flag = format!("--once.file={}", nowhere.display());
        let last = line.len() - 1;
        line[last] = &flag;
        let said = world.run(Ns::Egress, &line);
        assert_eq!(said.status.code(), Some(3), "{said:?}");
    });
}
