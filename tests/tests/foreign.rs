//! What other programs' rules do to a path is named by `validate`, and nothing is said of rules that do
//! it no harm.

use std::time::Duration;

use lab::addresses::{ROUTER, TUNNEL};
use lab::container::BRIDGE;
use lab::programs::Said;
use lab::{EgressConfig, Endpoint, Keepalive, Ns, World, eventually, inside};

const SOON: Duration = Duration::from_secs(20);

/// Firewalls as they are shipped, none of which is in the way of a host without containers.
const SHIPPED: &[(&str, &str)] = &[
    ("Docker", include_str!("../fixtures/firewalls/docker.nft")),
    ("Docker 29", include_str!("../fixtures/firewalls/docker-29.nft")),
    ("ufw", include_str!("../fixtures/firewalls/ufw.nft")),
    ("firewalld", include_str!("../fixtures/firewalls/firewalld.nft")),
];

/// Rules that break the path, and what is said of them.
struct Breaks {
    what: &'static str,
    rules: &'static str,
    /// `ip` commands on the host, and what undoes them.
    routing: &'static [&'static str],
    undo: &'static [&'static str],
    said: &'static [&'static str],
    exit: i32,
}

const RULES_OF_OTHERS: &str =
    "table inet harmless { chain out { type filter hook output priority 0; } \n}";

const BREAKS: &[Breaks] = &[
    Breaks {
        what: "a routing rule of another VPN, before ours",
        rules: RULES_OF_OTHERS,
        routing: &[
            "link add ts0 type veth peer name ts1",
            "link set ts1 up",
            "link set ts0 up",
            "route add default dev ts0 table 52",
            // The tunnel's own packets keep their way; wireguard-go would notice the change at its own time.
            "rule add priority 5260 fwmark 0xca6c lookup main",
            "rule add priority 5270 lookup 52",
        ],
        undo: &["rule del priority 5270", "rule del priority 5260", "link del ts0"],
        said: &[
            "ip rule 5270 (table 52) sends what this host sends to the internet by ts0, not by wg0",
        ],
        // The tunnel itself is up.
        exit: 0,
    },
    Breaks {
        what: "a bridge of other machines, whose packets br_netfilter makes this host filter",
        rules: RULES_OF_OTHERS,
        routing: &[
            "link add br7 type bridge",
            "link add port7 type veth peer name port8",
            "link set port7 master br7",
            "link set port8 master br7",
        ],
        undo: &["link del port7", "link del br7"],
        said: &["bridges: br_netfilter makes this host's firewalls filter what br7 only passes on"],
        exit: 0,
    },
    Breaks {
        what: "a rule that sends the tunnel's own packets into the tunnel",
        rules: RULES_OF_OTHERS,
        routing: &["rule add priority 50 fwmark 0xca6c lookup 51820"],
        undo: &["rule del priority 50"],
        said: &[
            "uplink-down (no route to 198.51.100.10 but into the tunnel wg0)",
            "ip rule 50 (fwmark 0xca6c, table 51820) sends the tunnel's own packets to 198.51.100.10 into",
        ],
        exit: 3,
    },
    Breaks {
        what: "the mark restored from conntrack, as for two lines to the internet",
        rules: "table ip mangle { chain OUTPUT { type route hook output priority mangle;
            meta mark set ct mark
            meta mark != 0x0 accept
            meta mark set 0x1 ct mark set meta mark
        }
}",
        routing: &[],
        undo: &[],
        said: &[
            "table ip mangle, chain OUTPUT changes the mark of handshakes to 198.51.100.10:51820 \
                 from 0xca6c to 0x1 (rule handle",
        ],
        exit: 3,
    },
    Breaks {
        what: "the same, where the connection has a mark",
        rules: "table ip mangle { chain OUTPUT { type route hook output priority mangle;
            ct mark != 0x0 meta mark set ct mark
        }
}",
        routing: &[],
        undo: &[],
        said: &[],
        exit: 0,
    },
    Breaks {
        what: "questions for names redirected to a resolver on the local network",
        rules: "table ip dns { chain out { type nat hook output priority -100;
            udp dport 53 dnat to 10.0.0.1
        }
}",
        routing: &[],
        undo: &[],
        said: &["table ip dns, chain out redirects questions for names to 10.0.0.1 (rule handle"],
        exit: 3,
    },
    Breaks {
        what: "the same, to one on this host",
        rules: "table ip dns { chain out { type nat hook output priority -100;
            udp dport 53 redirect to 5353
            udp dport 54 dnat to 127.0.0.1
        }
}",
        routing: &[],
        undo: &[],
        said: &[],
        exit: 0,
    },
    Breaks {
        what: "some of the workload routed past the tunnel by a mark",
        rules: "table inet excludeTraffic { chain out { type route hook output priority mangle;
            ip daddr 192.0.2.10 meta mark set 0x100
        }
}",
        routing: &["rule add fwmark 0x100 lookup main priority 100"],
        undo: &["rule del priority 100"],
        said: &[
            "table inet excludeTraffic, chain out may give what this host sends into wg0 the mark 0x100 \
             (rule handle",
            "with which it leaves by eth0 and not by wg0",
        ],
        exit: 0,
    },
    Breaks {
        what: "the same mark, by which nothing is routed",
        rules: "table inet excludeTraffic { chain out { type route hook output priority mangle;
            ip daddr 192.0.2.10 meta mark set 0x100
        }
}",
        routing: &[],
        undo: &[],
        said: &[],
        exit: 0,
    },
];

