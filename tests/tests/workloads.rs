//! Workloads that are less than the host: what is locked leaves by its tunnel or not at all, what
//! is not stays free, and no path uses another's tunnel. S1, S2.

use std::time::{Duration, Instant};

use lab::addresses::{
    ECHO, ECHO_HOLE, ROUTER_V6, SECOND_TUNNEL, TUNNEL, UPLINK, WORLD, WORLD_HOLE,
};
use lab::container::{BRIDGE, BRIDGE_ADDRESS};
use lab::programs::{EXPORTER, kill};
use lab::{
    Class, EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, Sender, World, eventually, inside,
    inside_with_users,
};

const SOON: Duration = Duration::from_secs(20);
const LOCKED: u32 = 1000;
const FREE: u32 = 1001;

fn config(workload: &str) -> EgressConfig {
    EgressConfig { workload: workload.into(), ..EgressConfig::quick() }
}

/// What can be sent to `world` without being root, and by which a container is routed outside.
const KINDS: [Leak; 4] = [Leak::Udp4, Leak::Tcp4, Leak::Udp6, Leak::Tcp6];

/// How many packets of `sender` the router sees outside the tunnel. By their kinds: what the free
/// host answers to late replies, in ICMP, is nobody's attempt.
fn outside(world: &mut World, sender: Sender) -> u64 {
    world.reset_observer();
    for kind in KINDS {
        let v6 = matches!(kind, Leak::Udp6 | Leak::Tcp6);
        let target = if v6 { lab::addresses::ECHO_V6 } else { ECHO_HOLE }.to_string();
        world.send_as(sender, kind, 3, &["--target", &target]);
    }
    KINDS.iter().map(|kind| world.observed(kind.class())).sum()
}

#[track_caller]
fn assert_seen(world: &mut World, who: &str, sender: Sender) {
    let seen = outside(world, sender);
    assert!(seen >= 3 * KINDS.len() as u64, "{who} is seen: {seen} {:?}", world.observations());
}

#[track_caller]
fn assert_tight(world: &mut World, who: &str, sender: Sender) {
    assert_eq!(outside(world, sender), 0, "{who}: {:?}", world.observations());
}

/// Routes to `world` that lead past the tunnel, as whatever may put them there.
fn lead_outside(world: &World) {
    world.route_outside(WORLD_HOLE);
    let v6 = ["ip", "-6", "route", "replace", "fd00:0:0:c::/64", "via"];
    let v6: Vec<&str> = v6.into_iter().collect();
    let gateway = ROUTER_V6.to_string();
    world.exec_ok(Ns::Egress, &[&v6[..], &[&gateway, "dev", UPLINK]].concat());
}

fn metric(world: &World, path: &str, name: &str) -> f64 {
    let series = format!("vpn_egress_{name}{{path=\"{path}\"}}");
    world.metric(EXPORTER, &series).unwrap_or_else(|| panic!("{series} is missing"))
}

#[test]
fn s1_what_enters_by_a_bridge_is_locked_by_two_walls_and_the_host_is_free() {
    inside("s1_what_enters_by_a_bridge_is_locked_by_two_walls_and_the_host_is_free", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.add_container();
        lead_outside(world);
        let _proxy = world.listen(Ns::Egress, 8080);
        let proxy = format!("{BRIDGE_ADDRESS}:8080").parse().expect("an address");
        let container = lab::container::CONTAINER.into();
        world.write_config(&config(&format!("{{interfaces: [{BRIDGE}]}}")));
        assert_seen(world, "the container before the lock", Sender::Container);
        assert!(world.open_session(Ns::Container, container, proxy).goes_on());

        world.actuator_ok(&["converge"]);
        let _exporter = world.start_exporter();
        assert!((metric(world, "media", "walls") - 2.0).abs() < 0.1);
        assert_tight(world, "both walls", Sender::Container);
        assert!(metric(world, "media", "leaked_packets_total") < 1.0, "the first wall came first");
        assert_seen(world, "the host stays free", Sender::Root);
        let target = WORLD.to_string();
        eventually(SOON, "the container gets out by the tunnel", || {
            world.ping(Ns::Container, &target)
        });
        assert!(
            !world.open_session(Ns::Container, container, proxy).goes_on(),
            "a proxy on the host would carry it outside"
        );

        world.delete_tunnel();
        assert_tight(world, "the tunnel is gone", Sender::Container);
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);

        world.delete_table("netdev", "vpn_egress_watch");
        assert_tight(world, "the killswitch alone", Sender::Container);
        world.actuator_ok(&["converge"]);

        // Another path of packets to the same end: masqueraded, so only the mark tells whose it is.
        world.delete_table("inet", "vpn_egress");
        assert_tight(world, "the watch alone", Sender::Container);
        assert!(metric(world, "media", "leaked_packets_total") >= 12.0, "counted");
        assert_seen(world, "the host stays free", Sender::Root);

        // A bridge that is made anew is covered again, and so is what enters by it.
        world.actuator_ok(&["release", "--reason", "none is latched"]);
        let _actuator = world.start_actuator();
        eventually(SOON, "the leak was told at the start", || {
            world.status()["standing"] == "stopped"
        });
        assert!(!world.ping(Ns::Container, &target), "the hard stop cuts the tunnel too");
        assert_seen(world, "and not the host", Sender::Root);
        world.actuator_ok(&["release", "--reason", "test"]);
        eventually(SOON, "released", || world.ping(Ns::Container, &target));
    });
}

