//! The first wall: each workload leaves by its tunnel or not at all (S1, S2).
//!
//! Always loaded. Here is which packet is whose; what a path then lets pass is in `ways.rs`. There
//! is deliberately no `ct established` accept on output: a flow from before the lock dies with it.

use nftables::types::NfFamily;

use super::deny_all;
use super::dsl::{
    Rule, Words, accept, any_of, carries, count, give, goto, in_by, is, is_not, marked, names,
    out_by, prohibit, quoted, rule,
};
use super::permits::{add_endpoints, add_sets, of};
use super::rules::Rules;
use super::table::{Hook, Policy, TableSpec};
use super::ways;
use crate::config::Workload;

pub const TABLE: &str = "vpn_egress";

/// Ordinary filter priority. A drop in one table is final, so other tables cannot undo it.
const FILTER: i32 = 0;
/// Where the mark is saved and restored: after conntrack (-200), before routing decides again.
const MANGLE: i32 = -150;

/// The devices that lead outside are named in a set: rules on them need none of them to exist.
pub fn table(paths: &[Rules], uplinks: &[String]) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::INet, TABLE);
    spec.first = Some(deny_all::deleted());
    add_endpoints(&mut spec, paths);
    spec.set("uplinks", "ifname", false, uplinks.iter().map(quoted).collect());
    if paths.len() > 1 {
        let tunnels = paths.iter().map(|path| quoted(&path.interface)).collect();
        spec.set(ways::TUNNELS, "ifname", false, tunnels);
    }
    for path in paths {
        spec.counter(&of(path, "blocked"));
        add_sets(&mut spec, path);
    }
    // The host is free unless a path locks it as a whole.
    let host = paths.iter().find(|path| path.workload == Workload::Host);
    let policy = if host.is_some() { Policy::Drop } else { Policy::Accept };
    let filter = |point| Hook::filter(point, FILTER, policy);
    spec.base_chain("output", filter("output"), None, outgoing(paths, host));
    spec.base_chain("forward", filter("forward"), None, forwarded(paths, host));
    let open = Hook::filter("input", FILTER, Policy::Accept);
    spec.base_chain("input", open, None, arriving(paths));
    let mangle = |point| Hook::filter(point, MANGLE, Policy::Accept);
    spec.base_chain("prerouting", mangle("prerouting"), None, restore_mark(paths));
    spec.base_chain("postrouting", mangle("postrouting"), None, save_mark(paths));
    let local: Vec<&Rules> = paths.iter().filter(|path| !owner(path).is_empty()).collect();
    if !local.is_empty() {
        let route = Hook { kind: "route", ..mangle("output") };
        spec.base_chain("workloads", route, None, mark_workloads(&local));
    }
    let behind = behind_routing(paths);
    if !behind.is_empty() {
        let filter = Hook::filter("postrouting", FILTER, Policy::Accept);
        spec.base_chain("routed", filter, None, behind);
    }
    for path in paths {
        ways::add(&mut spec, path, paths);
    }
    spec
}

/// By whom a packet of this host was sent, where that is what the path goes by.
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
        Workload::Host | Workload::Interfaces(_) => Vec::new(),
    }
}

/// Whose a packet of this host is. A scoped path's never falls through to the host's.
fn outgoing(paths: &[Rules], host: Option<&Rules>) -> Vec<Rule> {
    let others = host.map_or_else(accept, |host| goto(&of(host, "output")));
    let mut rules = whose(paths, |path| goto(&of(path, "output")), &others);
    if host.is_some() {
        rules.push(rule([others], "all else that the host sends"));
    }
    rules
}

/// Sends the packets of each scoped workload on this host its way, and those of others theirs.
pub fn whose(paths: &[Rules], way: impl Fn(&Rules) -> Words, others: &Words) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut orphans = Vec::new();
    for path in paths {
        let mark = path.workload_mark;
        let owners = owner(path);
        if !owners.is_empty() {
            let words = [carries("ct mark", mark), way(path)];
            orphans.push(rule(words, "what the kernel still sends for a socket that was closed"));
        }
        for owner in owners {
            let words = [owner, give("ct mark", mark), way(path)];
            rules.push(rule(words, "the path's workload; its connections are remembered"));
        }
    }
    if !orphans.is_empty() {
        let words = [is("meta skuid", "0-4294967295"), others.clone()];
        rules.push(rule(words, "has an owner, and it is no scoped workload's"));
    }
    rules.extend(orphans);
    rules
}

/// Whose a packet is that this host forwards.
fn forwarded(paths: &[Rules], host: Option<&Rules>) -> Vec<Rule> {
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
            let words = [is("iifname", names(interfaces)), goto(&of(path, "forward"))];
            rules.push(rule(words, "the path's workload, by where it enters"));
        }
    }
    for path in paths.iter().filter(|path| path.workload != Workload::Host) {
        let blocked = count(&of(path, "blocked"));
        let words = [out_by(&path.interface), blocked, prohibit()];
        rules.push(rule(words, "the tunnel is its own workload's alone"));
    }
    if let Some(host) = host {
        rules.push(rule([goto(&of(host, "forward"))], "all else that the host forwards"));
    }
    rules
}

/// What a scoped workload asks of this host itself: a resolver or proxy here would carry it outside.
fn arriving(paths: &[Rules]) -> Vec<Rule> {
    let entering = paths.iter().filter(|path| !path.workload.interfaces().is_empty());
    entering
        .map(|path| {
            let entered = is("iifname", names(path.workload.interfaces()));
            rule([entered, goto(&of(path, "input"))], "from the workload to this host itself")
        })
        .collect()
}

/// Routing can go by the workload's bit, and the watch does. A mark of another program's stays.
fn mark_workloads(paths: &[&Rules]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for path in paths {
        for owner in owner(path) {
            let words = [marked(0), owner, give("meta mark", path.workload_mark)];
            rules
                .push(rule(words, "marked before routing, which can go by it, and the watch does"));
        }
        if is_cgroups(path) {
            let mark = path.workload_mark;
            let words = [marked(0), carries("ct mark", mark), give("meta mark", mark)];
            rules.push(rule(words, "the same for what is still sent for a socket that was closed"));
        }
    }
    rules
}

/// What was marked above is routed anew, and only here is it seen by which device it leaves.
fn behind_routing(paths: &[Rules]) -> Vec<Rule> {
    let held = |path: &Rules| {
        // By both: either may have been overwritten by another program since.
        ["meta mark", "ct mark"].map(|key| {
            let words = [carries(key, path.workload_mark), goto(&of(path, "routed"))];
            rule(words, "a cgroup's, behind routing by its mark")
        })
    };
    paths.iter().filter(|path| is_cgroups(path)).flat_map(held).collect()
}

fn is_cgroups(path: &Rules) -> bool {
    matches!(path.workload, Workload::Cgroups(_))
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
