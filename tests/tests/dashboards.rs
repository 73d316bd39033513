//! Every panel of every dashboard shows something after an incident: an empty one is a mistake.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lab::{
    EgressConfig, Endpoint, Exit, Instances, IpsBlock, Keepalive, Leak, Signature, World,
    eventually, inside,
};
use serde_json::Value;

/// A chance of one in 16 384 at 2000 packets a second, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every query, with where it stands, as Grafana would send it for a range of ten minutes.
fn queries() -> Vec<(String, String)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../grafana/dashboards");
    let mut queries = Vec::new();
    for file in fs::read_dir(&directory).expect("the dashboards").map(|file| file.expect("a file"))
    {
        let text = fs::read_to_string(file.path()).expect("a dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let place =
                    format!("{}: {} {}", dashboard["title"], panel["title"], target["refId"]);
                queries.push((place, filled(target["expr"].as_str().expect("an expression"))));
            }
        }
    }
    queries
}

fn filled(expression: &str) -> String {
    // What lasts seconds here lasts minutes in a deployment: the steps of subqueries are as short.
    let filled =
        [("$__rate_interval", "10s"), ("$__range", "10m"), (":1m]", ":5s]"), (":30s]", ":5s]")]
            .iter()
            .fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    let all = |text: String, name| text.replace(name, ".+");
    let filled = ["$job", "$instance", "$path"].into_iter().fold(filled, all);
    assert!(!filled.contains('$'), "a variable that is not known here: {filled}");
    filled
}

#[test]
fn every_panel_has_data_after_an_incident() {
    inside("every_panel_has_data_after_an_incident", |world: &mut World| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        world.actuator_ok(&["converge"]);
        let _loop = world.start_loop(Instances::One);
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, PATIENCE);

        // As long as a step of a subquery, or nobody could tell since when the backup is active.
        let before = "count_over_time(vpn_egress_endpoint_active{endpoint=\"backup\"}[10m:5s])";
        eventually(PATIENCE, "the time before", || !world.query(before).is_empty());

        // An IPS blocks the flow under load; the path fails over; the measurement ends.
        let load = world.start_volume();
        world.ips_on(Signature::FourteenBits, IpsBlock::Flow, PATIENCE);
        eventually(PATIENCE, "the failover", || world.active_endpoint() == "backup");
        world.ips_off();
        drop(load);
        workload.wait_for_exit(Exit::B, PATIENCE);
        let queries = queries();
        assert!(queries.len() > 40, "{}", queries.len());
        let (stopped, running): (Vec<_>, Vec<_>) =
            queries.into_iter().partition(|(_, query)| query.contains("hard_stop"));
        assert_all_show(world, &running);
        // A stopped path lets no probe out, so these are looked at by themselves.
        world.send_outside(Leak::Packet, 1);
        assert_all_show(world, &stopped);
    });
}

#[track_caller]
fn assert_all_show(world: &World, queries: &[(String, String)]) {
    eventually(PATIENCE, "every panel has data", || {
        let empty: Vec<&str> = queries
            .iter()
            .filter(|(_, query)| world.query(query).is_empty())
            .map(|(place, _)| place.as_str())
            .collect();
        if empty.is_empty() { Ok(()) } else { Err(empty.join("; ")) }
    });
}
