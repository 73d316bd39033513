//! The exemption at a UniFi controller: found, added, and never more than that; every failure told
//! for what it is. Against the stand-in controller, over TLS, on loopback.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use egress::config::Config;
use ids::{Applied, Unifi, Unknown};
use lab::World;
use lab::controller::{API_KEY, Controller, Mode, used_setting};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const QUICKLY: Duration = Duration::from_millis(50);

/// A controller, and a config that points to it.
struct Site {
    controller: Controller,
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let controller = Controller::start(any, used_setting()).expect("a controller");
        let site = Self { controller, directory: tempfile::tempdir().expect("a directory") };
        site.file("unifi.key", API_KEY, 0o600);
        site.file("controller.pem", &site.controller.certificate_pem(), 0o644);
        let keys = [
            ("own.key", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="),
            ("api_key_of_nobody", "wrong"),
        ];
        for (name, key) in keys {
            site.file(name, key, 0o600);
        }
        site.configure("192.168.10.20", &site.by_pin());
        site
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let file = self.directory.path().join(name);
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
        file
    }

    fn by_pin(&self) -> String {
        let digest = Sha256::digest(self.controller.certificate_der());
        format!("pin_sha256: '{}'", lab::hex(&digest))
    }

    fn config_file(&self) -> PathBuf {
        self.directory.path().join("egress.yml")
    }

    fn configure(&self, host: &str, lines: &str) {
        self.configure_at(self.controller.address(), host, lines);
    }

    fn configure_at(&self, address: SocketAddr, host: &str, lines: &str) {
        let lines = lines.replace('\n', "\n    ");
        let yaml = format!(
            "paths:\n  - name: media\n    interface: wg0\n    endpoints:\n      - name: a\n        \
             address: 198.51.100.10:51820\n        \
             public_key: QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\n        \
             private_key_file: own.key\nids:\n  egress_address: {host}\n  unifi:\n    \
             url: https://{address}\n    api_key_file: unifi.key\n    {lines}\n"
        );
        self.file("egress.yml", &yaml, 0o644);
    }

    fn unifi(&self) -> Unifi {
        let config = Config::load(&self.config_file()).expect("a config");
        Unifi::of(&config).expect("a controller is configured").settling(QUICKLY)
    }

    /// What `check` says where it can say nothing; and `apply` says the same, and writes nothing.
    fn unknown(&self) -> String {
        let writes = self.controller.writes();
        let told = self.unifi().check().map(|(present, _)| present).expect_err("unknown");
        let told_by_apply = self.unifi().apply().expect_err("unknown");
        assert_eq!(told.to_string(), told_by_apply.to_string());
        assert_eq!(self.controller.writes(), writes, "nothing was written");
        told.to_string()
    }

    fn actuator(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(World::program("actuator"))
            .arg(format!("--config.file={}", self.config_file().display()))
            .args(arguments)
            .output()
            .expect("actuator runs");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!said.contains(API_KEY), "S10: {said}");
        (output.status.code().unwrap_or(-1), said)
    }
}

fn with_ours(mut setting: Value) -> Value {
    let ours = json!({"direction": "src", "mode": "ip", "value": "192.168.10.20"});
    setting["suppression"]["whitelist"].as_array_mut().expect("a list").push(ours);
    setting
}

#[test]
fn it_is_absent_then_added_then_present_and_nothing_else_has_changed() {
    let site = Site::new();
    assert!(!site.unifi().check().expect("known").0);
    assert_eq!(site.controller.writes(), Vec::<Value>::new(), "a check writes nothing");

    let done = site.unifi().apply().expect("applied");
    assert!(
        matches!(&done, Applied::Added { differences, .. } if differences.is_empty()),
        "{done:?}"
    );
    let wanted = with_ours(used_setting());
    assert_eq!(site.controller.setting(), wanted);
    let sent = json!({"key": "ips", "suppression": wanted["suppression"]});
    assert_eq!(site.controller.writes(), [sent], "the suppression as a whole, and nothing else");
    assert!(site.unifi().check().expect("known").0);

    // Again: nothing is sent at all.
    assert!(matches!(site.unifi().apply(), Ok(Applied::Present)));
    assert_eq!(site.controller.writes().len(), 1);
    assert_eq!(site.controller.setting(), wanted);
}

