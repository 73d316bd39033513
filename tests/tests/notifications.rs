//! Whatever a sender makes of a notification: the right outcome for each alert, counted by reason,
//! and nothing done that should not be.

use std::time::{Duration, Instant};

use lab::programs::{ACTUATOR, firing, leak, repair, tunnel_down};
use lab::{Direction, EgressConfig, Endpoint, Keepalive, World, eventually, inside};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// A notification is read and decided in milliseconds; the machine of the test may be busy.
const QUICK: Duration = Duration::from_secs(5);

fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    let top_lines = vec!["host: gw1".to_owned()];
    world.write_config(&EgressConfig { top_lines, ..EgressConfig::quick() });
    world.actuator_ok(&["converge"]);
}

fn counted(world: &World, action: &str, outcome: &str) -> f64 {
    let series =
        format!("vpn_egress_actuator_alerts_total{{action=\"{action}\",outcome=\"{outcome}\"}}");
    world.metric(ACTUATOR, &series).unwrap_or(0.0)
}

fn rejected(world: &World, reason: &str) -> Option<f64> {
    let series = format!("vpn_egress_actuator_notifications_rejected_total{{reason=\"{reason}\"}}");
    world.metric(ACTUATOR, &series)
}

fn with(mut alert: Value, label: &str, value: &str) -> Value {
    alert["labels"][label] = json!(value);
    alert
}

fn post(world: &World, body: &str) -> (u16, Value) {
    let url = format!("{ACTUATOR}/api/v1/alerts");
    let response = world.http_post(&url, body, None).expect("an answer");
    (response.status, serde_json::from_str(&response.body).unwrap_or_default())
}

#[test]
fn s8_every_notification_has_its_outcome() {
    inside("s8_every_notification_has_its_outcome", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is seen to be down", || {
            world.actuator(&["validate"]).out.contains("tunnel-down")
        });

        // Nothing of this is about this host's active endpoint now; all of it at once, in a version
        // to come, with fields and labels that nobody knows yet.
        let mut resolved = tunnel_down("primary");
        resolved["status"] = json!("resolved");
        let mut grown = with(tunnel_down("nobody"), "team", "x");
        grown["silencedBy"] = json!(["y"]);
        let alerts = [
            (resolved, "resolved_ignored", "failover"),
            (with(tunnel_down("primary"), "host", "gw2"), "other_host", "failover"),
            (with(tunnel_down("primary"), "path", "other"), "unknown_path", "failover"),
            (with(tunnel_down("primary"), "action", "fail\"back"), "unknown_action", "other"),
            (firing(&[("action", "failover"), ("path", "media")]), "stale_endpoint", "failover"),
            (tunnel_down("backup"), "stale_endpoint", "failover"),
            (grown, "stale_endpoint", "failover"),
            (firing(&[]), "unknown_path", "other"),
            (firing(&[("action", "heartbeat"), ("host", "gw2")]), "other_host", "heartbeat"),
            (firing(&[("action", "heartbeat")]), "heartbeat", "heartbeat"),
            (repair(), "intact", "repair"),
            (with(leak(), "host", "gw1"), "already_released", "hard-stop"),
        ];
        let before: Vec<f64> =
            alerts.iter().map(|(_, outcome, action)| counted(world, action, outcome)).collect();
        let bodies: Vec<&Value> = alerts.iter().map(|(alert, ..)| alert).collect();
        let body = json!({"version": "7", "alerts": bodies, "truncatedAlerts": 3, "new": {"a": 1}});
        let (status, reply) = post(world, &body.to_string());
        let expected: Vec<&str> = alerts.iter().map(|(_, outcome, _)| *outcome).collect();
        assert_eq!((status, &reply), (200, &json!({"outcomes": expected})));
        for ((_, outcome, action), before) in alerts.iter().zip(before) {
            assert!(counted(world, action, outcome) > before, "{action} {outcome}");
        }
        let truncated = "vpn_egress_actuator_alerts_total{action=\"other\",outcome=\"truncated\"}";
        assert_eq!(world.metric(ACTUATOR, truncated), Some(3.0));
        assert_eq!(world.active_endpoint(), "primary");

        // Turned away whole, each by its reason.
        let whole = json!({"version": "4", "alerts": [tunnel_down("primary")]}).to_string();
        for cut in ["", "{}", "[]", &whole[..whole.len() - 1], &"[".repeat(50_000)] {
            assert_eq!(post(world, cut).0, 400, "{cut:.40}");
        }
        assert_eq!(rejected(world, "parse"), Some(5.0));
        assert_eq!(post(world, &" ".repeat(9 << 20)).0, 413);
        assert_eq!(rejected(world, "too_large"), Some(1.0));
        assert_eq!(world.active_endpoint(), "primary");

        // Ten thousand, each with an endpoint of its own; the one that matters among them, twice.
        let mut many: Vec<Value> =
            (0..10_000).map(|number| tunnel_down(&format!("e{number}"))).collect();
        many[5_000] = tunnel_down("primary");
        many[9_000] = tunnel_down("primary");
        let sent = Instant::now();
        let (status, reply) = post(world, &json!({"version": "4", "alerts": many}).to_string());
        assert!(sent.elapsed() < QUICK, "{:?}", sent.elapsed());
        assert_eq!(status, 200);
        let outcomes = reply["outcomes"].as_array().expect("outcomes");
        assert_eq!(outcomes.len(), 10_000);
        for (number, outcome) in outcomes.iter().enumerate() {
            let ours = number == 5_000 || number == 9_000;
            assert_eq!(outcome, if ours { "switched" } else { "stale_endpoint" }, "{number}");
        }
        let switches =
            "vpn_egress_actuator_failovers_total{from=\"primary\",path=\"media\",to=\"backup\"}";
        assert_eq!(world.metric(ACTUATOR, switches), Some(1.0));

        // The very notification again, an hour late for all that it knows: the switch is over.
        let (_, reply) = post(world, &json!({"version": "4", "alerts": many}).to_string());
        let outcomes = reply["outcomes"].as_array().expect("outcomes");
        assert!(outcomes.iter().all(|outcome| outcome == "stale_endpoint"));
        assert_eq!(world.metric(ACTUATOR, switches), Some(1.0));

        // No label of a sender's choice has become one of the page.
        let page = world.http_get(&format!("{ACTUATOR}/metrics")).expect("a page").body;
        for foreign in ["e123", "fail\\\"back", "nobody", "other\"}", "gw2"] {
            let ours = |line: &&str| line.contains("alerts_total") && line.contains(foreign);
            assert_eq!(page.lines().find(ours), None);
        }
    });
}

