//! The second wall, at the uplink itself: it drops and counts what the first should have stopped.
//!
//! A `netdev egress` hook sees forwarded packets and `AF_PACKET` frames, which no `inet` hook does.
//! What it counts as leaked is a leak by definition; so nothing ordinary may be counted there (S7).

use nftables::expr::MetaKey;
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::dsl::{
    Stmt, accept, any_of, count, drop, is, jump, masked, meta, numbers, payload, prefix, text,
};
use super::permits::{
    add_endpoint_addresses, add_sets, dhcp_and_ndp, dns, endpoint_fragments, endpoints, ntp, of,
    to_set,
};
use super::rules::Rules;
use super::table::{Hook, TableSpec};
use crate::config::DnsPolicy;

pub const TABLE: &str = "vpn_egress_watch";

/// EAPOL, LLDP, `PPPoE` discovery.
const LINK_PROTOCOLS: [u32; 3] = [0x888e, 0x88cc, 0x8863];

/// The chain that is attached to one uplink.
pub fn chain_of(device: &str) -> String {
    format!("uplink_{device}")
}

/// `devices`: every uplink that is to be covered; each gets a base chain of its own.
pub fn table(paths: &[Rules], devices: &[String]) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::NetDev, TABLE);
    for path in paths {
        spec.counter(&of(path, "leaked"));
        spec.counter(&of(path, "other_frames"));
        add_sets(&mut spec, path);
        add_endpoint_addresses(&mut spec, path);
        let chain = of(path, "path");
        spec.chain(&chain);
        for rule in rules(path) {
            spec.rule(&chain, rule);
        }
    }
    for device in devices {
        let at = Hook {
            kind: NfChainType::Filter,
            point: NfHook::Egress,
            priority: 0,
            policy: NfChainPolicy::Drop,
        };
        spec.base_chain(&chain_of(device), at, Some(device));
        for path in paths {
            spec.rule(&chain_of(device), [jump(&of(path, "path"))]);
        }
    }
    spec
}

fn rules(path: &Rules) -> Vec<Vec<Stmt>> {
    let (leaked, other) = (of(path, "leaked"), of(path, "other_frames"));
    let mut rules = endpoints(path);
    rules.extend(endpoint_fragments(path));
    rules.push(vec![is(payload("ether", "type"), text("arp")), accept()]);
    rules.extend(dhcp_and_ndp());
    if path.dns == DnsPolicy::Refuse {
        for mut rule in dns() {
            rule.extend([count(&leaked), drop()]);
            rules.push(rule);
        }
    }
    for permitted in ["allow", "management"] {
        rules.extend(to_set(path, permitted, &[], &[accept()]));
    }
    rules.extend(ntp(path));
    // IGMP, MLD, mDNS and their like: no router forwards them, so they are stopped but are no leak.
    for link_local in [("ip", "224.0.0.0/24"), ("ip6", "ff02::/16")] {
        let net = prefix(link_local.1.parse().expect("a net"));
        rules.push(vec![is(payload(link_local.0, "daddr"), net), count(&other), drop()]);
    }
    let ip = any_of([text("ip"), text("ip6")]);
    rules.push(vec![is(meta(MetaKey::Protocol), ip), count(&leaked), drop()]);
    rules.push(vec![is(payload("ether", "type"), numbers(&LINK_PROTOCOLS)), accept()]);
    // Spanning tree and the other reserved bridge addresses (IEEE 802.1Q, table 8-1).
    let bridge = masked(payload("ether", "daddr"), "ff:ff:ff:ff:ff:f0");
    rules.push(vec![is(bridge, text("01:80:c2:00:00:00")), accept()]);
    rules.push(vec![count(&other), drop()]);
    rules
}
