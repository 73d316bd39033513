//! An uplink that is down is named as such, and costs no failover: neither while it lasts nor at the
//! moment it ends. Those with IPv4 are in `failover.rs`. Which devices are uplinks is asked of the
//! kernel's routing.

use std::time::Duration;

use lab::addresses::{ROUTER, ROUTER_V6, SECOND_UPLINK, UPLINK};
use lab::programs::{EXPORTER, tunnel_down};
use lab::{EgressConfig, Endpoint, Keepalive, Ns, World, eventually, inside};

const SOON: Duration = Duration::from_secs(30);

/// Cycles that ended so far with this verdict.
fn cycles(world: &World, verdict: &str) -> f64 {
    let verdict = format!("verdict=\"{verdict}\"");
    let page = world.http_get(&format!("{EXPORTER}/metrics")).expect("a page").body;
    let lines = page
        .lines()
        .filter(|line| line.starts_with("vpn_egress_cycles_total{") && line.contains(&verdict));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn an_ipv6_only_uplink_that_is_down_is_named_and_spends_no_failover_nor_does_its_end() {
    inside(
        "an_ipv6_only_uplink_that_is_down_is_named_and_spends_no_failover_nor_does_its_end",
        |world| {
            world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
            // As long as shipped: the device takes up to five seconds to try again.
            world.write_config(&EgressConfig { settle: "10s".into(), ..EgressConfig::quick() });
            for endpoint in Endpoint::ALL {
                let (v4, v6) = (endpoint.address().to_string(), endpoint.address_v6());
                let (from, to) = (format!("{v4}:51820"), format!("[{v6}]:51820"));
                match endpoint {
                    Endpoint::A => {
                        let file = world.scratch().join("a.conf");
                        let conf = std::fs::read_to_string(file).expect("a.conf");
                        world.write_file("a.conf", &conf.replace(&from, &to), 0o600);
                    }
                    Endpoint::B => world.edit_config(&from, &format!("\"{to}\"")),
                }
            }
            world.exec_ok(Ns::Egress, &["ip", "-4", "addr", "flush", "dev", UPLINK]);
            world.actuator_ok(&["converge"]);
            let _actuator = world.start_actuator();
            let _exporter = world.start_exporter();
            eventually(SOON, "the path is up", || world.actuator(&["validate"]).exit == 0);

            // The router goes silent, cable and all else as before. What the kernel has just heard
            // of it would hold for a while; so it has to ask anew.
            world.nft(
                Ns::Router,
                "table netdev silent {\nchain in { type filter hook ingress device \"lan\" \
                 priority -600; drop; }\n}\n",
            );
            world.exec_ok(Ns::Egress, &["ip", "-6", "neigh", "flush", "dev", UPLINK]);
            let gateway = format!("uplink-down (no answer from gateway {ROUTER_V6}");
            eventually(SOON, "the gateway is named", || {
                let said = world.actuator(&["validate"]).out;
                if said.contains(&gateway) { Ok(()) } else { Err(said) }
            });
            let run = "vpn_egress_consecutive_down_cycles{endpoint=\"primary\",path=\"media\"}";
            eventually(SOON, "the exporter sees it too", || {
                let (_, outcomes) = world.notify_once(&[tunnel_down("primary")]);
                assert_ne!(outcomes, ["switched"]);
                let up = world.metric(EXPORTER, "vpn_egress_uplink_up{path=\"media\"}");
                up == Some(0.0) && outcomes == ["uplink_down"]
            });
            world.nft(Ns::Router, "delete table netdev silent\n");
            eventually(SOON, "the path is up again", || {
                let (_, outcomes) = world.notify_once(&[tunnel_down("primary")]);
                assert_ne!(outcomes, ["switched"]);
                let counted = world.metric(EXPORTER, run);
                assert!(counted.is_none_or(|counted| counted < 3.0), "a run of down cycles");
                outcomes == ["recovered"]
            });
            assert_eq!(world.active_endpoint(), "primary");
        },
    );
}

#[test]
fn a_boot_before_the_uplink_has_a_route_is_no_dead_tunnel_nor_is_the_moment_it_gets_one() {
    inside(
        "a_boot_before_the_uplink_has_a_route_is_no_dead_tunnel_nor_is_the_moment_it_gets_one",
        |world| {
            world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
            world.write_config(&EgressConfig { settle: "10s".into(), ..EgressConfig::quick() });
            world.actuator_ok(&["converge"]);
            for family in ["-4", "-6"] {
                world.exec_ok(Ns::Egress, &["ip", family, "route", "del", "default"]);
            }
            // As after a boot: a device that has never shaken hands, programs that have just begun.
            world.delete_tunnel();
            world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
            let _actuator = world.start_actuator();
            let _exporter = world.start_exporter();
            let verdicts = |verdict| cycles(world, verdict);
            eventually(SOON, "more cycles than a failover takes", || {
                verdicts("uplink-down") >= 4.0
            });
            let (_, outcomes) = world.notify(&[tunnel_down("primary")]);
            assert_eq!(outcomes, ["uplink_down"]);
            for (family, gateway) in [("-4", ROUTER.to_string()), ("-6", ROUTER_V6.to_string())] {
                let line =
                    ["ip", family, "route", "add", "default", "via", &gateway, "dev", UPLINK];
                world.exec_ok(Ns::Egress, &line);
            }
            eventually(SOON, "the path is up", || {
                let (_, outcomes) = world.notify_once(&[tunnel_down("primary")]);
                assert_ne!(outcomes, ["switched"]);
                verdicts("up") >= 1.0
            });
            assert!(verdicts("tunnel-down") < 3.0);
            assert_eq!(world.active_endpoint(), "primary");
        },
    );
}

/// How the host routes, and what `validate` says of it: while all cables are in, while that of eth0 is
/// out, and while those of eth0 and eth1 are.
struct Routing {
    what: &'static str,
    /// Of `ip`, on the host under test.
    set: &'static [&'static str],
    undo: &'static [&'static str],
    plugged: &'static str,
    first_out: Expected,
    both_out: &'static str,
}

