//! `WireGuard`, as on a real host: in the kernel where it has it, else `wireguard-go`. The
//! servers' side, and the client's tunnel with the policy routing of `wg-quick`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::addresses::{
    Endpoint, FWMARK, Ns, TABLE, TUNNEL, TUNNEL_CLIENT, TUNNEL_CLIENT_V6, TUNNEL_SERVER,
    TUNNEL_SERVER_V6, UPLINK, WIREGUARD_PORT,
};
use crate::eventually::eventually;
use crate::keys::KeyPair;
use crate::process::Process;
use crate::programs::kill;
use crate::topology::{ip_batch, sysctl};
use crate::world::World;

/// Smaller than the uplink's by what a tunnelled packet carries around it.
pub(crate) const MTU: u32 = 1420;
/// How long a device may take to appear or go.
const DEVICE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Kernel,
    Userspace,
}

impl Backend {
    /// Tries it: whether the module can be loaded is only known by trying.
    pub(crate) fn detect() -> Self {
        const PROBE: &str = "wgprobe";
        let ip = |arguments: &[&str]| {
            Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
        };
        if ip(&["link", "add", PROBE, "type", "wireguard"]) {
            ip(&["link", "del", PROBE]);
            return Self::Kernel;
        }
        Self::Userspace
    }
}

/// The persistent keepalive of the client's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    seconds: u16,
}

impl Keepalive {
    pub const OFF: Self = Self { seconds: 0 };
    pub const EVERY_25_S: Self = Self { seconds: 25 };

    pub const fn every(seconds: u16) -> Self {
        Self { seconds }
    }
}

impl fmt::Display for Keepalive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seconds.fmt(f)
    }
}

/// A `WireGuard` device that exists; gone when dropped.
pub(crate) struct Device {
    ns: Ns,
    name: &'static str,
    daemon: Option<Process>,
}

impl Device {
    pub(crate) fn create(backend: Backend, ns: Ns, name: &'static str) -> Self {
        let daemon = match backend {
            Backend::Kernel => {
                ip_batch(ns, &format!("link add {name} type wireguard\n"));
                None
            }
            Backend::Userspace => {
                let mut daemon = Process::start(
                    ns,
                    &format!("wireguard-go-{name}"),
                    &["wireguard-go", "--foreground", name],
                    &[("LOG_LEVEL", "error")],
                );
                let socket = PathBuf::from(format!("/run/wireguard/{name}.sock"));
                eventually(DEVICE_LIMIT, "wireguard-go has its socket", || {
                    assert!(daemon.is_alive(), "wireguard-go ended:\n{}", daemon.log());
                    socket.exists()
                });
                Some(daemon)
            }
        };
        Self { ns, name, daemon }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        match &mut self.daemon {
            // Asked to end, it takes its device and its socket with it.
            Some(daemon) => drop(daemon.stop()),
            None => {
                // It may have been deleted by the test.
                let _ = Command::new("ip")
                    .args(["-n", self.ns.name(), "link", "del", self.name])
                    .output();
            }
        }
    }
}

