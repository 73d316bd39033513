//! One broken collector hides none of the others, within the time that Prometheus waits: S7.

use std::collections::BTreeSet;
use std::time::Duration;

use lab::pages::Page;
use lab::programs::EXPORTER;
use lab::{Backend, EgressConfig, Endpoint, Keepalive, Ns, World, eventually, inside};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
/// A short scrape timeout; Prometheus' own default is 10 s.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often a breakage may be shown anew where the machine was too busy for the time it takes.
const TRIES: u32 = 3;

/// What each collector alone fills.
const FILLS: [(&str, &[&str]); 5] = [
    (
        "nftables",
        &[
            "vpn_egress_blocked_packets_total",
            "vpn_egress_leaked_packets_total",
            "vpn_egress_other_frames_total",
            "vpn_egress_killswitch_intact",
            "vpn_egress_guarded",
        ],
    ),
    (
        "wireguard",
        &[
            "vpn_egress_handshake_timestamp_seconds",
            "vpn_egress_handshake_age_seconds",
            "vpn_egress_receive_bytes_total",
            "vpn_egress_transmit_bytes_total",
        ],
    ),
    ("state", &["vpn_egress_endpoint_active", "vpn_egress_config_drift", "vpn_egress_unlocked"]),
    ("uplink", &["vpn_egress_uplink_covered"]),
    ("config", &[]),
];

/// Breaks something; undone by its counterpart.
type Act = fn(&mut World);

struct Breakage {
    what: &'static str,
    collector: &'static str,
    /// The log names the mend, or the cause.
    told: &'static str,
    harm: Act,
    mend: Act,
}

const BREAKAGES: &[Breakage] = &[
    Breakage {
        what: "the userspace daemon hangs",
        collector: "wireguard",
        told: "interface wg0 did not answer",
        harm: |world| signal(world, Signal::SIGSTOP),
        mend: |world| signal(world, Signal::SIGCONT),
    },
    Breakage {
        what: "the interface is gone",
        collector: "wireguard",
        told: "bring it up",
        harm: |world| world.delete_tunnel(),
        mend: |world| world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S),
    },
    Breakage {
        what: "the state is anybody's",
        collector: "state",
        told: "chmod o-w",
        harm: |world| chmod(world, "666"),
        mend: |world| chmod(world, "644"),
    },
    Breakage {
        what: "the config cannot be read",
        collector: "config",
        told: "egress.yml",
        harm: |world| world.edit_config("paths:", "path:"),
        mend: |world| world.edit_config("path:", "paths:"),
    },
];

fn signal(world: &mut World, signal: Signal) {
    assert!(world.signal_wireguard(signal), "there is a daemon");
}

fn chmod(world: &World, mode: &str) {
    world.exec_ok(Ns::Egress, &["chmod", mode, &world.state_file().display().to_string()]);
}

/// Of which families the page has series.
fn families(page: &Page) -> BTreeSet<&str> {
    page.series.keys().map(|series| series.split('{').next().unwrap_or(series)).collect()
}

fn assert_hides_nothing_else(page: &Page, broken: &str, what: &str) {
    let there = families(page);
    for (collector, fills) in FILLS {
        let success = f64::from(u8::from(collector != broken));
        assert_eq!(page.success(collector), Some(success), "{what}: {collector}");
        for family in fills {
            let wanted = collector != broken;
            assert_eq!(there.contains(family), wanted, "{what}: {family}: {:?}", page.series);
        }
    }
    for always in ["vpn_egress_cycles_total", "vpn_egress_endpoint_info", "vpn_egress_build_info"] {
        assert!(there.contains(always), "{what}: {always}");
    }
}

fn all_answer(page: &Page) -> bool {
    FILLS.iter().all(|(collector, _)| page.success(collector) == Some(1.0))
}

#[test]
fn s7_a_broken_collector_hides_none_of_the_others() {
    inside("s7_a_broken_collector_hides_none_of_the_others", |world| {
        world.write_config(&EgressConfig::quick());
        world.actuator_ok(&["converge"]);
        std::fs::create_dir(world.scratch().join("bin")).expect("a directory");
        // It finds no program at all: what it reports it reads from the kernel itself.
        let path = format!("PATH={}", world.scratch().join("bin").display());
        let exporter = world.start_exporter_by(&["env", &path]);
        let healthy = |world: &World| {
            eventually(SOON, "all collectors answer", || {
                let page = world.scrape(EXPORTER, TIMEOUT)?;
                if all_answer(&page) { Ok(()) } else { Err(format!("{:?}", page.series)) }
            });
        };
        healthy(world);
        for breakage in BREAKAGES {
            let Breakage { what, collector, told, harm, mend } = breakage;
            if what.contains("daemon") && world.backend() == Backend::Kernel {
                println!("NOT SHOWN: {what}: WireGuard is the kernel's here");
                continue;
            }
            for attempt in 1.. {
                harm(world);
                // The first one is the hard one: whoever hangs now is known to hang afterwards.
                let page =
                    world.scrape(EXPORTER, TIMEOUT).unwrap_or_else(|e| panic!("{what}: {e}"));
                if page.took >= TIMEOUT && attempt < TRIES {
                    mend(world);
                    healthy(world);
                    continue;
                }
                assert!(page.took < TIMEOUT, "{what}: {:?}", page.took);
                assert_hides_nothing_else(&page, collector, what);
                break;
            }
            let page = world.scrape(EXPORTER, TIMEOUT).expect("the next one, too");
            assert_hides_nothing_else(&page, collector, what);
            let log = exporter.log();
            assert!(log.contains(told), "{what}: {log}");
            mend(world);
            healthy(world);
        }

        // Somebody changes rules all the time: whatever can be read, what cannot be is not zero.
        let busy = "while :; do nft add table ip lab_busy; nft delete table ip lab_busy; done";
        let busy = world.spawn(Ns::Egress, "busy", &["sh", "-c", busy]);
        let before = world.scrape(EXPORTER, TIMEOUT).expect("a page").series;
        for _ in 0..10 {
            let page = world.scrape(EXPORTER, TIMEOUT).expect("a page in time");
            let intact = "vpn_egress_killswitch_intact{path=\"media\",table=\"killswitch\"}";
            assert_ne!(page.value(intact), Some(0.0), "unknown is not broken");
            let blocked = "vpn_egress_blocked_packets_total{path=\"media\"}";
            let fell = page.value(blocked).is_some_and(|now| now < before[blocked]);
            assert!(!fell, "{:?}", page.series);
            for collector in ["state", "uplink", "wireguard", "config"] {
                assert_eq!(page.success(collector), Some(1.0), "{collector}");
            }
        }
        drop(busy);
        // No collector is told of again and again.
        let told = exporter.log().matches("a collector fails").count();
        assert!(told < 3 * BREAKAGES.len(), "{}", exporter.log());
    });
}
