//! What was measured on the way, and where to read on.

use std::time::Duration;

use super::say::seconds;

#[derive(Debug, Default)]
pub struct Measured {
    /// Packets the router saw outside the tunnel while nothing forbade them.
    pub control: u64,
    pub fault_to_flow: Option<Duration>,
    pub longest_gap: Option<Duration>,
    pub leak_to_stop: Option<Duration>,
    /// Packets the watch counted, and dropped.
    pub leaked: Option<f64>,
    /// Packets the router saw outside the tunnel from the lock to the end.
    pub outside: Option<u64>,
}

/// Where each part of what was shown is written down.
pub const FILES: [(&str, &str); 8] = [
    ("the thresholds", "alerting-rules/vpn-egress.rules.yml"),
    ("who is told, how soon", "alerting-rules/alertmanager.yml"),
    ("the decision", "actuator/src/decide.rs"),
    ("the first wall, the killswitch", "egress/src/firewall/killswitch.rs"),
    ("the second wall, the watch", "egress/src/firewall/watch.rs"),
    ("the outside observer", "tests/src/observer.rs"),
    ("the same as tests", "tests/tests/"),
    ("this demonstration", "tests/src/demo/"),
];

impl Measured {
    pub fn rows(&self) -> Vec<(String, String)> {
        let time = |time: Option<Duration>| time.map_or("not measured".to_owned(), seconds);
        let count = |count: Option<String>| count.unwrap_or_else(|| "not measured".to_owned());
        let rows = [
            ("from the fault to traffic by the backup", time(self.fault_to_flow)),
            ("longest gap of the workload, steps 1 to 4", time(self.longest_gap)),
            ("from the hole to the hard stop", time(self.leak_to_stop)),
            (
                "packets the watch counted and dropped",
                count(self.leaked.map(|packets| packets.to_string())),
            ),
            (
                "packets outside the tunnel, seen by the router since the lock",
                count(self.outside.map(|packets| packets.to_string())),
            ),
            ("the same before the lock (positive control)", self.control.to_string()),
        ];
        rows.map(|(what, value)| (what.to_owned(), value)).into()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::FILES;

    #[test]
    fn the_files_that_are_named_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (_, file) in FILES {
            assert!(root.join(file).exists(), "{file}");
        }
    }
}
