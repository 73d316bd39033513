//! Bring-up on hosts that are not like the others: a cgroup that is locked in, an uplink with less
//! room, no IPv6; and a provider whose servers have one key.

use std::time::{Duration, Instant};

use lab::addresses::{TUNNEL, UPLINK};
use lab::programs::tunnel_down;
use lab::{
    Direction, EgressConfig, Endpoint, Exit, Ns, World, eventually, inside, inside_with_users,
};

const SOON: Duration = Duration::from_secs(30);
const TUNNEL_SERVER: &str = "10.64.0.1";
const SERVERS: [&str; 2] = ["198.51.100.10:51820", "203.0.113.10:51820"];
/// Beyond the tunnel.
const WORLD: &str = "192.0.2.80";

fn answers(world: &World) {
    eventually(SOON, "the tunnel answers", || world.ping(Ns::Egress, TUNNEL_SERVER));
}

#[test]
fn s1_a_tunnel_is_made_for_a_cgroup_and_the_host_is_free() {
    inside_with_users("s1_a_tunnel_is_made_for_a_cgroup_and_the_host_is_free", |world| {
        let name = format!("vpn-egress-lab-{}", std::process::id());
        if !world.mount_cgroups(&name) {
            return;
        }
        world.forget_tunnel();
        // The host's part: what was routed by its mark goes under the tunnel's address.
        world.nft(
            Ns::Egress,
            &format!(
                "table inet lab_nat {{ chain out {{ type nat hook postrouting priority srcnat; \
                 oifname {TUNNEL} masquerade; }}; }}\n"
            ),
        );
        world.write_config(&EgressConfig {
            workload: format!("{{cgroups: [{name}]}}"),
            ..EgressConfig::quick()
        });
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("fwmark 0x1000000/0x1000000 lookup 51820"), "{said}");
        assert!(world.actuator_ok(&["converge"]).contains("nothing to change"));

        let ask = format!(
            "mount -t cgroup2 none /sys/fs/cgroup && echo $$ >/sys/fs/cgroup/{name}/cgroup.procs \
             && exec ping -n -c 1 -W 1 {WORLD}"
        );
        let in_cgroup = |world: &World| {
            let said = world.run(Ns::Egress, &["sh", "-c", &ask]);
            said.status.success()
        };
        let carried = |world: &World| {
            let file = format!("/sys/class/net/{TUNNEL}/statistics/tx_packets");
            let text = world.exec_ok(Ns::Egress, &["cat", &file]);
            text.trim().parse::<u64>().expect("a number")
        };
        eventually(SOON, "the cgroup is answered", || in_cgroup(world));
        let before = carried(world);
        assert!(in_cgroup(world) && carried(world) > before, "by the tunnel");
        let way = world.exec_ok(Ns::Egress, &["ip", "route", "get", WORLD]);
        assert!(way.contains(&format!("dev {UPLINK}")), "the host is free: {way}");
        world.actuator_ok(&["down"]);
        assert!(!in_cgroup(world), "and the lock stays");
        world.remove_cgroup(&name);
    });
}

#[test]
fn an_uplink_with_less_room_makes_a_smaller_tunnel() {
    inside("an_uplink_with_less_room_makes_a_smaller_tunnel", |world| {
        let uplink_mtu = |world: &World, mtu: &str| {
            world.exec_ok(Ns::Egress, &["ip", "link", "set", UPLINK, "mtu", mtu]);
            world.exec_ok(Ns::Router, &["ip", "link", "set", "lan", "mtu", mtu]);
        };
        world.forget_tunnel();
        world.init_config(SERVERS);
        // PPPoE; and what some providers of it have.
        for (uplink, tunnel) in [("1492", "1412"), ("1480", "1400"), ("1400", "1320")] {
            uplink_mtu(world, uplink);
            let said = world.actuator_ok(&["converge"]);
            assert!(said.contains(&format!("MTU {tunnel}")), "{uplink}: {said}");
            assert!(world.actuator_ok(&["converge"]).contains("nothing to change"));
        }
        answers(world);
        // The largest packet that the tunnel takes, less the headers of an echo, passes whole.
        let echo = |size: &str| {
            let line = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", size, TUNNEL_SERVER];
            world.run(Ns::Egress, &line).status.success()
        };
        assert!(echo("1292"), "1320 bytes pass");
        assert!(!echo("1293"), "one more is refused here, not lost on the way");
        // A provider's file knows better.
        world.provider_file(Endpoint::A, "primary.conf", SERVERS[0], "MTU = 1300\n");
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("MTU 1300"), "{said}");
    });
}

#[test]
fn s1_a_host_without_ipv6_gets_half_a_tunnel_and_is_told() {
    inside("s1_a_host_without_ipv6_gets_half_a_tunnel_and_is_told", |world| {
        const TOLD: &str = "media: this host has no IPv6: wg0 is brought up without fd00:64::2";
        let up_and_down = |world: &World| {
            let check = world.actuator(&["converge", "--check"]);
            assert!(check.exit == 2 && check.out.contains(TOLD), "{check:?}");
            let said = world.actuator_ok(&["converge"]);
            assert!(said.contains(TOLD) && said.contains("address 10.64.0.2/32"), "{said}");
            assert!(!said.contains("address fd00:64::2"), "{said}");
            let again = world.actuator_ok(&["converge"]);
            assert!(again.contains("nothing to change") && again.contains(TOLD), "{again}");
            answers(world);
            assert!(world.actuator_ok(&["validate"]).contains(TOLD));
            world.actuator_ok(&["down"]);
            assert!(!world.has_tunnel());
        };
        world.forget_tunnel();
        world.init_config(SERVERS);
        let rules = world.policy_rules();
        world
            .exec_ok(Ns::Egress, &["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"]);
        up_and_down(world);
        assert_eq!(world.policy_rules(), rules, "nothing is left of it");

        // Where it comes back, the tunnel has both.
        world
            .exec_ok(Ns::Egress, &["sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6"]);
        let said = world.actuator_ok(&["converge"]);
        assert!(!said.contains(TOLD) && said.contains("address fd00:64::2/128"), "{said}");
        world.actuator_ok(&["down"]);

        // A kernel that knows no IPv6 at all.
        world.hide_ipv6();
        up_and_down(world);
    });
}

#[test]
fn s5_s8_endpoints_that_differ_in_their_address_alone_are_told_apart() {
    inside("s5_s8_endpoints_that_differ_in_their_address_alone_are_told_apart", |world| {
        world.forget_tunnel();
        world.share_keys();
        world.init_config(SERVERS);
        world.actuator_ok(&["converge"]);
        answers(world);
        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is left", || {
            world.notify(&[tunnel_down("primary")]).1 == ["switched"]
        });
        // No session of the old server's is kept: the new one would not know it.
        let switched = Instant::now();
        workload.wait_for_exit(Exit::B, SOON);
        assert!(switched.elapsed() < Duration::from_secs(8), "{:?}", switched.elapsed());
        assert_eq!(world.active_endpoint(), "backup");
        world.heal(Endpoint::A);
        // The state says which of the two it is.
        assert!(world.actuator_ok(&["validate"]).contains("media: up"), "at the backup");
        assert_eq!(world.notify(&[tunnel_down("primary")]).1, ["stale_endpoint"]);
        let said = world.actuator_ok(&["converge"]);
        assert!(said.contains("endpoint backup -> primary (failback)"), "{said}");
        workload.wait_for_exit(Exit::A, SOON);
    });
}
