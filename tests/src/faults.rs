//! What can go wrong in the world, one method per fault, each with its mend.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::addresses::{Endpoint, NAMES_PORT, Ns, ROUTER, UPLINK};
use crate::eventually::eventually;
use crate::world::World;

/// How long the kernel may take to notice that a link changed.
const LINK_LIMIT: Duration = Duration::from_secs(5);

/// Of a tunnel packet, with what is around it.
const LARGEST_THAT_PASSES: u32 = 1280;

/// Which way of an endpoint's packets is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Both,
    /// What the server sends does not arrive.
    FromServer,
    /// What is sent to the server does not arrive.
    ToServer,
}

impl World {
    /// The router drops everything to or from an endpoint's address.
    #[track_caller]
    pub fn blackhole(&self, endpoint: Endpoint, direction: Direction) {
        let address = endpoint.address();
        let to = format!("ip daddr {address} drop");
        let from = format!("ip saddr {address} drop");
        let rules = match direction {
            Direction::Both => vec![to, from],
            Direction::ToServer => vec![to],
            Direction::FromServer => vec![from],
        };
        self.set_fault(endpoint, &rules);
    }

    /// The router drops an endpoint's `WireGuard` port only: it still answers a ping. What an IPS
    /// does that blocks by address and port.
    #[track_caller]
    pub fn block_port(&self, endpoint: Endpoint) {
        let (address, port) = (endpoint.address(), endpoint.socket().port());
        self.set_fault(
            endpoint,
            &[
                format!("ip daddr {address} udp dport {port} drop"),
                format!("ip saddr {address} udp sport {port} drop"),
            ],
        );
    }

    /// The router drops an endpoint's large packets, and tells nobody: a path of which a part carries
    /// less than it should. Handshakes, pings and small packets pass.
    #[track_caller]
    pub fn drop_large(&self, endpoint: Endpoint) {
        let address = endpoint.address();
        let large = format!("ip length > {LARGEST_THAT_PASSES} drop");
        let rules = ["daddr", "saddr"].map(|way| format!("ip {way} {address} {large}"));
        self.set_fault(endpoint, &rules);
    }

    /// The server forwards all but name lookups.
    #[track_caller]
    pub fn drop_names(&self, endpoint: Endpoint) {
        let rule = format!(
            "add rule inet server gate meta l4proto {{ tcp, udp }} th dport {NAMES_PORT} drop"
        );
        self.nft(endpoint.ns(), &rule);
    }

    /// The router drops the present flow to an endpoint only: a new socket gets through. What an
    /// IPS does that blocks by flow. `source_port` is the tunnel's, as in `wg show wg0 listen-port`.
    #[track_caller]
    pub fn block_flow(&self, endpoint: Endpoint, source_port: u16) {
        let address = endpoint.address();
        self.set_fault(
            endpoint,
            &[
                format!("ip daddr {address} udp sport {source_port} drop"),
                format!("ip saddr {address} udp dport {source_port} drop"),
            ],
        );
    }

    /// Ends every fault the router has for an endpoint.
    #[track_caller]
    pub fn heal(&self, endpoint: Endpoint) {
        self.set_fault(endpoint, &[]);
    }

    /// Whether the server forwards what comes out of the tunnel. Without it the peer lives (it
    /// answers handshakes and keepalives), but no ping in the tunnel and nothing behind it does.
    #[track_caller]
    pub fn server_forwards(&self, endpoint: Endpoint, forwards: bool) {
        let rule = if forwards { "" } else { "add rule inet server gate drop" };
        self.nft(endpoint.ns(), &format!("flush chain inet server gate\n{rule}\n"));
    }

    /// The server loses three of four questions that come out of the tunnel.
    #[track_caller]
    pub fn lose_three_of_four(&self, endpoint: Endpoint) {
        let questions = ["icmp type echo-request", "udp dport 53", "tcp flags & (syn|ack) == syn"];
        for question in questions {
            let rule = format!("add rule inet server gate {question} numgen inc mod 4 < 3 drop");
            self.nft(endpoint.ns(), &rule);
        }
    }

