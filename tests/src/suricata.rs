//! A real Suricata inline: in the cable between the host under test and its router. Only for
//! machines that have `suricata` and `ethtool`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::addresses::{Ns, ROUTER, ROUTER_MAC, ROUTER_V6, UPLINK};
use crate::eventually::eventually;
use crate::process::Process;
use crate::topology::mac_text;
use crate::world::World;

/// Loading a few rules takes a second; the machine may be busy.
const START: Duration = Duration::from_secs(60);
/// Counters are written each second.
const COUNTED: Duration = Duration::from_secs(20);

/// What Suricata has counted since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    pub packets: u64,
    pub bytes: u64,
    /// Packets that were not forwarded.
    pub blocked: u64,
    pub alerts: u64,
    pub suppressed: u64,
}

/// A running Suricata.
pub struct Inline {
    process: Process,
    events: PathBuf,
}

impl World {
    /// Cuts the cable between host and router, and puts the namespace `wire` into the cut. Nothing
    /// gets through until a Suricata is started in it.
    #[track_caller]
    pub fn open_the_wire(&self) {
        let moved = Command::new("ip").args(["netns", "add", Ns::Wire.name()]).status();
        assert!(moved.is_ok_and(|status| status.success()), "the namespace `wire`");
        let batch = |ns, commands: &str| {
            crate::topology::ip_batch(ns, commands);
        };
        batch(
            Ns::Router,
            &format!(
                "link set lan down\nlink set lan name wire0\nlink set wire0 netns {wire}\n\
                 link add name lan address {mac} type veth peer name wire1 netns {wire}\n\
                 addr add {ROUTER}/24 dev lan\naddr add {ROUTER_V6}/64 dev lan nodad\nlink set lan up\n",
                wire = Ns::Wire,
                mac = mac_text(ROUTER_MAC)
            ),
        );
        // Not to be taken for the router by its old address.
        batch(
            Ns::Wire,
            "link set wire0 address 02:00:00:00:01:00\nlink set wire0 up promisc on\n\
             link set wire1 up promisc on\n",
        );
        // What is copied from one interface to the other has to be whole: with its checksums, and in
        // packets of the size that is on the wire.
        for (ns, device) in [(Ns::Egress, UPLINK), (Ns::Router, "lan")] {
            let off = ["tx", "off", "gso", "off", "tso", "off", "gro", "off"];
            self.exec_ok(ns, &[&["ethtool", "-K", device][..], &off].concat());
        }
    }

    /// Starts Suricata inline with these rules and this `threshold.config`.
    #[track_caller]
    pub fn start_suricata(&self, rules: &str, threshold: &str) -> Inline {
        let logs = self.scratch().join("suricata");
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs).unwrap_or_else(|error| panic!("{}: {error}", logs.display()));
        self.write_file("suricata.rules", rules, 0o644);
        self.write_file("threshold.config", threshold, 0o644);
        self.write_file("classification.config", "", 0o644);
        self.write_file("reference.config", "", 0o644);
        let config = self.write_file("suricata.yaml", &config(&self.scratch().display()), 0o644);
        let config = config.display().to_string();
        let checked = ["suricata", "-T", "-c", &config, "-l", &logs.display().to_string()];
        let output = self.run_within(Ns::Wire, &checked, "", START);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && !said.contains("rules failed, 1"),
            "suricata -T: {said}"
        );
        let line =
            ["suricata", "-c", &config, "--af-packet", "-v", "-l", &logs.display().to_string()];
        let process = self.spawn(Ns::Wire, &format!("suricata-{}", rules.len()), &line);
        eventually(START, "Suricata is in the wire", || {
            let log = process.log();
            log.contains("Engine started").then_some(()).ok_or(log)
        });
        Inline { process, events: logs.join("eve.json") }
    }

    /// Bytes that have come to Suricata from the host's side.
    #[track_caller]
    pub fn bytes_into_the_wire(&self, device: &str) -> u64 {
        let file = format!("/sys/class/net/{device}/statistics/rx_bytes");
        let text = self.exec_ok(Ns::Wire, &["cat", &file]);
        text.trim().parse().unwrap_or_else(|error| panic!("{file}: {error}: {text}"))
    }
}

impl Inline {
    /// Ends it, and what it has counted by then.
    #[track_caller]
    pub fn stop(mut self) -> Inspected {
        self.process.stop();
        eventually(COUNTED, "Suricata's last counters", || self.counted())
    }

    /// The drops that it has told of.
    pub fn drops(&self) -> usize {
        self.of_kind("drop").len()
    }

    fn counted(&self) -> Option<Inspected> {
        let last = self.of_kind("stats").pop()?;
        let stats = &last["stats"];
        let count = |path: &str| stats.pointer(path).and_then(Value::as_u64).unwrap_or_default();
        Some(Inspected {
            packets: count("/decoder/pkts"),
            bytes: count("/decoder/bytes"),
            blocked: count("/ips/blocked"),
            alerts: count("/detect/alert"),
            suppressed: count("/detect/alerts_suppressed"),
        })
    }

    fn of_kind(&self, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(&self.events).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["event_type"] == kind).collect()
    }
}

/// One thread for each direction, nothing but rules, and counters each second.
fn config(directory: &impl std::fmt::Display) -> String {
    let interface = |from: &str, to: &str, cluster: u32| {
        format!(
            "  - {{interface: {from}, copy-iface: {to}, copy-mode: ips, threads: 1, cluster-id: {cluster}, \
             cluster-type: cluster_flow, defrag: no, use-mmap: yes, ring-size: 8192}}\n"
        )
    };
    format!(
        "%YAML 1.1\n---\nvars:\n  address-groups: {{HOME_NET: '[10.0.0.0/24]', EXTERNAL_NET: any}}\n\
         default-log-dir: {directory}/suricata\noutputs:\n  - eve-log:\n      enabled: yes\n      \
         filetype: regular\n      filename: eve.json\n      types:\n        - alert\n        \
         - drop: {{alerts: yes, flows: all}}\n        - stats: {{totals: yes, threads: no}}\n\
         stats: {{enabled: yes, interval: 1}}\napp-layer: {{protocols: {{}}}}\n\
         exception-policy: ignore\nunix-command: {{enabled: no}}\n\
         default-rule-path: {directory}\nrule-files: [suricata.rules]\n\
         classification-file: {directory}/classification.config\n\
         reference-config-file: {directory}/reference.config\n\
         threshold-file: {directory}/threshold.config\naf-packet:\n{}{}",
        interface("wire0", "wire1", 98),
        interface("wire1", "wire0", 97)
    )
}