impl World {
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Starts an endpoint's server with the keys it has now.
    #[track_caller]
    pub fn start_server(&mut self, endpoint: Endpoint) {
        let (ns, name) = (endpoint.ns(), endpoint.device());
        // The old one must be gone before its name is used again.
        drop(self.servers.remove(&endpoint));
        let device = Device::create(self.backend, ns, name);
        let keys = &self.keys[&endpoint];
        let preshared = preshared_line(keys.preshared.as_deref());
        let config = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {WIREGUARD_PORT}\n\
             [Peer]\nPublicKey = {}\n{preshared}AllowedIPs = {TUNNEL_CLIENT}/32, {TUNNEL_CLIENT_V6}/128\n",
            keys.server.private, keys.client.public
        );
        self.set_device_config(ns, name, &config);
        ip_batch(
            ns,
            &format!(
                "addr add {TUNNEL_SERVER}/32 dev {name}\naddr add {TUNNEL_SERVER_V6}/128 dev {name} nodad\n\
                 link set {name} mtu {MTU} up\n\
                 route add {TUNNEL_CLIENT}/32 dev {name}\nroute add {TUNNEL_CLIENT_V6}/128 dev {name}\n"
            ),
        );
        self.nft(ns, &server_rules(name));
        self.servers.insert(endpoint, device);
    }

    /// Ends an endpoint's server: its port answers no more.
    pub fn stop_server(&mut self, endpoint: Endpoint) {
        drop(self.servers.remove(&endpoint));
    }

    /// Gives the server another private key: the client's handshakes go unanswered.
    #[track_caller]
    pub fn rotate_key(&mut self, endpoint: Endpoint) {
        let wrong = KeyPair::generate();
        self.set_server_key(endpoint, &wrong.private);
    }

    /// Undoes [`World::rotate_key`].
    #[track_caller]
    pub fn restore_key(&mut self, endpoint: Endpoint) {
        let right = self.keys[&endpoint].server.private.clone();
        self.set_server_key(endpoint, &right);
    }

    /// Creates the client's device, with `endpoint` as its peer, and the policy routing.
    #[track_caller]
    pub fn create_tunnel(&mut self, endpoint: Endpoint, keepalive: Keepalive) {
        drop(self.tunnel.take());
        self.tunnel = Some(Device::create(self.backend, Ns::Egress, TUNNEL));
        self.switch_tunnel(endpoint, keepalive);
        let commands = format!(
            "addr add {TUNNEL_CLIENT}/32 dev {TUNNEL}\naddr add {TUNNEL_CLIENT_V6}/128 dev {TUNNEL} nodad\n\
             link set {TUNNEL} mtu {MTU} up\n\
             route add 0.0.0.0/0 dev {TUNNEL} table {TABLE}\nroute add ::/0 dev {TUNNEL} table {TABLE}\n"
        );
        for family in ["-4", "-6"] {
            let rules = self.exec_ok(Ns::Egress, &["ip", family, "rule", "list"]);
            if rules.contains(TABLE) {
                // They have survived the device.
                continue;
            }
            self.exec_ok(
                Ns::Egress,
                &["ip", family, "rule", "add", "not", "fwmark", FWMARK, "lookup", TABLE],
            );
            self.exec_ok(
                Ns::Egress,
                &["ip", family, "rule", "add", "lookup", "main", "suppress_prefixlength", "0"],
            );
        }
        ip_batch(Ns::Egress, &commands);
        sysctl(Ns::Egress, &[("net.ipv4.conf.all.src_valid_mark", "1")]);
    }

    /// Deletes the client's device, as a crash of `wireguard-go` or `ip link del` would.
    pub fn delete_tunnel(&mut self) {
        drop(self.tunnel.take());
    }

    /// Kills the process behind the client's device; false where the kernel is `WireGuard` itself.
    pub fn kill_wireguard(&mut self) -> bool {
        let Some(daemon) = self.tunnel.as_mut().and_then(|device| device.daemon.as_mut()) else {
            return false;
        };
        kill(daemon);
        true
    }

    /// Sends a signal to that process; false where there is none.
    pub fn signal_wireguard(&mut self, signal: Signal) -> bool {
        let daemon = self.tunnel.as_mut().and_then(|device| device.daemon.as_mut());
        daemon.map(|daemon| daemon.kill(signal)).is_some()
    }

    /// Moves the client's device to `endpoint` by hand, for tests of the lab itself and to reset.
    #[track_caller]
    pub fn switch_tunnel(&mut self, endpoint: Endpoint, keepalive: Keepalive) {
        let keys = &self.keys[&endpoint];
        let preshared = preshared_line(keys.preshared.as_deref());
        let config = format!(
            "[Interface]\nPrivateKey = {}\nFwMark = {FWMARK}\n\
             [Peer]\nPublicKey = {}\n{preshared}Endpoint = {}\nAllowedIPs = 0.0.0.0/0, ::/0\n\
             PersistentKeepalive = {keepalive}\n",
            keys.client.private,
            keys.server.public,
            endpoint.socket(),
        );
        self.set_device_config(Ns::Egress, TUNNEL, &config);
    }

    /// When the client's present peer last completed a handshake, in seconds since the epoch.
    pub fn latest_handshake(&self) -> Option<u64> {
        let table = self.exec_ok(Ns::Egress, &["wg", "show", TUNNEL, "latest-handshakes"]);
        let seconds = table.split_whitespace().nth(1)?.parse().ok()?;
        (seconds != 0).then_some(seconds)
    }

    #[track_caller]
    fn set_server_key(&mut self, endpoint: Endpoint, private: &str) {
        let file = self.write_file(&format!("{}.key", endpoint.device()), private, 0o600);
        self.exec_ok(
            endpoint.ns(),
            &["wg", "set", endpoint.device(), "private-key", &file.to_string_lossy()],
        );
        forget(&file);
    }

    #[track_caller]
    pub(crate) fn set_device_config(&self, ns: Ns, device: &str, config: &str) {
        let file = self.write_file(&format!("{device}.setconf"), config, 0o600);
        self.exec_ok(ns, &["wg", "setconf", device, &file.to_string_lossy()]);
        forget(&file);
    }
}

/// The lab's own key files must not be what a search for stray keys finds.
fn forget(file: &Path) {
    fs::remove_file(file).unwrap_or_else(|error| panic!("removing {}: {error}", file.display()));
}

pub(crate) fn preshared_line(key: Option<&str>) -> String {
    key.map_or_else(String::new, |key| format!("PresharedKey = {key}\n"))
}

/// What a provider does: forwards the client's packets under its own address.
fn server_rules(device: &str) -> String {
    format!(
        "table inet server
delete table inet server
table inet server {{
    chain gate {{ }}
    chain input {{ type filter hook input priority 0; iifname \"{device}\" jump gate; }}
    chain forward {{ type filter hook forward priority 0; iifname \"{device}\" jump gate; }}
    chain postrouting {{ type nat hook postrouting priority 100; oifname \"{UPLINK}\" ip saddr {TUNNEL_CLIENT} masquerade; oifname \"{UPLINK}\" ip6 saddr {TUNNEL_CLIENT_V6} masquerade; }}
}}
"
    )
}
