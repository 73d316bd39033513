//! The hard stop: a path is cut, tunnel included, and no other. A table of its own, so that engaging
//! it is one transaction that depends on nothing else being intact, and its presence in the kernel
//! is the latch that survives our programs.

use nftables::types::NfFamily;

use super::dsl::{Rule, accept, count, drop, goto, in_by, is, marked, names, out_by, rule};
use super::killswitch::whose;
use super::permits::{add_endpoints, add_nets, dhcp_and_ndp, endpoints, of};
use super::rules::Rules;
use super::table::{Hook, Policy, TableSpec};
use super::ways::replies_to_management;
use crate::config::Workload;

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

const CUT: &str = "the path is cut";
const OTHERS: &str = "of another path, which is not cut: the killswitch rules it";

/// Cuts `paths`, and only these: what is of the `living` paths passes, to be ruled by their lock.
pub fn table(paths: &[(Rules, StopKind)], living: &[Rules]) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::INet, TABLE);
    let cut: Vec<Rules> = paths.iter().map(|(path, _)| path.clone()).collect();
    add_endpoints(&mut spec, living);
    for (path, kind) in paths {
        if *kind == StopKind::NoState {
            spec.chain(&of(path, NO_STATE), Vec::new());
        }
        spec.counter(&of(path, STOPPED));
        add_nets(&mut spec, path, "management", &path.management);
    }
    let at = |point| Hook::filter(point, PRIORITY, Policy::Accept);
    spec.base_chain("output", at("output"), None, outgoing(&cut, living));
    spec.base_chain("forward", at("forward"), None, forwarded(&cut, living));
    for path in &cut {
        spec.chain(&of(path, "output"), left(path));
    }
    spec
}

fn stop(path: &Rules) -> [String; 2] {
    [count(&of(path, STOPPED)), drop()]
}

fn outgoing(cut: &[Rules], living: &[Rules]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for path in cut {
        // Its tunnel's own packets are the host's, by whom they are sent.
        for what in [marked(path.fwmark), out_by(&path.interface)] {
            let [count, drop] = stop(path);
            rules.push(rule([what, count, drop], CUT));
        }
    }
    let host = cut.iter().find(|path| path.workload == Workload::Host);
    if !living.is_empty() && host.is_some() {
        rules.extend(endpoints());
        let tunnels = names(living.iter().map(|path| &path.interface));
        rules.push(rule([is("oifname", tunnels), accept()], OTHERS));
    }
    let all: Vec<Rules> = cut.iter().chain(living).cloned().collect();
    let is_cut = |path: &Rules| cut.iter().any(|cut| cut.name == path.name);
    let way = |path: &Rules| if is_cut(path) { goto(&of(path, "output")) } else { accept() };
    let others = host.map_or_else(accept, |host| goto(&of(host, "output")));
    rules.extend(whose(&all, way, &others));
    rules.extend(host.map(|_| rule([others.clone()], "all else that the host sends")));
    rules
}

fn forwarded(cut: &[Rules], living: &[Rules]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for path in cut {
        let interfaces = path.workload.interfaces();
        let entered = (!interfaces.is_empty()).then(|| is("iifname", names(interfaces)));
        let ways = [in_by(&path.interface), out_by(&path.interface)];
        for what in ways.into_iter().chain(entered) {
            let [count, drop] = stop(path);
            rules.push(rule([what, count, drop], CUT));
        }
    }
    if let Some(host) = cut.iter().find(|path| path.workload == Workload::Host) {
        let entrances = living.iter().flat_map(|path| {
            path.workload.interfaces().iter().chain(std::iter::once(&path.interface))
        });
        let entrances: Vec<&String> = entrances.collect();
        if !entrances.is_empty() {
            rules.push(rule([is("iifname", names(entrances)), accept()], OTHERS));
        }
        rules.push(rule(stop(host), CUT));
    }
    rules
}

/// What a stopped path is left: loopback, an address, and replies to `management`.
fn left(path: &Rules) -> Vec<Rule> {
    let mut rules = vec![rule([out_by("lo"), accept()], "this host to itself")];
    rules.extend(dhcp_and_ndp());
    rules.extend(replies_to_management(path));
    rules.push(rule(stop(path), CUT));
    rules
}
