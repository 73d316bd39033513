//! docker-compose.yml and what its services are given fit together, as far as that can be seen without
//! an engine and without their images (`make compose-test` runs them): each file that is mounted is
//! there, and Grafana's provisioning has the documented shape, finds its dashboards and its Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_yaml::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[track_caller]
fn yaml(file: &str) -> Value {
    let text = fs::read_to_string(root().join(file)).expect(file);
    let mut value: Value = serde_yaml::from_str(&text).expect(file);
    // One anchor builds on another.
    value.apply_merge().expect(file);
    value.apply_merge().expect(file);
    value
}

fn words(value: &Value) -> Vec<&str> {
    value.as_sequence().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Its keys are among those that Grafana documents, for a typo in one is passed over in silence.
#[track_caller]
fn has_only(what: &Value, known: &[&str]) {
    let keys: BTreeSet<&str> =
        what.as_mapping().expect("a mapping").keys().filter_map(Value::as_str).collect();
    let known: BTreeSet<&str> = known.iter().copied().collect();
    assert!(keys.is_subset(&known), "{:?}", keys.difference(&known));
}

/// Where a service has the files of `from`.
fn mounted<'a>(service: &'a Value, from: &str) -> Option<&'a str> {
    let volumes = words(&service["volumes"]);
    volumes.into_iter().find_map(|volume| volume.strip_prefix(from)?.split(':').nth(1))
}

#[test]
fn every_file_that_a_service_is_given_is_there() {
    let compose = yaml("docker-compose.yml");
    let mut seen = 0;
    for (name, service) in compose["services"].as_mapping().expect("services") {
        for volume in words(&service["volumes"]) {
            if let Some(file) = volume.split(':').next().filter(|from| from.starts_with("./")) {
                assert!(root().join(file).exists(), "{name:?}: {file}");
                seen += 1;
            }
        }
        let ours = service["image"].as_str().is_some_and(|image| image.starts_with("vpn-egress"));
        let image = service["image"].as_str().expect("an image");
        let pinned = image
            .split_once(':')
            .is_some_and(|(_, tag)| tag.starts_with(|c: char| c.is_ascii_digit() || c == 'v'));
        assert!(ours || pinned, "{image} is pinned");
        if name != "lab" {
            assert_eq!(service["read_only"], true, "{name:?}");
            assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name:?}");
        }
    }
    assert_eq!(seen, 4, "rules, routes, provisioning, dashboards");
}

#[test]
fn grafana_finds_its_dashboards_and_its_prometheus() {
    let compose = yaml("docker-compose.yml");
    let grafana = &compose["services"]["grafana"];
    assert_eq!(mounted(grafana, "./grafana/provisioning"), Some("/etc/grafana/provisioning"));

    let dashboards = yaml("grafana/provisioning/dashboards/vpn-egress.yml");
    has_only(&dashboards, &["apiVersion", "providers"]);
    assert_eq!(dashboards["apiVersion"], 1);
    let provider = &dashboards["providers"][0];
    has_only(
        provider,
        &[
            "name",
            "orgId",
            "folder",
            "folderUid",
            "type",
            "disableDeletion",
            "updateIntervalSeconds",
            "allowUiUpdates",
            "options",
        ],
    );
    assert_eq!(provider["type"], "file");
    has_only(&provider["options"], &["path", "foldersFromFilesStructure"]);
    assert_eq!(provider["options"]["path"].as_str(), mounted(grafana, "./grafana/dashboards"));

    let sources = yaml("grafana/provisioning/datasources/prometheus.yml");
    has_only(&sources, &["apiVersion", "deleteDatasources", "prune", "datasources"]);
    assert_eq!(sources["apiVersion"], 1);
    let source = &sources["datasources"][0];
    has_only(
        source,
        &["name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData", "orgId"],
    );
    assert_eq!((&source["type"], &source["access"]), (&"prometheus".into(), &"proxy".into()));
    let asked = source["url"].as_str().and_then(|url| url.strip_prefix("http://"));
    let asked = format!("--web.listen-address={}", asked.expect("a URL"));
    let command = words(&compose["services"]["prometheus"]["command"]);
    assert!(command.contains(&asked.as_str()), "{asked} is not in {command:?}");
}
