//! More than one card, and routes in more than one table.

use std::net::IpAddr;

use super::links::Port;
use super::{Carried, Families, Surroundings};
use crate::addresses::{
    EGRESS, EGRESS_SECOND, EGRESS_SECOND_V6, Ns, ROUTER, ROUTER_SECOND, ROUTER_SECOND_V6,
    ROUTER_V6, SECOND_UPLINK, UPLINK,
};
use crate::topology::{SECOND_PORT, SPARE, ip_batch};
use crate::world::World;

/// A second card with addresses, but no route beyond its network.
fn plug(world: &World) -> Surroundings {
    ip_batch(Ns::Router, &format!("link set {SPARE} netns {}\n", Ns::Egress));
    ip_batch(Ns::Router, &format!("addr add {ROUTER_SECOND_V6}/64 dev {SECOND_PORT} nodad\n"));
    ip_batch(
        Ns::Egress,
        &format!(
            "link set {SPARE} name {SECOND_UPLINK}\n\
             addr add {EGRESS_SECOND}/24 dev {SECOND_UPLINK}\n\
             addr add {EGRESS_SECOND_V6}/64 dev {SECOND_UPLINK} nodad\n\
             link set {SECOND_UPLINK} up\n"
        ),
    );
    // What is sent by the second card to an address beyond it is seen, and not only asked after.
    world.sysctl(Ns::Router, &format!("net.ipv4.conf.{SECOND_PORT}.proxy_arp"), "1");
    // Answered at once: what waits for an answer would arrive after the positive control was counted.
    world.sysctl(Ns::Router, &format!("net.ipv4.neigh.{SECOND_PORT}.proxy_delay"), "0");
    let mut plain = Surroundings::plain();
    plain.ports.push(Port::of_router(SECOND_PORT));
    plain.devices.push(SECOND_UPLINK.to_owned());
    plain.sources.extend([IpAddr::from(EGRESS_SECOND), EGRESS_SECOND_V6.into()]);
    plain.targets.extend([IpAddr::from(ROUTER_SECOND), ROUTER_SECOND_V6.into()]);
    plain.knocked.extend([IpAddr::from(EGRESS_SECOND), EGRESS_SECOND_V6.into()]);
    plain
}

/// Each card's own table, for what is sent from its address.
pub fn second_card(world: &World) -> Surroundings {
    let surroundings = plug(world);
    ip_batch(
        Ns::Egress,
        &format!(
            "route add default via {ROUTER_SECOND} dev {SECOND_UPLINK} table 200\n\
             route add default via {ROUTER_SECOND_V6} dev {SECOND_UPLINK} table 200\n\
             rule add from {EGRESS_SECOND} lookup 200 priority 200\n"
        ),
    );
    let rule = format!("rule add from {EGRESS_SECOND_V6} lookup 200 priority 200");
    let words: Vec<&str> = ["ip", "-6"].into_iter().chain(rule.split(' ')).collect();
    world.exec_ok(Ns::Egress, &words);
    surroundings
}

/// Names are asked of a resolver on the second card's network, whatever a program asks; one TCP
/// port goes there likewise.
pub fn resolver_dnat(world: &World) -> Surroundings {
    let surroundings = plug(world);
    let port = super::volley::TCP_PORT;
    world.nft(
        Ns::Egress,
        &format!(
            "table inet diverted {{
    chain output {{
        type nat hook output priority -100;
        meta protocol ip udp dport 53 dnat ip to {ROUTER_SECOND}
        meta protocol ip tcp dport {{ 53, {port} }} dnat ip to {ROUTER_SECOND}
        meta protocol ip6 udp dport 53 dnat ip6 to {ROUTER_SECOND_V6}
        meta protocol ip6 tcp dport {{ 53, {port} }} dnat ip6 to {ROUTER_SECOND_V6}
    }}
}}
"
        ),
    );
    Surroundings { carried: Carried::AllButNames, ..surroundings }
}

pub fn multipath(world: &World) -> Surroundings {
    let surroundings = plug(world);
    let script = format!(
        "ip route replace default nexthop via {ROUTER} dev {UPLINK} nexthop via {ROUTER_SECOND} dev {SECOND_UPLINK}
         ip -6 route del default
         ip -6 route add default nexthop via {ROUTER_V6} dev {UPLINK} nexthop via {ROUTER_SECOND_V6} dev {SECOND_UPLINK}"
    );
    world.exec_ok(Ns::Egress, &["sh", "-ec", &script]);
    surroundings
}

pub fn ipv6_only(world: &World) -> Surroundings {
    world.exec_ok(Ns::Egress, &["ip", "-4", "addr", "flush", "dev", UPLINK]);
    let mut surroundings = Surroundings::plain();
    surroundings.sources.retain(|source| *source != IpAddr::from(EGRESS));
    surroundings.knocked.retain(IpAddr::is_ipv6);
    Surroundings { families: Families::V6, ..surroundings }
}

/// As netplan does with policy routing: the main table has no default route.
pub fn other_table(world: &World) -> Surroundings {
    let script = format!(
        "ip route del default; ip route add default via {ROUTER} dev {UPLINK} table 100
         ip rule add lookup 100 priority 33000
         ip -6 route del default; ip -6 route add default via {ROUTER_V6} dev {UPLINK} table 100
         ip -6 rule add lookup 100 priority 33000"
    );
    world.exec_ok(Ns::Egress, &["sh", "-ec", &script]);
    Surroundings::plain()
}

/// How marks come back from the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore {
    WhereSet,
    /// A packet whose connection has no mark loses its own.
    Always,
}

/// Two providers: a connection is answered by the card it came in by.
pub fn dual_wan(world: &World, restore: Restore) -> Surroundings {
    let surroundings = plug(world);
    let condition = if restore == Restore::WhereSet { "ct mark != 0 " } else { "" };
    world.nft(
        Ns::Egress,
        &format!(
            "table inet dual_wan {{
    chain prerouting {{
        type filter hook prerouting priority mangle;
        ct state new iifname \"{UPLINK}\" ct mark set 0x1
        ct state new iifname \"{SECOND_UPLINK}\" ct mark set 0x2
    }}
    chain output {{
        type route hook output priority mangle;
        {condition}meta mark set ct mark
    }}
}}
"
        ),
    );
    let script = format!(
        "ip route add default via {ROUTER} dev {UPLINK} table 101
         ip route add default via {ROUTER_SECOND} dev {SECOND_UPLINK} table 102
         ip -6 route add default via {ROUTER_V6} dev {UPLINK} table 101
         ip -6 route add default via {ROUTER_SECOND_V6} dev {SECOND_UPLINK} table 102
         for family in -4 -6; do
         ip $family rule add fwmark 1 lookup 101 priority 101
         ip $family rule add fwmark 2 lookup 102 priority 102; done"
    );
    world.exec_ok(Ns::Egress, &["sh", "-ec", &script]);
    match restore {
        Restore::WhereSet => surroundings,
        Restore::Always => Surroundings { carried: Carried::Nothing, ..surroundings },
    }
}
