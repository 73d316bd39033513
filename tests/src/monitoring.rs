//! The real Prometheus and Alertmanager, on the loopback of the host under test.

use std::time::Duration;

use serde_json::Value;

use crate::addresses::Ns;
use crate::eventually::eventually;
use crate::preflight;
use crate::process::Process;
use crate::world::World;

/// How long either may take to be ready on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// One Alertmanager, or two in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    One,
    Two,
}

/// Running Alertmanagers and where they listen.
pub struct Alertmanagers {
    pub processes: Vec<Process>,
    /// `127.0.0.1:9093`, and `127.0.0.1:9095` for a second one.
    pub addresses: Vec<String>,
}

impl World {
    pub const PROMETHEUS: &str = "127.0.0.1:9090";
    pub const SECOND_PROMETHEUS: &str = "127.0.0.1:9091";

    /// Starts Prometheus with this config and waits until it is ready. Its data is on the tmpfs.
    #[track_caller]
    pub fn start_prometheus(&self, config: &str) -> Process {
        self.start_prometheus_as("prometheus", Self::PROMETHEUS, config)
    }

    /// The same under a name and an address of its own.
    #[track_caller]
    pub fn start_prometheus_as(&self, name: &str, address: &str, config: &str) -> Process {
        let file = self.write_file(&format!("{name}.yml"), config, 0o644);
        let data = self.scratch().join(name);
        let mut process = self.spawn(
            Ns::Egress,
            name,
            &[
                find(&["prometheus"], "prometheus"),
                &format!("--config.file={}", file.display()),
                &format!("--storage.tsdb.path={}", data.display()),
                &format!("--web.listen-address={address}"),
                "--web.enable-lifecycle",
                // As `prometheus.yml` tells its users: an alert that fired before Alertmanager was
                // found is told again at once, not in a minute.
                "--rules.alert.resend-delay=10s",
            ],
        );
        self.await_ready(&mut process, address);
        process
    }

    /// Starts one or two Alertmanagers with this config; two have found each other on return.
    #[track_caller]
    pub fn start_alertmanager(&self, config: &str, instances: Instances) -> Alertmanagers {
        let program = find(&["prometheus-alertmanager", "alertmanager"], "prometheus-alertmanager");
        let file = self.write_file("alertmanager.yml", config, 0o644);
        let ports: &[(u16, u16)] = match instances {
            Instances::One => &[(9093, 0)],
            Instances::Two => &[(9093, 9094), (9095, 9096)],
        };
        let mut running = Alertmanagers { processes: Vec::new(), addresses: Vec::new() };
        for (index, (web, cluster)) in ports.iter().enumerate() {
            let address = format!("127.0.0.1:{web}");
            let data = self.scratch().join(format!("alertmanager-{index}"));
            let mut arguments = vec![
                format!("--config.file={}", file.display()),
                format!("--storage.path={}", data.display()),
                format!("--web.listen-address={address}"),
            ];
            match instances {
                Instances::One => arguments.push("--cluster.listen-address=".into()),
                Instances::Two => {
                    arguments.push(format!("--cluster.listen-address=127.0.0.1:{cluster}"));
                    arguments.push(format!("--cluster.advertise-address=127.0.0.1:{cluster}"));
                    arguments.push("--cluster.peer=127.0.0.1:9094".into());
                }
            }
            let argv: Vec<_> =
                std::iter::once(program).chain(arguments.iter().map(String::as_str)).collect();
            let mut process = self.spawn(Ns::Egress, &format!("alertmanager-{index}"), &argv);
            self.await_ready(&mut process, &address);
            running.processes.push(process);
            running.addresses.push(address);
        }
        if instances == Instances::Two {
            for address in &running.addresses {
                self.await_cluster(address, ports.len());
            }
        }
        running
    }

    /// What Prometheus answers to an instant query: labels and value of each series.
    pub fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let url = format!("http://{}/api/v1/query?query={}", Self::PROMETHEUS, escaped(expression));
        let Ok(response) = self.http_get(&url) else {
            return Vec::new();
        };
        let json: Value = serde_json::from_str(&response.body).unwrap_or_default();
        let series = json["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |one: &Value| one["value"][1].as_str()?.parse().ok();
        series.iter().filter_map(|one| Some((one["metric"].clone(), value(one)?))).collect()
    }

    #[track_caller]
    fn await_ready(&self, process: &mut Process, address: &str) {
        let what = format!("{} is ready", process.name());
        eventually(READY, &what, || {
            assert!(process.is_alive(), "{}", process.log());
            self.http_get(&format!("http://{address}/-/ready"))
                .and_then(|response| (response.status == 200).then_some(()).ok_or(response.body))
        });
    }

    #[track_caller]
    fn await_cluster(&self, address: &str, members: usize) {
        eventually(READY, "the Alertmanagers form a cluster", || {
            let response = self.http_get(&format!("http://{address}/api/v2/status"))?;
            let json: Value =
                serde_json::from_str(&response.body).map_err(|error| error.to_string())?;
            let cluster = &json["cluster"];
            let peers = cluster["peers"].as_array().map_or(0, Vec::len);
            if peers == members && cluster["status"] == "ready" {
                Ok(())
            } else {
                Err(cluster.to_string())
            }
        });
    }
}

fn find(names: &[&'static str], package: &str) -> &'static str {
    names.iter().find(|name| preflight::find(name).is_some()).unwrap_or_else(|| {
        panic!(
            "{} is not found; on Debian and Ubuntu: apt-get install {package}",
            names.join(" or ")
        )
    })
}

/// For a query in a URL (RFC 3986).
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let one = |byte: u8| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(one).collect()
}
