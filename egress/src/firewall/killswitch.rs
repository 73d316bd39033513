//! The first wall: each workload leaves by its tunnel or not at all (S1, S2).
//!
//! The verdict on a packet is taken in `leaving`, the last hook of the IP stack, where its device is
//! final: another table's DNAT, a `type route` chain that sets a mark, and our own marks route a
//! packet again after the output hook has looked at it. The chains `output` and `forward` refuse early
//! so that programs fail fast; nothing rests on them. There is deliberately no `ct established`
//! accept: a flow from before the lock dies with it.
//!
//! Here is which packet belongs to which path; what a path then permits is in `ways.rs`.

use nftables::types::NfFamily;

use super::deny_all;
use super::dsl::{
    Rule, Words, accept, any_of, carries, count, drop, give, goto, in_by, is, is_not, marked,
    names, out_by, prohibit, quoted, rule,
};
use super::permits::{add_endpoints, endpoints, from_addresses, in_nets, of, to_addresses};
use super::rules::Rules;
use super::table::{Hook, Policy, TableSpec};
use super::watch::UNDER_TUNNEL_ADDRESS;
use super::ways;
use crate::config::Workload;
use crate::mark::Mark;

pub const TABLE: &str = "vpn_egress";

/// The chain that is last asked of every packet that leaves.
pub const LAST: &str = "leaving";

/// Before conntrack (-200): a packet that is dropped here leaves no entry.
const RAW: i32 = -300;
/// Where marks are saved, restored and given: after conntrack, before routing decides again.
const MANGLE: i32 = -150;
/// Ordinary filter priority. A drop in one table is final, so other tables cannot undo it.
const FILTER: i32 = 0;
/// After every NAT (100) and every other table that may change a packet.
pub const LEAVING: i32 = 500;

pub fn table(paths: &[Rules]) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::INet, TABLE);
    spec.first = Some(deny_all::deleted());
    add_endpoints(&mut spec, paths);
    for path in paths {
        spec.counter(&of(path, "blocked"));
    }
    // The host is free unless a path locks it as a whole.
    let host = paths.iter().find(|path| path.workload == Workload::Host);
    let policy = if host.is_some() { Policy::Drop } else { Policy::Accept };
    let bridged = bridged_bit(paths);
    let open = |point, priority| Hook::filter(point, priority, Policy::Accept);
    spec.base_chain("entering", open("prerouting", RAW), None, entering(paths));
    spec.base_chain("prerouting", open("prerouting", MANGLE), None, restore_mark(paths));
    spec.base_chain("input", open("input", FILTER), None, arriving(paths));
    if paths.iter().any(Rules::locks_sockets) {
        let route = Hook { kind: "route", ..open("output", MANGLE) };
        spec.base_chain("workloads", route, None, mark_workloads(paths));
    }
    spec.base_chain("output", open("output", FILTER), None, outgoing(paths, host));
    spec.base_chain("forward", open("forward", FILTER), None, forwarded(paths, host, bridged));
    spec.base_chain("postrouting", open("postrouting", MANGLE), None, save_mark(paths));
    let last = Hook::filter("postrouting", LEAVING, policy);
    spec.base_chain(LAST, last, None, leaving(paths, host, bridged));
    for path in paths {
        ways::add(&mut spec, path, paths);
    }
    spec
}

const SPOOFED: &str = "a source that is not routed back there: answers to it would leave elsewhere";
const OTHER_DEVICE: &str = "the tunnel's addresses are reached through the tunnel only";

/// What must not come in. A reply, an ICMP error or our own refusal quotes a packet to its source;
/// with a source of its choice, a guest would make this host speak for it outside the tunnel.
fn entering(paths: &[Rules]) -> Vec<Rule> {
    let unrouted = || "fib saddr . iif oif missing".to_owned();
    let mut rules = Vec::new();
    // Two tunnels may have one address: a provider gives it to a key.
    let mut addresses: Vec<_> =
        paths.iter().flat_map(|path| &path.tunnel_addresses).copied().collect();
    addresses.sort();
    addresses.dedup();
    let tunnels = paths.iter().map(|path| path.interface.as_str());
    let elsewhere = is_not("iifname", any_of(["lo"].into_iter().chain(tunnels).map(quoted)));
    for to in to_addresses(&addresses) {
        rules.push(rule([elsewhere.clone(), to, drop()], OTHER_DEVICE));
    }
    for path in paths {
        if !path.workload.interfaces().is_empty() {
            let entered = is("iifname", names(path.workload.interfaces()));
            rules.push(rule([entered, unrouted(), drop()], SPOOFED));
        }
        for from in in_nets(&path.management, |ip| format!("{ip} saddr")) {
            rules.push(rule([from, unrouted(), drop()], SPOOFED));
        }
    }
    rules
}

/// By whom a packet of this host was sent, where the path is known by that.
fn owner(path: &Rules) -> Vec<Words> {
    match &path.workload {
        Workload::Users(uids) => vec![is("meta skuid", any_of(uids))],
        Workload::Cgroups(groups) => {
            let level = |group: &str| group.split('/').count();
            let is = |group: &String| {
                format!("socket cgroupv2 level {} {}", level(group), quoted(group))
            };
            groups.iter().map(is).collect()
        }
        Workload::Host | Workload::Interfaces(_) | Workload::Netns(_) => Vec::new(),
    }
}

