//! What the exporter shows over its life: every series as documented, none that is left behind,
//! counters that never fall; and that looking costs the tunnel nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::pages::{Page, documented};
use lab::programs::{ACTUATOR, EXPORTER, kill};
use lab::{
    Backend, Direction, EgressConfig, Endpoint, Leak, Ns, Tampering, World, eventually, inside,
    inside_with_users,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(30);

/// What happens to the host, and its name.
type Event<'a> = (&'a str, &'a dyn Fn(&World));
const TIMEOUT: Duration = Duration::from_secs(10);

/// Not shown in a world without a controller.
const ELSEWHERE: &str = "vpn_egress_ids_exemption_present";

/// Every name of a metric that is written in the code.
fn written() -> BTreeSet<String> {
    fn files(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { files(&path, found) } else { found.push(path) }
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = vec![root.join("actuator/src/metrics.rs")];
    files(&root.join("exporter/src"), &mut all);
    let names = |file: &PathBuf| -> Vec<String> {
        let text = fs::read_to_string(file).expect("code");
        let after = text.split("\"vpn_egress_").skip(1);
        let name = after.map(|rest| format!("vpn_egress_{}", rest.split('"').next().unwrap_or("")));
        name.collect()
    };
    all.iter().flat_map(names).collect()
}

#[test]
fn every_metric_in_the_code_is_documented_and_the_reverse() {
    let documented: BTreeSet<String> = documented().into_keys().collect();
    assert!(documented.len() > 50, "{documented:?}");
    assert_eq!(written(), documented);
}

fn page(world: &World, base: &str) -> Page {
    world.scrape(base, TIMEOUT).unwrap_or_else(|error| panic!("{base}: {error}"))
}

#[test]
fn the_pages_are_as_documented_and_nothing_falls_or_is_left_behind() {
    inside("the_pages_are_as_documented_and_nothing_falls_or_is_left_behind", |world| {
        let with = |lines: &[&str]| EgressConfig {
            path_lines: lines.iter().map(|&line| line.to_owned()).collect(),
            top_lines: vec!["watchdog: {silent_after: 3s}".into()],
            ..EgressConfig::quick()
        };
        world.write_config(&with(&[]));
        world.actuator_ok(&["converge"]);
        let mut actuator = world.start_actuator();
        let _exporter = world.start_exporter();
        counters_never_fall(world, &with);
        pages_are_as_documented(world);

        kill(&mut actuator);
        // An endpoint that was removed, then the path itself: its name is another from now on.
        world.write_config(&EgressConfig { endpoints: vec![Endpoint::A], ..with(&[]) });
        world.actuator_ok(&["converge"]);
        nothing_is_left_of(world, "endpoint=\"backup\"");
        world.edit_config("name: media", "name: films");
        world.actuator_ok(&["converge"]);
        eventually(SOON, "the new path is looked at without a restart", || {
            let last = "vpn_egress_last_cycle_timestamp_seconds{path=\"films\"}";
            page(world, EXPORTER).value(last).is_some_and(|at| at > 0.0)
        });
        nothing_is_left_of(world, "path=\"media\"");
    });
}

/// Whatever happens to the rules that count.
fn counters_never_fall(world: &World, with: &dyn Fn(&[&str]) -> EgressConfig) {
    const COUNTERS: [&str; 5] = [
        "vpn_egress_blocked_packets_total{path=\"media\"}",
        "vpn_egress_blocked_bytes_total{path=\"media\"}",
        "vpn_egress_leaked_packets_total{path=\"media\"}",
        "vpn_egress_leaked_bytes_total{path=\"media\"}",
        "vpn_egress_other_frames_total{path=\"media\"}",
    ];
    let whole = |world: &World| {
        eventually(SOON, "the walls and their copies stand", || {
            let status = world.status();
            status["guarded"] == true && status["rules_intact"] == true
        });
    };
    whole(world);
    let events: [Event; 5] = [
        ("nothing", &|_| {}),
        ("other rules", &|world| {
            world.write_config(&with(&["allow: [10.0.0.128/25]"]));
            world.actuator_ok(&["converge"]);
        }),
        ("the first rules", &|world| {
            world.write_config(&with(&[]));
            world.actuator_ok(&["converge"]);
        }),
        ("a flush", &|world| world.tamper_with(Tampering::Flush)),
        ("a table deleted", &|world| world.tamper_with(Tampering::Delete)),
    ];
    let mut before = [0.0; 5];
    for (what, happens) in events {
        happens(world);
        whole(world);
        world.send_outside(Leak::Udp4, 5);
        world.send_outside(Leak::Mdns, 1);
        let page = page(world, EXPORTER);
        let now = COUNTERS.map(|counter| page.value(counter).expect(counter));
        for (counter, (before, now)) in COUNTERS.iter().zip(before.iter().zip(now)) {
            assert!(now >= *before, "{what}: {counter} fell from {before} to {now}");
        }
        assert!(now[0] >= before[0] + 5.0, "{what}: {before:?}, then {now:?}");
        assert!(now[4] >= before[4] + 1.0, "{what}: {before:?}, then {now:?}");
        before = now;
    }
}

fn pages_are_as_documented(world: &mut World) {
    let ongoing = "vpn_egress_latest_outage_ongoing{endpoint=\"primary\",path=\"media\"}";
    // An outage begins where a cycle finds the tunnel down right after one that found it up.
    let up = "vpn_egress_cycles_total{path=\"media\",verdict=\"up\"}";
    let ups = |world: &World| page(world, EXPORTER).value(up).unwrap_or_default();
    let before = ups(world);
    eventually(SOON, "the rules stand, and the tunnel is up", || ups(world) > before);
    world.blackhole(Endpoint::A, Direction::Both);
    eventually(SOON, "an outage", || page(world, EXPORTER).value(ongoing) == Some(1.0));
    world.heal(Endpoint::A);
    eventually(SOON, "its end", || page(world, EXPORTER).value(ongoing) == Some(0.0));
    let answered = "vpn_egress_tunnel_probe_duration_seconds{path=\"media\"}";
    eventually(SOON, "an answer", || page(world, EXPORTER).value(answered));
    let documented = documented();
    let mut shown = BTreeSet::new();
    for base in [EXPORTER, ACTUATOR] {
        for (name, shape) in page(world, base).shapes {
            assert_eq!(documented.get(&name), Some(&shape), "{name} in docs/metrics.md");
            shown.insert(name);
        }
    }
    let missing: Vec<&String> = documented.keys().filter(|name| !shown.contains(*name)).collect();
    assert_eq!(missing, [ELSEWHERE], "documented and not shown");
}

fn nothing_is_left_of(world: &World, label: &str) {
    eventually(SOON, &format!("no series of {label}"), || {
        let page = page(world, EXPORTER);
        let left: Vec<_> = page.series.keys().filter(|series| series.contains(label)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

fn cycles(world: &World) -> f64 {
    let page = page(world, EXPORTER);
    let all = page.series.iter();
    all.filter(|(name, _)| name.starts_with("vpn_egress_cycles_total"))
        .map(|(_, count)| count)
        .sum()
}

#[test]
fn two_prometheis_at_once_cause_no_further_probe() {
    inside("two_prometheis_at_once_cause_no_further_probe", |world| {
        world.write_config(&EgressConfig::quick());
        world.actuator_ok(&["converge"]);
        // Handshakes with the standby, and the pings in the tunnel as its own packets.
        let counted = format!(
            "table netdev probes {{ counter standby {{ }}\nchain lan {{ type filter hook ingress device \
             \"lan\" priority 0; ip daddr {} udp dport {} counter name standby; }}\n}}\n",
            Endpoint::B.socket().ip(),
            Endpoint::B.socket().port()
        );
        world.nft(Ns::Router, &counted);
        let probes = |world: &World| -> u64 {
            let line = ["nft", "list", "counter", "netdev", "probes", "standby"];
            let said = world.exec_ok(Ns::Router, &line);
            let packets = said.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
            packets.and_then(|text| text.parse().ok()).expect("a count")
        };
        let mut exporter = world.start_exporter();
        eventually(SOON, "the standby is probed", || probes(world) > 0);
        let (probes_before, cycles_before) = (probes(world), cycles(world));
        let lab = World::program("lab").display().to_string();
        let script =
            format!("while :; do {lab} get {EXPORTER}/metrics >/dev/null && echo scraped; done");
        let scrapers = ["scraper-1", "scraper-2"]
            .map(|name| world.spawn(Ns::Egress, name, &["sh", "-c", &script]));
        let scraped = || -> u64 {
            let count = |log: String| log.lines().filter(|line| *line == "scraped").count();
            scrapers.iter().map(|scraper| count(scraper.log()) as u64).sum()
        };
        eventually(SOON, "many scrapes, and some probes", || {
            scraped() >= 60 && probes(world) >= probes_before + 2
        });
        // Read in this order, so that what is probed meanwhile counts against it.
        let scraped = scraped();
        let asked = probes(world) - probes_before;
        let cycled = cycles(world) - cycles_before;
        let few = |count: f64| count * 4.0 < f64::from(u32::try_from(scraped).expect("few"));
        assert!(few(f64::from(u32::try_from(asked).expect("few"))), "{asked} for {scraped}");
        assert!(few(cycled), "{cycled} cycles for {scraped} scrapes");
        drop(scrapers);

        // SIGHUP ends nothing, and forgets nothing.
        exporter.kill(Signal::SIGHUP);
        eventually(SOON, "the web configuration is read anew", || {
            exporter.log().contains("web configuration read anew").then_some(())
        });
        assert!(cycles(world) > cycles_before);
        exporter.stop();
        // The same socket by systemd's way; and where there is none, a word of what to do.
        let listen = EXPORTER.trim_start_matches("http://");
        let program = world.program_line("exporter", &["--web.systemd-socket"]);
        let program: Vec<&str> = program.iter().map(String::as_str).collect();
        let handed = [&[lab.as_str(), "handover", "--listen", listen, "--"], &program[..]].concat();
        let _handed = world.spawn(Ns::Egress, "exporter-handed", &handed);
        eventually(SOON, "it serves on what it was handed", || world.scrape(EXPORTER, TIMEOUT));
        let said = world.run(Ns::Egress, &program);
        assert_eq!(said.status.code(), Some(3), "{said:?}");
        assert!(String::from_utf8_lossy(&said.stderr).contains(".socket unit"), "{said:?}");
    });
}

#[test]
fn s10_without_root_it_shows_everything() {
    inside_with_users("s10_without_root_it_shows_everything", |world| {
        const GROUP: &str = "4242";
        if !world.has_users() {
            return;
        }
        world.write_config(&EgressConfig::quick());
        world.actuator_ok(&["converge"]);
        // One key by its group, the others as systemd hands credentials over.
        let scratch = world.scratch().display().to_string();
        let copy = |name: &str| {
            let file = format!("{}_{name}", scratch.trim_start_matches('/').replace('/', "_"));
            format!("cp {name} credentials/{file}")
        };
        let script = format!(
            "mkdir credentials && {} && {} && chown -R 65534 credentials && \
             chmod 0400 credentials/* && chgrp {GROUP} b.psk && chmod 0640 b.psk",
            copy("a.conf"),
            copy("b.key"),
        );
        world.exec_ok(Ns::Egress, &["sh", "-c", &format!("cd {scratch} && {script}")]);
        let groups = format!("--groups={GROUP}");
        let credentials = format!("CREDENTIALS_DIRECTORY={scratch}/credentials");
        let start = |world: &World, capabilities: &str| {
            let [bounding, inherited, ambient] = ["bounding-set", "inh-caps", "ambient-caps"]
                .map(|set| format!("--{set}=-all,{capabilities}"));
            world.start_exporter_by(&[
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                &groups,
                &bounding,
                &inherited,
                &ambient,
                "--no-new-privs",
                "env",
                &credentials,
            ])
        };
        let mut exporter = start(world, "+net_admin,+net_raw");
        let status =
            fs::read_to_string(format!("/proc/{}/status", exporter.pid())).expect("it runs");
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
        assert!(status.contains("CapEff:\t0000000000003000"), "these two and no others: {status}");

        let all = ["config", "nftables", "probe", "state", "uplink", "wireguard"];
        if world.backend() == Backend::Userspace {
            // wireguard-go lets root in only: told with the mend, and the rest is as usual.
            let page = page(world, EXPORTER);
            assert_eq!(page.success("wireguard"), Some(0.0), "{:?}", page.series);
            assert_eq!(page.success("nftables"), Some(1.0), "{:?}", page.series);
            assert!(exporter.log().contains("CAP_DAC_OVERRIDE"), "{}", exporter.log());
            exporter.stop();
            exporter = start(world, "+net_admin,+net_raw,+dac_override");
        }
        eventually(SOON, "everything is shown", || {
            let page = page(world, EXPORTER);
            let value = |series: &str| page.value(&format!("vpn_egress_{series}"));
            let reachable = |endpoint: &str, method: &str| {
                value(&format!(
                    "endpoint_reachable{{endpoint=\"{endpoint}\",method=\"{method}\",path=\"media\"}}"
                ))
            };
            let seen = [
                value("cycles_total{path=\"media\",verdict=\"up\"}")
                    .filter(|up| *up > 0.0)
                    .map(|_| 1.0),
                value("tunnel_probe_success{path=\"media\"}"),
                value("killswitch_intact{path=\"media\",table=\"killswitch\"}"),
                reachable("backup", "handshake"),
                reachable("backup", "icmp"),
                reachable("primary", "icmp"),
            ];
            let good = seen.iter().all(|value| *value == Some(1.0))
                && all.iter().all(|collector| page.success(collector) == Some(1.0));
            if good { Ok(()) } else { Err(format!("{:?}", page.series)) }
        });
        for secret in world.secrets() {
            assert!(!exporter.log().contains(&secret), "a key in the log");
        }
    });
}
