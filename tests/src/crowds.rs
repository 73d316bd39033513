//! A crowd at the webhook of this world's actuator, and what became of good notifications in it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::addresses::Ns;
use crate::process::Process;
use crate::programs::repair;
use crate::world::World;

/// All that `lab crowd` can be.
pub const CROWDS: [&str; 7] = ["none", "idle", "slow", "half", "gibibyte", "malformed", "nested"];

/// What was seen while the crowd was there.
#[derive(Debug)]
pub struct Seen {
    /// Of each good notification that was acted on, in milliseconds.
    pub took: Vec<f64>,
    /// Good notifications that were not.
    pub failed: u64,
    pub most_memory_kib: u64,
    /// Connections that the crowd made.
    pub connections: u64,
}

impl World {
    #[track_caller]
    pub fn crowd(&self, actuator: &Process, kind: &str, seconds: u64) -> Seen {
        let lab = Self::program("lab").display().to_string();
        let body = json!({"version": "4", "alerts": [repair()]}).to_string();
        let (pid, seconds) = (actuator.pid().to_string(), seconds.to_string());
        let line = [
            [lab.as_str(), "crowd", kind, "--server", "127.0.0.1:9062"].as_slice(),
            &["--pid", &pid, "--seconds", &seconds, "--body", &body],
        ]
        .concat();
        let output = self.run_within(Ns::Egress, &line, "", Duration::from_secs(120));
        let said = String::from_utf8_lossy(&output.stdout);
        let said: Value = serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("{kind}: {error}: {output:?}"));
        let took = said["took_ms"].as_array().cloned().unwrap_or_default();
        let number = |key: &str| said[key].as_u64().unwrap_or_else(|| panic!("{key}: {said}"));
        Seen {
            took: took.iter().filter_map(Value::as_f64).collect(),
            failed: number("failed"),
            most_memory_kib: number("rss_kib"),
            connections: number("made"),
        }
    }
}
