//! The files of providers, each in its provider's shape, become a config that loads; and what cannot
//! become one is refused with the way out. The fixtures are written by hand from what the providers
//! document, with documentation addresses and keys made for them and thrown away.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use egress::config::{BringUp, Config, NoAddress};

use super::*;

/// A directory with these fixtures in it, as a person would have stored them.
struct Files(tempfile::TempDir);

impl Files {
    fn of(names: &[&str]) -> Self {
        let files = Self(tempfile::tempdir().expect("a directory"));
        for name in names {
            let fixture =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fixtures/providers").join(name);
            let text = fs::read_to_string(&fixture).expect("a fixture");
            files.put(name, &text);
        }
        files
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("written");
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o600)).expect("chmod");
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn init(&self, names: &[&str]) -> Init {
        Init {
            files: names.iter().map(|name| self.at(name)).collect(),
            path: "vpn".to_owned(),
            interface: "wg0".to_owned(),
            output: None,
        }
    }

    fn run(&self, names: &[&str]) -> Reply {
        run(&self.init(names), &self.at("egress.yml"), &[])
    }

    #[track_caller]
    fn config(&self) -> Config {
        // Another address for each name.
        let pinned = |_: &egress::names::PathName, host: &str| {
            Ok(IpAddr::from([192, 0, 2, host.as_bytes()[0]]))
        };
        Config::load_with(&self.at("egress.yml"), &pinned).expect("it loads")
    }
}

/// Provider, its files, the tunnel addresses, the probe target, the MTU, whether servers are names.
type Shape = (&'static [&'static str], &'static str, Option<&'static str>, Option<u16>, bool);

const SHAPES: &[Shape] = &[
    (
        &["mullvad-a.conf", "mullvad-b.conf"],
        "10.64.11.22/32, fc00:bbbb:bbbb:bb01::1:b15/128",
        Some("10.64.0.1"),
        None,
        false,
    ),
    (
        &["proton-a.conf", "proton-b.conf"],
        "10.2.0.2/32, 2001:db8:b944::2:2/128",
        Some("10.2.0.1"),
        None,
        false,
    ),
    // Its IPv6 address ends in the IPv4 one.
    (
        &["ivpn-a.conf", "ivpn-b.conf"],
        "172.20.30.40/32, fd00:4956:504e:ffff::ac14:1e28/128",
        Some("172.16.0.1"),
        None,
        true,
    ),
    // All its servers have one key, and a name stands for several of them.
    (
        &["airvpn-a.conf", "airvpn-b.conf"],
        "10.131.88.10/32, fd7d:76ee:e68f:a993:5839::a/128",
        Some("10.128.0.1"),
        Some(1320),
        true,
    ),
    // The resolver may be another one in each file: then none of them is asked.
    (
        &["windscribe-a.conf", "windscribe-b.conf"],
        "100.64.7.8/32, fd54:4::64:7:8/128",
        None,
        None,
        true,
    ),
    (&["pia-a.conf"], "10.4.128.5/32", Some("10.0.0.243"), None, false),
];

#[test]
fn the_files_of_each_provider_become_a_config_that_loads() {
    for (names, addresses, probe, mtu, named) in SHAPES {
        let files = Files::of(names);
        let reply = files.run(names);
        assert_eq!(reply.exit, exit::DONE, "{names:?}: {:?}", reply.lines);
        let config = files.config();
        // The same, stored by an editor that writes Windows line ends and a byte-order mark.
        for name in *names {
            let text = fs::read_to_string(files.at(name)).expect("a fixture");
            files.put(name, &format!("\u{feff}{}", text.replace('\n', "\r\n")));
        }
        assert_eq!(format!("{:?}", files.config()), format!("{config:?}"), "{names:?}");
        let path = &config.paths[0];
        assert_eq!((path.name.as_str(), path.interface.as_str()), ("vpn", "wg0"));
        assert_eq!(path.bring_up, BringUp::Auto);
        assert_eq!(path.endpoints.len(), names.len());
        for (endpoint, name) in path.endpoints.iter().zip(*names) {
            assert_eq!(Some(endpoint.name.as_str()), name.strip_suffix(".conf"));
            let own: Vec<String> =
                endpoint.tunnel_addresses.iter().map(ToString::to_string).collect();
            assert_eq!(own.join(", "), *addresses, "{name}");
            assert_eq!(endpoint.mtu, *mtu, "{name}");
            assert_eq!(endpoint.hostname.is_some(), *named, "{name}");
        }
        let target = path.health.probe.as_ref().map(|probe| probe.question.target().to_string());
        assert_eq!(target.as_deref(), *probe, "{names:?}");
        let text = fs::read_to_string(files.at("egress.yml")).expect("a config");
        assert!(!text.contains("PrivateKey") && !text.contains('='), "S10: {text}");
        assert_eq!(text.contains("looked up and pinned by converge"), *named, "{text}");
        if *named {
            let error = Config::load(&files.at("egress.yml")).expect_err("nothing is pinned");
            assert!(error.to_string().contains("run `actuator converge`"), "{error}");
            let none = |_: &egress::names::PathName, _: &str| {
                Err(NoAddress::Unresolved("no answer".to_owned()))
            };
            let error = Config::load_with(&files.at("egress.yml"), &none).expect_err("no DNS");
            assert!(error.to_string().contains("cannot be looked up (no answer)"), "{error}");
        }
    }
}

