//! Other programs' rules, routes and devices.

use super::Surroundings;
use super::links::{FOREIGN_VPN_PORT, Port};
use crate::addresses::{FWMARK, Ns, UPLINK, WORLD_HOLE, WORLD_HOLE_V6};
use crate::keys::KeyPair;
use crate::topology::ip_batch;
use crate::wireguard::Device;
use crate::world::World;
use std::net::Ipv4Addr;

/// Where the other VPN's peer is; nobody else sends from there.
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

/// The split tunnel of forums: what is to go past the VPN is marked, and routed by the mark.
pub fn mark(world: &World) -> Surroundings {
    world.nft(
        Ns::Egress,
        &format!(
            "table inet excludeTraffic {{
    chain output {{
        type route hook output priority mangle;
        ip daddr {WORLD_HOLE} meta mark set 0x100
        ip6 daddr {WORLD_HOLE_V6} meta mark set 0x100
    }}
}}
"
        ),
    );
    let script =
        "for family in -4 -6; do ip $family rule add fwmark 0x100 lookup main priority 100; done";
    world.exec_ok(Ns::Egress, &["sh", "-ec", script]);
    Surroundings::plain()
}

/// Docker on the host, and the host itself as one of Docker's containers: its names are answered at
/// 127.0.0.11 from outside.
pub fn docker(world: &World) -> Surroundings {
    world.nft(Ns::Egress, include_str!("../../fixtures/firewalls/docker-29.nft"));
    Surroundings::plain()
}

/// Another VPN with an exit node: its routes are in table 52, and its rule comes before main's.
pub fn tailscale(world: &mut World) -> Surroundings {
    ip_batch(Ns::Router, &format!("addr add {PEER}/32 dev lan\n"));
    let near = KeyPair::generate();
    let far = KeyPair::generate();
    let devices = [
        (Ns::Router, "ts-far", &far, &near, String::new()),
        (
            Ns::Egress,
            "tailscale0",
            &near,
            &far,
            format!("FwMark = 0x80000\nEndpoint = {PEER}:{FOREIGN_VPN_PORT}\n"),
        ),
    ];
    let mut tunnels = Vec::new();
    for (ns, name, own, other, more) in devices {
        tunnels.push(Device::create(world.backend(), ns, name));
        let (mark, endpoint) = more.split_once('\n').unwrap_or_default();
        world.set_device_config(
            ns,
            name,
            &format!(
                "[Interface]\nPrivateKey = {}\nListenPort = {FOREIGN_VPN_PORT}\n{mark}\n\
                 [Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0, ::/0\n{endpoint}",
                own.private, other.public
            ),
        );
        ip_batch(ns, &format!("link set {name} up\n"));
    }
    ip_batch(
        Ns::Egress,
        "addr add 100.101.102.103/32 dev tailscale0\n\
         addr add fd7a:115c:a1e0::1/128 dev tailscale0 nodad\n\
         route add default dev tailscale0 table 52\nroute add ::/0 dev tailscale0 table 52\n",
    );
    // Its rules, and above them that of the VPN that is to be used: ours.
    let script = format!(
        "for family in -4 -6; do
         ip $family rule add fwmark 0x80000/0xff0000 lookup main priority 5210
         ip $family rule add fwmark {FWMARK} lookup main priority 5200
         ip $family rule add lookup 52 priority 40000; done"
    );
    world.exec_ok(Ns::Egress, &["sh", "-ec", &script]);
    let mut surroundings = Surroundings::plain();
    surroundings.ports.push(Port::of_router("ts-far"));
    surroundings.devices.push("tailscale0".into());
    surroundings.sources.push(Ipv4Addr::new(100, 101, 102, 103).into());
    surroundings.path_lines.push(format!("allow: [{PEER}/32]"));
    // Its own network is reached by its device, whatever sends.
    ip_batch(Ns::Egress, "route add 100.64.0.0/10 dev tailscale0\n");
    surroundings.targets = vec![Ipv4Addr::new(100, 100, 100, 100).into()];
    surroundings.tunnels = tunnels;
    surroundings
}

/// `ManageForeignRoutingPolicyRules=yes`, the default, at a restart of systemd-networkd.
pub fn networkd() -> Surroundings {
    Surroundings { disturbance: Some(remove_foreign), ..Surroundings::plain() }
}

fn remove_foreign(world: &World) {
    let script = format!(
        "for family in -4 -6; do
         ip $family rule | sed 's/:.*//' | while read priority; do
         case $priority in 0|32766|32767) ;; *) ip $family rule del priority $priority ;; esac; done
         ip $family route flush table {}; done; ip route show dev {UPLINK} > /dev/null",
        u32::from_str_radix(FWMARK.trim_start_matches("0x"), 16).unwrap_or_default()
    );
    world.run(Ns::Egress, &["sh", "-c", &script]);
}
