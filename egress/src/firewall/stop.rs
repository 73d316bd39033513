//! The hard stop: the path is cut, tunnel included. A table of its own, so that engaging it is one
//! transaction that depends on nothing else being intact, and its presence in the kernel is the
//! latch that survives our programs.

use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::dsl::{Stmt, accept, count, drop, jump, out_by};
use super::killswitch::replies_to_management;
use super::permits::{add_nets, dhcp_and_ndp, of};
use super::rules::Rules;
use super::table::{Hook, TableSpec};

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

/// Cuts `paths`, and only these.
pub fn table(paths: &[(Rules, StopKind)]) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::INet, TABLE);
    for (chain, point) in [("output", NfHook::Output), ("forward", NfHook::Forward)] {
        let policy = NfChainPolicy::Accept;
        let at = Hook { kind: NfChainType::Filter, point, priority: PRIORITY, policy };
        spec.base_chain(chain, at, None);
    }
    for (path, kind) in paths {
        if *kind == StopKind::NoState {
            spec.chain(&of(path, NO_STATE));
        }
        let stopped = of(path, "stopped");
        spec.counter(&stopped);
        add_nets(&mut spec, path, "management", &path.management);
        for (hook, rules) in
            [("output", left(path, &stopped)), ("forward", vec![vec![count(&stopped), drop()]])]
        {
            let chain = of(path, hook);
            spec.chain(&chain);
            for rule in rules {
                spec.rule(&chain, rule);
            }
            spec.rule(hook, [jump(&chain)]);
        }
    }
    spec
}

/// What a stopped path is left: loopback, an address, and replies to `management`.
fn left(path: &Rules, stopped: &str) -> Vec<Vec<Stmt>> {
    let mut rules = vec![vec![out_by("lo"), accept()]];
    rules.extend(dhcp_and_ndp());
    rules.extend(replies_to_management(path));
    rules.push(vec![count(stopped), drop()]);
    rules
}