/// What this host sends, before its device is final.
fn outgoing(paths: &[Rules], host: Option<&Rules>) -> Vec<Rule> {
    let others = host.map_or_else(accept, |host| goto(&of(host, "output")));
    let mut rules = by_owner(paths, |path| goto(&of(path, "output")), &others);
    if host.is_some() {
        rules.push(rule([others], "all else that the host sends"));
    }
    rules
}

const SYN_ACK: &str = "tcp flags & (syn | ack) == syn | ack";

/// Sends the packets of each scoped workload on this host its way, and those of others theirs. Only
/// in the output hook: elsewhere the kernel does not know a socket's cgroup.
pub fn by_owner(paths: &[Rules], way: impl Fn(&Rules) -> Words, others: &Words) -> Vec<Rule> {
    let local: Vec<&Rules> = paths.iter().filter(|path| path.locks_sockets()).collect();
    let mut rules = Vec::new();
    for path in &local {
        for owner in owner(path) {
            let words = [owner, give("ct mark", path.workload_mark), way(path)];
            rules.push(rule(words, "the path's workload; its connections are remembered"));
        }
    }
    for path in &local {
        let words = [carries("ct mark", path.workload_mark), SYN_ACK.to_owned(), way(path)];
        rules.push(rule(words, "the answer of a listener, which has no socket with a cgroup yet"));
    }
    if !local.is_empty() {
        let words = [is("meta skuid", "0-4294967295"), others.clone()];
        rules.push(rule(words, "has an owner, and it is no scoped workload's"));
    }
    for path in &local {
        let words = [carries("ct mark", path.workload_mark), way(path)];
        rules.push(rule(words, "sent by the kernel for a socket of the workload that was closed"));
    }
    rules
}

/// The same behind routing, by the marks that the output hook gave. `users` are known there even
/// where the marks were wiped.
pub fn by_mark(paths: &[Rules], way: impl Fn(&Rules) -> Words) -> Vec<Rule> {
    let mut rules = Vec::new();
    for path in paths.iter().filter(|path| path.locks_sockets()) {
        let users = owner(path).into_iter().filter(|_| matches!(path.workload, Workload::Users(_)));
        let marks = ["meta mark", "ct mark"].map(|key| carries(key, path.workload_mark));
        for owned in users.chain(marks) {
            rules.push(rule([owned, way(path)], "of the path's workload"));
        }
    }
    rules
}

const BRIDGED: &str = "what a bridge passes on is other machines' (br_netfilter shows it here)";

/// Marks what a bridge forwards, which is not this host's traffic. Only a frame on its way through a
/// bridge has no input device behind this hook; so this mark on anything else permits nothing.
pub fn mark_bridged(bit: Mark) -> Rule {
    let words = [
        is("meta iifkind", quoted("bridge")),
        is("meta oifkind", quoted("bridge")),
        give("meta mark", bit),
        accept(),
    ];
    rule(words, BRIDGED)
}

/// Accepts what [`mark_bridged`] has marked, where it is known to be bridged.
pub fn pass_bridged(bit: Mark) -> Rule {
    let words = [
        is("meta iif", 0),
        is("meta oifkind", quoted("bridge")),
        carries("meta mark", bit),
        accept(),
    ];
    rule(words, BRIDGED)
}

/// A bit that no path of this host uses; `None` where all are taken.
pub fn bridged_bit(paths: &[Rules]) -> Option<Mark> {
    let used = paths.iter().fold(0, |used, path| used | path.fwmark | path.workload_mark.mask());
    (0..32).rev().map(|bit| 1_u32 << bit).find(|bit| used & bit == 0).map(Mark::bits)
}

/// Which path a packet belongs to that this host forwards.
fn forwarded(paths: &[Rules], host: Option<&Rules>, bridged: Option<Mark>) -> Vec<Rule> {
    let mut rules = Vec::from_iter(bridged.map(mark_bridged));
    rules.extend(by_entrance(paths, "forward", &prohibit()));
    if let Some(host) = host {
        rules.push(rule([goto(&of(host, "forward"))], "all else that the host forwards"));
    }
    rules
}

/// By the device that a forwarded packet entered by.
fn by_entrance(paths: &[Rules], way: &str, refuse: &Words) -> Vec<Rule> {
    let mut rules = Vec::new();
    for path in paths {
        rules.push(rule(
            [in_by(&path.interface), goto(&of(path, "answers"))],
            "comes out of the tunnel: by name, so a recreated device still matches",
        ));
    }
    for path in paths {
        let interfaces = path.workload.interfaces();
        if !interfaces.is_empty() {
            let words = [is("iifname", names(interfaces)), goto(&of(path, way))];
            rules.push(rule(words, "the path's workload, by where it enters"));
        }
    }
    for path in paths.iter().filter(|path| path.workload != Workload::Host) {
        let blocked = count(&of(path, "blocked"));
        let words = [is_not("iif", 0), out_by(&path.interface), blocked, refuse.clone()];
        rules.push(rule(words, "the tunnel is its own workload's alone"));
    }
    rules
}

