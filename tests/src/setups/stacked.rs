//! Uplinks that are devices on top of a card. Programs may bind to either.

use std::fmt::Write as _;

use super::links::Port;
use super::{NotHere, Surroundings};
use crate::addresses::{EGRESS, EGRESS_V6, Ns, ROUTER, ROUTER_V6, UPLINK};
use crate::eventually::eventually;
use crate::topology::ip_batch;
use crate::world::World;

/// Of the VLAN.
const VLAN_ID: u16 = 7;
/// How long a dial-up may take on a busy machine.
const DIALLED: std::time::Duration = std::time::Duration::from_secs(30);

/// Runs `ip` where the kernel may lack the kind of device.
pub(super) fn attempt(world: &World, ns: Ns, line: &str) -> Result<(), NotHere> {
    let words: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
    let output = world.run(ns, &words);
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(NotHere(format!("ip {line}: {}", why.trim())))
}

/// Moves the host's addresses and default routes from the card to `upper`.
fn readdress(upper: &str) {
    let mut commands = String::new();
    let _ = write!(
        commands,
        "addr add {EGRESS}/24 dev {upper}\naddr add {EGRESS_V6}/64 dev {upper} nodad\n\
         link set {UPLINK} up\nlink set {upper} up\n\
         route add default via {ROUTER} dev {upper}\nroute add default via {ROUTER_V6} dev {upper}\n"
    );
    ip_batch(Ns::Egress, &commands);
}

/// The surroundings of a host whose uplink is `upper` on the card.
fn on_top(upper: &str) -> Surroundings {
    let mut plain = Surroundings::plain();
    plain.devices.insert(0, upper.to_owned());
    plain
}

pub const BRIDGE: &str = "vmbr0";

pub fn bridge(world: &World) -> Surroundings {
    under_bridge(world);
    on_top(BRIDGE)
}

/// The card becomes a port of a bridge that has the host's addresses.
pub(super) fn under_bridge(world: &World) {
    unaddress(world);
    ip_batch(
        Ns::Egress,
        &format!("link add {BRIDGE} type bridge\nlink set {UPLINK} master {BRIDGE}\n"),
    );
    readdress(BRIDGE);
}

pub fn bond(world: &World) -> Result<Surroundings, NotHere> {
    attempt(world, Ns::Egress, "link add bond0 type bond mode active-backup miimon 100")?;
    unaddress(world);
    ip_batch(Ns::Egress, &format!("link set {UPLINK} down\nlink set {UPLINK} master bond0\n"));
    readdress("bond0");
    Ok(on_top("bond0"))
}

pub fn vlan(world: &World) -> Result<Surroundings, NotHere> {
    let upper = format!("{UPLINK}.{VLAN_ID}");
    let add = |device: &str, name: &str| {
        format!("link add link {device} name {name} type vlan id {VLAN_ID}")
    };
    attempt(world, Ns::Egress, &add(UPLINK, &upper))?;
    unaddress(world);
    ip_batch(
        Ns::Router,
        &format!(
            "{}\naddr del {ROUTER}/24 dev lan\naddr del {ROUTER_V6}/64 dev lan\n\
             addr add {ROUTER}/24 dev lan.{VLAN_ID}\naddr add {ROUTER_V6}/64 dev lan.{VLAN_ID} nodad\n\
             link set lan.{VLAN_ID} up\n",
            add("lan", &format!("lan.{VLAN_ID}"))
        ),
    );
    readdress(&upper);
    Ok(on_top(&upper))
}

/// A dial-up by `pppd` on both sides; the observer sits where the session's packets come out.
pub fn pppoe(world: &mut World) -> Result<Surroundings, NotHere> {
    for tool in ["pppd", "pppoe-server"] {
        if crate::preflight::find(tool).is_none() {
            return Err(NotHere(format!("{tool} is not installed")));
        }
    }
    if !std::path::Path::new("/dev/ppp").exists() {
        return Err(NotHere("this kernel has no PPP".into()));
    }
    unaddress(world);
    ip_batch(
        Ns::Router,
        &format!("addr del {ROUTER}/24 dev lan\naddr del {ROUTER_V6}/64 dev lan\n"),
    );
    let options = world.write_file(
        "pppoe-server-options",
        "noauth\nlcp-echo-interval 0\nmtu 1492\nmru 1492\n+ipv6\nnoccp\nnovj\nnodefaultroute\n",
        0o600,
    );
    let address = (ROUTER.to_string(), EGRESS.to_string());
    let server = [
        "pppoe-server",
        "-F",
        "-I",
        "lan",
        "-L",
        &address.0,
        "-R",
        &address.1,
        "-N",
        "1",
        "-O",
        &options.to_string_lossy(),
    ];
    let mut processes = vec![world.spawn(Ns::Router, "pppoe-server", &server)];
    let client = [
        "pppd",
        "plugin",
        "pppoe.so",
        "nic-eth0",
        "noauth",
        "nodetach",
        "+ipv6",
        "noccp",
        "novj",
        "mtu",
        "1492",
        "mru",
        "1492",
        "ifname",
        "ppp0",
        "nodefaultroute",
        "noipdefault",
    ];
    processes.push(world.spawn(Ns::Egress, "pppd", &client));
    eventually(DIALLED, "the dial-up is there", || {
        let shown = world.run(Ns::Egress, &["ip", "-4", "addr", "show", "dev", "ppp0"]);
        let there = String::from_utf8_lossy(&shown.stdout).contains(&address.1);
        if there {
            Ok(())
        } else {
            Err(processes.iter().map(crate::Process::log).collect::<String>())
        }
    });
    ip_batch(
        Ns::Egress,
        &format!(
            "addr add {EGRESS_V6}/64 dev ppp0 nodad\nroute add default dev ppp0\nroute add ::/0 dev ppp0\n"
        ),
    );
    ip_batch(Ns::Router, &format!("addr add {ROUTER_V6}/64 dev ppp0 nodad\n"));
    let mut surroundings = on_top("ppp0");
    surroundings.ports.push(Port::of_router("ppp0"));
    surroundings.processes = processes;
    Ok(surroundings)
}

/// Takes the host's addresses and default routes from the card.
fn unaddress(world: &World) {
    let script = format!(
        "ip addr flush dev {UPLINK}; ip -6 route flush default; ip -4 route flush default; true"
    );
    world.exec_ok(Ns::Egress, &["sh", "-c", &script]);
}
