//! Which flows leaked, for people: in the evidence of a hard stop, in the log and in `status`.

use egress::config::PathConfig;
use egress::firewall::flows::Flow;
use egress::observe;
use serde::Serialize;

/// In one line of evidence; `status` shows all that are known.
const IN_EVIDENCE: usize = 4;

/// A flow, for the JSON of `status`.
#[derive(Debug, Clone, Serialize)]
pub struct LeakedFlow {
    pub protocol: String,
    pub source: String,
    pub destination: String,
    pub port: Option<u16>,
    pub devices: Vec<String>,
    pub users: Vec<u32>,
    pub macs: Vec<String>,
    pub seen_seconds_ago: u64,
    /// All of it in words.
    #[serde(skip)]
    pub words: String,
}

impl From<Flow> for LeakedFlow {
    fn from(flow: Flow) -> Self {
        Self {
            words: flow.to_string(),
            protocol: flow.protocol_name(),
            source: flow.source.to_string(),
            destination: flow.destination.to_string(),
            port: flow.port,
            devices: flow.devices,
            users: flow.users,
            macs: flow.macs.iter().map(ToString::to_string).collect(),
            seen_seconds_ago: flow.age.as_secs(),
        }
    }
}

/// The latest flows of the path that leaked, the last one first. None where they cannot be read: nothing
/// depends on them.
pub fn leaked_flows(path: &PathConfig, paths: &[PathConfig]) -> Vec<LeakedFlow> {
    match observe::leaked_flows(path, paths) {
        Ok(flows) => flows.into_iter().map(LeakedFlow::from).collect(),
        Err(why) => {
            tracing::debug!(path = %path.name, why, "no flows are named");
            Vec::new()
        }
    }
}

/// What was seen, with the latest flows that leaked.
pub fn with_flows(path: &PathConfig, paths: &[PathConfig], evidence: &str) -> String {
    let flows = leaked_flows(path, paths);
    if flows.is_empty() {
        return evidence.to_owned();
    }
    let named: Vec<&str> = flows.iter().take(IN_EVIDENCE).map(|flow| flow.words.as_str()).collect();
    let rest = match flows.len().saturating_sub(IN_EVIDENCE) {
        0 => String::new(),
        rest => format!("; and {rest} more"),
    };
    format!("{evidence}: {}{rest}", named.join("; "))
}
