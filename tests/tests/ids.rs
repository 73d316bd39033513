//! The IDS/IPS false positive: it comes with volume, and its evidence tells it from what looks alike.

use std::time::Duration;

use lab::programs::EXPORTER;
use lab::{
    EgressConfig, Endpoint, Exit, IpsBlock, Keepalive, Outage, Signature, World, eventually, inside,
};

/// A chance of one in 16 384 at 2000 packets a second, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::quick());
    world.actuator_ok(&["converge"]);
}

#[test]
fn under_load_the_tunnel_meets_the_signature_and_idle_it_does_not() {
    inside("under_load_the_tunnel_meets_the_signature_and_idle_it_does_not", |world| {
        locked(world);
        let workload = world.start_workload();
        for block in [IpsBlock::Packet, IpsBlock::Flow, IpsBlock::AddressAndPort] {
            workload.wait_for_exit(Exit::A, SOON);
            world.ips_on(Signature::FourteenBits, block, PATIENCE);
            workload.wait_for_exit(Exit::A, SOON);
            assert_eq!(world.ips_matches(), 0, "{block:?}: idle");
            let load = world.start_volume();
            eventually(PATIENCE, "a packet meets the signature", || world.ips_matches() > 0);
            drop(load);
            if block == IpsBlock::Packet {
                // An inline IPS takes the one packet, and nobody notices.
                workload.wait_for_exit(Exit::A, SOON);
            } else {
                eventually(SOON, "the tunnel is silent", || {
                    workload
                        .answers()
                        .last()
                        .is_some_and(|last| last.received.elapsed() > Duration::from_secs(2))
                });
            }
            world.ips_off();
        }
    });
}

#[test]
fn each_incident_is_told_by_its_evidence() {
    inside("each_incident_is_told_by_its_evidence", |world| {
        world.lock_for_outages();
        let _exporter = world.start_exporter();
        let _prometheus = world.start_prometheus_for_outages();
        let mut load = None;
        for incident in Outage::ALL {
            let judged = world.outage(incident, &mut load);
            assert_eq!(judged.cause, incident.cause(), "{incident:?}");
            assert_eq!(judged.suspected, incident.suspected(), "{incident:?}");
        }
        let series =
            "vpn_egress_outage_duration_seconds_count{endpoint=\"primary\",path=\"media\"}";
        let outages = world.metric(EXPORTER, series);
        assert!(outages >= Some(7.0), "each outage is measured: {outages:?}");
    });
}
