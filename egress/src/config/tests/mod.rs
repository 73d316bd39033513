//! Configurations good and bad, each bad one with the words and the line it must be told in.

mod documented;
mod ids;
mod mistakes;
mod on_host;
mod wg_quick;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

// Keys of RFC 7748, section 6.1, and a server's.
const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const OTHER_PRIVATE: &str = "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=";
const OTHER_PUBLIC: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
const PEER: &str = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";

const GOOD: &str = "\
paths:
  - name: media
    interface: wg0
    uplinks: [eth0, eth1]
    fwmark: 0xca6c
    workload: host
    management: [192.168.10.5]
    allow_interfaces: [docker0]
    allow: [192.168.10.7/24, fd00::/8]
    dns: refuse
    ntp: [192.0.2.123]
    endpoints:
      - {name: primary, wg_quick: primary.conf}
      - name: backup
        address: 203.0.113.10:51820
        public_key: QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=
        private_key_file: backup.key
        tunnel_addresses: [10.64.0.2/32]
    health:
      interval: 5s
      handshake_stale_after: 3m
      probe:
        target: 10.64.0.1
        timeout: 2s
";

const WG_QUICK: &str = "\
[Interface]
PrivateKey = dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=
Address = 10.64.0.2/32
[Peer]
PublicKey = QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=
Endpoint = 198.51.100.1:51820
AllowedIPs = 0.0.0.0/0, ::/0
";

/// A config directory of its own.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().expect("a directory"));
        world.file("primary.conf", WG_QUICK, 0o600);
        world.file("backup.key", format!("{OTHER_PRIVATE}\n"), 0o640);
        world
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let file = self.0.path().join(name);
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
        file
    }

    fn load(&self, yaml: impl AsRef<[u8]>) -> Result<Config, ConfigError> {
        Config::load(&self.file("egress.yml", yaml, 0o644))
    }

    /// The message, checked for secrets (S10) and without the directory's random name.
    fn refusal(&self, yaml: impl AsRef<[u8]>) -> String {
        let error = self.load(yaml).expect_err("refused");
        let mut all = format!("{error}\n{error:?}\n");
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            writeln!(all, "{error}\n{error:?}").expect("into a string");
            cause = error.source();
        }
        assert_secret_free(&all);
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

/// Not even a good part of a key.
fn assert_secret_free(text: &str) {
    for key in [PRIVATE, OTHER_PRIVATE] {
        for start in 0..key.len() - 12 {
            assert!(!text.contains(&key[start..start + 12]), "S10: {text}");
        }
    }
}

fn edited(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "ambiguous edit: {from}");
    GOOD.replace(from, to)
}

#[test]
fn the_whole_file_is_understood() {
    let config = World::new().load(GOOD).expect("a good config");
    let path = config.path("media").expect("the path");
    assert!(config.path("other").is_none());
    assert_eq!(path.interface, "wg0");
    assert_eq!(path.uplinks, Uplinks::Named(vec!["eth0".into(), "eth1".into()]));
    assert_eq!(
        (path.fwmark, &path.workload, path.dns),
        (0xca6c, &Workload::Host, DnsPolicy::Refuse)
    );
    assert_eq!(path.management, ["192.168.10.5/32".parse::<IpNet>().expect("net")]);
    assert_eq!(path.allow[0].to_string(), "192.168.10.0/24");
    assert_eq!(
        path.health,
        Health {
            probe: Some(TunnelProbe {
                question: Question::Icmp("10.64.0.1".parse().expect("an address")),
                timeout: Duration::from_secs(2),
            }),
            ..Health::default()
        }
    );
    let [primary, backup] = path.endpoints.as_slice() else { panic!("two endpoints") };
    assert_eq!(path.primary().name, primary.name);
    assert_eq!(path.position(&backup.name), Some(1));
    assert_eq!(path.endpoint(&backup.name).map(|found| found.address), Some(backup.address));
    assert_eq!(primary.address.to_string(), "198.51.100.1:51820");
    assert_eq!(backup.public_key.to_string(), PEER);
    assert_eq!(backup.allowed_ips.len(), 2);
    assert_eq!(backup.persistent_keepalive, 25);
}

#[test]
fn what_is_left_out_has_its_default() {
    let yaml = "paths: [{name: a, interface: wg0, allow: , health: {probe: },
        endpoints: [{name: primary, wg_quick: primary.conf}]}]";
    let config = World::new().load(yaml).expect("a good config");
    let path = &config.paths[0];
    assert_eq!((&path.uplinks, path.fwmark), (&Uplinks::Auto, 0xca6c));
    assert_eq!((&path.workload, path.dns), (&Workload::Host, DnsPolicy::Refuse));
    assert!(path.allow.is_empty() && path.management.is_empty() && path.ntp.is_empty());
    assert_eq!(path.health, Health::default());
}

