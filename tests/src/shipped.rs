//! The whole loop with the configuration that the project ships: only paths of files differ.

use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::Value;

use crate::monitoring::{Alertmanagers, Instances};
use crate::process::Process;
use crate::world::World;

/// Everything that runs between the kernel and the kernel.
pub struct Loop {
    pub exporter: Process,
    pub actuator: Process,
    pub prometheus: Process,
    pub alertmanagers: Alertmanagers,
}

/// The project's files: those that the lab was built from, or, where it runs elsewhere, those that
/// `LAB_TREE` names.
fn tree() -> PathBuf {
    let built_from = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    env::var_os("LAB_TREE").map_or_else(built_from, PathBuf::from)
}

/// A file of `alerting-rules/`.
#[track_caller]
pub(crate) fn shipped(name: &str) -> (PathBuf, String) {
    let file = tree().join("alerting-rules").join(name);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!("{}: {error}; LAB_TREE says where the project's files are", file.display())
    });
    (file, text)
}

/// The text with a part of it replaced, which must be there.
#[track_caller]
pub(crate) fn adapted(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the shipped file has no `{from}` any more");
    text.replace(from, to)
}

impl World {
    /// The token that the webhook asks for, made for this world.
    pub fn token(&self) -> String {
        let file = self.scratch().join("actuator.token");
        if let Ok(token) = fs::read_to_string(&file) {
            return token.trim().to_owned();
        }
        // A fresh WireGuard key is as random as a token needs to be.
        let token = self.exec_ok(crate::addresses::Ns::Egress, &["wg", "genkey"]);
        self.write_file("actuator.token", &token, 0o600);
        token.trim().to_owned()
    }

    /// Starts exporter, actuator, Alertmanagers and Prometheus, in this order.
    #[track_caller]
    pub fn start_loop(&self, instances: Instances) -> Loop {
        self.token();
        let token = self.scratch().join("actuator.token").display().to_string();
        let exporter = self.start_exporter();
        let actuator = self.start_loops_actuator();
        let (_, alertmanager) = shipped("alertmanager.yml");
        let alertmanager = adapted(&alertmanager, "/etc/vpn-egress/actuator.token", &token);
        let alertmanagers = self.start_alertmanager(&alertmanager, instances);
        let prometheus = self.start_shipped_prometheus(&alertmanagers);
        Loop { exporter, actuator, prometheus, alertmanagers }
    }

    #[track_caller]
    pub fn start_loops_actuator(&self) -> Process {
        let token = self.scratch().join("actuator.token").display().to_string();
        self.start_actuator_with(&["--web.bearer-token-file", &token])
    }

    #[track_caller]
    pub fn start_shipped_prometheus(&self, alertmanagers: &Alertmanagers) -> Process {
        let (rules, _) = shipped("vpn-egress.rules.yml");
        self.start_prometheus(&Self::shipped_prometheus(alertmanagers, &rules))
    }

    /// Another one that watches the same host, and tells the same Alertmanagers.
    #[track_caller]
    pub fn start_second_prometheus(&self, alertmanagers: &Alertmanagers) -> Process {
        let (rules, _) = shipped("vpn-egress.rules.yml");
        let config = Self::shipped_prometheus(alertmanagers, &rules);
        self.start_prometheus_as("prometheus-2", Self::SECOND_PROMETHEUS, &config)
    }

    /// Prometheus alone, with each of these texts of the shipped rules replaced by another.
    #[track_caller]
    pub fn start_prometheus_adapted(&self, changes: &[(&str, &str)]) -> Process {
        let (_, rules) = shipped("vpn-egress.rules.yml");
        let rules = changes.iter().fold(rules, |text, (from, to)| adapted(&text, from, to));
        let rules = self.write_file("adapted.rules.yml", &rules, 0o644);
        let nobody = Alertmanagers { processes: Vec::new(), addresses: Vec::new() };
        self.start_prometheus(&Self::shipped_prometheus(&nobody, &rules))
    }

    fn shipped_prometheus(alertmanagers: &Alertmanagers, rules: &Path) -> String {
        let (_, config) = shipped("prometheus.yml");
        let config = adapted(&config, "- vpn-egress.rules.yml", &format!("- {}", rules.display()));
        let targets: Vec<String> =
            alertmanagers.addresses.iter().map(|address| format!("\"{address}\"")).collect();
        adapted(&config, "\"127.0.0.1:9093\"", &targets.join(", "))
    }

    /// Names of the alerts that fire in Prometheus now.
    pub fn firing_alerts(&self) -> Vec<String> {
        self.firing_alerts_at(Self::PROMETHEUS)
    }

    fn firing_alerts_at(&self, prometheus: &str) -> Vec<String> {
        let url = format!("http://{prometheus}/api/v1/alerts");
        let Ok(response) = self.http_get(&url) else {
            return Vec::new();
        };
        let json: Value = serde_json::from_str(&response.body).unwrap_or_default();
        let alerts = json["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing
            .filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned))
            .collect()
    }

    pub(crate) fn fires_at(&self, prometheus: &str, alert: &str) -> bool {
        self.firing_alerts_at(prometheus).iter().any(|name| name == alert)
    }

    pub fn fires(&self, alert: &str) -> bool {
        self.firing_alerts().iter().any(|name| name == alert)
    }
}
