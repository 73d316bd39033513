//! The config of the programs under test, for this world.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::addresses::{
    Endpoint, FWMARK, SECOND_FWMARK, SECOND_TUNNEL, TUNNEL, TUNNEL_CLIENT, TUNNEL_CLIENT_V6,
    TUNNEL_SERVER,
};
use crate::world::World;

/// What a test may want different; the default is what the project ships, times as in YAML.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    pub interval: String,
    pub handshake_stale_after: String,
    pub settle: String,
    pub standby_interval: String,
    pub probe_timeout: String,
    pub workload: String,
    /// Endpoints in the order they are written.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that nobody answers at, after the others.
    pub extra_endpoints: Vec<SocketAddr>,
    /// Lines added to the path, such as `management: [10.0.0.1]`.
    pub path_lines: Vec<String>,
    /// Lines added at the end of the file, at its top level.
    pub top_lines: Vec<String>,
}

impl EgressConfig {
    /// Quick cycles, so that a test waits for events and not for intervals.
    pub fn quick() -> Self {
        Self {
            interval: "1s".into(),
            probe_timeout: "500ms".into(),
            settle: "1s".into(),
            standby_interval: "1s".into(),
            ..Self::default()
        }
    }
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            interval: "5s".into(),
            handshake_stale_after: "180s".into(),
            settle: "10s".into(),
            standby_interval: "30s".into(),
            probe_timeout: "2s".into(),
            workload: "host".into(),
            endpoints: Endpoint::ALL.to_vec(),
            extra_endpoints: Vec::new(),
            path_lines: Vec::new(),
            top_lines: Vec::new(),
        }
    }
}

impl World {
    /// Writes `/run/lab/egress.yml` and the key files it names: path `media`, endpoint `primary`
    /// by a `wg-quick` file, `backup` inline.
    #[track_caller]
    pub fn write_config(&self, config: &EgressConfig) -> PathBuf {
        let mut yaml = format!(
            "paths:\n  - name: media\n    interface: {TUNNEL}\n    uplinks: auto\n    fwmark: {FWMARK}\n    workload: {}\n    endpoints:\n",
            config.workload
        );
        for endpoint in &config.endpoints {
            match endpoint {
                Endpoint::A => self.primary(&mut yaml),
                Endpoint::B => self.backup(&mut yaml),
            }
        }
        for (number, address) in config.extra_endpoints.iter().enumerate() {
            self.inline(&mut yaml, &format!("extra-{number}"), *address);
        }
        let _ = write!(
            yaml,
            "    health:\n      interval: {}\n      handshake_stale_after: {}\n      settle: {}\n      standby_interval: {}\n      probe: {{target: {TUNNEL_SERVER}, timeout: {}}}\n",
            config.interval,
            config.handshake_stale_after,
            config.settle,
            config.standby_interval,
            config.probe_timeout
        );
        for line in &config.path_lines {
            let _ = writeln!(yaml, "    {line}");
        }
        for line in &config.top_lines {
            let _ = writeln!(yaml, "{line}");
        }
        self.write_file("egress.yml", &yaml, 0o644)
    }

    /// Edits `egress.yml` as a person would: a text that is there becomes another.
    #[track_caller]
    pub fn edit_config(&self, from: &str, to: &str) {
        let file = self.scratch().join("egress.yml");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(text.contains(from), "`{from}` is not in {text}");
        self.write_file("egress.yml", &text.replace(from, to), 0o644);
    }

    /// An endpoint with the backup's keys at another address, as lines of the config.
    pub fn backup_at(&self, name: &str, address: &str) -> String {
        let mut yaml = String::new();
        self.backup(&mut yaml);
        yaml.replace("name: backup", &format!("name: {name}"))
            .replace(&Endpoint::B.socket().to_string(), &format!("\"{address}\""))
    }

    /// A second path for [`EgressConfig::top_lines`]: `work`, by endpoint B and the second tunnel.
    #[track_caller]
    pub fn second_path_lines(&self, workload: &str) -> Vec<String> {
        let mut yaml = format!(
            "  - name: work\n    interface: {SECOND_TUNNEL}\n    fwmark: {SECOND_FWMARK}\n    \
             workload: {workload}\n    health: {{interval: 1s, settle: 1s, \
             probe: {{target: {TUNNEL_SERVER}, timeout: 500ms}}}}\n    endpoints:\n"
        );
        self.backup(&mut yaml);
        yaml.lines().map(str::to_owned).collect()
    }

    fn primary(&self, yaml: &mut String) {
        let keys = &self.keys[&Endpoint::A];
        let file = self.write_file(
            "a.conf",
            &format!(
                "[Interface]\nPrivateKey = {}\nAddress = {TUNNEL_CLIENT}/32, {TUNNEL_CLIENT_V6}/128\n\n\
                 [Peer]\nPublicKey = {}\nEndpoint = {}\nAllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 25\n",
                keys.client.private,
                keys.server.public,
                Endpoint::A.socket()
            ),
            0o600,
        );
        let _ = writeln!(
            yaml,
            "      - {{name: {}, wg_quick: {}}}",
            Endpoint::A.name(),
            file.display()
        );
    }

    fn backup(&self, yaml: &mut String) {
        self.inline(yaml, Endpoint::B.name(), Endpoint::B.socket());
    }

    /// With the backup's keys.
    fn inline(&self, yaml: &mut String, name: &str, address: SocketAddr) {
        let keys = &self.keys[&Endpoint::B];
        let private = self.write_file("b.key", &keys.client.private, 0o600);
        let _ = write!(
            yaml,
            "      - name: {}\n        address: {}\n        public_key: {}\n        private_key_file: {}\n",
            name,
            address,
            keys.server.public,
            private.display()
        );
        if let Some(preshared) = &keys.preshared {
            let file = self.write_file("b.psk", preshared, 0o600);
            let _ = writeln!(yaml, "        preshared_key_file: {}", file.display());
        }
    }
}

impl World {
    /// In the config that was written last, the servers are named by their IPv6 addresses.
    #[track_caller]
    pub fn name_servers_by_v6(&self) {
        for endpoint in Endpoint::ALL {
            let from = endpoint.socket().to_string();
            let to = format!("[{}]:{}", endpoint.address_v6(), endpoint.socket().port());
            match endpoint {
                Endpoint::A => {
                    let file = self.scratch().join("a.conf");
                    let conf = std::fs::read_to_string(&file)
                        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                    self.write_file("a.conf", &conf.replace(&from, &to), 0o600);
                }
                Endpoint::B => self.edit_config(&from, &format!("\"{to}\"")),
            }
        }
    }
}