#[test]
fn values_may_be_written_in_several_ways() {
    let world = World::new();
    for (from, to) in [
        ("0xca6c", "51820"),
        ("0xca6c", "\"0xca6c\""),
        ("uplinks: [eth0, eth1]", "uplinks: auto"),
        ("interval: 5s", "interval: 5000ms"),
        ("203.0.113.10:51820", "'[2001:db8::1]:51820'"),
        ("private_key_file: backup.key", "private_key_file: ./backup.key"),
        ("dns: refuse", "dns: allow"),
        ("        tunnel_addresses: [10.64.0.2/32]\n", ""),
        ("[10.64.0.2/32]", "[10.64.0.2]"),
    ] {
        world.load(edited(from, to)).expect(to);
    }
}

#[test]
fn a_probe_is_an_echo_a_connection_or_a_query() {
    let world = World::new();
    let probe = |lines: &str| {
        let yaml = edited("target: 10.64.0.1", &lines.replace('\n', "\n        "));
        let config = world.load(yaml).expect(lines);
        config.paths[0].health.probe.clone().expect("a probe").question
    };
    let to = |text: &str| text.parse().expect("an address with a port");
    let dns = |resolver, name| {
        let name = DnsName::parse(name).expect("a name");
        Question::Dns { resolver: to(resolver), name }
    };
    let tunnel = "10.64.0.1".parse().expect("an address");
    for (lines, question) in [
        ("target: 10.64.0.1", Question::Icmp(tunnel)),
        ("target: 10.64.0.1\nkind: icmp", Question::Icmp(tunnel)),
        ("target: '10.64.0.1:443'\nkind: tcp", Question::Tcp(to("10.64.0.1:443"))),
        ("target: '[fd00::1]:443'\nkind: tcp", Question::Tcp(to("[fd00::1]:443"))),
        ("target: 10.64.0.1\nkind: dns", dns("10.64.0.1:53", ".")),
        ("target: fd00::1\nkind: dns\nquery: a.example", dns("[fd00::1]:53", "a.example")),
        ("target: '10.64.0.1:5353'\nkind: dns\nquery: .", dns("10.64.0.1:5353", ".")),
    ] {
        assert_eq!(probe(lines), question, "{lines}");
    }
}

#[test]
fn an_endpoint_is_asked_as_often_as_it_says_and_else_as_the_path_does() {
    let world = World::new();
    let intervals = |from: &str, to: &str| {
        let config = world.load(edited(from, to)).expect(to);
        let path = &config.paths[0];
        [0, 1].map(|nth| path.probe_interval(&path.endpoints[nth]))
    };
    let every = |seconds| ProbeInterval::Every(Duration::from_secs(seconds));
    let primary = "wg_quick: primary.conf";
    assert_eq!(intervals(primary, primary), [every(30), every(30)]);
    assert_eq!(intervals("interval: 5s", "standby_interval: 5m"), [every(300), every(300)]);
    let off = ProbeInterval::Off;
    assert_eq!(intervals("interval: 5s", "standby_interval: off"), [off, off]);
    let own = |text: &str| intervals(primary, &format!("{primary}, probe_interval: {text}"));
    assert_eq!(own("off"), [off, every(30)]);
    assert_eq!(own("7s"), [every(7), every(30)]);
    assert_eq!(
        intervals(
            "private_key_file: backup.key",
            "private_key_file: backup.key\n        probe_interval: off"
        ),
        [every(30), off]
    );
}

#[test]
fn s10_no_debug_output_shows_a_key() {
    let config = World::new().load(GOOD).expect("a good config");
    assert_secret_free(&format!("{config:?}"));
}

proptest! {
    #[test]
    fn no_text_panics_the_loader(text in "(?s).{0,200}") {
        let source = yaml::Source::of("egress.yml", text);
        let _ = read::config(&source, read::Ask::Nothing, &|_, _| Err(NoAddress::NotPinned));
    }

    #[test]
    fn no_yaml_panics_the_loader_and_s10_no_message_shows_its_key(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "paths:", "\n", "\n  ", "\n    ", "- ", "name: a", "interface: wg0", "endpoints: ",
                "health: ", "[", "]", "{", "}", ", ", ": ", "&a ", "*a", "!t ", "!!int ", "? ", "| ",
                "'", "\"", "wg_quick: ", "private_key_file: ", "private_key: ", "public_key: ",
                "address: ", "<<: ", "0x1", "~", "#", "---", PRIVATE,
            ]),
            0..30,
        ),
    ) {
        let source = yaml::Source::of("egress.yml", parts.concat());
        let lookup = |_: &_, _: &str| Err(NoAddress::NotPinned);
        if let Err(error) = read::config(&source, read::Ask::Nothing, &lookup) {
            assert_secret_free(&format!("{error} {error:?}"));
        }
    }

    #[test]
    fn s10_one_cut_in_the_file_never_shows_a_key(at in 0..WG_QUICK.len(), with in "[\n =\\[#a]?") {
        let mut text = WG_QUICK.to_owned();
        text.replace_range(at..=at, &with);
        if let Err(fault) = super::wg_quick::parse(&text) {
            assert_secret_free(&format!("{} {fault:?}", fault.problem));
        }
    }
}
