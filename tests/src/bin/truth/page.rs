//! What was seen, as a page, as a line, and as what is wrong with it.

use std::fmt::Write as _;

use clap::ValueEnum as _;

use crate::Table;
use crate::look::{Intervals, OF_THE_MACHINE, Seen};
use crate::situation::{Act, Age, Probe, Reading, Situation};

/// Between a handshake that a working tunnel renews and one that is stale.
const OLD: f64 = 121.0;

/// Everything that is not as it has to be.
pub fn wrong(row: Situation, seen: &Seen) -> Vec<String> {
    let expected = row.expected();
    let mut wrong = Vec::new();
    let mut want = |what: &str, right: bool, saw: &dyn std::fmt::Debug| {
        if !right {
            wrong.push(format!("{}: {what} is not as expected: {saw:?}", row.name()));
        }
    };
    let said = verdict(seen);
    want("the verdict", said == expected.verdict, &seen.verdicts);
    let down = seen.verdicts.iter().find(|one| one.starts_with("tunnel-down"));
    want("a verdict", down.is_none() || expected.verdict.starts_with("tunnel-down"), &down);
    let fresh = seen.age.is_some_and(|age| age < OLD);
    want("the handshake's age", fresh == (expected.age == Age::Fresh), &seen.age);
    let probe = match expected.probe {
        Probe::Answered => seen.probes.contains(&true),
        Probe::Lost => seen.probe == Some(false),
        Probe::SomeLost => seen.probes.contains(&false),
        Probe::Off => seen.probes.is_empty(),
    };
    want("the probe", probe, &(&seen.probes, seen.probe));
    want(
        "the probe of large packets",
        is(expected.large_probe, seen.large_probe),
        &seen.large_probe,
    );
    want(
        "the handshake beside the tunnel",
        is(expected.handshake, seen.handshake),
        &seen.handshake,
    );
    want("the echo of the endpoint's host", is(expected.echo, seen.echo), &seen.echo);
    want("the standby", is(expected.standby, seen.standby), &seen.standby);
    want("the uplink", is(expected.uplink, seen.uplink), &seen.uplink);
    let told = |alert: &&str| !OF_THE_MACHINE.contains(alert);
    let firing: Vec<&str> = seen.firing.keys().map(String::as_str).filter(told).collect();
    want("what fires", firing == expected.firing, &seen.firing);
    let pending = expected.pending.iter().all(|alert| seen.pending.contains(*alert));
    want("what would fire", pending, &seen.pending);
    let asked: Vec<&str> = seen.outcomes.iter().map(String::as_str).collect();
    let (switched, outcomes) = (seen.switched.is_some(), &seen.outcomes);
    let act = match expected.act {
        Act::Nothing => !switched && asked.is_empty() && seen.set_back == 0.0,
        Act::Failover => switched && outcomes.contains("failover: switched") && seen.by_backup > 0,
        Act::NoStandby => !switched && outcomes.contains("failover: no_reachable_standby"),
        Act::SetBack => !switched && asked.is_empty() && seen.set_back > 0.0,
    };
    want("the act", act, &(seen.switched, seen.by_backup, &seen.outcomes, seen.set_back));
    want("small packets", seen.small == expected.small, &seen.small);
    want("large packets", seen.large == expected.large, &seen.large);
    want("name lookups", seen.names == expected.names, &seen.names);
    want("what left outside the tunnel", seen.outside == 0, &seen.outside);
    wrong
}

fn is(expected: Reading, seen: Option<bool>) -> bool {
    match expected {
        Reading::Yes => seen == Some(true),
        Reading::No => seen == Some(false),
        Reading::Missing => seen.is_none(),
        Reading::Any => true,
    }
}

/// The verdict that tells of the fault: the first that a cycle came to beside *up* and *settling*.
fn verdict(seen: &Seen) -> &str {
    let told = |one: &&String| *one != "up" && !one.contains("settling");
    seen.verdicts.iter().find(told).map_or("up", String::as_str)
}

fn act(seen: &Seen) -> String {
    let mut done = Vec::new();
    if let Some(after) = seen.switched {
        done.push(format!("failover, {after:.0} s"));
    }
    if seen.set_back > 0.0 {
        done.push("peer set back".into());
    }
    if seen.outcomes.contains("failover: no_reachable_standby") {
        done.push("asked, none done: no standby answers".into());
    }
    if done.is_empty() { "nothing".into() } else { done.join("; ") }
}

fn fires(seen: &Seen) -> String {
    let all: Vec<String> =
        seen.firing.iter().map(|(alert, after)| format!("`{alert}`, {after:.0} s")).collect();
    if all.is_empty() { "none".into() } else { all.join("<br>") }
}

pub fn line(seen: &Seen) -> String {
    format!("{}; fires: {}; act: {}", verdict(seen), fires(seen), act(seen))
}

