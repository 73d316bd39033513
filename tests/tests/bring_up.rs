//! From two provider files to a locked path: the tunnel is made where it is missing, killswitch
//! first, taken over where it is there, and made again where it is lost.

use std::time::{Duration, Instant};

use lab::addresses::TUNNEL;
use lab::container::BRIDGE;
use lab::programs::{kill, tunnel_down};
use lab::{
    Direction, EgressConfig, Endpoint, Exit, Ns, World, eventually, inside, inside_with_users,
};

const SOON: Duration = Duration::from_secs(30);
const TUNNEL_SERVER: &str = "10.64.0.1";
const SERVERS: [&str; 2] = ["198.51.100.10:51820", "203.0.113.10:51820"];

fn answers(world: &World) {
    eventually(SOON, "the tunnel answers", || world.ping(Ns::Egress, TUNNEL_SERVER));
}

/// What a check says would be done is what is done, in the same words.
#[track_caller]
fn converge_as_checked(world: &World) -> String {
    let check = world.actuator(&["converge", "--check"]);
    assert_eq!(check.exit, 2, "{check:?}");
    let said = world.actuator_ok(&["converge"]);
    assert_eq!(check.out.replace("would change", "changed"), said);
    assert!(world.actuator_ok(&["converge"]).contains("nothing to change"));
    assert_eq!(world.actuator(&["converge", "--check"]).exit, 0);
    said
}

#[test]
fn s1_s5_a_fresh_host_is_locked_and_brought_up_and_stays_so() {
    inside("s1_s5_a_fresh_host_is_locked_and_brought_up_and_stays_so", |world| {
        world.forget_tunnel();
        assert!(world.positive_control() > 0, "the observer sees what leaves without a lock");
        let said = world.init_config(SERVERS);
        assert!(said.contains("egress.yml: written"), "{said}");
        let rules = world.policy_rules();

        let said = converge_as_checked(world);
        let lock = said.find("killswitch and watch loaded").expect("a lock");
        let tunnel = said.find("tunnel brought up (interface wg0, MTU 1420, address").expect("one");
        assert!(lock < tunnel, "the killswitch comes first: {said}");
        world.reset_observer();
        answers(world);
        let mut actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);

        // What was made and is lost is made again.
        world.delete_tunnel_link();
        let gone = Instant::now();
        eventually(SOON, "it is back", || !workload.answers_since(gone).is_empty());
        let whole = world.policy_rules();
        world.exec_ok(Ns::Egress, &["ip", "rule", "del", "priority", "31100"]);
        world.exec_ok(Ns::Egress, &["ip", "-6", "rule", "del", "priority", "31100"]);
        eventually(SOON, "the rules are back", || world.policy_rules() == whole);
        world.exec_ok(Ns::Egress, &["ip", "address", "flush", "dev", TUNNEL]);
        let gone = Instant::now();
        eventually(SOON, "addresses and routes are back", || {
            !workload.answers_since(gone).is_empty()
        });

        // A failover, and a reboot: the sticky endpoint comes up, the lock before the uplink.
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is left", || {
            world.notify(&[tunnel_down("primary")]).1 == ["switched"]
        });
        workload.wait_for_exit(Exit::B, SOON);
        world.heal(Endpoint::A);
        kill(&mut actuator);
        world.uplink_down();
        world.delete_tunnel_link();
        for priority in ["31000", "31100"] {
            world.exec_ok(Ns::Egress, &["ip", "rule", "del", "priority", priority]);
            world.exec_ok(Ns::Egress, &["ip", "-6", "rule", "del", "priority", priority]);
        }
        assert_eq!(world.policy_rules(), rules, "nothing is left of it");
        world.exec_ok(Ns::Egress, &["nft", "flush", "ruleset"]);
        let _actuator = world.start_actuator();
        eventually(SOON, "the daemon has made the tunnel", || world.policy_rules() == whole);
        world.uplink_up();
        let up = Instant::now();
        eventually(SOON, "traffic flows", || !workload.answers_since(up).is_empty());
        workload.wait_for_exit(Exit::B, SOON);
        assert_eq!(world.active_endpoint(), "backup");
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());

        // Taken down by a person it stays down, and the lock stays on.
        let said = world.actuator_ok(&["down"]);
        assert!(said.contains("the lock stays"), "{said}");
        assert!(!world.has_tunnel());
        assert_eq!(world.policy_rules(), rules, "nothing is left of it");
        let said = world.actuator(&["converge", "--check"]);
        assert!(said.out.contains("tunnel brought up (interface wg0"), "{said:?}");
        assert!(!world.has_tunnel(), "neither a check nor the daemon has made it");
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
        world.actuator_ok(&["converge"]);
        workload.wait_for_exit(Exit::A, SOON);
        let said = world.actuator_ok(&["unlock", "--reason", "the test is over"]);
        assert!(said.contains("interface wg0 stays"), "{said}");
        for secret in world.secrets() {
            assert!(!actuator.log().contains(&secret), "S10");
        }
    });
}

