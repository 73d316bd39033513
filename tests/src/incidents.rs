//! One incident after another through the whole loop, with everything that tells of it doubled: two
//! Prometheis, two Alertmanagers in a cluster.

use std::time::Duration;

use crate::addresses::{Endpoint, Exit};
use crate::eventually::eventually;
use crate::faults::Direction;
use crate::monitoring::Instances;
use crate::process::Process;
use crate::programs::ACTUATOR;
use crate::shipped::Loop;
use crate::workload::Workload;
use crate::world::World;

/// Three cycles, a scrape, an evaluation, a delivery, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The loop, and the second Prometheus.
pub struct Doubled {
    pub parts: Loop,
    pub second: Process,
}

/// Whether the backup answers when it is first needed. Where it does, the switch ends the alert
/// before everybody has told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backup {
    Alive,
    DeadAtFirst,
}

/// What one incident came to.
#[derive(Clone, Copy, Debug)]
pub struct Incident {
    pub switches: f64,
    /// Alerts that asked for a failover.
    pub deliveries: f64,
}

impl World {
    #[track_caller]
    pub fn start_doubled_loop(&self) -> Doubled {
        let parts = self.start_loop(Instances::Two);
        let second = self.start_second_prometheus(&parts.alertmanagers);
        Doubled { parts, second }
    }

    /// The primary dies, and the path goes to the backup, which may be dead at first; the primary
    /// heals, and a person converges.
    #[track_caller]
    pub fn incident(&self, workload: &Workload, backup: Backup) -> Incident {
        let fires = |prometheus| self.fires_at(prometheus, "VpnEgressTunnelDown");
        let both = [Self::PROMETHEUS, Self::SECOND_PROMETHEUS];
        workload.wait_for_exit(Exit::A, PATIENCE);
        let before = (self.switches(), self.deliveries());
        self.blackhole(Endpoint::A, Direction::Both);
        if backup == Backup::DeadAtFirst {
            self.blackhole(Endpoint::B, Direction::Both);
            eventually(PATIENCE, "both tell of it, and again", || {
                both.into_iter().all(fires) && self.deliveries() >= before.1 + 2.0
            });
            self.heal(Endpoint::B);
        }
        workload.wait_for_exit(Exit::B, PATIENCE);
        eventually(PATIENCE, "the alert is over", || !both.into_iter().any(fires));
        let after = (self.switches(), self.deliveries());
        self.heal(Endpoint::A);
        eventually(PATIENCE, "the primary is failed back to", || {
            self.actuator(&["converge"]).exit == 0
        });
        Incident { switches: after.0 - before.0, deliveries: after.1 - before.1 }
    }

    /// Of any endpoint to any other, since the actuator was started.
    fn switches(&self) -> f64 {
        self.sum("vpn_egress_actuator_failovers_total{")
    }

    fn deliveries(&self) -> f64 {
        self.sum("vpn_egress_actuator_alerts_total{action=\"failover\"")
    }

    fn sum(&self, series: &str) -> f64 {
        let page = self.http_get(&format!("{ACTUATOR}/metrics")).map(|page| page.body);
        let page = page.unwrap_or_else(|error| panic!("the actuator's page: {error}"));
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        page.lines().filter(|line| line.starts_with(series)).filter_map(value).sum()
    }
}
