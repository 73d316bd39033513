//! Other machines that the host carries on its uplink: none of theirs is its own traffic.

use std::net::Ipv4Addr;

use super::links::GUEST_MAC;
use super::stacked::{BRIDGE, attempt, under_bridge};
use super::{Guest, NotHere, Surroundings};
use crate::addresses::{Ns, ROUTER, UPLINK};
use crate::topology::{ip_batch, ip_outside};
use crate::world::World;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);

/// A container on a macvlan network, or the device of a VM by macvtap.
pub fn macvlan(world: &World, kind: &str) -> Result<Surroundings, NotHere> {
    ip_outside(&format!("netns add {}\n", Ns::Guest));
    let add = format!(
        "link add link {UPLINK} name guest0 address {GUEST_MAC} netns {} type {kind} mode bridge",
        Ns::Guest
    );
    attempt(world, Ns::Egress, &add)?;
    address();
    Ok(Surroundings { guest: Some(Guest { address: ADDRESS }), ..Surroundings::plain() })
}

/// A VM on the bridge that is the uplink, and frames of a bridge shown to the firewall.
pub fn bridged_vm(world: &World) -> Result<Surroundings, NotHere> {
    under_bridge(world);
    ip_outside(&format!("netns add {}\n", Ns::Guest));
    ip_batch(
        Ns::Egress,
        &format!(
            "link add tap100 type veth peer name guest0 address {GUEST_MAC} netns {}\n\
             link set tap100 master {BRIDGE}\nlink set tap100 up\n",
            Ns::Guest
        ),
    );
    address();
    let call = "/proc/sys/net/bridge/bridge-nf-call-ip";
    let script = format!("echo 1 > {call}tables && echo 1 > {call}6tables");
    let output = world.run(Ns::Egress, &["sh", "-c", &script]);
    if !output.status.success() {
        return Err(NotHere("br_netfilter cannot be had".into()));
    }
    let mut surroundings = Surroundings::plain();
    surroundings.devices.insert(0, BRIDGE.to_owned());
    Ok(Surroundings { guest: Some(Guest { address: ADDRESS }), ..surroundings })
}

fn address() {
    ip_batch(
        Ns::Guest,
        &format!(
            "link set lo up\naddr add {ADDRESS}/24 dev guest0\nlink set guest0 up\n\
             route add default via {ROUTER}\n"
        ),
    );
}