#[test]
fn a_controller_on_which_nothing_was_ever_exempt_gets_its_first_entry() {
    let site = Site::new();
    site.controller.set(json!({"key": "ips", "ips_mode": "ids", "restrict_torrents": true}));
    assert!(!site.unifi().check().expect("known").0);
    let done = site.unifi().apply().expect("applied");
    assert!(
        matches!(&done, Applied::Added { differences, .. } if differences.is_empty()),
        "{done:?}"
    );
    assert_eq!(
        site.controller.setting()["suppression"]["whitelist"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn what_is_not_known_is_never_absent_and_has_its_own_words() {
    let site = Site::new();
    let elsewhere = "https://192.0.2.1/login";
    for (mode, told) in [
        (Mode::Forbidden, "may not do this"),
        (Mode::TooMany(Some(60)), "try again after 60 s"),
        (Mode::TooMany(None), "try again in some minutes"),
        (Mode::LoginForm, "a login form"),
        (
            Mode::Redirect(elsewhere.to_owned()),
            "a redirect to https://192.0.2.1/login; it is not followed",
        ),
        (Mode::Standalone, "this is no UniFi OS console"),
        (Mode::EmptyList, "200 with an empty list"),
        (Mode::Error("api.err.NoSiteContext".to_owned()), "refused: api.err.NoSiteContext"),
        (Mode::Error("api.err.LoginRequired".to_owned()), "does not accept the API key"),
        (Mode::Starting, "502; it may be starting"),
        (Mode::Huge, "larger than 4194304 bytes"),
        (Mode::Truncated, "is no JSON"),
        (Mode::Newer, "another shape than this version knows: no `ips_mode`"),
    ] {
        site.controller.behave(mode.clone());
        let said = site.unknown();
        assert!(said.contains(told), "{mode:?}: {said}");
    }
    site.controller.behave(Mode::Well);
    assert!(!site.unifi().check().expect("known").0, "it was the controller, not the client");
}

#[test]
fn s10_a_redirect_to_another_controller_gets_neither_request_nor_key() {
    let (site, other) = (Site::new(), Site::new());
    let to = format!(
        "https://{}/proxy/network/api/s/default/get/setting/ips",
        other.controller.address()
    );
    site.controller.behave(Mode::Redirect(to));
    assert!(site.unknown().contains("a redirect"));
    assert_eq!(other.controller.requests(), 0);
    // The positive control: the same place answers who asks it.
    other.controller.set(with_ours(used_setting()));
    assert!(other.unifi().check().expect("known").0);
}

#[test]
fn a_key_that_is_wrong_missing_or_open_to_others_is_told_and_never_shown() {
    let site = Site::new();
    let key = |text: &str, mode| site.file("unifi.key", text, mode);
    key("another-key", 0o600);
    let said = site.unknown();
    assert!(said.contains("401") && said.contains("unifi.key"), "{said}");
    assert!(!said.contains("another-key"), "S10: {said}");
    key(API_KEY, 0o644);
    let said = site.unknown();
    assert!(said.contains("can be read by others; run: chmod o-rwx"), "{said}");
    for (text, told) in [("", "is no API key"), ("two words\n", "is no API key")] {
        key(text, 0o600);
        let said = site.unknown();
        assert!(said.contains(told), "{said}");
    }
    fs::remove_file(site.directory.path().join("unifi.key")).expect("removed");
    assert!(site.unknown().contains("cannot be read; create it"));
    assert_eq!(site.controller.requests(), 0, "nothing was asked with a wrong key");
    key(&format!("{API_KEY}\n"), 0o640);
    assert!(site.unifi().check().is_ok());
}

#[test]
fn only_the_controller_that_is_meant_is_asked() {
    let (site, other) = (Site::new(), Site::new());
    let host = "192.168.10.20";
    // By its own certificate, by its authority (here itself), and by nothing else.
    site.configure(host, &site.by_pin());
    assert!(site.unifi().check().is_ok());
    site.configure(host, "ca_file: controller.pem");
    assert!(site.unifi().check().is_ok());

    site.configure(host, &other.by_pin());
    let said = site.unknown();
    assert!(said.contains("is not the pinned one: it has "), "{said}");
    site.configure(host, "site: default");
    assert!(site.unknown().contains("is not trusted"));
    other.file("mine.pem", &other.controller.certificate_pem(), 0o644);
    let file = other.directory.path().join("mine.pem");
    site.configure(host, &format!("ca_file: {}", file.display()));
    assert!(site.unknown().contains("is not trusted"));
    site.configure(host, "ca_file: controller.pem\nserver_name: unifi.example.net");
    let said = site.unknown();
    assert!(said.contains("for another name or address"), "{said}");
    site.configure(host, "ca_file: unifi.key");
    assert!(site.unknown().contains("give a PEM file"));
    site.configure(host, "ca_file: no-such-file");
    assert!(site.unknown().contains("give a PEM file"));
    let before = site.controller.requests();
    site.configure(host, &site.by_pin());
    assert!(site.unifi().check().is_ok());
    assert_eq!(site.controller.requests(), before + 1, "the others never got as far as to ask");
}

#[test]
fn nobody_there_is_told_with_the_way_through_the_killswitch() {
    let site = Site::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("its address");
    drop(free);
    site.configure_at(address, "192.168.10.20", "site: default");
    let said = site.unknown();
    assert!(said.contains("refuses connections") && said.contains("no path's `allow`"), "{said}");
}

#[test]
fn who_answers_no_tls_or_nothing_is_not_waited_for() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Reads what comes and closes.
            let _ = stream.expect("a client").read(&mut [0; 16]);
        }
    });
    site.configure_at(address, "192.168.10.20", &site.by_pin());
    let said = site.unknown();
    assert!(said.contains("broke") || said.contains("TLS"), "{said}");

    site.configure("192.168.10.20", &site.by_pin());
    site.controller.behave(Mode::Silent);
    let said = site.unifi().check().expect_err("no answer").to_string();
    assert!(said.contains("did not answer within 15s, asked for the setting"), "{said}");
}