#[test]
fn s1_a_user_is_locked_and_others_are_free() {
    inside_with_users("s1_a_user_is_locked_and_others_are_free", |world| {
        if !world.has_users() {
            return;
        }
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        lead_outside(world);
        world.write_config(&config(&format!("{{users: [{LOCKED}]}}")));
        assert_seen(world, "the user before the lock", Sender::User(LOCKED));

        world.actuator_ok(&["converge"]);
        let _exporter = world.start_exporter();
        assert!((metric(world, "media", "walls") - 2.0).abs() < 0.1, "and says so");
        world.delete_table("inet", "vpn_egress");
        assert_tight(world, "the watch alone", Sender::User(LOCKED));
        assert!(metric(world, "media", "leaked_packets_total") >= 12.0, "counted");
        world.actuator_ok(&["release", "--reason", "none is latched"]);
        world.actuator_ok(&["converge"]);
        assert_tight(world, "the locked user", Sender::User(LOCKED));
        assert_seen(world, "another user", Sender::User(FREE));
        assert_seen(world, "root", Sender::Root);
        world.delete_tunnel();
        assert_tight(world, "the tunnel is gone", Sender::User(LOCKED));
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);

        let to = |target: &str, device: &str, sender, kind| {
            world.send_as(sender, kind, 1, &["--device", device, "--target", target]).sent == 1
        };
        let echo = ECHO.to_string();
        assert!(to(&echo, TUNNEL, Sender::User(LOCKED), Leak::Udp4), "its own tunnel");
        // A resolver on this host asks in its own name, outside.
        assert!(to("127.0.0.53:53", "lo", Sender::User(FREE), Leak::Udp4));
        assert!(!to("127.0.0.53:53", "lo", Sender::User(LOCKED), Leak::Udp4));
        assert!(to("127.0.0.53:5432", "lo", Sender::User(LOCKED), Leak::Udp4), "other services");

        world.write_config(&EgressConfig {
            path_lines: vec!["resolvers: [127.0.0.53]".into()],
            ..config(&format!("{{users: [{LOCKED}]}}"))
        });
        world.actuator_ok(&["converge"]);
        let sent = |target: &str| {
            let line = ["--device", "lo", "--target", target];
            world.send_as(Sender::User(LOCKED), Leak::Udp4, 1, &line).sent == 1
        };
        assert!(sent("127.0.0.53:53"), "a resolver that is locked in itself");
        assert!(!sent("127.0.0.54:53"), "and its neighbour is not");
    });
}

#[test]
fn s1_a_cgroup_is_locked_and_again_when_it_is_made_anew() {
    inside_with_users("s1_a_cgroup_is_locked_and_again_when_it_is_made_anew", |world| {
        let name = format!("vpn-egress-lab-{}", std::process::id());
        let other = format!("{name}-free");
        if !world.mount_cgroups(&name) || !world.mount_cgroups(&other) {
            return;
        }
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        lead_outside(world);
        world.write_config(&config("{cgroups: [no-such-cgroup]}"));
        let said = world.actuator(&["converge"]);
        assert!(said.exit == 78 && said.err.contains("no-such-cgroup; make it before"), "{said:?}");

        world.write_config(&config(&format!("{{cgroups: [{name}]}}")));
        let (locked, free) = (Sender::Cgroup(&name), Sender::Cgroup(&other));
        assert_seen(world, "the cgroup before the lock", locked);
        world.actuator_ok(&["converge"]);
        assert_tight(world, "the locked cgroup", locked);
        assert_seen(world, "another cgroup", free);
        world.delete_tunnel();
        assert_tight(world, "the tunnel is gone", locked);
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);

        world.recreate_cgroup(&name);
        assert_seen(world, "the rule holds the id of the old one", locked);
        let _exporter = world.start_exporter();
        let intact = "vpn_egress_killswitch_intact{path=\"media\",table=\"killswitch\"}";
        assert_eq!(world.metric(EXPORTER, intact), Some(0.0), "which is published");
        let _actuator = world.start_actuator();
        eventually(SOON, "repaired", || world.metric(EXPORTER, intact) == Some(1.0));
        assert_tight(world, "the new cgroup", locked);

        world.remove_cgroup(&name);
        eventually(SOON, "one that is gone takes nothing with it", || {
            world.metric(EXPORTER, intact) == Some(1.0)
        });
        assert_eq!(world.status()["standing"], "locked");
        world.remove_cgroup(&other);
    });
}

