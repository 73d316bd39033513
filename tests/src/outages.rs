//! Incidents of which one kind looks like another from the host, and the cause that the rules name.

use std::time::{Duration, Instant};

use crate::addresses::Endpoint;
use crate::egress_config::EgressConfig;
use crate::eventually::eventually;
use crate::faults::Direction;
use crate::ids::{IpsBlock, Signature, Volume};
use crate::process::Process;
use crate::programs::EXPORTER;
use crate::wireguard::Keepalive;
use crate::world::World;

/// A chance of one in 16 384 at 2000 packets a second, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// A gateway's 300 s, scaled down.
const BLOCK_TIME: Duration = Duration::from_secs(30);
/// An outage that is no block is taken back after another time; `WireGuard` may need 15 s to see it.
const OTHER_TIME: Duration = Duration::from_secs(8);
/// A server that forwards nothing says so by a keepalive, ten seconds after the first packet.
const KEEPALIVE_SEEN: Duration = Duration::from_secs(13);
/// Scrape and evaluation come every two seconds each.
const SETTLED: Duration = Duration::from_secs(5);

const ONSET: &str =
    "vpn_egress_latest_outage_timestamp_seconds{endpoint=\"primary\",path=\"media\"}";
const ONGOING: &str = "vpn_egress_latest_outage_ongoing{endpoint=\"primary\",path=\"media\"}";
const CAUSE: &str = "vpn_egress:latest_outage_cause{endpoint=\"primary\",path=\"media\"}";
const UP: &str = "vpn_egress_cycles_total{path=\"media\",verdict=\"up\"}";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    BlockByFlow,
    BlockByAddress,
    /// The provider's server ends, its host stays.
    StoppedServer,
    /// The provider's host is gone when there is most to carry.
    BusyHours,
    /// The provider's server lives and forwards nothing.
    ForwardsNothing,
    /// The uplink has carrier and a gateway, and nothing behind it answers.
    DeadIsp,
    /// The flow is dropped now and then, whatever is sent.
    RandomDrops,
}

/// What the rules made of one incident.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub cause: String,
    /// Whether the alert fires.
    pub suspected: bool,
    /// From the onset to the cause that stayed.
    pub after: Duration,
}

impl Outage {
    pub const ALL: [Self; 7] = [
        Self::RandomDrops,
        Self::StoppedServer,
        Self::BusyHours,
        Self::ForwardsNothing,
        Self::DeadIsp,
        Self::BlockByFlow,
        Self::BlockByAddress,
    ];

    /// What has to be said of it.
    pub fn cause(self) -> &'static str {
        match self {
            Self::BlockByFlow => "ids_block_by_flow",
            Self::BlockByAddress => "ids_block_by_address",
            Self::StoppedServer | Self::BusyHours | Self::ForwardsNothing => "provider",
            Self::DeadIsp => "uplink",
            Self::RandomDrops => "unknown",
        }
    }

    pub fn suspected(self) -> bool {
        matches!(self, Self::BlockByFlow | Self::BlockByAddress)
    }
}

impl World {
    /// Locked at the primary, tunnel up, with quick cycles.
    #[track_caller]
    pub fn lock_for_outages(&mut self) {
        self.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        // Answers to frequent handshakes would keep a server from its keepalives.
        let standby_interval = "20s".into();
        self.write_config(&EgressConfig { standby_interval, ..EgressConfig::quick() });
        self.actuator_ok(&["converge"]);
    }

    /// Prometheus with the shipped rules, for a gateway that blocks as long as the lab's.
    #[track_caller]
    pub fn start_prometheus_for_outages(&self) -> Process {
        self.start_prometheus_adapted(&[(">= 290", ">= 27"), ("<= 310", "<= 36")])
    }

