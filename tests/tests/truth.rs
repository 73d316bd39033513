//! The truth table, every row with quick cycles, and every rule on a real Prometheus. `make truth`
//! looks at it with the cycles as shipped, and writes `docs/truth-table.md`.

use std::process::Command;
use std::time::{Duration, Instant};

use lab::programs::{EXPORTER, kill};
use lab::{
    Direction, EgressConfig, Endpoint, Exit, Instances, Keepalive, Leak, World, eventually, inside,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

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
            world.actuator_ok(&["converge"]);
            let mut parts = world.start_loop(Instances::One);
            let workload = world.start_workload();
            workload.wait_for_exit(Exit::A, PATIENCE);
            let up = "vpn_egress_cycles_total{path=\"media\",verdict=\"up\"}";
            eventually(PATIENCE, "the path is well", || world.metric(EXPORTER, up) >= Some(5.0));
            let rules = eventually(PATIENCE, "every rule was evaluated", || {
                let rules = rules(world);
                (rules.len() > 20 && rules.iter().all(|rule| rule.evaluated)).then_some(rules)
            });
            for rule in &rules {
                assert_eq!(rule.sick, None, "{}", rule.name);
            }
            eventually(PATIENCE, "only the heartbeat has anything to say", || {
                let said = said(world, &rules);
                if said == ["VpnEgressWatchdog"] { Ok(()) } else { Err(said) }
            });
            world.blackhole(Endpoint::A, Direction::Both);
            await_said(world, &rules, &["VpnEgressTunnelDown"]);
            await_said(world, &rules, &["VpnEgressOnBackup"]);
            world.blackhole(Endpoint::B, Direction::Both);
            await_said(world, &rules, &["VpnEgressExhausted"]);
            world.heal(Endpoint::A);
            world.heal(Endpoint::B);
            world.actuator_ok(&["converge", "--force"]);
            workload.wait_for_exit(Exit::A, PATIENCE);

            world.answer_from(Endpoint::A, "198.51.100.11");
            await_said(world, &rules, &["VpnEgressRoamed"]);
            world.answer_as_usual(Endpoint::A);

            world.stop_server(Endpoint::B);
            world.edit_config("    endpoints:", "    allow: [10.0.0.99/32]\n    endpoints:");
            world.delete_table("inet", "vpn_egress");
            world.actuator_ok(&["pause", "--for", "1h"]);
            await_said(
                world,
                &rules,
                &[
                    "VpnEgressNoReachableStandby",
                    "VpnEgressConfigDrift",
                    "VpnEgressKillswitchTampered",
                    "VpnEgressPaused",
                ],
            );
            world.uplink_down();
            await_said(world, &rules, &["VpnEgressUplinkDown"]);
            world.uplink_up();

            world.send_outside(Leak::Packet, 1);
            await_said(world, &rules, &["VpnEgressLeak", "VpnEgressHardStopEngaged"]);
            world.actuator_ok(&["release", "--reason", "seen"]);
            world.actuator_ok(&["unlock", "--reason", "seen"]);
            await_said(world, &rules, &["VpnEgressUnlocked"]);
            world.actuator_ok(&["converge", "--force"]);

            kill(&mut parts.actuator);
            world.plug_second_uplink();
            world.delete_table("netdev", "vpn_egress_watch");
            world.delete_tunnel();
            await_said(
                world,
                &rules,
                &[
                    "VpnEgressActuatorSilent",
                    "VpnEgressDegraded",
                    "VpnEgressKillswitchBroken",
                    "VpnEgressTelemetryMissing",
                    "VpnEgressCollectorFailing",
                ],
            );
            kill(&mut parts.exporter);
            await_said(world, &rules, &["VpnEgressExporterDown"]);
        },
    );
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
fn await_said(world: &World, rules: &[Rule], alerts: &[&str]) {
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