#[test]
fn a_tunnel_that_others_brought_up_is_taken_over_and_left_to_them() {
    inside("a_tunnel_that_others_brought_up_is_taken_over_and_left_to_them", |world| {
        // As set up by hand, with wg-quick's routing: the lab's own.
        world.write_config(&EgressConfig::quick());
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        let rules = world.policy_rules();
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("wg0 is there, brought up by another program: taken over"), "{said}");
        assert!(!said.contains("tunnel brought up"), "{said}");
        assert_eq!(world.policy_rules(), rules);
        workload.wait_for_exit(Exit::A, SOON);
        let said = world.actuator(&["down"]);
        assert!(said.exit == 3 && said.err.contains("take it down by that"), "{said:?}");

        // By wg-quick itself.
        std::fs::remove_dir_all(world.scratch().join("state")).expect("removed");
        world.exec_ok(Ns::Egress, &["nft", "flush", "ruleset"]);
        world.forget_tunnel();
        world.provider_file(Endpoint::A, "wg0.conf", SERVERS[0], "");
        let file = world.scratch().join("wg0.conf").display().to_string();
        // Its daemon keeps what it is given open.
        let up = format!("wg-quick up {file} > {file}.log 2>&1");
        world.exec_ok(Ns::Egress, &["sh", "-c", &up]);
        let rules = world.policy_rules();
        let before = Instant::now();
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("wg0 is there, brought up by wg-quick: taken over"), "{said}");
        assert!(!said.contains("tunnel brought up") && !said.contains("set to"), "{said}");
        assert_eq!(world.policy_rules(), rules);
        eventually(SOON, "traffic flows", || !workload.answers_since(before).is_empty());

        // wg-quick takes it down: the lock holds, and the daemon does not fight.
        let _actuator = world.start_actuator();
        world.reset_observer();
        world.exec_ok(Ns::Egress, &["wg-quick", "down", &file]);
        let looked = world.actuator(&["validate"]);
        assert!(looked.out.contains("unknown"), "{looked:?}");
        let check = world.actuator(&["converge", "--check"]);
        assert!(check.out.contains("would change: tunnel brought up (interface wg0"), "{check:?}");
        assert!(!world.has_tunnel(), "it was not ours");
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
        // From now on it is.
        world.actuator_ok(&["converge"]);
        let back = Instant::now();
        eventually(SOON, "traffic flows", || !workload.answers_since(back).is_empty());
        world.delete_tunnel_link();
        let gone = Instant::now();
        eventually(SOON, "it is back", || !workload.answers_since(gone).is_empty());
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn what_is_in_the_way_is_told_with_the_mend_and_the_lock_comes_first() {
    inside("what_is_in_the_way_is_told_with_the_mend_and_the_lock_comes_first", |world| {
        world.init_config(SERVERS);
        let refused = |world: &World, want: &str| {
            let check = world.actuator(&["converge", "--check"]);
            let said = world.actuator(&["converge"]);
            assert_eq!(said.exit, 3, "{said:?}");
            for said in [check.out + &check.err, said.out + &said.err] {
                assert!(said.contains(want), "want {want}: {said}");
            }
        };
        // Routing by another mark than the config's would send the tunnel's packets into itself.
        world.edit_config("    bring_up: auto\n", "    bring_up: auto\n    fwmark: 0x1234\n");
        refused(world, "write that as `fwmark`");
        assert!(world.exec_ok(Ns::Egress, &["nft", "list", "tables"]).contains("inet vpn_egress"));
        world.edit_config("    fwmark: 0x1234\n", "");
        world.actuator_ok(&["converge"]);
        answers(world);

        // Another's address.
        std::fs::remove_dir_all(world.scratch().join("state")).expect("removed");
        world.exec_ok(Ns::Egress, &["ip", "address", "flush", "dev", TUNNEL]);
        world.exec_ok(Ns::Egress, &["ip", "address", "add", "10.99.0.2/32", "dev", TUNNEL]);
        refused(world, "has 10.99.0.2/32; the endpoints' files say 10.64.0.2/32");

        // No WireGuard at all.
        world.forget_tunnel();
        let line = world.program_line("actuator", &["converge"]).join(" ");
        let bare = format!(
            "mkdir -p bin && for it in env ip nft setsid; do ln -sf $(command -v $it) bin/; done; \
             PATH=$PWD/bin exec {line}"
        );
        if world.backend() == lab::Backend::Userspace {
            let in_scratch = format!("cd {} && {bare}", world.scratch().display());
            let said = world.run(Ns::Egress, &["sh", "-c", &in_scratch]);
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(said.contains("install wireguard-go"), "{said}");
        }

        // Somebody else's from the start.
        world.edit_config("bring_up: auto", "bring_up: off");
        let said = world.actuator(&["converge"]);
        assert!(said.err.contains("interface wg0 does not exist"), "{said:?}");
        assert!(!world.has_tunnel());
    });
}

/// Packets that go elsewhere for want of it are no other program's doing.
#[test]
fn an_address_that_is_gone_is_made_again() {
    inside("an_address_that_is_gone_is_made_again", |world| {
        world.forget_tunnel();
        world.init_config(SERVERS);
        world.actuator_ok(&["converge"]);
        answers(world);
        let address = "fd00:64::2/128";
        let take_away = |world: &World| {
            world.exec_ok(Ns::Egress, &["ip", "-6", "address", "del", address, "dev", TUNNEL]);
        };
        take_away(world);
        let said = converge_as_checked(world);
        assert!(said.contains(&format!("address {address}")), "{said}");
        let _actuator = world.start_actuator();
        take_away(world);
        eventually(SOON, "the daemon makes it again", || {
            world.exec_ok(Ns::Egress, &["ip", "address", "show", "dev", TUNNEL]).contains(address)
        });
        assert!(world.actuator_ok(&["converge"]).contains("nothing to change"));
    });
}

#[test]
fn s2_hostnames_are_pinned_by_a_converge_and_by_nothing_else() {
    inside("s2_hostnames_are_pinned_by_a_converge_and_by_nothing_else", |world| {
        let hosts = |a: &str, b: &str| format!("{a} a.example.net\n{b} b.example.net\n");
        world.forget_tunnel();
        world.init_config(["a.example.net:51820", "b.example.net:51820"]);
        // Nothing is pinned yet, and nobody but a converge asks.
        world.mount_hosts(&hosts("198.51.100.10", "203.0.113.10"));
        let said = world.actuator(&["validate"]);
        assert!(said.exit == 78 && said.out.contains("no converge has looked up"), "{said:?}");
        let said = converge_as_checked(world);
        let pinned = "hostnames pinned: a.example.net: 198.51.100.10, b.example.net: 203.0.113.10";
        assert!(said.contains(pinned), "{said}");
        answers(world);
        assert!(world.actuator_ok(&["validate"]).contains("a.example.net is 198.51.100.10"));
        assert_eq!(world.status()["endpoints"][1]["hostname"], "b.example.net");
        assert_eq!(world.status()["endpoints"][1]["address"], SERVERS[1]);
        // S2: every one that is pinned is permitted.
        let rules = world.exec_ok(Ns::Egress, &["nft", "list", "table", "inet", "vpn_egress"]);
        assert!(rules.contains("198.51.100.10") && rules.contains("203.0.113.10"), "{rules}");

        // DNS is gone: both programs start all the same, and a converge keeps the pins and says so.
        world.mount_hosts("");
        let mut actuator = world.start_actuator();
        let _exporter = world.start_exporter();
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("warning: hostname a.example.net cannot be looked up"), "{said}");
        assert!(said.contains("198.51.100.10 stays pinned"), "{said}");
        kill(&mut actuator);

        // Another answer: said, permitted, and in use after a converge.
        world.mount_hosts(&hosts("203.0.113.10", "203.0.113.10"));
        let check = world.actuator(&["converge", "--check"]);
        assert_eq!(check.exit, 2, "{check:?}");
        assert!(check.out.contains("a.example.net: 198.51.100.10 -> 203.0.113.10"), "{check:?}");
        assert_eq!(world.status()["endpoints"][0]["address"], SERVERS[0], "a check pins nothing");
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("a.example.net: 198.51.100.10 -> 203.0.113.10"), "{said}");
        assert_eq!(world.status()["endpoints"][0]["address"], SERVERS[1]);

        // A name without a pin that nobody answers for: an error, and nothing is changed.
        world.provider_file(Endpoint::A, "primary.conf", "c.example.net:51820", "");
        let said = world.actuator(&["converge"]);
        assert!(said.exit == 78, "{said:?}");
        assert!(said.err.contains("`c.example.net` cannot be looked up"), "{said:?}");
    });
}

