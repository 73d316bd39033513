//! The second wall, at the devices themselves: it drops and counts what the first should have stopped.
//!
//! A `netdev egress` hook sees forwarded packets and `AF_PACKET` frames, which no `inet` hook does.
//! What it counts as leaked is a leak by definition; so nothing ordinary may be counted there (S7),
//! and nothing that is another machine's: what a bridge forwards, and guests on macvlan devices.
//!
//! What enters by a workload's interface is marked there (`netdev ingress`), and the mark stays while
//! it is forwarded. What users send is known by its socket. What cgroups send is marked by the
//! killswitch: where that is gone, it is not seen.

use nftables::types::NfFamily;

use super::coverage::{Coverage, Covered, Role};
use super::dsl::{Rule, accept, any_of, carries, count, drop, give, goto, is, is_not, names, rule};
use super::leaks;
use super::permits::{
    add_endpoints, dhcp_and_ndp, dns, endpoint_fragments, endpoints, from_addresses, ntp, of,
    to_nets,
};
use super::rules::Rules;
use super::table::{Hook, Policy, TableSpec};
use super::tagged;
use crate::config::{DnsPolicy, Workload};
use crate::links::MacAddress;

pub const TABLE: &str = "vpn_egress_watch";

/// EAPOL, LLDP, `PPPoE` discovery.
const LINK_PROTOCOLS: [&str; 3] = ["0x888e", "0x88cc", "0x8863"];

/// Where every device's chain leads.
const LEAVING: &str = "leaving";

/// The chain that is attached to one device. `@` has a meaning in nft's language, and `/` is in no
/// device's name.
pub fn chain_of(covered: &Covered) -> String {
    let what = if covered.role == Role::Entrance { "entering" } else { LEAVING };
    format!("{what}_{}", covered.device.name.replace('@', "/"))
}

/// Each device gets a base chain of its own.
pub fn table(paths: &[Rules], coverage: &Coverage) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::NetDev, TABLE);
    add_endpoints(&mut spec, paths);
    leaks::add_sets(&mut spec);
    for path in paths {
        spec.counter(&of(path, "leaked"));
        spec.counter(&of(path, "other_frames"));
    }
    let host = paths.iter().find(|path| path.workload == Workload::Host);
    let policy = if host.is_some() { Policy::Drop } else { Policy::Accept };
    for covered in &coverage.devices {
        let (at, rules) = if covered.role == Role::Entrance {
            let path = paths.iter().find(|path| path.enters_by(&covered.device.name));
            let mark =
                |path: &Rules| rule([give("meta mark", path.workload_mark)], "of this workload");
            (Hook::filter("ingress", 0, Policy::Accept), path.map(mark).into_iter().collect())
        } else {
            let own = host.and_then(|_| own_frames(&covered.role));
            (Hook::filter("egress", 0, policy), own.unwrap_or_else(|| vec![judged()]))
        };
        spec.base_chain(&chain_of(covered), at, Some(&covered.device.name), rules);
    }
    spec.chain(LEAVING, leaving(paths, host));
    for path in paths {
        let allowed = coverage.allowed.get(&path.name).map(Vec::as_slice).unwrap_or_default();
        let rules = if path.workload == Workload::Host {
            host_wide(path, allowed)
        } else {
            scoped(path, allowed)
        };
        spec.chain(&of(path, "path"), rules);
        spec.chain(&of(path, "leak"), leaks::chain(path));
    }
    spec
}

fn judged() -> Rule {
    rule([goto(LEAVING)], "what leaves by this device")
}

const OTHERS_FRAMES: &str = "another machine's: a guest on this link, or what a bridge forwards";

