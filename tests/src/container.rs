//! A container on the host under test: a namespace behind a bridge, its traffic forwarded and
//! masqueraded by the host, as Docker does it.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::addresses::{Ns, UPLINK};
use crate::topology::{ip_batch, ip_outside};
use crate::world::World;

/// The bridge on the host.
pub const BRIDGE: &str = "br-lab";
pub const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 2);
pub const CONTAINER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x20, 0, 0, 0, 2);
pub const BRIDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);
const BRIDGE_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x20, 0, 0, 0, 1);
/// The host's end of the container's cable.
pub const PORT: &str = "veth-lab";

impl World {
    /// Makes the bridge, what Docker would load into nft for it, and starts the container.
    #[track_caller]
    pub fn add_container(&self) {
        let host = Ns::Egress;
        self.sysctl(host, "net.ipv4.ip_forward", "1");
        self.sysctl(host, "net.ipv6.conf.all.forwarding", "1");
        ip_batch(
            host,
            &format!(
                "link add {BRIDGE} type bridge\naddr add {BRIDGE_ADDRESS}/24 dev {BRIDGE}\n\
                 addr add {BRIDGE_ADDRESS_V6}/64 dev {BRIDGE} nodad\nlink set {BRIDGE} up\n"
            ),
        );
        self.masquerade_container();
        self.start_container();
    }

    /// What leaves the bridge goes under the host's address; again, where a flush took that away.
    #[track_caller]
    pub fn masquerade_container(&self) {
        self.nft(
            Ns::Egress,
            &format!(
                "table inet lab_bridge
delete table inet lab_bridge
table inet lab_bridge {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        iifname \"{BRIDGE}\" oifname != \"{BRIDGE}\" masquerade
    }}
}}\n"
            ),
        );
    }

    /// Starts the container, also again after [`World::stop_container`].
    #[track_caller]
    pub fn start_container(&self) {
        let (host, container) = (Ns::Egress, Ns::Container);
        ip_outside(&format!("netns add {container}\n"));
        ip_outside(&format!(
            "link add name {PORT} netns {host} type veth peer name {UPLINK} netns {container}\n"
        ));
        ip_batch(host, &format!("link set {PORT} master {BRIDGE} up\n"));
        self.sysctl(container, "net.ipv6.conf.all.accept_dad", "0");
        ip_batch(
            container,
            &format!(
                "link set lo up\naddr add {CONTAINER}/24 dev {UPLINK}\n\
                 addr add {CONTAINER_V6}/64 dev {UPLINK} nodad\nlink set {UPLINK} up\n\
                 route add default via {BRIDGE_ADDRESS}\nroute add default via {BRIDGE_ADDRESS_V6}\n"
            ),
        );
    }

    /// Takes the container's cable away.
    #[track_caller]
    pub fn unplug_container(&self) {
        ip_batch(Ns::Egress, &format!("link del {PORT}\n"));
    }

    /// Ends the container: its namespace, and its end of the cable with the last process in it.
    #[track_caller]
    pub fn stop_container(&self) {
        ip_batch(Ns::Egress, &format!("link del {PORT}\n"));
        ip_outside(&format!("netns del {}\n", Ns::Container));
    }
}
