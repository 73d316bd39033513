//! The rules of each kind of workload, as checked-in text: what changes is seen in a review.
//!
//! To update them: `UPDATE_SNAPSHOTS=1 cargo test -p egress snapshots`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use super::table::{LONGEST_COMMENT, TableSpec};
use super::{Basis, Coverage, Probe, Protocol, Rules, StopKind, killswitch, stop, watch};
use crate::config::{DnsPolicy, Workload};
use crate::links::{Link, MacAddress};
use crate::mark::Mark;

/// Path `media`, the whole host, with something in each of its lists.
fn host() -> Rules {
    let endpoints = ["198.51.100.10:51820", "203.0.113.10:51820", "[2001:db8::10]:51820"];
    Rules {
        allow_interfaces: vec!["docker0".into()],
        tunnel_addresses: vec!["10.64.0.2".parse().expect("an address")],
        allow: vec!["192.168.10.0/24".parse().expect("a net")],
        management: vec!["192.168.10.5/32".parse().expect("a net")],
        ntp: vec!["192.0.2.123".parse().expect("an address")],
        endpoints: endpoints.map(|text| text.parse().expect("an endpoint")).into(),
        ..bare("media", &Workload::Host)
    }
}

/// Another path, with the same endpoint by another mark.
fn scoped(workload: &Workload) -> Rules {
    Rules {
        interface: "wg1".into(),
        fwmark: 0xca6d,
        workload_mark: Mark::bits(0x0100_0000),
        resolvers: vec!["127.0.0.1".parse().expect("an address")],
        probe: Some(Probe::Echo("10.64.0.1".parse().expect("an address"))),
        endpoints: vec!["203.0.113.10:51820".parse().expect("an endpoint")],
        ..bare("work", workload)
    }
}

fn bare(name: &str, workload: &Workload) -> Rules {
    let json = serde_json::json!({
        "name": name, "interface": "wg0", "fwmark": 0xca6c, "dns": DnsPolicy::Refuse,
        "allow_interfaces": [], "allow": [], "management": [], "ntp": [], "endpoints": [],
        "identities": "", "workload": workload,
    });
    serde_json::from_value(json).expect("rules")
}

fn kinds() -> Vec<(&'static str, Vec<Rules>)> {
    let interfaces = || scoped(&Workload::Interfaces(vec!["br-work".into()]));
    vec![
        ("host", vec![host()]),
        ("interfaces", vec![interfaces()]),
        ("cgroups", vec![scoped(&Workload::Cgroups(vec!["vpn.slice/work".into()]))]),
        ("users", vec![scoped(&Workload::Users(vec![1000.into(), 1001.into()]))]),
        ("host-and-interfaces", vec![host(), interfaces()]),
        ("by-one-mask", by_one_mask()),
    ]
}

/// Two workloads that are told apart by the values of one mask.
fn by_one_mask() -> Vec<Rules> {
    let with = |name: &str, value, workload: Workload| Rules {
        name: name.parse().expect("a name"),
        workload_mark: Mark::masked(value, 0xff00_0000).expect("a mark"),
        ..scoped(&workload)
    };
    let cgroup = Workload::Cgroups(vec!["vpn.slice/play".into()]);
    vec![
        with("work", 0x0100_0000, Workload::Interfaces(vec!["br-work".into()])),
        Rules { interface: "wg2".into(), fwmark: 0xca6e, ..with("play", 0x0300_0000, cgroup) },
    ]
}

fn tables(paths: &[Rules]) -> Vec<TableSpec> {
    let entrances = paths.iter().flat_map(|path| path.workload.interfaces());
    let bridge =
        |(name, index): (&str, u32)| Link { kind: Some("bridge".into()), ..device(name, index) };
    let mut links = vec![device("eth0", 2), device("docker0", 3)];
    links.push(Link { master: Some(3), ..device("veth4", 4) });
    links.extend(entrances.map(String::as_str).zip(10..).map(bridge));
    let (cut, living) = paths.split_at(1);
    vec![
        killswitch::table(paths),
        watch::table(paths, &Coverage::of(Basis::of(paths), &links)),
        stop::table(&[(cut[0].clone(), StopKind::Latched)], living),
    ]
}

fn device(name: &str, index: u32) -> Link {
    let address = MacAddress([2, 0, 0, 0, 0, u8::try_from(index).expect("small")]);
    let name = name.to_owned();
    Link { name, index, address: Some(address), ..Link::default() }
}

#[test]
fn the_rules_of_each_workload_are_those_on_record() {
    let mut changed = Vec::new();
    for (kind, paths) in kinds() {
        let text: String = tables(&paths).iter().map(TableSpec::text).collect();
        let file = directory().join(format!("{kind}.nft"));
        if env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::write(&file, text).expect("written");
        } else if fs::read_to_string(&file).unwrap_or_default() != text {
            changed.push(file);
        }
    }
    assert!(
        changed.is_empty(),
        "other rules than on record: {changed:?}; if they are meant to change, run: \
         UPDATE_SNAPSHOTS=1 cargo test -p egress snapshots, and read the difference"
    );
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/firewall/snapshots")
}

#[test]
fn every_rule_says_why_in_as_many_bytes_as_the_kernel_keeps() {
    for (_, paths) in kinds() {
        for table in tables(&paths) {
            for rule in table.rules() {
                let why = rule.why;
                assert!(!why.is_empty() && why.len() <= LONGEST_COMMENT, "{why}");
                assert!(!why.contains('"'), "{why}");
            }
        }
    }
}

#[test]
fn a_probe_of_a_scoped_path_is_let_out_by_the_host_lock_and_its_neighbours_are_not() {
    let workload = Workload::Interfaces(vec!["br-work".into()]);
    let probe =
        |protocol| Some(Probe::Port { protocol, to: "10.64.0.1:853".parse().expect("one") });
    for (protocol, word) in [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")] {
        let work = Rules { probe: probe(protocol), ..scoped(&workload) };
        let text: String = tables(&[host(), work]).iter().map(TableSpec::text).collect();
        let by_tunnel = text.lines().filter(|line| line.contains("oifname \"wg1\" ip daddr"));
        let rules: Vec<&str> = by_tunnel.map(str::trim).collect();
        let [rule] = rules[..] else { panic!("one rule, and not {rules:?}") };
        let wanted = format!("oifname \"wg1\" ip daddr 10.64.0.1 {word} dport 853 accept");
        assert!(rule.starts_with(&wanted), "{rule}");
    }
}

#[test]
fn a_state_file_of_before_probes_had_kinds_means_an_echo() {
    let echo = Probe::Echo("10.64.0.1".parse().expect("an address"));
    let read: Probe = serde_json::from_str(r#""10.64.0.1""#).expect("an old state's probe");
    assert_eq!(read, echo);
    let protocol = Protocol::Udp;
    for probe in [echo, Probe::Port { protocol, to: "[fd00::1]:53".parse().expect("one") }] {
        let text = serde_json::to_string(&probe).expect("JSON");
        assert_eq!(serde_json::from_str::<Probe>(&text).expect("the same"), probe);
    }
}

#[test]
fn a_state_file_of_the_first_version_is_one_of_the_whole_host() {
    let old = r#"{"name":"media","interface":"wg0","fwmark":51820,"dns":"refuse",
        "allow_interfaces":[],"allow":[],"management":[],"ntp":[],
        "endpoints":["198.51.100.10:51820"],"identities":"00"}"#;
    let rules: Rules = serde_json::from_str(old).expect("an old state's rules");
    assert_eq!((rules.workload, rules.workload_mark), (Workload::Host, Mark::default()));
}
