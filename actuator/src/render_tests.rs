//! The rendered configuration is the shipped one, host by host; what Alertmanager makes of it is in
//! `alerting-rules/check.sh`, which reads the checked-in example.
//!
//! To update the example: `UPDATE_SNAPSHOTS=1 cargo test -p actuator render`.

use std::{env, fs};

use serde_yaml::Value;

use super::*;

const SHIPPED: &str = include_str!("../../alerting-rules/alertmanager.yml");

fn hosts(texts: &[&str]) -> Vec<Host> {
    texts.iter().map(|text| host(text).expect("a host")).collect()
}

fn rendered(texts: &[&str]) -> Value {
    let text = alertmanager(&hosts(texts), Path::new("/etc/vpn-egress"), None);
    serde_yaml::from_str(&text).expect("YAML")
}

/// What of the map is not about who is told.
fn without(map: &Value, keys: &[&str]) -> Value {
    let mut map = map.as_mapping().expect("a map").clone();
    for key in keys {
        map.remove(*key);
    }
    Value::Mapping(map)
}

#[test]
fn the_times_groups_and_inhibitions_are_those_of_the_shipped_file() {
    let shipped: Value = serde_yaml::from_str(SHIPPED).expect("YAML");
    let ours = rendered(&["gw1=http://127.0.0.1:9062"]);
    let routes = |config: &Value| config["route"]["routes"].as_sequence().expect("routes").clone();
    assert_eq!(routes(&ours).len(), routes(&shipped).len());
    for (ours, shipped) in routes(&ours).iter().zip(&routes(&shipped)) {
        let ends = |route: &Value| route["continue"].as_bool().unwrap_or(false);
        assert_eq!(ends(ours), ends(shipped));
        let who = ["receiver", "routes", "continue"];
        assert_eq!(without(ours, &who), without(shipped, &who));
    }
    assert_eq!(without(&ours["route"], &["routes"]), without(&shipped["route"], &["routes"]));
    assert_eq!(ours["inhibit_rules"], shipped["inhibit_rules"]);
    let webhook = |config: &Value, name: &str| {
        let receivers = config["receivers"].as_sequence().expect("receivers");
        let found = receivers.iter().find(|receiver| receiver["name"] == name);
        found.expect("the receiver")["webhook_configs"][0].clone()
    };
    let text = serde_yaml::to_string(&webhook(&ours, "actuator-gw1")).expect("YAML");
    let ours: Value =
        serde_yaml::from_str(&text.replace("gw1.token", "actuator.token")).expect("YAML");
    assert_eq!(ours, webhook(&shipped, "actuator"));
}

#[test]
fn the_checked_in_example_is_what_is_rendered() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guides/fleet/alertmanager.yml");
    let hosts = hosts(&[
        "gw1=https://gw1.example:9062",
        "gw2=https://gw2.example:9062",
        "gw3=https://gw3.example:9062",
    ]);
    let text = alertmanager(&hosts, Path::new("/etc/prometheus/vpn-egress"), None);
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(file, &text).expect("written");
    }
    assert_eq!(fs::read_to_string(file).expect("the example"), text, "see the top of this file");
}

#[test]
fn a_host_needs_a_plain_name_and_an_encrypted_way() {
    for good in [
        "gw1=https://gw1.example:9062",
        "gw-1.example=https://192.0.2.1:9062/",
        "gw1=https://[2001:db8::1]:9062",
        "gw1=http://127.0.0.1:9062",
        "gw1=http://[::1]:9062",
    ] {
        let host = host(good).expect(good);
        assert!(!host.url.ends_with('/'), "{host:?}");
    }
    for (bad, word) in [
        ("gw1", "such as gw1=https://"),
        ("=https://gw1.example:9062", "letters"),
        ("g w=https://gw1.example:9062", "letters"),
        ("../gw=https://gw1.example:9062", "letters"),
        ("gw\"=https://gw1.example:9062", "letters"),
        ("gw1=gw1.example:9062", "https://"),
        ("gw1=http://192.0.2.1:9062", "the token travels"),
        ("gw1=http://localhost.example:9062", "the token travels"),
        ("gw1=ftp://gw1.example", "https://"),
        ("gw1=https://gw1.example:9062/api/v1/alerts", "nothing after it"),
        ("gw1=https://user:word@gw1.example:9062", "nothing after it"),
    ] {
        let why = host(bad).expect_err(bad);
        assert!(why.contains(word), "{bad}: {why}");
    }
}

#[test]
fn a_dot_in_a_name_is_no_wildcard() {
    let ours = rendered(&["a.b=https://a.b:9062"]);
    let heartbeat = &ours["route"]["routes"][0]["routes"][0]["matchers"][0];
    assert_eq!(heartbeat, "host =~ \"a[.]b|\"");
}

#[test]
fn own_receivers_are_taken_over_and_people_must_be_among_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("receivers.yml");
    let render = |receivers: &Path| {
        run(&Render::Alertmanager {
            hosts: hosts(&["gw1=https://gw1.example:9062"]),
            files: "/etc/x".into(),
            receivers: Some(receivers.to_owned()),
        })
    };
    assert_eq!(render(&file).exit, exit::USAGE, "it is not there");
    fs::write(&file, "- name: others\n").expect("written");
    let refused = render(&file);
    assert_eq!(refused.exit, exit::USAGE);
    assert!(refused.lines[0].contains("has no receiver `people`"), "{refused:?}");

    fs::write(
        &file,
        "- name: people\n  webhook_configs:\n    - url: http://192.0.2.9/\n- name: x\n",
    )
    .expect("written");
    let config: Value = serde_yaml::from_str(&render(&file).lines[0]).expect("YAML");
    let names: Vec<_> = config["receivers"].as_sequence().expect("receivers").iter().collect();
    let names: Vec<_> = names.iter().filter_map(|receiver| receiver["name"].as_str()).collect();
    assert_eq!(names, ["nobody", "actuator-gw1", "people", "x"]);
    assert_eq!(config["receivers"][2]["webhook_configs"][0]["url"], "http://192.0.2.9/");
}

#[test]
fn a_host_that_is_there_twice_is_refused() {
    let twice = hosts(&["gw1=https://a.example:9062", "gw1=https://b.example:9062"]);
    let reply = run(&Render::Alertmanager { hosts: twice, files: "/x".into(), receivers: None });
    assert_eq!(reply.exit, exit::USAGE);
    assert!(reply.lines[0].contains("gw1 is there twice"), "{reply:?}");
}
