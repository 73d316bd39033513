//! Several hosts, one Prometheus, two Alertmanagers: what happens on a host is its own matter.

use std::time::Duration;

use lab::{Endpoint, eventually, inside};
use serde_json::Value;

/// Three cycles, a scrape, an evaluation, a delivery, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const ALL: [&str; 3] = ["gw1", "gw2", "gw3"];

#[test]
fn s8_one_incident_in_a_fleet_is_one_switch_on_its_own_host() {
    inside("s8_one_incident_in_a_fleet_is_one_switch_on_its_own_host", |world| {
        let fleet = world.start_fleet();
        // Alertmanager reaches each of them, with each one's own token: whose silence follows could
        // have been told.
        let heartbeat = "vpn_egress_actuator_last_heartbeat_timestamp_seconds > 0";
        eventually(PATIENCE, "each hears the heartbeat", || {
            let heard = world.hosts(heartbeat);
            if heard == ALL { Ok(()) } else { Err(heard) }
        });
        eventually(PATIENCE, "each tunnel is up", || {
            let up = world.hosts("vpn_egress_cycles_total{verdict=\"up\"} > 0");
            if up == ALL { Ok(()) } else { Err(up) }
        });

        world.forget(&fleet.gateways[1], Endpoint::A);
        let switches = "vpn_egress_actuator_failovers_total > 0";
        eventually(PATIENCE, "gw2 has switched", || world.hosts(switches) == ["gw2"]);
        eventually(PATIENCE, "the alert is over", || {
            world.hosts("ALERTS{alertname=\"VpnEgressTunnelDown\"}").is_empty()
        });

        let total = world.query("sum(vpn_egress_actuator_failovers_total)");
        assert_eq!(total.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [1.0]);
        let told = "vpn_egress_actuator_alerts_total{action!=\"heartbeat\"} > 0";
        assert_eq!(world.hosts(told), ["gw2"], "nobody else was told of anything");
        let alerts = "max_over_time(ALERTS{action!=\"heartbeat\",action!=\"\"}[10m])";
        assert_eq!(world.hosts(alerts), ["gw2"], "nor had any rule anything to tell of them");
        for gateway in &fleet.gateways {
            let said = world.ask(gateway, &["status", "--json"]);
            let status: Value = serde_json::from_str(&said.out).expect("a status");
            let expected = if gateway.name() == "gw2" { "backup" } else { "primary" };
            assert_eq!(status["paths"][0]["active_endpoint"], expected, "{}", gateway.name());
        }
    });
}