/// Of a device that other machines' frames leave by too: which are this host's.
fn own_frames(role: &Role) -> Option<Vec<Rule>> {
    let others =
        |own: &[MacAddress]| rule([is_not("ether saddr", any_of(own)), accept()], OTHERS_FRAMES);
    let sent_here = || {
        let words = [is("meta skuid", "0-4294967295"), goto(LEAVING)];
        rule(words, "of a socket of this host")
    };
    match role {
        Role::Shared { own } => Some(vec![sent_here(), others(own), judged()]),
        Role::Port { own } => {
            let rest = rule([accept()], "judged at the bridge");
            Some(vec![others(own), sent_here(), rest])
        }
        Role::Guests { own } => Some(vec![others(own), judged()]),
        Role::Entrance | Role::Host => None,
    }
}

pub const UNDER_TUNNEL_ADDRESS: &str =
    "under the tunnel's address: the kernel's own answers have no socket to be known by";

/// Which path a frame belongs to.
fn leaving(paths: &[Rules], host: Option<&Rules>) -> Vec<Rule> {
    let mut rules = endpoints();
    rules.extend(endpoint_fragments());
    // What is in a network namespace of its own never passes here.
    let elsewhere = |path: &Rules| matches!(path.workload, Workload::Host | Workload::Netns(_));
    for path in paths.iter().filter(|path| !elsewhere(path)) {
        let way = || goto(&of(path, "path"));
        let words = [carries("meta mark", path.workload_mark), way()];
        rules.push(rule(words, "of this path's workload, by its bit in the mark"));
        if let Workload::Users(uids) = &path.workload {
            // IP only: a tunnel packet in a PPPoE session still belongs to the user's socket.
            let ip = is("meta protocol", any_of(["ip", "ip6"]));
            let words = [ip, is("meta skuid", any_of(uids)), way()];
            rules.push(rule(words, "of this path's workload, by its socket"));
        }
        for from in from_addresses(&path.tunnel_addresses) {
            rules.push(rule([from, way()], UNDER_TUNNEL_ADDRESS));
        }
    }
    rules.extend(host.map(|host| rule([goto(&of(host, "path"))], "all else that leaves the host")));
    rules
}

const DNS: &str = "DNS outside the tunnel is a leak, whoever is asked";
const ALLOW: &str = "allowed outside the tunnel by the config";
const LINK_LOCAL: &str = "IGMP, MLD, mDNS and their like: no router forwards them, so no leak";
const OTHER: &str = "carries no IP: not let out, and no leak";

fn host_wide(path: &Rules, allowed: &[String]) -> Vec<Rule> {
    let (leaked, other) = (goto(&of(path, "leak")), count(&of(path, "other_frames")));
    let mut rules = vec![rule([is("ether type", "arp"), accept()], "addresses on the link")];
    rules.extend(dhcp_and_ndp());
    rules.extend(outside(path, allowed));
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
fn scoped(path: &Rules, allowed: &[String]) -> Vec<Rule> {
    let mut rules = outside(path, allowed);
    rules.push(rule([count(&of(path, "other_frames")), drop()], OTHER));
    rules
}

/// What the config allows outside the tunnel; then IP is a leak.
fn outside(path: &Rules, allowed: &[String]) -> Vec<Rule> {
    let (leaked, other) = (goto(&of(path, "leak")), count(&of(path, "other_frames")));
    let mut rules = Vec::new();
    if !allowed.is_empty() {
        rules.push(rule([is("oifname", names(allowed)), accept()], ALLOW));
    }
    if path.dns == DnsPolicy::Refuse {
        rules.extend(dns(std::slice::from_ref(&leaked), DNS));
    }
    rules.extend(to_nets(&path.allow, ALLOW));
    rules.extend(to_nets(&path.management, ALLOW));
    rules.extend(ntp(path));
    for to in ["ip daddr 224.0.0.0/24", "ip6 daddr ff02::/16"] {
        rules.push(rule([to.to_owned(), other.clone(), drop()], LINK_LOCAL));
    }
    rules.push(rule([is("meta protocol", any_of(["ip", "ip6"])), leaked], "IP outside the tunnel"));
    rules
}
