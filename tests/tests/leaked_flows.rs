//! A leak names itself: what leaked is in `status`, in the reason of the stop, in the history and in the
//! log.

use lab::programs::leak;
use lab::{EgressConfig, Endpoint, Keepalive, Leak, inside};

#[test]
fn s3_a_leak_names_its_flow_wherever_the_stop_is_told() {
    inside("s3_a_leak_names_its_flow_wherever_the_stop_is_told", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        assert!(world.positive_control() > 0, "the observer would see the leak");
        world.actuator_ok(&["converge"]);
        let _actuator = world.start_actuator();
        assert_eq!(world.status()["leaked_flows"], serde_json::json!([]), "nothing leaks");

        // Frames past the first wall.
        world.send_outside(Leak::Packet, 3);
        assert_eq!(world.observed_outside(), 0, "the watch drops them");
        let flows = world.status()["leaked_flows"].clone();
        let flow = &flows[0];
        assert_eq!(flows.as_array().map(Vec::len), Some(1), "one flow, however often: {flows}");
        assert_eq!(flow["protocol"], "udp", "{flow}");
        assert_eq!(flow["source"], "10.0.0.2", "{flow}");
        assert_eq!(flow["devices"], serde_json::json!(["eth0"]), "{flow}");
        assert!(flow["port"].is_u64() && flow["macs"][0].is_string(), "{flow}");
        let target = flow["destination"].as_str().expect("an address").to_owned();

        assert_eq!(world.notify(&[leak()]), (200, vec!["hard_stopped".into()]));
        let named = format!("udp from 10.0.0.2 to {target} port ");
        let status = world.status();
        let evidence = status["stop"]["evidence"].as_str().expect("evidence");
        assert!(evidence.contains(&named) && evidence.contains(" by eth0 ("), "{evidence}");
        let decisions = status["decisions"].to_string();
        assert!(decisions.contains(&named), "{decisions}");
        let text = world.actuator(&["status"]).out;
        assert!(text.contains(&named), "{text}");
        let log = std::fs::read_to_string(world.scratch().join("actuator.log")).expect("a log");
        assert!(log.contains(&named), "{log}");
    });
}
