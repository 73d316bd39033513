//! The hard stop: a path is cut, tunnel included, and no other. A table of its own, so that engaging
//! it is one transaction that depends on nothing else being intact, and its presence in the kernel
//! is the latch that survives our programs. As in the killswitch, the verdict is taken in `leaving`,
//! where a packet's device is final.

use nftables::types::NfFamily;

use super::dsl::{Rule, accept, count, drop, goto, in_by, is, jump, marked, names, out_by, rule};
use super::killswitch::{
    LEAVING, bridged_bit, by_mark, by_owner, mark_bridged, pass_bridged, to_listeners,
};
use super::permits::{add_endpoints, dhcp_and_ndp, endpoints, named, of};
use super::rules::Rules;
use super::table::{Hook, Policy, TableSpec};
use super::ways::replies_to_management;
use crate::config::Workload;
use crate::mark::Mark;
use crate::names::PathName;

pub const TABLE: &str = "vpn_egress_stop";

/// Before the killswitch (0), after conntrack (-200), which tells a reply from a new connection.
const PRIORITY: i32 = -10;

/// Why the kernel cuts a path: kept in the kernel too, for it may be all that is left to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopKind {
    /// A breach: lifted by `release` only.
    Latched,
    /// State was missing or could not be read: lifted once there is a state that says otherwise.
    NoState,
}

/// An empty chain of this name marks [`StopKind::NoState`].
pub const NO_STATE: &str = "no_state";

/// The counter that every path that is cut has.
pub const STOPPED: &str = "stopped";

/// The chain that is last asked of every packet that leaves.
const LAST: &str = "leaving";

/// The chain of what a path that is cut is left.
const LEFT: &str = "left";

const CUT: &str = "the path is cut";
const OTHERS: &str = "of another path, which is not cut: the killswitch rules it";

/// The chains without whose rules a path is not cut.
pub fn judging(path: &PathName) -> [String; 2] {
    [LAST.to_owned(), named(path, LEFT)]
}

/// Cuts `paths`, and only these: what is of the `living` paths passes, to be ruled by their lock.
pub fn table(paths: &[(Rules, StopKind)], living: &[Rules]) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::INet, TABLE);
    let cut: Vec<Rules> = paths.iter().map(|(path, _)| path.clone()).collect();
    let all: Vec<Rules> = cut.iter().chain(living).cloned().collect();
    add_endpoints(&mut spec, living);
    for (path, kind) in paths {
        if *kind == StopKind::NoState {
            spec.chain(&of(path, NO_STATE), Vec::new());
        }
        spec.counter(&of(path, STOPPED));
    }
    let at = |point, priority| Hook::filter(point, priority, Policy::Accept);
    let way = |path: &Rules| {
        if cut.iter().any(|one| one.name == path.name) { goto(&of(path, LEFT)) } else { accept() }
    };
    if all.iter().any(Rules::locks_sockets) {
        spec.base_chain("input", at("input", PRIORITY), None, to_listeners(&all));
        let sent = by_owner(&all, way, &accept());
        spec.base_chain("output", at("output", PRIORITY), None, sent);
    }
    let bridged = bridged_bit(&all);
    let forwarded = bridged.map(mark_bridged).into_iter().collect();
    spec.base_chain("forward", at("forward", PRIORITY), None, forwarded);
    let mut leaving = cut_or_living(&cut, living, bridged);
    leaving.extend(by_mark(&all, way));
    if let Some(host) = cut.iter().find(|path| path.workload == Workload::Host) {
        leaving.extend(dhcp_and_ndp());
        leaving.push(rule([jump(&of(host, LEFT))], "all else that leaves the host"));
    }
    spec.base_chain(LAST, at("postrouting", LEAVING - 1), None, leaving);
    for path in &cut {
        spec.chain(&of(path, LEFT), left(path));
    }
    spec
}

fn stop(path: &Rules) -> [String; 2] {
    [count(&of(path, STOPPED)), drop()]
}

/// What belongs to a path by its devices and marks.
fn cut_or_living(cut: &[Rules], living: &[Rules], bridged: Option<Mark>) -> Vec<Rule> {
    let mut rules = vec![rule([out_by("lo"), accept()], "this host to itself")];
    for path in cut {
        // The host sends its tunnel's own packets, whatever the workload is.
        for what in [marked(path.fwmark), out_by(&path.interface)] {
            let [count, drop] = stop(path);
            rules.push(rule([what, count, drop], CUT));
        }
    }
    rules.extend(bridged.map(pass_bridged));
    if !living.is_empty() {
        rules.extend(endpoints());
    }
    for path in cut {
        let interfaces = path.workload.interfaces();
        let entered = (!interfaces.is_empty()).then(|| is("iifname", names(interfaces)));
        for what in entered.into_iter().chain([in_by(&path.interface)]) {
            let [count, drop] = stop(path);
            rules.push(rule([what, count, drop], CUT));
        }
    }
    let entrances: Vec<&String> = living
        .iter()
        .flat_map(|path| path.workload.interfaces().iter().chain([&path.interface]))
        .collect();
    if !entrances.is_empty() {
        rules.push(rule([is("iifname", names(entrances)), accept()], OTHERS));
        let tunnels = names(living.iter().map(|path| &path.interface));
        rules.push(rule([is("oifname", tunnels), accept()], OTHERS));
    }
    rules
}

/// What a stopped path is left: loopback, and replies to `management`. The host's address too, which
/// a whole-host path gets before it comes here: a scoped workload has no part in DHCP.
fn left(path: &Rules) -> Vec<Rule> {
    let mut rules = vec![rule([out_by("lo"), accept()], "this host to itself")];
    rules.extend(replies_to_management(path));
    rules.push(rule(stop(path), CUT));
    rules
}
