//! The second wall, at the uplink itself: it drops and counts what the first should have stopped.
//!
//! A `netdev egress` hook sees forwarded packets and `AF_PACKET` frames, which no `inet` hook does.
//! What it counts as leaked is a leak by definition; so nothing ordinary may be counted there (S7).
//!
//! Whose a packet is, it cannot see by itself. What enters by a workload's interface is marked there
//! (`netdev ingress`), and the mark stays while it is forwarded. What users and cgroups send is
//! marked by the killswitch: where that is gone, they are not seen, so theirs is one wall.

use nftables::types::NfFamily;

use super::dsl::{Rule, accept, any_of, carries, count, drop, give, goto, is, rule};
use super::permits::{
    add_endpoints, add_sets, dhcp_and_ndp, dns, endpoint_fragments, endpoints, ntp, of, to_set,
};
use super::rules::Rules;
use super::table::{Hook, Policy, TableSpec};
use super::tagged;
use crate::config::Workload;

pub const TABLE: &str = "vpn_egress_watch";

/// EAPOL, LLDP, `PPPoE` discovery.
const LINK_PROTOCOLS: [&str; 3] = ["0x888e", "0x88cc", "0x8863"];

/// The chain that is attached to one device. `@` has a meaning in nft's language, and `/` is in no
/// device's name.
fn chain_of(what: &str, device: &str) -> String {
    format!("{what}_{}", device.replace('@', "/"))
}

/// `devices`: every one that is to be covered: those by which a workload enters, and the uplinks,
/// which all others are. Each gets a base chain of its own.
pub fn table(paths: &[Rules], devices: &[String]) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::NetDev, TABLE);
    add_endpoints(&mut spec, paths);
    for path in paths {
        spec.counter(&of(path, "leaked"));
        spec.counter(&of(path, "other_frames"));
        add_sets(&mut spec, path);
    }
    let host = paths.iter().find(|path| path.workload == Workload::Host);
    let policy = if host.is_some() { Policy::Drop } else { Policy::Accept };
    for device in devices {
        if let Some(path) = paths.iter().find(|path| path.enters_by(device)) {
            let at = Hook::filter("ingress", 0, Policy::Accept);
            let mark = rule([give("meta mark", path.workload_mark)], "of this workload");
            spec.base_chain(&chain_of("workload", device), at, Some(device), vec![mark]);
        } else {
            let at = Hook::filter("egress", 0, policy);
            spec.base_chain(&chain_of("uplink", device), at, Some(device), whose(paths, host));
        }
    }
    for path in paths {
        let rules = if path.workload == Workload::Host { host_wide(path) } else { scoped(path) };
        spec.chain(&of(path, "path"), rules);
    }
    spec
}

fn whose(paths: &[Rules], host: Option<&Rules>) -> Vec<Rule> {
    let scoped = paths.iter().filter(|path| path.workload != Workload::Host);
    let mut rules: Vec<Rule> = scoped
        .map(|path| {
            let words = [carries("meta mark", path.workload_mark), goto(&of(path, "path"))];
            rule(words, "of this path's workload, by its bit in the mark")
        })
        .collect();
    rules.extend(host.map(|host| rule([goto(&of(host, "path"))], "all else that leaves the host")));
    rules
}

const LEAK: &str = "IP outside the tunnel: a leak";
const DNS: &str = "DNS outside the tunnel is a leak, whoever is asked";
const ALLOW: &str = "allowed outside the tunnel by the config";
const LINK_LOCAL: &str = "IGMP, MLD, mDNS and their like: no router forwards them, so no leak";
const OTHER: &str = "carries no IP: not let out, and no leak";

fn host_wide(path: &Rules) -> Vec<Rule> {
    let (leaked, other) = (count(&of(path, "leaked")), count(&of(path, "other_frames")));
    let mut rules = endpoints();
    rules.extend(endpoint_fragments());
    rules.push(rule([is("ether type", "arp"), accept()], "addresses on the link"));
    rules.extend(dhcp_and_ndp());
    rules.extend(outside(path));
    rules.extend(tagged::rules(path, &leaked));
    rules.push(rule(
        [is("ether type", any_of(LINK_PROTOCOLS)), accept()],
        "EAPOL, LLDP, PPPoE discovery: for the other end of the cable",
    ));
    rules.push(rule(
        [is("ether daddr & ff:ff:ff:ff:ff:f0 ==", "01:80:c2:00:00:00"), accept()],
        "spanning tree and other reserved bridge addresses (IEEE 802.1Q, table 8-1)",
    ));
    rules.push(rule([other, drop()], OTHER));
    rules
}

/// What carries a workload's bit is IP, and never a tunnel's own packet.
fn scoped(path: &Rules) -> Vec<Rule> {
    let mut rules = outside(path);
    rules.push(rule([count(&of(path, "other_frames")), drop()], OTHER));
    rules
}

/// What the config allows outside the tunnel; then IP is a leak.
fn outside(path: &Rules) -> Vec<Rule> {
    let (leaked, other) = (count(&of(path, "leaked")), count(&of(path, "other_frames")));
    let mut rules = Vec::new();
    if path.dns == crate::config::DnsPolicy::Refuse {
        rules.extend(dns(&[leaked.clone(), drop()], DNS));
    }
    for permitted in ["allow", "management"] {
        rules.extend(to_set(path, permitted, &[], ALLOW));
    }
    rules.extend(ntp(path));
    for to in ["ip daddr 224.0.0.0/24", "ip6 daddr ff02::/16"] {
        rules.push(rule([to.to_owned(), other.clone(), drop()], LINK_LOCAL));
    }
    rules.push(rule([is("meta protocol", any_of(["ip", "ip6"])), leaked, drop()], LEAK));
    rules
}
