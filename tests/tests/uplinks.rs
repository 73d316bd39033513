//! An uplink that is down is named as such, and costs no failover: neither while it lasts nor at the
//! moment it ends. Those with IPv4 are in `failover.rs`.

use std::time::Duration;

use lab::addresses::{ROUTER, ROUTER_V6, UPLINK};
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