#[test]
fn files_without_a_shared_address_are_refused_with_the_way_out() {
    let names = ["pia-a.conf", "pia-b.conf"];
    let files = Files::of(&names);
    let reply = files.run(&names);
    assert_eq!(reply.exit, exit::REFUSED);
    let said = reply.lines.join("\n");
    for (name, address) in [("pia-a", "10.4.128.5/32"), ("pia-b", "10.9.16.2/32")] {
        let line = format!("{}: {address}", files.at(&format!("{name}.conf")).display());
        assert!(said.contains(&line), "{said}");
    }
    assert!(said.contains("Ask the provider for files of one device"), "{said}");
    assert!(said.contains("actuator init --output - --path vpn0 --interface wg0"), "{said}");
    assert!(said.contains("actuator init --output - --path vpn1 --interface wg1"), "{said}");
    assert!(!files.at("egress.yml").exists());
}

#[test]
fn nothing_is_overwritten_and_nothing_bad_is_written() {
    let names = ["mullvad-a.conf", "mullvad-b.conf"];
    let files = Files::of(&names);
    fs::write(files.at("egress.yml"), "mine").expect("written");
    let reply = files.run(&names);
    assert_eq!(reply.exit, exit::REFUSED);
    assert!(reply.lines[0].contains("is not overwritten"), "{:?}", reply.lines);
    assert_eq!(fs::read_to_string(files.at("egress.yml")).expect("read"), "mine");
    fs::remove_file(files.at("egress.yml")).expect("removed");

    let refused = |init: &Init, code: u8, want: &str| {
        let reply = run(init, &files.at("egress.yml"), &[]);
        let said = reply.lines.join("\n");
        assert!(reply.exit == code && said.contains(want), "want {want}: {reply:?}");
        assert!(!files.at("egress.yml").exists(), "{want}");
    };
    let good = || files.init(&names);
    refused(&Init { interface: "a/b".into(), ..good() }, exit::CONFIG, "is no interface name");
    refused(&Init { path: "a b".into(), ..good() }, exit::CONFIG, "path name");
    let twice = Init { files: vec![files.at(names[0]), files.at(names[0])], ..good() };
    refused(&twice, exit::REFUSED, "would both be endpoint `mullvad-a`");
    refused(&files.init(&["gone.conf"]), exit::CONFIG, "gone.conf does not exist");
    files.put("typo.conf", "[Interface]\nPrivateKee = x\n");
    refused(&files.init(&["typo.conf"]), exit::CONFIG, "did you mean `PrivateKey`?");
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(files.at(names[1]), open).expect("chmod");
    refused(&good(), exit::CONFIG, "chmod o-rwx");
}

#[test]
fn whoever_is_connected_stays_so() {
    let names = ["proton-a.conf"];
    let files = Files::of(&names);
    let session = Connection {
        local: "192.168.10.2:22".parse().expect("an address"),
        peer: "[::ffff:192.168.10.5]:50000".parse().expect("an address"),
    };
    let reply = run(&files.init(&names), &files.at("new/egress.yml"), &[session, session]);
    assert_eq!(reply.exit, exit::DONE, "{reply:?}");
    let config = Config::load(&files.at("new/egress.yml")).expect("it loads");
    assert_eq!(config.paths[0].management, ["192.168.10.5/32".parse().expect("a net")]);

    // Printed, it is the same text.
    let print = Init { output: Some("-".into()), ..files.init(&names) };
    let reply = run(&print, &files.at("egress.yml"), &[session]);
    let text = fs::read_to_string(files.at("new/egress.yml")).expect("read");
    assert_eq!(reply.lines, [text.trim_end()]);
    assert!(!files.at("egress.yml").exists());
}