/// The verdict: every packet of every kind passes here once its device is final.
fn leaving(paths: &[Rules], host: Option<&Rules>, bridged: Option<Mark>) -> Vec<Rule> {
    let mut rules = vec![rule([out_by("lo"), accept()], "this host to itself")];
    // Before the entrance is asked for: the kernel's WireGuard names its own device there.
    rules.extend(endpoints());
    rules.extend(bridged.map(pass_bridged));
    rules.extend(by_entrance(paths, "leaving", &drop()));
    rules.extend(by_mark(paths, |path| goto(&of(path, "leaving"))));
    let tunnels = || paths.iter().map(|path| quoted(&path.interface));
    for path in paths.iter().filter(|path| path.locks_sockets()) {
        for from in from_addresses(&path.tunnel_addresses) {
            let elsewhere = is_not("oifname", any_of(tunnels()));
            let words = [elsewhere, from, goto(&of(path, "leaving"))];
            rules.push(rule(words, UNDER_TUNNEL_ADDRESS));
        }
    }
    if let Some(host) = host {
        rules.push(rule([goto(&of(host, "leaving"))], "all else that leaves the host"));
    }
    rules
}

/// What arrives for this host itself.
fn arriving(paths: &[Rules]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for path in paths {
        if !path.workload.interfaces().is_empty() {
            let entered = is("iifname", names(path.workload.interfaces()));
            let words = [entered, goto(&of(path, "input"))];
            // A resolver or proxy here would carry what a workload asks outside.
            rules.push(rule(words, "from the workload to this host itself"));
        }
    }
    rules.extend(to_listeners(paths));
    rules
}

/// A connection from elsewhere belongs to the workload whose listener it is for. In the input hook
/// alone is the listener found: the answer to a first packet has no socket with a cgroup yet.
pub fn to_listeners(paths: &[Rules]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for path in paths.iter().filter(|path| matches!(path.workload, Workload::Cgroups(_))) {
        for owner in owner(path) {
            let words = [owner, give("ct mark", path.workload_mark)];
            rules.push(rule(words, "to a listener of the workload: its connection"));
        }
    }
    rules
}

const MARKED: &str = "marked before routing, which selects the tunnel by it; and for the watch";

/// Routing selects the tunnel by the workload's bits, and the watch knows a packet by them. Other
/// bits stay. A tunnel's own packets may still belong to the socket of the program that sent what is
/// inside: they are recognised by the tunnel's mark and left alone.
fn mark_workloads(paths: &[Rules]) -> Vec<Rule> {
    let own = |path: &Rules| rule([marked(path.fwmark), accept()], "a tunnel's own packet");
    let mut rules: Vec<Rule> = paths.iter().map(own).collect();
    let local: Vec<&Rules> = paths.iter().filter(|path| path.locks_sockets()).collect();
    let not_local = || is_not("oifname", quoted("lo"));
    for path in &local {
        for owner in owner(path) {
            let mark = path.workload_mark;
            rules.push(rule(
                [owner, give("ct mark", mark), give("meta mark", mark), accept()],
                MARKED,
            ));
        }
    }
    for path in &local {
        let mark = path.workload_mark;
        let of_it = carries("ct mark", mark);
        rules.push(rule([not_local(), of_it, give("meta mark", mark)], MARKED));
    }
    if let Some(users) = local.iter().find(|path| matches!(path.workload, Workload::Users(_))) {
        let mark = users.workload_mark;
        let owned = [is("meta skuid", "0-4294967295"), accept()];
        rules.push(rule(owned, "has an owner, and it is no scoped workload's"));
        let words =
            [not_local(), SYN_ACK.to_owned(), give("ct mark", mark), give("meta mark", mark)];
        rules.push(rule(words, "a SYN cookie's answer has no owner, and could be the user's"));
    }
    rules
}

/// The tunnel's packets, the echo to an endpoint, and what its host says of either.
fn of_the_tunnel() -> Words {
    is("meta l4proto", any_of(["udp", "icmp", "ipv6-icmp"]))
}

const SAVE: &str = "with rp_filter=1 an answer without the tunnel's mark points into the tunnel";

fn save_mark(paths: &[Rules]) -> Vec<Rule> {
    let save = |path: &Rules| {
        let words = [of_the_tunnel(), marked(path.fwmark), "ct mark set meta mark".to_owned()];
        rule(words, SAVE)
    };
    paths.iter().map(save).collect()
}

fn restore_mark(paths: &[Rules]) -> Vec<Rule> {
    let restore = |path: &Rules| {
        let words = [
            is_not("iifname", quoted(&path.interface)),
            of_the_tunnel(),
            is("ct mark", super::dsl::hex(path.fwmark)),
            "meta mark set ct mark".to_owned(),
        ];
        rule(words, SAVE)
    };
    paths.iter().map(restore).collect()
}