    /// The router's end of the uplink goes down: the host sees no carrier.
    #[track_caller]
    pub fn uplink_down(&self) {
        self.exec_ok(Ns::Router, &["ip", "link", "set", "lan", "down"]);
        self.await_carrier("0");
    }

    #[track_caller]
    pub fn uplink_up(&self) {
        self.exec_ok(Ns::Router, &["ip", "link", "set", "lan", "up"]);
        self.await_carrier("1");
    }

    /// Deletes one of the host's nft tables.
    #[track_caller]
    pub fn delete_table(&self, family: &str, name: &str) {
        self.exec_ok(Ns::Egress, &["nft", "delete", "table", family, name]);
    }

    /// What `systemctl restart nftables` does first.
    #[track_caller]
    pub fn flush_ruleset(&self) {
        self.exec_ok(Ns::Egress, &["nft", "flush", "ruleset"]);
    }

    /// Makes the host leak unless somebody stops it: the killswitch accepts everything to
    /// `target`, first of all its rules, and the route to `target` goes by the uplink.
    #[track_caller]
    pub fn punch_hole(&self, target: Ipv4Addr) {
        let hole =
            |chain| format!("insert rule inet vpn_egress {chain} ip daddr {target} accept\n");
        self.nft(Ns::Egress, &["output", "forward"].map(hole).concat());
        // Where the killswitch is ours, the verdict is taken in this one.
        self.run(Ns::Egress, &["nft", &hole("leaving")]);
        self.route_outside(target);
    }

    /// The route alone, without the hole: the killswitch has to stop what follows it.
    #[track_caller]
    pub fn route_outside(&self, target: Ipv4Addr) {
        self.exec_ok(
            Ns::Egress,
            &[
                "ip",
                "route",
                "replace",
                &format!("{target}/32"),
                "via",
                &ROUTER.to_string(),
                "dev",
                UPLINK,
            ],
        );
    }

    /// Undoes [`World::route_outside`].
    #[track_caller]
    pub fn unroute_outside(&self, target: Ipv4Addr) {
        self.exec_ok(Ns::Egress, &["ip", "route", "del", &format!("{target}/32"), "dev", UPLINK]);
    }

    /// A server's packets come from another address of its network than they are sent to.
    #[track_caller]
    pub fn answer_from(&self, endpoint: Endpoint, address: &str) {
        let port = endpoint.socket().port();
        let rules = format!(
            "table ip elsewhere {{
    chain out {{
        type filter hook postrouting priority 300;
        udp sport {port} oifname \"{UPLINK}\" ip saddr set {address};
    }}
}}
"
        );
        self.nft(endpoint.ns(), &rules);
    }

    /// Undoes [`World::answer_from`].
    #[track_caller]
    pub fn answer_as_usual(&self, endpoint: Endpoint) {
        self.nft(endpoint.ns(), "delete table ip elsewhere\n");
    }

    fn set_fault(&self, endpoint: Endpoint, rules: &[String]) {
        let table = format!("faults_{}", endpoint.device());
        self.nft(
            Ns::Router,
            &format!(
                "table inet {table}\ndelete table inet {table}\ntable inet {table} {{
    chain forward {{
        type filter hook forward priority 0;
        {}
    }}
}}\n",
                rules.join("\n        ")
            ),
        );
    }

    #[track_caller]
    fn await_carrier(&self, wanted: &str) {
        let file = format!("/sys/class/net/{UPLINK}/carrier");
        eventually(LINK_LIMIT, "the host sees the carrier change", || {
            let seen = self.exec_ok(Ns::Egress, &["cat", &file]);
            if seen.trim() == wanted { Ok(()) } else { Err(seen) }
        });
    }
}