/// Path `media` is the whole host by A, path `work` the bridge by B.
fn two_paths(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.add_container();
    world.create_second_tunnel();
    let work = world.second_path_lines(&format!("{{interfaces: [{BRIDGE}]}}"));
    world.write_config(&EgressConfig {
        endpoints: vec![Endpoint::A],
        top_lines: work,
        ..EgressConfig::quick()
    });
}

#[test]
fn s1_two_paths_each_by_its_own_tunnel_and_cut_alone() {
    inside("s1_two_paths_each_by_its_own_tunnel_and_cut_alone", |world| {
        two_paths(world);
        lead_outside(world);
        assert_seen(world, "the container before the lock", Sender::Container);
        assert_seen(world, "the host before the lock", Sender::Root);
        world.actuator_ok(&["converge"]);
        let _actuator = world.start_actuator();
        let _exporter = world.start_exporter();
        world.unroute_outside(WORLD_HOLE);
        let host = world.start_workload();
        let container = world.start_workload_in(Ns::Container);
        host.wait_for_exit(Exit::A, SOON);
        container.wait_for_exit(Exit::B, SOON);
        world.route_outside(WORLD_HOLE);
        assert_tight(world, "the container", Sender::Container);
        assert_tight(world, "the host", Sender::Root);
        for path in ["media", "work"] {
            assert!(metric(world, path, "leaked_packets_total") < 1.0, "{path}");
        }

        // Neither may use the other's tunnel.
        let echo = ECHO.to_string();
        let by = |device| {
            let line = ["--device", device, "--target", &echo];
            world.send_as(Sender::Root, Leak::Udp4, 3, &line).sent
        };
        assert_eq!((by(TUNNEL), by(SECOND_TUNNEL)), (3, 0));
        let rule = ["ip", "rule", "add", "iif", BRIDGE, "lookup", lab::addresses::TABLE];
        world.exec_ok(Ns::Egress, &[&rule[..], &["priority", "80"]].concat());
        let blocked = metric(world, "work", "blocked_packets_total");
        let since = Instant::now();
        eventually(SOON, "the container is refused in the host's tunnel", || {
            metric(world, "work", "blocked_packets_total") > blocked + 5.0
        });
        assert!(container.answers_since(since).iter().all(|answer| answer.exit == Exit::B));
        world.exec_ok(Ns::Egress, &["ip", "rule", "del", "priority", "80"]);
        container.wait_for_exit(Exit::B, SOON);

        // Each is cut alone, and lifted alone.
        for (cut, stays, of_cut, of_stays) in [
            ("work", (&host, Exit::A), &container, "media"),
            ("media", (&container, Exit::B), &host, "work"),
        ] {
            world.lose_state(cut);
            eventually(SOON, "a path without a state is cut", || world.standing(cut) == "stopped");
            let since = Instant::now();
            stays.0.wait_for_exit(stays.1, SOON);
            eventually(SOON, "some time", || since.elapsed() > Duration::from_secs(1));
            let late = since + Duration::from_millis(200);
            assert!(of_cut.answers_since(late).is_empty(), "{cut} is cut");
            let standing = world.standing(of_stays);
            assert_eq!(standing, "locked", "{of_stays} is not");
            let said = world.actuator_ok(&["release", "--path", cut, "--reason", "test"]);
            assert!(said.contains(cut) && !said.contains(of_stays), "{said}");
            let exit = if cut == "work" { Exit::B } else { Exit::A };
            of_cut.wait_for_exit(exit, SOON);
        }

        // Unlocked alone as well.
        world.actuator_ok(&["unlock", "--path", "work", "--reason", "test"]);
        let kept = world.exec_ok(Ns::Egress, &["nft", "list", "table", "inet", "vpn_egress"]);
        assert!(kept.contains("output_media") && !kept.contains("forward_work"), "{kept}");
        assert_tight(world, "the host stays locked", Sender::Root);
        assert!(world.actuator(&["unlock", "--path", "none", "--reason", "x"]).exit == 3);
        assert!(world.observed(Class::Tunnel) > 0);
    });
}