#[test]
fn what_somebody_else_changes_meanwhile_is_told() {
    let site = Site::new();
    site.controller.before_next_write(|setting| setting["restrict_torrents"] = json!(false));
    let done = site.unifi().apply().expect("applied");
    let Applied::Added { differences, .. } = done else { panic!("{done:?}") };
    assert_eq!(differences, ["restrict_torrents: true -> false"]);
    assert_eq!(site.controller.setting()["restrict_torrents"], false, "theirs is left as it is");

    // The same by the command line: done, and not silent about it.
    site.controller.set(used_setting());
    let (exit, said) = {
        site.controller.before_next_write(|setting| setting["ips_mode"] = json!("disabled"));
        site.actuator(&["ids", "apply"])
    };
    assert_eq!(exit, 3, "{said}");
    assert!(said.contains(r#"ips_mode: "ips" -> "disabled""#), "{said}");
}

#[test]
fn a_controller_that_takes_the_part_for_the_whole_is_found_out() {
    let site = Site::new();
    site.controller.behave(Mode::ReplacesAll);
    let done = site.unifi().apply().expect("applied");
    let Applied::Added { differences, .. } = done else { panic!("{done:?}") };
    for lost in ["restrict_torrents: true -> null", "honeypot_enabled: true -> null"] {
        assert!(differences.iter().any(|line| line == lost), "{differences:?}");
    }
    let unknown = "something_of_a_later_release: changed (values not shown)";
    assert!(differences.iter().any(|line| line == unknown), "{differences:?}");
}

#[test]
fn a_write_that_is_not_kept_is_never_called_done() {
    let site = Site::new();
    site.controller.behave(Mode::Forgets);
    let said = site.unifi().apply().expect_err("not kept");
    assert!(matches!(said, Unknown::NotKept(3)), "{said}");
    assert_eq!(site.controller.setting(), used_setting());
}

/// Who had read before us writes after us: our entry is gone, and theirs is there.
fn overwritten_by_another(setting: &mut Value) {
    let theirs = json!({"direction": "src", "mode": "ip", "value": "192.168.10.99"});
    *setting = used_setting();
    setting["suppression"]["whitelist"].as_array_mut().expect("a list").push(theirs);
}

#[test]
fn an_entry_that_another_writer_overwrites_is_added_again() {
    let (at_once, later) = (Site::new(), Site::new());
    at_once.controller.after_next_write(overwritten_by_another);
    // The second reading is the one after our writing: only who looks once more sees this.
    later.controller.after_reading(2, overwritten_by_another);
    for site in [at_once, later] {
        let done = site.unifi().apply().expect("applied");
        assert!(matches!(done, Applied::Added { .. }), "{done:?}");
        let setting = site.controller.setting();
        let list = setting["suppression"]["whitelist"].as_array().expect("a list");
        let values: Vec<&str> = list.iter().filter_map(|entry| entry["value"].as_str()).collect();
        assert_eq!(values[2..], ["192.168.10.99", "192.168.10.20"], "theirs and ours");
        assert_eq!(site.controller.writes().len(), 2);
    }
}

#[test]
fn two_at_once_leave_both_entries_and_each_once() {
    let site = Site::new();
    let us = site.unifi().settling(Duration::from_millis(500));
    site.configure("192.168.10.21", &site.by_pin());
    let them = site.unifi().settling(Duration::from_millis(500));
    thread::scope(|scope| {
        let one = scope.spawn(|| us.apply());
        let other = scope.spawn(|| them.apply());
        one.join().expect("no panic").expect("applied");
        other.join().expect("no panic").expect("applied");
    });
    let setting = site.controller.setting();
    let list = setting["suppression"]["whitelist"].as_array().expect("a list");
    let mut values: Vec<&str> = list.iter().filter_map(|entry| entry["value"].as_str()).collect();
    values.sort_unstable();
    assert_eq!(
        values,
        ["192.168.10.20", "192.168.10.21", "192.168.10.7", "65a1b2c3d4e5f60718293a02"]
    );
}

#[test]
fn the_command_line_says_it_and_exits_by_it() {
    let site = Site::new();
    let (exit, said) = site.actuator(&["ids", "check"]);
    assert_eq!(
        (exit, said.contains("absent: 192.168.10.20, direction src (IPS mode ips)")),
        (2, true),
        "{said}"
    );
    let (exit, said) = site.actuator(&["ids", "apply"]);
    assert_eq!((exit, said.contains("nothing else has changed")), (0, true), "{said}");
    let (exit, said) = site.actuator(&["ids", "check"]);
    assert_eq!((exit, said.contains("present: ")), (0, true), "{said}");
    let (exit, said) = site.actuator(&["ids", "apply"]);
    assert_eq!((exit, said.contains("nothing to change")), (0, true), "{said}");
    assert_eq!(site.controller.writes().len(), 1);
    site.controller.behave(Mode::EmptyList);
    for command in ["check", "apply"] {
        let (exit, said) = site.actuator(&["--log.level=trace", "ids", command]);
        assert_eq!((exit, said.contains("unknown: ")), (3, true), "{said}");
    }
    // Rendering needs no controller.
    let (exit, said) = site.actuator(&["ids", "render", "--for", "unifi"]);
    assert_eq!((exit, said.contains("`ids.egress_address` of the config")), (0, true), "{said}");
    let (exit, said) =
        site.actuator(&["ids", "render", "--for", "suricata", "--host", "10.0.0.2 any"]);
    assert_eq!(exit, 64, "{said}");
}