#[test]
fn s1_a_tunnel_is_made_for_a_bridge_or_for_users_and_the_host_is_free() {
    inside_with_users(
        "s1_a_tunnel_is_made_for_a_bridge_or_for_users_and_the_host_is_free",
        |world| {
            let way = |world: &World, more: &[&str]| {
                let line = [&["ip", "route", "get", "192.0.2.80"][..], more].concat();
                world.exec_ok(Ns::Egress, &line)
            };
            world.forget_tunnel();
            world.add_container();
            let workload = format!("{{interfaces: [{BRIDGE}]}}");
            world.write_config(&EgressConfig {
                workload: workload.clone(),
                ..EgressConfig::quick()
            });
            let said = world.actuator_ok(&["converge"]);
            assert!(said.contains("fwmark 0x1000000/0x1000000 lookup 51820"), "{said}");
            assert!(world.actuator_ok(&["converge"]).contains("nothing to change"));
            let container = world.start_workload_in(Ns::Container);
            container.wait_for_exit(Exit::A, SOON);
            assert!(way(world, &[]).contains("dev eth0"), "the host is free");

            if !world.has_users() {
                return;
            }
            // Another workload: what it needs in addition is made.
            world.edit_config(&workload, "{users: [1000]}");
            let said = world.actuator_ok(&["converge"]);
            assert!(said.contains("rule priority 31010 uidrange 1000-1000 lookup 51820"), "{said}");
            assert!(world.actuator_ok(&["converge"]).contains("nothing to change"));
            assert!(way(world, &["uid", "1000"]).contains("dev wg0"));
            assert!(way(world, &["uid", "1001"]).contains("dev eth0"));
        },
    );
}
