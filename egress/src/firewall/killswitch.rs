//! The first wall: the workload leaves by the tunnel or not at all (S1, S2).
//!
//! Always loaded, policy drop. There is deliberately no `ct established` accept on output: a flow
//! that was opened before the lock dies with it.

use nftables::expr::{CTDir, MetaKey};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::dsl::{
    Expr, Stmt, accept, any_of, count, ct, drop, in_by, is, is_not, jump, l4, marked, meta,
    not_opening, out_by, payload, prohibit, reset_tcp, set_mark, text, within,
};
use super::permits::{add_sets, by_family, dhcp_and_ndp, dns, endpoints, ntp, of, to_set};
use super::rules::Rules;
use super::table::{Hook, TableSpec};
use crate::config::DnsPolicy;

pub const TABLE: &str = "vpn_egress";

/// Ordinary filter priority. A drop in one table is final, so other tables cannot undo it.
const FILTER: i32 = 0;
/// Where the mark is saved and restored: after conntrack (-200), before routing decides again.
const MANGLE: i32 = -150;

fn base(point: NfHook, priority: i32, policy: NfChainPolicy) -> Hook {
    Hook { kind: NfChainType::Filter, point, priority, policy }
}

pub fn table(paths: &[Rules]) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::INet, TABLE);
    spec.base_chain("output", base(NfHook::Output, FILTER, NfChainPolicy::Drop), None);
    spec.base_chain("forward", base(NfHook::Forward, FILTER, NfChainPolicy::Drop), None);
    spec.base_chain("prerouting", base(NfHook::Prerouting, MANGLE, NfChainPolicy::Accept), None);
    spec.base_chain("postrouting", base(NfHook::Postrouting, MANGLE, NfChainPolicy::Accept), None);
    for path in paths {
        add_path(&mut spec, path);
    }
    spec
}

fn add_path(spec: &mut TableSpec, path: &Rules) {
    let blocked = of(path, "blocked");
    spec.counter(&blocked);
    add_sets(spec, path);
    let [output, forward] = ["output", "forward"].map(|chain| of(path, chain));
    let mut add = |chain: &str, rules: Vec<Vec<Stmt>>| {
        spec.chain(chain);
        for rule in rules {
            spec.rule(chain, rule);
        }
    };
    add(&output, outgoing(path, &blocked));
    add(&forward, forwarded(path, &blocked));
    spec.rule("output", [jump(&output)]);
    spec.rule("forward", [jump(&forward)]);
    keep_mark(spec, path);
}

/// What the host itself sends. The order is the specification: see `DESIGN.md`, section 5.
fn outgoing(path: &Rules, blocked: &str) -> Vec<Vec<Stmt>> {
    let mut rules = vec![
        vec![out_by("lo"), accept()],
        // By name: a recreated device still matches.
        vec![out_by(&path.interface), accept()],
    ];
    if !path.allow_interfaces.is_empty() {
        let names = path.allow_interfaces.iter().map(|name| text(name.clone()));
        rules.push(vec![is(meta(MetaKey::Oifname), any_of(names)), accept()]);
    }
    rules.extend(endpoints(path));
    rules.extend(dhcp_and_ndp());
    // DNS is refused before the allow-list, or the LAN's resolver would carry every name outside.
    if path.dns == DnsPolicy::Refuse {
        for mut rule in dns() {
            rule.extend([count(blocked), prohibit()]);
            rules.push(rule);
        }
    }
    rules.extend(to_set(path, "allow", &[], &[accept()]));
    rules.extend(ntp(path));
    rules.extend(replies_to_management(path));
    rules.extend(spare_management(path, blocked));
    rules.extend(refuse(blocked));
    rules
}

/// A management session from before the lock has no conntrack entry yet, so its next packet from
/// here does not look like a reply. Dropped in silence, not reset: the client's next packet makes
/// the entry the right way round, and the session goes on.
fn spare_management(path: &Rules, blocked: &str) -> Vec<Vec<Stmt>> {
    by_family(|ip, family| {
        let set = of(path, &format!("management{family}"));
        vec![within(payload(ip, "daddr"), &set), not_opening(), count(blocked), drop()]
    })
}

/// What the host forwards: in and out of the tunnel, between its own bridges, to the allow-list.
fn forwarded(path: &Rules, blocked: &str) -> Vec<Vec<Stmt>> {
    let mut rules = vec![vec![out_by(&path.interface), accept()]];
    let established = any_of(["established", "related"].map(text));
    // Answers from the tunnel, never a way from the tunnel to the uplink: only to a flow that the
    // tunnel carried out, and back to where that came from.
    rules.push(vec![in_by(&path.interface), is(ct("state", None), established), accept()]);
    if !path.allow_interfaces.is_empty() {
        let names = any_of(path.allow_interfaces.iter().map(|name| text(name.clone())));
        rules.push(vec![is(meta(MetaKey::Oifname), names), accept()]);
    }
    if path.dns == DnsPolicy::Refuse {
        for mut rule in dns() {
            rule.extend([count(blocked), prohibit()]);
            rules.push(rule);
        }
    }
    rules.extend(to_set(path, "allow", &[], &[accept()]));
    // A published port of a container: what a management host asked for is answered.
    rules.extend(replies_to_management(path));
    rules.extend(refuse(blocked));
    rules
}

/// Replies to connections that a management host opened to this host, by their original direction:
/// neither the host nor a container can open one towards it.
pub fn replies_to_management(path: &Rules) -> Vec<Vec<Stmt>> {
    by_family(|ip, family| {
        let opened_by =
            ct(if ip == "ip" { "ip saddr" } else { "ip6 saddr" }, Some(CTDir::Original));
        let set = of(path, &format!("management{family}"));
        vec![
            is(ct("direction", None), text("reply")),
            within(opened_by, &set),
            within(payload(ip, "daddr"), &set),
            accept(),
        ]
    })
}

/// Counted, then refused loudly, so that programs fail at once instead of waiting for a timeout.
fn refuse(blocked: &str) -> Vec<Vec<Stmt>> {
    vec![vec![l4("tcp"), count(blocked), reset_tcp()], vec![count(blocked), prohibit()]]
}

/// With `rp_filter=1` an answer from an endpoint must carry the tunnel's mark, or the reverse path
/// points into the tunnel and no handshake completes.
fn keep_mark(spec: &mut TableSpec, path: &Rules) {
    let mark = Expr::Number(path.fwmark);
    let ours = is(ct("mark", None), mark);
    let save = set_mark(ct("mark", None), meta(MetaKey::Mark));
    let restore = set_mark(meta(MetaKey::Mark), ct("mark", None));
    let not_tunnel = is_not(meta(MetaKey::Iifname), text(path.interface.clone()));
    spec.rule("postrouting", [l4("udp"), marked(path.fwmark), save]);
    spec.rule("prerouting", [not_tunnel, l4("udp"), ours, restore]);
}