enum Expected {
    Says(&'static str),
    /// The path has another way: whatever is down, the uplink is not.
    NotUplinkDown,
}

use Expected::{NotUplinkDown, Says};

const UP: &str = "media: up";
const ETH0_OUT: &str = "media: uplink-down (no carrier on eth0)";
const BOTH_OUT: &str = "media: uplink-down (no carrier on eth0, eth1)";

const ROUTINGS: &[Routing] = &[
    Routing {
        what: "a default route",
        set: &["route replace default via 10.0.0.1 dev eth0"],
        undo: &[],
        plugged: UP,
        first_out: Says(ETH0_OUT),
        both_out: ETH0_OUT,
    },
    Routing {
        what: "a default route in a table that a rule leads to",
        set: &[
            "route add default via 10.0.0.1 dev eth0 table 100",
            "rule add priority 32000 lookup 100",
            "route del default",
        ],
        undo: &[
            "route add default via 10.0.0.1 dev eth0",
            "rule del priority 32000",
            "route flush table 100",
        ],
        plugged: UP,
        first_out: Says(ETH0_OUT),
        both_out: ETH0_OUT,
    },
    Routing {
        what: "routes to the endpoints only",
        set: &[
            "route add 198.51.100.0/24 via 10.0.0.1 dev eth0",
            "route add 203.0.113.0/24 via 10.0.0.1 dev eth0",
            "route del default",
        ],
        undo: &[
            "route add default via 10.0.0.1 dev eth0",
            "route del 198.51.100.0/24",
            "route del 203.0.113.0/24",
        ],
        plugged: UP,
        first_out: Says(ETH0_OUT),
        both_out: ETH0_OUT,
    },
    Routing {
        what: "a device with default routes in a table that the tunnel does not use",
        set: &[
            "link add ts0 type veth peer name ts1",
            "link set ts1 up",
            "addr add 100.101.102.103/32 dev ts0",
            "link set ts0 up",
            "route add default dev ts0 table 52",
            "-6 route add default dev ts0 table 52",
            "rule add priority 5270 from 100.101.102.103 lookup 52",
        ],
        undo: &["rule del priority 5270", "link del ts0"],
        plugged: UP,
        first_out: Says(ETH0_OUT),
        both_out: ETH0_OUT,
    },
    Routing {
        what: "a bridge by which a container has advertised itself as an IPv6 router",
        set: &[
            "link add br9 type bridge",
            "link add port9 type veth peer name far9",
            "link set far9 up",
            "link set port9 master br9",
            "link set port9 up",
            "link set br9 up",
            "-6 route add default via fe80::9 dev br9 proto ra metric 512",
        ],
        undo: &["link del port9", "link del br9"],
        plugged: UP,
        first_out: Says(ETH0_OUT),
        both_out: ETH0_OUT,
    },
    Routing {
        what: "a multipath route",
        set: &["route replace default nexthop via 10.0.0.1 dev eth0 nexthop via 10.0.1.1 dev eth1"],
        undo: &["route replace default via 10.0.0.1 dev eth0"],
        plugged: "media: ",
        first_out: NotUplinkDown,
        both_out: BOTH_OUT,
    },
    Routing {
        what: "a multipath route in another table",
        set: &[
            "route add default table 100 nexthop via 10.0.0.1 dev eth0 nexthop via 10.0.1.1 dev eth1",
            "rule add priority 32000 lookup 100",
            "route del default",
        ],
        undo: &[
            "route add default via 10.0.0.1 dev eth0",
            "rule del priority 32000",
            "route flush table 100",
        ],
        plugged: "media: ",
        first_out: NotUplinkDown,
        both_out: BOTH_OUT,
    },
    Routing {
        what: "a group of nexthop objects",
        set: &[
            "nexthop add id 1 via 10.0.0.1 dev eth0",
            "nexthop add id 2 via 10.0.1.1 dev eth1",
            "nexthop add id 9 group 1/2",
            "route replace default nhid 9",
        ],
        undo: &["route replace default via 10.0.0.1 dev eth0", "nexthop flush"],
        plugged: "media: ",
        first_out: NotUplinkDown,
        // Without a carrier the kernel drops the object, and with the last one the route.
        both_out: "media: uplink-down (no route to 198.51.100.10)",
    },
    Routing {
        what: "a rule that sends the tunnel's own packets into the tunnel",
        set: &["rule add priority 50 fwmark 0xca6c lookup 51820"],
        undo: &["rule del priority 50"],
        plugged: "media: uplink-down (no route to 198.51.100.10 but into the tunnel wg0)",
        first_out: Says("media: uplink-down (no route to 198.51.100.10 but into the tunnel wg0)"),
        both_out: "media: uplink-down (no route to 198.51.100.10 but into the tunnel wg0)",
    },
    Routing {
        what: "no route to any endpoint",
        set: &["route del default"],
        undo: &["route add default via 10.0.0.1 dev eth0"],
        plugged: "media: uplink-down (no route to 198.51.100.10)",
        first_out: Says("media: uplink-down (no route to 198.51.100.10)"),
        both_out: "media: uplink-down (no route to 198.51.100.10)",
    },
];

fn says(world: &World, what: &str, expected: &str) {
    eventually(SOON, what, || {
        let said = world.actuator(&["validate"]).out;
        if said.contains(expected) { Ok(()) } else { Err(format!("{expected}: {said}")) }
    });
}

fn ip(world: &World, lines: &[&str]) {
    let line = |line: &&str| -> Vec<String> {
        std::iter::once("ip").chain(line.split(' ')).map(str::to_owned).collect()
    };
    for line in lines.iter().map(line) {
        world.exec_ok(Ns::Egress, &line.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// The router's end of a cable.
fn cable(world: &World, end: &str, state: &str) {
    world.exec_ok(Ns::Router, &["ip", "link", "set", end, state]);
}

#[test]
fn s8_the_uplink_is_the_device_that_the_tunnels_packets_take() {
    inside("s8_the_uplink_is_the_device_that_the_tunnels_packets_take", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        world.plug_second_uplink();
        ip(world, &["route del default via 10.0.1.1 dev eth1"]);
        world.actuator_ok(&["converge"]);
        // The members of an object are shown with its route, or their ids alone.
        for compatible in ["1", "0"] {
            world.sysctl(Ns::Egress, "net.ipv4.nexthop_compat_mode", compatible);
            let has_objects = |one: &&Routing| one.set[0].starts_with("nexthop");
            for routing in ROUTINGS.iter().filter(|one| compatible == "1" || has_objects(one)) {
                let what = format!("{} (nexthop_compat_mode={compatible})", routing.what);
                ip(world, routing.set);
                says(world, &what, routing.plugged);
                cable(world, "lan", "down");
                match routing.first_out {
                    Says(expected) => says(world, &what, expected),
                    NotUplinkDown => {
                        let said = world.actuator(&["validate"]).out;
                        assert!(!said.contains("uplink-down"), "{what}: {said}");
                    }
                }
                cable(world, "lan2", "down");
                says(world, &what, routing.both_out);
                cable(world, "lan", "up");
                cable(world, "lan2", "up");
                ip(world, routing.undo);
            }
        }
        says(world, "all as before", UP);
    });
}

/// The tunnel's MTU is that of the devices that its packets take, whichever table says so.
#[test]
fn the_tunnels_mtu_fits_the_uplink_that_its_packets_take() {
    inside("the_tunnels_mtu_fits_the_uplink_that_its_packets_take", |world| {
        world.delete_tunnel();
        world.write_config(&EgressConfig::quick());
        world.plug_second_uplink();
        ip(
            world,
            &[
                "route del default via 10.0.1.1 dev eth1",
                "route add default table 100 via 10.0.0.1 dev eth0",
                "rule add priority 32000 lookup 100",
                "route del default",
                &format!("link set {UPLINK} mtu 1400"),
                // Of a device with a default route that the tunnel does not take.
                &format!("link set {SECOND_UPLINK} mtu 1300"),
                &format!("route add default dev {SECOND_UPLINK} table 200"),
            ],
        );
        world.actuator_ok(&["converge"]);
        let link = world.exec_ok(Ns::Egress, &["ip", "link", "show", "dev", "wg0"]);
        assert!(link.contains(" mtu 1320 "), "{link}");
    });
}