fn validated(world: &World) -> Said {
    world.actuator(&["validate"])
}

fn names_a_table(said: &Said) -> bool {
    said.out.contains(": table ")
}

#[test]
fn s1_what_breaks_the_path_is_named_with_table_and_chain() {
    inside("s1_what_breaks_the_path_is_named_with_table_and_chain", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        world.actuator_ok(&["converge"]);
        let is_clear = |world: &World| {
            let said = validated(world);
            if said.exit == 0 && !names_a_table(&said) { Ok(()) } else { Err(said) }
        };
        for Breaks { what, rules, routing, undo, said, exit } in BREAKS {
            eventually(SOON, "nothing is in the way", || is_clear(world));
            let ip = |line: &&str| {
                let words: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
                world.exec_ok(Ns::Egress, &words);
            };
            routing.iter().for_each(ip);
            world.nft(Ns::Egress, &format!("{rules}\n"));
            let found = validated(world);
            let expected = rules != &RULES_OF_OTHERS && !said.is_empty();
            assert_eq!(names_a_table(&found), expected, "{what}: {found:?}");
            for said in *said {
                assert!(found.out.contains(said), "{what}: {said}: {found:?}");
            }
            assert_eq!(found.exit, *exit, "{what}: {found:?}");
            let table: Vec<&str> = rules.split(' ').take(3).collect();
            world.delete_table(table[1], table[2]);
            undo.iter().for_each(ip);
        }
    });
}

#[test]
fn firewalls_as_they_are_shipped_cause_no_warning() {
    inside("firewalls_as_they_are_shipped_cause_no_warning", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.add_container();
        world.write_config(&EgressConfig {
            path_lines: vec![format!("management: [{ROUTER}]")],
            ..EgressConfig::quick()
        });
        world.actuator_ok(&["converge"]);
        for (name, rules) in SHIPPED {
            world.nft(Ns::Egress, rules);
            let said = validated(world);
            assert_eq!(said.exit, 0, "{name}: {said:?}");
            assert!(!names_a_table(&said), "{name}: {said:?}");
            assert!(!said.out.contains("not read"), "{name}: {said:?}");
            for table in rules.lines().filter_map(|line| line.strip_prefix("table ")) {
                let words: Vec<&str> = table.split(' ').collect();
                world.delete_table(words[0], words[1]);
            }
        }
        // And the bridge of Docker's containers in `allow_interfaces`, which it has rules for.
        world.write_config(&EgressConfig {
            path_lines: vec![format!("allow_interfaces: [{BRIDGE}]")],
            ..EgressConfig::quick()
        });
        world.actuator_ok(&["converge"]);
        for (name, rules) in &SHIPPED[..2] {
            let rules = rules.replace("docker0", BRIDGE);
            world.nft(Ns::Egress, &rules);
            let said = validated(world);
            assert!(!names_a_table(&said), "{name}, {BRIDGE} to {TUNNEL}: {said:?}");
            for table in rules.lines().filter_map(|line| line.strip_prefix("table ")) {
                let words: Vec<&str> = table.split(' ').collect();
                world.delete_table(words[0], words[1]);
            }
        }
    });
}
