//! The truth table, every row with quick cycles, and every rule on a real Prometheus. `make truth`
//! looks at it with the cycles as shipped, and writes `docs/truth-table.md`.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::programs::{EXPORTER, kill};
use lab::{
    Direction, EgressConfig, Endpoint, Exit, Instances, Keepalive, Leak, Ns, World, eventually,
    inside,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

/// Alerts that speak on a real Prometheus in other tests: always; `ids_world.rs`; `ids.rs`. The series of
/// the last one are those of a real actuator in `ways_to_stop.rs`, its rule is in `alerting-rules/tests`.
const ELSEWHERE: [&str; 4] = [
    "VpnEgressWatchdog",
    "VpnEgressIdsExemptionLost",
    "VpnEgressIdsFalsePositiveSuspected",
    "VpnEgressHardStopNotCut",
];

/// The far side answers no echo, and forwards all the same.
const NO_ECHO: &str = "table inet no_echo { chain input { type filter hook input priority 0; \
                       icmp type echo-request drop; }; }";

#[test]
fn in_each_situation_what_is_seen_what_fires_and_what_is_done_are_as_told() {
    // Few worlds at once: other tests have theirs at the same time.
    let mut command = Command::new(World::program("truth"));
    let output = command.args(["--jobs", "2"]).output().expect("the table is made");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    print!("{said}");
    assert!(output.status.success(), "{said}{wrong}");
    assert!(said.contains("14 rows in "), "{said}");
}

/// A rule as Prometheus has it.
struct Rule {
    name: String,
    expression: String,
    is_alert: bool,
    sick: Option<String>,
    evaluated: bool,
}

#[test]
fn every_expression_returns_nothing_on_a_healthy_path_and_its_series_where_it_has_a_reason() {
    inside(
        "every_expression_returns_nothing_on_a_healthy_path_and_its_series_where_it_has_a_reason",
        |world| {
            world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
            world.write_config(&EgressConfig::quick());
            let mut told = stand_still_and_then_know_nothing(world);
            world.actuator_ok(&["converge"]);
            let mut parts = world.start_loop(Instances::One);
            let workload = world.start_workload();
            let _large = world.start_large_workload();
            workload.wait_for_exit(Exit::A, PATIENCE);
            let up = "vpn_egress_cycles_total{path=\"media\",verdict=\"up\"}";
            eventually(PATIENCE, "the path is well", || world.metric(EXPORTER, up) >= Some(5.0));
            let rules = evaluated(world);
            for rule in &rules {
                assert_eq!(rule.sick, None, "{}", rule.name);
            }
            eventually(PATIENCE, "only the heartbeat has anything to say", || {
                let said = said(world, &rules);
                if said == ["VpnEgressWatchdog"] { Ok(()) } else { Err(said) }
            });
            world.drop_large(Endpoint::A);
            await_said(world, &rules, &mut told, &["VpnEgressLargePacketsLost"]);
            world.heal(Endpoint::A);
            world.nft(Endpoint::A.ns(), NO_ECHO);
            await_said(world, &rules, &mut told, &["VpnEgressProbeUnanswered"]);
            world.exec_ok(Endpoint::A.ns(), &["nft", "delete", "table", "inet", "no_echo"]);
            world.blackhole(Endpoint::A, Direction::Both);
            await_said(world, &rules, &mut told, &["VpnEgressTunnelDown"]);
            await_said(world, &rules, &mut told, &["VpnEgressOnBackup"]);
            world.blackhole(Endpoint::B, Direction::Both);
            await_said(world, &rules, &mut told, &["VpnEgressExhausted"]);
            world.heal(Endpoint::A);
            world.heal(Endpoint::B);
            world.actuator_ok(&["converge", "--force"]);
            workload.wait_for_exit(Exit::A, PATIENCE);

            world.answer_from(Endpoint::A, "198.51.100.11");
            await_said(world, &rules, &mut told, &["VpnEgressRoamed"]);
            world.answer_as_usual(Endpoint::A);

            world.stop_server(Endpoint::B);
            world.edit_config("    endpoints:", "    allow: [10.0.0.99/32]\n    endpoints:");
            world.delete_table("inet", "vpn_egress");
            world.actuator_ok(&["pause", "--for", "1h"]);
            await_said(
                world,
                &rules,
                &mut told,
                &[
                    "VpnEgressNoReachableStandby",
                    "VpnEgressConfigDrift",
                    "VpnEgressKillswitchTampered",
                    "VpnEgressPaused",
                ],
            );
            world.uplink_down();
            await_said(world, &rules, &mut told, &["VpnEgressUplinkDown"]);
            world.uplink_up();

            world.send_outside(Leak::Packet, 1);
            await_said(world, &rules, &mut told, &["VpnEgressLeak", "VpnEgressHardStopEngaged"]);
            world.actuator_ok(&["release", "--reason", "seen"]);
            world.actuator_ok(&["unlock", "--reason", "seen"]);
            await_said(world, &rules, &mut told, &["VpnEgressUnlocked"]);
            world.actuator_ok(&["converge", "--force"]);

            kill(&mut parts.actuator);
            world.plug_second_uplink();
            world.delete_table("netdev", "vpn_egress_watch");
            world.delete_tunnel();
            await_said(
                world,
                &rules,
                &mut told,
                &[
                    "VpnEgressActuatorSilent",
                    "VpnEgressDegraded",
                    "VpnEgressKillswitchBroken",
                    "VpnEgressTelemetryMissing",
                    "VpnEgressCollectorFailing",
                ],
            );
            kill(&mut parts.exporter);
            await_said(world, &rules, &mut told, &["VpnEgressExporterDown"]);

            told.extend(ELSEWHERE.map(str::to_owned));
            let all = rules.iter().filter(|rule| rule.is_alert).map(|rule| rule.name.clone());
            assert_eq!(told, all.collect(), "every alert had its reason, here or elsewhere");
        },
    );
}

/// An exporter whose cycles stand still is what answers with the same page for ever. Then a real one, of
/// a path that nobody has converged: what its health is nobody can tell.
fn stand_still_and_then_know_nothing(world: &mut World) -> BTreeSet<String> {
    let line = world.program_line("exporter", &["--once"]);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let page = world.exec_ok(Ns::Egress, &line);
    let directory = world.write_file("metrics", &page, 0o644);
    let directory = directory.parent().expect("a directory").display().to_string();
    let port = EXPORTER.trim_start_matches("http://");
    let mut still =
        world.spawn(Ns::Egress, "still", &["busybox", "httpd", "-f", "-p", port, "-h", &directory]);
    let mut prometheus = world.start_prometheus_adapted(&[]);
    let rules = evaluated(world);
    let mut told = BTreeSet::new();
    await_said(world, &rules, &mut told, &["VpnEgressCyclesStalled"]);
    kill(&mut still);
    let mut exporter = world.start_exporter();
    await_said(world, &rules, &mut told, &["VpnEgressVerdictUnknown"]);
    kill(&mut exporter);
    kill(&mut prometheus);
    told
}

#[track_caller]
fn evaluated(world: &World) -> Vec<Rule> {
    eventually(PATIENCE, "every rule was evaluated", || {
        let rules = rules(world);
        (rules.len() > 20 && rules.iter().all(|rule| rule.evaluated)).then_some(rules)
    })
}

/// The alerts whose expression returns anything.
fn said(world: &World, rules: &[Rule]) -> Vec<String> {
    let alerts = rules.iter().filter(|rule| rule.is_alert);
    let saying = alerts.filter(|rule| !world.query(&rule.expression).is_empty());
    saying.map(|rule| rule.name.clone()).collect()
}

/// Waits until each has had something to say since now: what it tells of may be mended before
/// anybody looks.
#[track_caller]
fn await_said(world: &World, rules: &[Rule], told: &mut BTreeSet<String>, alerts: &[&str]) {
    let since = Instant::now();
    let has_said = |alert: &str| {
        let seconds = since.elapsed().as_secs() + 1;
        rules.iter().filter(|rule| rule.is_alert && rule.name == alert).any(|rule| {
            let ever = format!("present_over_time(({})[{seconds}s:1s])", rule.expression);
            !world.query(&ever).is_empty()
        })
    };
    eventually(PATIENCE, &format!("{alerts:?} have something to say"), || {
        let silent: Vec<_> = alerts.iter().filter(|alert| !has_said(alert)).collect();
        if silent.is_empty() { Ok(()) } else { Err(format!("nothing of {silent:?}")) }
    });
    told.extend(alerts.iter().map(|alert| (*alert).to_owned()));
}

fn rules(world: &World) -> Vec<Rule> {
    let url = format!("http://{}/api/v1/rules", World::PROMETHEUS);
    let Ok(response) = world.http_get(&url) else { return Vec::new() };
    let json: Value = serde_json::from_str(&response.body).unwrap_or_default();
    let groups = json["data"]["groups"].as_array().cloned().unwrap_or_default();
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
        .map(|rule| Rule {
            name: text(&rule, "name"),
            expression: text(&rule, "query"),
            is_alert: rule["type"] == "alerting",
            sick: rule["lastError"].as_str().filter(|error| !error.is_empty()).map(str::to_owned),
            evaluated: rule["health"] != "unknown",
        })
        .collect()
}
