//! What devices must not be named for on a host where they are something else.

use super::{World, edited};
use crate::config::{Config, Host, HostDevice, NoAddress, PathConfig};

fn device(index: u32, name: &str, kind: &str) -> HostDevice {
    let kind = (!kind.is_empty()).then(|| kind.to_owned());
    HostDevice { index, name: name.to_owned(), kind, ..HostDevice::default() }
}

/// A host whose uplink is `br0`, of two cards in a bond; with a VLAN of its own, guests, a VRF.
fn devices() -> Vec<HostDevice> {
    let port = |device: HostDevice, master: u32| HostDevice { master: Some(master), ..device };
    let on = |device: HostDevice, parent: u32| HostDevice { parent: Some(parent), ..device };
    vec![
        HostDevice { is_loopback: true, ..device(1, "loop", "") },
        port(device(2, "eth0", ""), 4),
        port(device(3, "eth1", ""), 4),
        port(device(4, "bond0", "bond"), 5),
        device(5, "br0", "bridge"),
        port(device(6, "vnet0", "tun"), 5),
        on(device(7, "mac0", "macvlan"), 5),
        on(device(8, "lab20", "vlan"), 4),
        on(device(9, "ppp-vlan", "vlan"), 10),
        HostDevice { alternative_names: vec!["enp3s0".into()], ..device(10, "eth2", "") },
        device(11, "docker0", "bridge"),
        port(on(device(12, "veth1", "veth"), 13), 11),
        on(device(13, "veth2", "veth"), 12),
        device(14, "wg7", "wireguard"),
        device(15, "tun0", "tun"),
        HostDevice { is_userspace_wireguard: true, ..device(16, "utun", "tun") },
        device(17, "blue", "vrf"),
        port(device(18, "eth3", ""), 17),
        port(device(19, "eth4", ""), 17),
    ]
}

/// What a converge says of the good file with these edits, where these devices are uplinks.
fn refusal(world: &World, yaml: &str, uplinks: &'static [&str]) -> Option<String> {
    // Whatever it does not list itself is found.
    let yaml = yaml.replace("uplinks: [eth0, eth1]", "uplinks: auto");
    let file = world.file("egress.yml", yaml, 0o644);
    let found = |_: &PathConfig| Ok(uplinks.iter().map(|name| (*name).to_owned()).collect());
    let devices = devices();
    let host = Host { devices: &devices, uplinks: &found };
    let error = Config::load_for_converge(&file, &|_, _| Err(NoAddress::NotPinned), &host).err()?;
    Config::load(&file).expect("the daemon reads it whatever the devices are");
    Some(error.to_string().replace(&format!("{}/", world.0.path().display()), ""))
}

const BRIDGE: &[&str] = &["br0"];

#[rustfmt::skip]
const REFUSED: &[(&str, &str, &[&str], &str)] = &[
    ("[docker0]", "[br0]", BRIDGE, "egress.yml:8: paths[0].allow_interfaces[0]: `br0` is an uplink; allowing it would open the lock"),
    ("[docker0]", "[docker0, bond0]", BRIDGE, "egress.yml:8: paths[0].allow_interfaces[1]: `bond0` is the bridge or bond, a port or the parent of the uplink `br0`: what leaves by it leaves this host"),
    ("[docker0]", "[eth2]", &["ppp-vlan"], "`eth2` is the bridge or bond, a port or the parent of the uplink `ppp-vlan`"),
    ("[docker0]", "[br0]", &["bond0"], "of the uplink `bond0`"),
    ("[docker0]", "[br0]", &["eth0"], "of the uplink `eth0`"),
    ("[docker0]", "[vnet0]", BRIDGE, "of the uplink `br0`"),
    ("[docker0]", "[mac0]", BRIDGE, "of the uplink `br0`"),
    ("[docker0]", "[eth1]", BRIDGE, "of the uplink `br0`"),
    ("[docker0]", "[blue]", &["eth3"], "of the uplink `eth3`"),
    ("[docker0]", "[loop]", BRIDGE, "`lo` is the loopback device, which leads nowhere; it is always allowed"),
    ("[docker0]", "[enp3s0]", BRIDGE, "egress.yml:8: paths[0].allow_interfaces[0]: `enp3s0` is another name of the device `eth2`, which no rule would match; write `eth2`"),
    ("[eth0, eth1]", "[eth0, enp3s0]", &[], "egress.yml:4: paths[0].uplinks[1]: `enp3s0` is another name of the device `eth2`"),
    ("[eth0, eth1]", "[loop]", &[], "egress.yml:4: paths[0].uplinks[0]: `lo` is the loopback device"),
    ("interface: wg0", "interface: tun0", &[], "egress.yml:3: paths[0].interface: `tun0` exists and is not a WireGuard device (tun), so the lock would let everything out by it"),
    ("interface: wg0", "interface: eth3", &[], "`eth3` exists and is not a WireGuard device (hardware)"),
    ("interface: wg0", "interface: loop", &[], "egress.yml:3: paths[0].interface: `lo` is the loopback device"),
    ("workload: host", "workload: {interfaces: [eth4]}", &["eth4"], "egress.yml:6: paths[0].workload.interfaces[0]: `eth4` is an uplink"),
    ("workload: host", "workload: {interfaces: [docker0, veth1]}", BRIDGE, "egress.yml:6: paths[0].workload.interfaces[1]: `veth1` is a port of `docker0`, and its traffic enters by that"),
    ("workload: host", "workload: {interfaces: [loop]}", BRIDGE, "`lo` is the loopback device"),
    ("workload: host", "workload: {interfaces: [enp3s0]}", BRIDGE, "`enp3s0` is another name of the device `eth2`"),
];

#[rustfmt::skip]
const ACCEPTED: &[(&str, &str, &[&str])] = &[
    ("[docker0]", "[docker0]", BRIDGE),
    ("[docker0]", "[veth2]", BRIDGE),
    ("[docker0]", "[not-there]", BRIDGE),
    ("[docker0]", "[lab20]", BRIDGE),
    ("[docker0]", "[eth4]", &["eth3"]),
    ("[docker0]", "[veth1]", &["veth2"]),
    ("interface: wg0", "interface: wg7", &[]),
    ("interface: wg0", "interface: utun", &[]),
    ("workload: host", "workload: {interfaces: [docker0]}", BRIDGE),
    ("workload: host", "workload: {interfaces: [eth4]}", BRIDGE),
];

#[test]
fn s1_a_device_that_leads_out_is_never_let_through() {
    let world = World::new();
    for (from, to, uplinks, want) in REFUSED {
        let got = refusal(&world, &edited(from, to), uplinks);
        let got = got.unwrap_or_else(|| panic!("{to} was accepted with {uplinks:?}"));
        assert!(got.contains(want), "{to}\nwant: {want}\ngot:  {got}");
    }
    for (from, to, uplinks) in ACCEPTED {
        let got = refusal(&world, &edited(from, to), uplinks);
        assert_eq!(got, None, "{to} with {uplinks:?}");
    }
}