    /// Lets an incident happen to the primary of a path that is up, and takes it back. Nothing
    /// fails over; the load, if there is one, goes on.
    #[track_caller]
    pub fn outage(&mut self, incident: Outage, load: &mut Option<Volume>) -> Judged {
        if incident == Outage::RandomDrops {
            *load = None;
        } else if load.is_none() {
            *load = Some(self.start_volume());
        }
        self.await_up();
        let before = self.metric(EXPORTER, ONSET).unwrap_or(0.0);
        self.begin(incident);
        eventually(PATIENCE, "the outage is seen", || {
            self.metric(EXPORTER, ONSET).is_some_and(|onset| onset > before)
        });
        let onset = Instant::now();
        if matches!(incident, Outage::BlockByFlow | Outage::BlockByAddress) {
            // The load goes on; the next match would be another incident.
            self.ips_disarm();
        }
        if incident == Outage::StoppedServer {
            // As a failover would take it away: a host says no only so often, and would spend it on
            // the load.
            *load = None;
        }
        let mut cause = (String::new(), onset);
        let mut ended = None;
        let time = if incident == Outage::ForwardsNothing { KEEPALIVE_SEEN } else { OTHER_TIME };
        let mut taken_back = incident == Outage::BlockByAddress;
        while ended.is_none_or(|at: Instant| at.elapsed() < SETTLED) {
            assert!(onset.elapsed() < PATIENCE, "{incident:?} does not end: {cause:?}");
            let said = self.query(CAUSE);
            // Of the outage before, until the first scrape after the onset.
            if let [(labels, _)] = said.as_slice()
                && self.query(ONSET).first().is_some_and(|(_, onset)| *onset > before)
                && labels["cause"] != cause.0
            {
                cause = (labels["cause"].as_str().unwrap_or_default().to_owned(), Instant::now());
            }
            if !taken_back && onset.elapsed() > time {
                self.take_back(incident);
                taken_back = true;
            }
            if ended.is_none() && self.metric(EXPORTER, ONGOING) == Some(0.0) {
                ended = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.ips_off_if_on(incident);
        let suspected = self.fires("VpnEgressIdsFalsePositiveSuspected");
        Judged { cause: cause.0, suspected, after: cause.1 - onset }
    }

    /// Enough good cycles that standbys and echoes are known, and the next one down is an onset.
    #[track_caller]
    fn await_up(&self) {
        let cycles = || self.metric(EXPORTER, UP).unwrap_or(0.0);
        let from = cycles();
        eventually(PATIENCE, "the path is up", || cycles() >= from + 4.0);
    }

    fn begin(&mut self, incident: Outage) {
        match incident {
            Outage::BlockByFlow => {
                self.ips_on(Signature::FourteenBits, IpsBlock::Flow, PATIENCE);
            }
            Outage::BlockByAddress => {
                self.ips_on(Signature::FourteenBits, IpsBlock::AddressAndPort, BLOCK_TIME);
            }
            Outage::StoppedServer => {
                // Once a second to each host by default; probes are that often here.
                self.sysctl(Endpoint::A.ns(), "net.ipv4.icmp_ratelimit", "0");
                self.stop_server(Endpoint::A);
            }
            Outage::BusyHours => self.blackhole(Endpoint::A, Direction::Both),
            Outage::ForwardsNothing => self.server_forwards(Endpoint::A, false),
            Outage::DeadIsp => {
                for endpoint in Endpoint::ALL {
                    self.blackhole(endpoint, Direction::Both);
                }
            }
            Outage::RandomDrops => self.block_port(Endpoint::A),
        }
    }

    fn take_back(&mut self, incident: Outage) {
        match incident {
            Outage::BlockByFlow => self.ips_off(),
            Outage::BlockByAddress => {}
            Outage::StoppedServer => self.start_server(Endpoint::A),
            Outage::BusyHours | Outage::RandomDrops => self.heal(Endpoint::A),
            Outage::ForwardsNothing => self.server_forwards(Endpoint::A, true),
            Outage::DeadIsp => {
                for endpoint in Endpoint::ALL {
                    self.heal(endpoint);
                }
            }
        }
    }

    fn ips_off_if_on(&self, incident: Outage) {
        if incident == Outage::BlockByAddress {
            self.ips_off();
        }
    }
}
