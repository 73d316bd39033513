//! Namespaces, links, addresses, routes. Everything below the tunnel.

use std::fmt::Write as _;
use std::process::Command;

use crate::addresses::{
    EGRESS, EGRESS_V6, Endpoint, Ns, ROUTER, ROUTER_MAC, ROUTER_SECOND, ROUTER_V6, UPLINK, WORLD,
    WORLD_HOLE, WORLD_V6,
};
use crate::exec::{self, COMMAND_LIMIT};
use crate::world::exec_with_input;

/// The router's port for a second uplink, and the end of its cable that nobody has plugged in.
pub const SECOND_PORT: &str = "lan2";
pub const SPARE: &str = "spare";

/// One cable: a host's `eth0` and the router's port for it.
struct Link {
    host: Ns,
    port: &'static str,
    host_addresses: Vec<String>,
    gateways: [String; 2],
}

/// Builds the five namespaces and connects them; `lan` comes up last.
pub fn build() {
    let links = links();
    create(&links);
    for ns in Ns::ALL {
        sysctl(
            ns,
            &[
                // The addresses below are unique by construction; waiting for the proof costs seconds.
                ("net.ipv6.conf.all.accept_dad", "0"),
                ("net.ipv6.conf.default.accept_dad", "0"),
                // A router port that goes down keeps its addresses for when it comes back.
                ("net.ipv6.conf.all.keep_addr_on_down", "1"),
                ("net.ipv6.conf.default.keep_addr_on_down", "1"),
            ],
        );
    }
    for ns in [Ns::Router, Ns::VpnA, Ns::VpnB] {
        sysctl(ns, &[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")]);
    }
    router(&links);
    for link in &links {
        host(link);
    }
}

/// Sets sysctls of one namespace by their files: `sysctl` is not installed everywhere.
#[track_caller]
pub fn sysctl(ns: Ns, settings: &[(&str, &str)]) {
    let mut script = String::from("set -e\n");
    for (name, value) in settings {
        let file = name.replace('.', "/");
        let _ = writeln!(script, "echo '{value}' > '/proc/sys/{file}'");
    }
    exec_with_input(ns, &["sh", "-s"], &script);
}

/// Runs `ip` commands in one namespace, all in one process.
#[track_caller]
pub fn ip_batch(ns: Ns, commands: &str) {
    exec_with_input(ns, &["ip", "-batch", "-"], commands);
}

fn links() -> [Link; 4] {
    let vpn = |endpoint: Endpoint, port| {
        let v4 = endpoint.address();
        let v6 = endpoint.address_v6();
        let [a, b, c, _] = v4.octets();
        let [n0, n1, n2, n3, ..] = v6.segments();
        Link {
            host: endpoint.ns(),
            port,
            host_addresses: vec![format!("{v4}/24"), format!("{v6}/64")],
            gateways: [format!("{a}.{b}.{c}.1"), format!("{n0:x}:{n1:x}:{n2:x}:{n3:x}::1")],
        }
    };
    [
        vpn(Endpoint::A, "va"),
        vpn(Endpoint::B, "vb"),
        Link {
            host: Ns::World,
            port: "wan",
            host_addresses: vec![
                format!("{WORLD}/24"),
                format!("{WORLD_HOLE}/24"),
                format!("{WORLD_V6}/64"),
            ],
            gateways: ["192.0.2.1".into(), "fd00:0:0:c::1".into()],
        },
        Link {
            host: Ns::Egress,
            port: "lan",
            host_addresses: vec![format!("{EGRESS}/24"), format!("{EGRESS_V6}/64")],
            gateways: [ROUTER.to_string(), ROUTER_V6.to_string()],
        },
    ]
}

fn create(links: &[Link]) {
    let mut commands = String::from("link set lo up\n");
    for ns in Ns::ALL {
        let _ = writeln!(commands, "netns add {ns}");
    }
    for Link { host, port, .. } in links {
        let mac = if *port == "lan" {
            format!("address {}", mac_text(ROUTER_MAC))
        } else {
            String::new()
        };
        let _ = writeln!(
            commands,
            "link add name {UPLINK} netns {host} type veth peer name {port} {mac} netns {}",
            Ns::Router
        );
    }
    // Not plugged in yet: both ends are the router's.
    let _ = writeln!(
        commands,
        "link add name {SPARE} netns {0} type veth peer name {SECOND_PORT} netns {0}",
        Ns::Router
    );
    ip_outside(&commands);
}

/// Runs `ip` commands that make or remove namespaces. `ip netns exec` gives each process mounts of
/// its own, so from within a namespace nobody else would see them.
#[track_caller]
pub fn ip_outside(commands: &str) {
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"]);
    let output = exec::run(ip, commands.as_bytes(), COMMAND_LIMIT)
        .unwrap_or_else(|error| panic!("cannot run ip: {error}"));
    assert!(
        output.status.success(),
        "changing the namespaces: {}\n{commands}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn router(links: &[Link]) {
    let mut commands = String::from("link set lo up\n");
    for Link { port, gateways, .. } in links {
        let [v4, v6] = gateways;
        let _ = writeln!(
            commands,
            "addr add {v4}/24 dev {port}\naddr add {v6}/64 dev {port} nodad\nlink set {port} up"
        );
    }
    let _ = writeln!(
        commands,
        "addr add {ROUTER_SECOND}/24 dev {SECOND_PORT}\nlink set {SECOND_PORT} up"
    );
    ip_batch(Ns::Router, &commands);
}

fn host(link: &Link) {
    let mut commands = String::from("link set lo up\n");
    for address in &link.host_addresses {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        let _ = writeln!(commands, "addr add {address} dev {UPLINK} {nodad}");
    }
    let _ = writeln!(commands, "link set {UPLINK} up");
    for gateway in &link.gateways {
        let _ = writeln!(commands, "route add default via {gateway} dev {UPLINK}");
    }
    ip_batch(link.host, &commands);
}

pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
