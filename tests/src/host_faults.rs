//! What can go wrong on the host under test itself: its device, routes, uplinks and nft tables.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::addresses::{
    EGRESS, EGRESS_RENUMBERED, EGRESS_SECOND, Ns, ROUTER, ROUTER_SECOND, SECOND_UPLINK, TABLE,
    TUNNEL, UPLINK,
};
use crate::topology::{SPARE, ip_batch};
use crate::world::World;

/// What other tools load at a restart of nftables.service: it begins with a flush.
const FOREIGN_RULESET: &str = "#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain input { type filter hook input priority 0; policy accept; }
    chain forward { type filter hook forward priority 0; policy accept; }
    chain output { type filter hook output priority 0; policy accept; }
}
";

/// What became of an attempt on our tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tampered {
    /// Commands that the kernel took.
    pub taken: u32,
    /// Commands that it refused, because the table has an owner.
    pub refused: u32,
}

impl World {
    /// `ip link del`, as by hand.
    #[track_caller]
    pub fn delete_tunnel_link(&self) {
        ip_batch(Ns::Egress, &format!("link del {TUNNEL}\n"));
    }

    /// The tunnel's default routes go; its rules stay.
    #[track_caller]
    pub fn remove_tunnel_routes(&self) {
        for family in ["-4", "-6"] {
            self.exec_ok(Ns::Egress, &["ip", family, "route", "flush", "table", TABLE]);
        }
    }

    /// The rules that lead into the tunnel's routing table go.
    #[track_caller]
    pub fn remove_policy_rules(&self) {
        for family in ["-4", "-6"] {
            self.exec_ok(Ns::Egress, &["ip", family, "rule", "del", "lookup", TABLE]);
        }
    }

    /// The uplink gets another address, as by a new lease; the routes that the first one held up
    /// go with it, but for the default.
    #[track_caller]
    pub fn change_address(&self) {
        readdress(EGRESS, EGRESS_RENUMBERED);
    }

    /// Undoes [`World::change_address`], as when the old lease is given out again.
    #[track_caller]
    pub fn restore_address(&self) {
        readdress(EGRESS_RENUMBERED, EGRESS);
    }

    /// Routes that are more specific than the default, as a DHCP server can hand them out: they
    /// win over the tunnel's.
    #[track_caller]
    pub fn add_default_route(&self) {
        let halves = ["0.0.0.0/1", "128.0.0.0/1"]
            .map(|half| format!("route add {half} via {ROUTER} dev {UPLINK}\n"));
        ip_batch(Ns::Egress, &halves.concat());
    }

    /// A second uplink appears, with a default route that comes first.
    #[track_caller]
    pub fn plug_second_uplink(&self) {
        ip_batch(Ns::Router, &format!("link set {SPARE} netns {}\n", Ns::Egress));
        ip_batch(
            Ns::Egress,
            &format!(
                "link set {SPARE} name {SECOND_UPLINK}\n\
                 addr add {EGRESS_SECOND}/24 dev {SECOND_UPLINK}\nlink set {SECOND_UPLINK} up\n\
                 route prepend default via {ROUTER_SECOND} dev {SECOND_UPLINK}\n"
            ),
        );
    }

    /// The uplink gets another name while it is up.
    #[track_caller]
    pub fn rename_uplink(&self, name: &str) {
        ip_batch(Ns::Egress, &format!("link set {UPLINK} name {name}\n"));
    }

    /// What a restart of nftables.service does: another ruleset, in place of all there is.
    #[track_caller]
    pub fn restart_nftables(&self) {
        self.nft(Ns::Egress, FOREIGN_RULESET);
    }

    /// Deletes each of our tables.
    #[track_caller]
    pub fn delete_our_tables(&self) -> Tampered {
        let tables = self.ours("table");
        self.tamper(tables.iter().map(|table| {
            vec!["delete".into(), "table".into(), text(table, "family"), text(table, "name")]
        }))
    }

    /// Inserts an `accept` at the head of each base chain of ours.
    #[track_caller]
    pub fn insert_accept(&self) -> Tampered {
        let chains = self.our_base_chains();
        self.tamper(chains.iter().map(|chain| {
            let mut line = vec!["insert".into(), "rule".into()];
            line.extend(["family", "table", "name"].map(|field| text(chain, field)));
            line.push("accept".into());
            line
        }))
    }

    /// Sets the policy of each base chain of ours to `accept`.
    #[track_caller]
    pub fn change_policy(&self) -> Tampered {
        let chains = self.our_base_chains();
        self.tamper(chains.iter().map(|chain| {
            let mut line = vec!["chain".into()];
            line.extend(["family", "table", "name"].map(|field| text(chain, field)));
            line.push("{ policy accept; }".into());
            line
        }))
    }

    fn our_base_chains(&self) -> Vec<Value> {
        let mut chains = self.ours("chain");
        chains.retain(|chain| chain.get("hook").is_some());
        chains
    }

    /// Objects of the tables that the programs under test have made, none where they have not.
    fn ours(&self, kind: &str) -> Vec<Value> {
        let listed = self.exec_ok(Ns::Egress, &["nft", "--json", "list", "ruleset"]);
        let json: Value = serde_json::from_str(&listed).unwrap_or_default();
        let all = json["nftables"].as_array().into_iter().flatten();
        all.filter_map(|object| object.get(kind))
            .filter(|body| {
                let table = if kind == "table" { &body["name"] } else { &body["table"] };
                table.as_str().is_some_and(|name| name.starts_with("vpn_egress"))
            })
            .cloned()
            .collect()
    }

    /// Each line of words is a command of its own, so that one that is refused spares no other.
    fn tamper(&self, lines: impl Iterator<Item = Vec<String>>) -> Tampered {
        let mut tampered = Tampered::default();
        for line in lines {
            let words: Vec<&str> =
                std::iter::once("nft").chain(line.iter().map(String::as_str)).collect();
            let output = self.run(Ns::Egress, &words);
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                tampered.taken += 1;
            } else {
                // Anything else is a command that is wrong, and a fault that was never there.
                assert!(said.contains("Operation not permitted"), "{words:?}: {said}");
                tampered.refused += 1;
            }
        }
        tampered
    }
}

fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn readdress(from: Ipv4Addr, to: Ipv4Addr) {
    ip_batch(
        Ns::Egress,
        &format!(
            "addr del {from}/24 dev {UPLINK}\naddr add {to}/24 dev {UPLINK}\n\
             route replace default via {ROUTER} dev {UPLINK}\n"
        ),
    );
}