pub fn page(table: &Table, intervals: Intervals) -> String {
    let mut text = String::from(HEAD);
    let _ = writeln!(text, "Health cycles: {}.\n", intervals.title());
    text += "| what is wrong | users: small, large packets, names | handshake age | probe | large probe | endpoint: \
             handshake, echo | standby | uplink | verdict |\n|---|---|---|---|---|---|---|---|---|\n";
    for (row, seen) in rows(table) {
        let age = seen.age.map_or("unknown".into(), |age| format!("{age:.0} s"));
        let probe = match (seen.probes.contains(&true), row.expected().probe, seen.probe) {
            (_, _, None) => "none",
            (true, Probe::SomeLost, _) => "some lost",
            (_, _, Some(true)) => "answered",
            (_, _, Some(false)) => "lost",
        };
        let _ = writeln!(
            text,
            "| {} | {}, {}, {} | {age} | {probe} | {} | {}, {} | {} | {} | {} |",
            row.title(),
            flows(seen.small),
            flows(seen.large),
            flows(seen.names),
            seen.large_probe.map_or("not known", flows),
            reading(seen.handshake),
            reading(seen.echo),
            reading(seen.standby),
            reading(seen.uplink),
            verdict(seen),
        );
    }
    text += "\n## What follows\n\nSeconds are from the fault on.\n\n| what is wrong | fires | pending: fires where it stays so | the actuator |\n|---|---|---|---|\n";
    for (row, seen) in rows(table) {
        let pending: Vec<String> = seen.pending.iter().map(|alert| format!("`{alert}`")).collect();
        let pending = if pending.is_empty() { "none".into() } else { pending.join("<br>") };
        let _ = writeln!(text, "| {} | {} | {pending} | {} |", row.title(), fires(seen), act(seen));
    }
    text + TAIL
}

fn rows(table: &Table) -> impl Iterator<Item = (Situation, &Seen)> {
    Situation::value_variants().iter().filter_map(|row| Some((*row, table.get(row)?)))
}

const fn flows(flows: bool) -> &'static str {
    if flows { "yes" } else { "no" }
}

const fn reading(seen: Option<bool>) -> &'static str {
    match seen {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not asked",
    }
}

const HEAD: &str = "# The truth table

Made by `make truth`; do not edit. Each row is a host of its own in the lab: locked, at its primary,
users at work, and the whole loop as shipped: exporter, Prometheus with the shipped rules, Alertmanager,
actuator. Then something goes wrong, and what the loop shows is written down. A row that
is not as `tests/src/bin/truth/situation.rs` has it fails the run; `make test` looks at each row with
quick cycles.

## What is seen

*Users* are answers to small packets, to datagrams of 1300 bytes, and to lookups at a resolver behind the
tunnel, while the path is at the primary: they prove that the fault is real. *Endpoint* and *standby* are
asked beside the tunnel, by a handshake from a fresh socket (not while the tunnel works, for that would
make the peer roam) and by an echo of the endpoint's host.

";

const TAIL: &str = "
## Why so

* **Saturated: up.** A probe that is lost is no evidence while more arrives than an idle peer sends. A
  failover would break every connection, and the load would fill the next line. In an hour each of
  upload, download, both, and upload for which nothing comes back, on a line that dropped 38 to 62 % of the
  packets: no false failover, no run of more than one cycle (`figures --only saturation --minutes 60`).
* **Server stopped, wrong key, blackhole in one direction: down.** From here they look alike: sent grows,
  nothing comes. The echo of the host tells a dead host from a server that is stopped or has another key
  (`vpn_egress_endpoint_reachable`, methods `icmp` and `handshake`), for the person who mends it.
* **The peer lives and forwards nothing: down.** Its handshake is fresh and it answers another one. Only
  the probe knows; without one it looks healthy.
* **Handshake stale.** Without a probe nothing else tells, and it takes three minutes.
* **MTU blackhole: up, and a person is told.** The path does carry. No failover: the narrow part is
  mostly one's own uplink (PPPoE, a tunnel in a tunnel), which the next endpoint shares, and the list
  would be spent for nothing. The mend is a smaller `mtu`. `VpnEgressLargePacketsLost` fires when an echo
  as large as the MTU was lost for two minutes and small ones were not.
* **DNS dead inside the tunnel: up.** The tunnel carries; whether the resolver that is asked is the
  provider's or somebody else's the path does not know, and a failover would not mend the latter. Who
  depends on the provider's resolver lets the probe ask that one: then `VpnEgressProbeUnanswered` fires
  after two minutes. There is no failover while users are answered by the tunnel; an idle path, by which
  nothing comes but keepalives, is down.
* **The peer answers from elsewhere: roamed, and set back.** Its keys are right and it lives, so the next
  endpoint is not better. Users get answers now and then. Again and again: configure the new address.
* **Uplink down: named, and no failover**, neither while it lasts nor at its end.
* **Nothing behind the gateway answers.** The gateway lives, so the uplink does not look down. The failover
  is asked for, and not done: no standby completes a handshake (S9), so the path is where it was when all
  comes back.
";