/// Path `media` is a bridge that nobody is behind, path `work` the container's by B.
fn two_bridges(world: &mut World) -> (EgressConfig, EgressConfig) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.add_container();
    world.create_second_tunnel();
    world.exec_ok(Ns::Egress, &["ip", "link", "add", "spare0", "type", "bridge"]);
    // By one mask, and with a bit in common: each by its value.
    let marked =
        |bridge, mark| format!("{{interfaces: [{bridge}]}}\n    workload_mark: {mark}/0xff000000");
    let of_work = marked(BRIDGE, "0x3000000");
    let of_media = marked("spare0", "0x1000000");
    let one = EgressConfig { endpoints: vec![Endpoint::A], ..config(&of_media) };
    let two = EgressConfig { top_lines: world.second_path_lines(&of_work), ..one.clone() };
    (one, two)
}

#[test]
fn s1_a_path_that_is_removed_from_the_file_stays_locked_and_stopped_until_a_converge() {
    inside(
        "s1_a_path_that_is_removed_from_the_file_stays_locked_and_stopped_until_a_converge",
        |world| {
            let (one, two) = two_bridges(world);
            lead_outside(world);
            world.write_config(&two);
            assert_seen(world, "the container before the lock", Sender::Container);
            world.actuator_ok(&["converge"]);
            assert_tight(world, "the container", Sender::Container);

            // Neither a boot nor a daemon with its repairs goes by the edit.
            world.write_config(&one);
            world.delete_table("inet", "vpn_egress");
            world.delete_table("netdev", "vpn_egress_watch");
            assert_seen(world, "the container without a lock", Sender::Container);
            world.actuator_ok(&["killswitch", "load"]);
            assert_tight(world, "after a boot", Sender::Container);
            let mut actuator = world.start_actuator();
            world.delete_table("inet", "vpn_egress");
            eventually(SOON, "the killswitch is put back", || {
                world.exec_ok(Ns::Egress, &["nft", "list", "tables"]).contains("inet vpn_egress\n")
            });
            assert_tight(world, "after a repair", Sender::Container);

            // Stopped: by the daemon, and by a boot, whatever else is done; and no converge lets it go.
            kill(&mut actuator);
            world.write_config(&two);
            world.delete_table("inet", "vpn_egress");
            assert_tight(world, "the watch alone", Sender::Container);
            let mut actuator = world.start_actuator();
            eventually(SOON, "the leak is told", || world.standing("work") == "stopped");
            kill(&mut actuator);
            world.write_config(&one);
            let stop = ["nft", "list", "table", "inet", "vpn_egress_stop"];
            for order in [["killswitch", "load"], ["converge", "--force"], ["converge", "--check"]]
            {
                let exit = world.actuator(&order).exit;
                assert_eq!(exit, if order[0] == "converge" { 3 } else { 0 }, "{order:?}");
                assert!(world.exec_ok(Ns::Egress, &stop).contains("work"), "{order:?}");
            }
            let _actuator = world.start_actuator();
            world.lose_state("media");
            eventually(SOON, "the other is stopped too", || world.standing("media") == "stopped");
            assert!(world.exec_ok(Ns::Egress, &stop).contains("work"));
            world.actuator_ok(&["release", "--reason", "test"]);
            assert!(world.exec_ok(Ns::Egress, &stop).contains("work"));
            assert_tight(world, "stopped", Sender::Container);

            // Put back and released, then removed: a converge says what it takes off, and takes it off.
            world.write_config(&two);
            assert_eq!(world.actuator(&["converge"]).exit, 3);
            world.actuator_ok(&["release", "--path", "work", "--reason", "test"]);
            world.write_config(&one);
            let told = world.actuator(&["converge", "--check"]);
            assert!(
                told.exit == 2 && told.out.contains("work: would change: lock taken off"),
                "{told:?}"
            );
            assert_tight(world, "only foretold", Sender::Container);
            let told = world.actuator_ok(&["converge"]);
            assert!(told.contains("work: changed: lock taken off"), "{told}");
            assert_eq!(world.actuator(&["converge", "--check"]).exit, 0);
            assert_seen(world, "the container that is nobody's", Sender::Container);
        },
    );
}
