//! Workloads that are less than a host, on the host under test: other users, cgroups, a container;
//! and the tunnel of a second path.

use std::fs;
use std::path::Path;

use crate::addresses::{
    Endpoint, Ns, SECOND_FWMARK, SECOND_TABLE, SECOND_TUNNEL, TUNNEL_CLIENT, TUNNEL_CLIENT_V6,
};
use crate::container::BRIDGE;
use crate::leaks::{Attempts, Leak};
use crate::topology::ip_batch;
use crate::wireguard::{Device, MTU, preshared_line};
use crate::world::World;

/// `ip netns exec` mounts a `/sys` of its own, without the cgroups.
pub(crate) const WITH_CGROUPS: &str = "mount -t cgroup2 none /sys/fs/cgroup";

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender<'a> {
    Root,
    /// By number.
    User(u32),
    /// Root in this cgroup, by its path.
    Cgroup(&'a str),
    Container,
}

impl World {
    /// Whether another user can be had here; where not, says what was not shown.
    pub fn has_users(&self) -> bool {
        self.shown("users", &["setpriv", "--reuid=1000", "--clear-groups", "true"])
    }

    /// Lets our programs see cgroups; where there can be none, says what was not shown. The cgroup
    /// is made with it, and is to be removed by [`World::remove_cgroup`].
    pub fn mount_cgroups(&mut self, name: &str) -> bool {
        let script = format!("{WITH_CGROUPS} && mkdir -p /sys/fs/cgroup/{name}");
        if !self.shown("cgroups", &["sh", "-c", &script]) {
            return false;
        }
        let script = format!("{WITH_CGROUPS} && exec \"$@\"");
        self.before_programs = ["sh", "-c", &script, "sh"].map(str::to_owned).into();
        true
    }

    /// Our programs are started by these words from now on.
    pub fn run_programs_by(&mut self, words: &[&str]) {
        self.before_programs = words.iter().map(|&word| word.to_owned()).collect();
    }

    fn shown(&self, what: &str, attempt: &[&str]) -> bool {
        let output = self.run(Ns::Egress, attempt);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            println!("NOT SHOWN: {what} cannot be had here, run it as root: {}", why.trim());
        }
        output.status.success()
    }

    /// Again, as a service's cgroup that was stopped and started: another id by the same name.
    #[track_caller]
    pub fn recreate_cgroup(&self, name: &str) {
        let path = format!("/sys/fs/cgroup/{name}");
        let script = format!("{WITH_CGROUPS} && rmdir {path} && mkdir {path}");
        self.exec_ok(Ns::Egress, &["sh", "-c", &script]);
    }

    #[track_caller]
    pub fn remove_cgroup(&self, name: &str) {
        let script = format!("{WITH_CGROUPS} && rmdir /sys/fs/cgroup/{name}");
        self.exec_ok(Ns::Egress, &["sh", "-c", &script]);
    }

    /// Sends packets of a kind by `device`, which for a container is its own.
    #[track_caller]
    pub fn send_as(&self, sender: Sender, kind: Leak, count: u32, more: &[&str]) -> Attempts {
        let lab = self.program_for_all("lab");
        let (kind, count) = (kind.name(), count.to_string());
        let mut line: Vec<&str> = vec![&lab, "leak", "--kind", &kind, "--count", &count];
        line.extend(more);
        let (script, user);
        let before: Vec<&str> = match sender {
            Sender::Root | Sender::Container => Vec::new(),
            Sender::User(uid) => {
                user = [format!("--reuid={uid}"), format!("--regid={uid}")];
                vec!["setpriv", &user[0], &user[1], "--clear-groups", "--inh-caps=-all"]
            }
            Sender::Cgroup(name) => {
                let procs = format!("/sys/fs/cgroup/{name}/cgroup.procs");
                script = format!("{WITH_CGROUPS} && echo $$ > {procs} && exec \"$@\"");
                vec!["sh", "-c", &script, "sh"]
            }
        };
        let ns = if sender == Sender::Container { Ns::Container } else { Ns::Egress };
        Attempts::parse(&self.exec_ok(ns, &[before, line].concat()))
    }

    /// Where every user may run it.
    pub fn program_for_all(&self, name: &str) -> String {
        let copy = self.scratch().join(name);
        if !Path::new(&copy).exists() {
            fs::copy(Self::program(name), &copy)
                .unwrap_or_else(|error| panic!("copying {name}: {error}"));
        }
        copy.display().to_string()
    }

    /// A second tunnel, by endpoint B, with a mark and a routing table of its own. What enters by
    /// the bridge is routed into it.
    #[track_caller]
    pub fn create_second_tunnel(&mut self) {
        let device = Device::create(self.backend(), Ns::Egress, SECOND_TUNNEL);
        let keys = &self.keys[&Endpoint::B];
        let preshared = preshared_line(keys.preshared.as_deref());
        let config = format!(
            "[Interface]\nPrivateKey = {}\nFwMark = {SECOND_FWMARK}\n\
             [Peer]\nPublicKey = {}\n{preshared}Endpoint = {}\nAllowedIPs = 0.0.0.0/0, ::/0\n\
             PersistentKeepalive = 25\n",
            keys.client.private,
            keys.server.public,
            Endpoint::B.socket(),
        );
        self.set_device_config(Ns::Egress, SECOND_TUNNEL, &config);
        ip_batch(
            Ns::Egress,
            &format!(
                "addr add {TUNNEL_CLIENT}/32 dev {SECOND_TUNNEL}\n\
                 addr add {TUNNEL_CLIENT_V6}/128 dev {SECOND_TUNNEL} nodad\n\
                 link set {SECOND_TUNNEL} mtu {MTU} up\n\
                 route add 0.0.0.0/0 dev {SECOND_TUNNEL} table {SECOND_TABLE}\n\
                 route add ::/0 dev {SECOND_TUNNEL} table {SECOND_TABLE}\n\
                 rule add fwmark {SECOND_FWMARK} lookup main priority 90\n\
                 rule add iif {BRIDGE} lookup main suppress_prefixlength 0 priority 91\n\
                 rule add iif {BRIDGE} lookup {SECOND_TABLE} priority 92\n"
            ),
        );
        self.second_tunnel = Some(device);
    }

    /// How a path stands, by its name.
    #[track_caller]
    pub fn standing(&self, path: &str) -> String {
        let said = self.actuator(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&said.out)
            .unwrap_or_else(|error| panic!("status is no JSON: {error}: {said:?}"));
        let paths = status["paths"].as_array().cloned().unwrap_or_default();
        let found = paths.iter().find(|one| one["path"] == path);
        found.and_then(|one| one["standing"].as_str()).unwrap_or_default().to_owned()
    }

    /// A path's state file is gone: a daemon cuts the path.
    #[track_caller]
    pub fn lose_state(&self, path: &str) {
        let file = self.scratch().join(format!("state/{path}.json"));
        fs::remove_file(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