#[test]
fn s3_in_one_notification_the_leak_is_handled_first() {
    inside("s3_in_one_notification_the_leak_is_handled_first", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        world.blackhole(Endpoint::A, Direction::Both);
        eventually(SOON, "the primary is seen to be down", || {
            world.actuator(&["validate"]).out.contains("tunnel-down")
        });
        // Every other alert would be acted on by itself: the failover is due, the rules are broken.
        world.send_outside(lab::Leak::Packet, 1);
        let alerts = [tunnel_down("primary"), repair(), leak(), tunnel_down("primary")];
        let (_, outcomes) = world.notify_once(&alerts);
        let stopped = "already_stopped".to_owned();
        assert_eq!(outcomes[0], stopped, "{outcomes:?}");
        assert_eq!(outcomes[2], "hard_stopped", "{outcomes:?}");
        assert_eq!(outcomes[3], stopped, "{outcomes:?}");
        assert_eq!(world.active_endpoint(), "primary");
        let status = world.status();
        assert_eq!(status["standing"], "stopped");
        assert_eq!(status["stop"]["reason"], "leak");
        let evidence = status["stop"]["evidence"].as_str().expect("evidence");
        assert!(evidence.contains("1 leaked packets above the baseline"), "{evidence}");
        let since = status["stop"]["since"].as_u64().expect("a time");
        // Engaging it again changes nothing: the first reason and time stay.
        world.send_outside(lab::Leak::Packet, 2);
        let again = world.notify_once(&[leak(), leak()]).1;
        assert_eq!(again, [stopped.clone(), stopped]);
        let status = world.status();
        assert_eq!(status["stop"]["since"].as_u64(), Some(since));
        assert_eq!(status["stop"]["evidence"], evidence);
    });
}
