//! One situation in a world of its own: the whole loop as shipped looks at it, and everything that
//! it shows is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use lab::addresses::{NAMES, TUNNEL_SERVER};
use lab::programs::{ACTUATOR, EXPORTER};
use lab::shipped::Loop;
use lab::{EgressConfig, Endpoint, Exit, Instances, Keepalive, Workload, World, eventually};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::situation::{Act, Probe, Situation};

/// How long a machine may take that does much else.
const PATIENCE: Duration = Duration::from_secs(90);
/// What a handshake needs to be stale, and to be noticed.
const STALE_PATIENCE: Duration = Duration::from_secs(300);
/// An evaluation of the rules, in seconds.
const PENDING: u64 = 2;
const LOOK: Duration = Duration::from_secs(1);
/// Cycles from the fault on in which what is not to happen has time to.
const CYCLES: f64 = 10.0;

/// What a machine says that is too busy to be scraped: of no situation.
pub const OF_THE_MACHINE: [&str; 2] = ["VpnEgressActuatorSilent", "VpnEgressExporterDown"];

/// Of the health cycles; the rules are as shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Intervals {
    /// A cycle each second.
    Quick,
    Shipped,
}

impl Intervals {
    pub const fn title(self) -> &'static str {
        match self {
            Self::Quick => {
                "every second, so that seconds below are fewer than with the shipped ones"
            }
            Self::Shipped => "every 5 s, as shipped",
        }
    }

    fn config(self) -> EgressConfig {
        match self {
            Self::Quick => EgressConfig::quick(),
            Self::Shipped => EgressConfig::default(),
        }
    }
}

/// What was seen from the fault on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// The verdicts that cycles came to, as the log tells them when they change.
    pub verdicts: Vec<String>,
    /// Of the latest handshake, in seconds.
    pub age: Option<f64>,
    /// The probe's results, and the last one.
    pub probes: BTreeSet<bool>,
    pub probe: Option<bool>,
    pub large_probe: Option<bool>,
    pub handshake: Option<bool>,
    pub echo: Option<bool>,
    pub standby: Option<bool>,
    pub uplink: Option<bool>,
    /// Alerts, by Prometheus' own record, and after how many seconds each fired first.
    pub firing: BTreeMap<String, f64>,
    /// Alerts that would fire if it went on.
    pub pending: BTreeSet<String>,
    /// What the actuator was asked for, and made of it.
    pub outcomes: BTreeSet<String>,
    pub set_back: f64,
    /// After how many seconds the path was at the backup.
    pub switched: Option<f64>,
    /// Whether users were answered while the path was at the primary.
    pub small: bool,
    pub large: bool,
    pub names: bool,
    /// And how often by the backup.
    pub by_backup: usize,
    /// Packets that the router saw outside the tunnel.
    pub outside: u64,
}

struct Stage {
    world: World,
    parts: Loop,
    small: Workload,
    large: Workload,
    names: Workload,
    _resolver: lab::Process,
}

pub fn look(situation: Situation, intervals: Intervals) -> Seen {
    let mut stage = raise(situation, intervals);
    let log = stage.parts.exporter.log().len();
    let cycles = cycles(&stage.world);
    let _kept = situation.commit(&mut stage.world);
    let fault = Instant::now();
    let mut seen = Seen::default();
    let mut settled = None;
    let patience = if situation == Situation::HandshakeStale { STALE_PATIENCE } else { PATIENCE };
    loop {
        thread::sleep(LOOK);
        seen.add(&stage.world, fault);
        let now = self::cycles(&stage.world);
        if settled.is_none() && now >= cycles + CYCLES && seen.has_all_of(situation) {
            settled = Some(now);
        }
        // What comes after the act is seen too.
        if settled.is_some_and(|at| now >= at + CYCLES / 2.0) || fault.elapsed() > patience {
            break;
        }
    }
    let new = stage.parts.exporter.log()[log..].to_owned();
    seen.verdicts.extend(new.lines().filter_map(verdict));
    let answers = |workload: &Workload, exit| {
        workload.answers_since(fault).iter().filter(|answer| answer.exit == exit).count()
    };
    seen.small = answers(&stage.small, Exit::A) > 0;
    seen.large = answers(&stage.large, Exit::A) > 0;
    seen.names = answers(&stage.names, Exit::A) > 0;
    seen.by_backup = answers(&stage.small, Exit::B);
    seen.outside = stage.world.observed_outside();
    seen
}

/// A locked path at its primary, watched by everything that ships; users at work.
fn raise(situation: Situation, intervals: Intervals) -> Stage {
    let mut world = World::build();
    let resolver = world.start_names();
    let mut config = intervals.config();
    let probed = situation.expected().probe != Probe::Off;
    let soon_stale = !probed && intervals == Intervals::Quick;
    if soon_stale {
        config.handshake_stale_after = "122s".into();
    }
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&config);
    if !probed {
        without_probe(&world);
    }
    if situation == Situation::ProbedNamesDead {
        ask_for_names(&world);
    }
    if soon_stale {
        with_frequent_keepalives(&world);
    }
    world.actuator_ok(&["converge"]);
    let parts = world.start_loop(Instances::One);
    let small = world.start_workload();
    let large = world.start_large_workload();
    let names = world.start_workload_to(NAMES);
    for workload in [&small, &large, &names] {
        workload.wait_for_exit(Exit::A, PATIENCE);
    }
    eventually(
        PATIENCE,
        "the path is up, its standby known, and the chain of alerts works",
        || {
            let standby = "vpn_egress_endpoint_reachable{endpoint=\"backup\",method=\"handshake\",path=\"media\"}";
            let heartbeat = "vpn_egress_actuator_last_heartbeat_timestamp_seconds";
            let up = "vpn_egress_cycles_total{path=\"media\",verdict=\"up\"}";
            let page = world.http_get(&format!("{EXPORTER}/metrics"))?.body;
            let heartbeat = world.metric(ACTUATOR, heartbeat);
            let well = value(&page, standby) == Some(1.0)
                && value(&page, up) >= Some(3.0)
                && heartbeat > Some(0.0)
                && world.firing_alerts().iter().all(|alert| {
                    alert == "VpnEgressWatchdog" || OF_THE_MACHINE.contains(&alert.as_str())
                });
            if well {
                Ok(())
            } else {
                Err(format!("{page}\n{heartbeat:?} {:?}", world.firing_alerts()))
            }
        },
    );
    world.reset_observer();
    Stage { world, parts, small, large, names, _resolver: resolver }
}

/// Takes the probe out of the config: then only the handshake's age tells.
fn without_probe(world: &World) {
    world.edit_config(&format!("{}\n", probe(world)), "");
}

/// Has the probe ask the resolver.
fn ask_for_names(world: &World) {
    let probe = probe(world);
    let echo = format!("{{target: {TUNNEL_SERVER}");
    let names = format!("{{kind: dns, target: \"{NAMES}\"");
    world.edit_config(&probe, &probe.replace(&echo, &names));
}

/// The probe's line in the config.
fn probe(world: &World) -> String {
    let file = world.scratch().join("egress.yml");
    let text = fs::read_to_string(&file).expect("the config was written");
    text.lines().find(|line| line.contains("probe: {target")).expect("a probe").to_owned()
}

/// A handshake may be called stale the sooner, the more often keepalives come.
fn with_frequent_keepalives(world: &World) {
    let key = "        private_key_file:";
    world.edit_config(key, &format!("        persistent_keepalive: 1\n{key}"));
    let file = world.scratch().join("a.conf");
    let text = fs::read_to_string(&file).expect("the provider's file was written");
    let (often, seldom) = ("PersistentKeepalive = 1\n", "PersistentKeepalive = 25\n");
    assert!(text.contains(seldom), "{text}");
    world.write_file("a.conf", &text.replace(seldom, often), 0o600);
}

/// The verdict in a line of the exporter's log, with its reason.
fn verdict(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(" verdict=")?;
    let (verdict, _) = rest.split_once(" before=")?;
    Some(verdict.to_owned())
}

/// Where an alert was in this state in the last seconds, when it was first, by Prometheus' clock.
fn alerts(world: &World, state: &str, seconds: u64) -> BTreeMap<String, f64> {
    let alerts = format!("ALERTS{{alertstate=\"{state}\",alertname!=\"VpnEgressWatchdog\"}}");
    let first = format!("min by (alertname) (min_over_time(timestamp({alerts})[{seconds}s:1s]))");
    let name = |labels: &Value| labels["alertname"].as_str().map(str::to_owned);
    let series = world.query(&first);
    series.iter().filter_map(|(labels, at)| Some((name(labels)?, *at))).collect()
}

fn cycles(world: &World) -> f64 {
    let page = world.http_get(&format!("{EXPORTER}/metrics")).map(|page| page.body);
    let page = page.unwrap_or_default();
    let cycles = page.lines().filter(|line| line.starts_with("vpn_egress_cycles_total{"));
    cycles.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn value(page: &str, series: &str) -> Option<f64> {
    let line = page
        .lines()
        .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Seconds by the wall clock, as Prometheus has them.
fn epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Seen {
    fn add(&mut self, world: &World, fault: Instant) {
        let Ok(page) = world.http_get(&format!("{EXPORTER}/metrics")) else { return };
        let of = |name: &str, endpoint: &str, more: &str| {
            let labels = format!("{{endpoint=\"{endpoint}\",{more}path=\"media\"}}");
            value(&page.body, &format!("vpn_egress_{name}{labels}"))
        };
        let yes = |number: Option<f64>| number.map(|number| number > 0.0);
        let reachable = |endpoint, method: &str| {
            yes(of("endpoint_reachable", endpoint, &format!("method=\"{method}\",")))
        };
        // What was failed away from goes on being asked.
        self.handshake = reachable("primary", "handshake");
        self.echo = reachable("primary", "icmp");
        self.uplink = yes(value(&page.body, "vpn_egress_uplink_up{path=\"media\"}"));
        let at = |endpoint| of("endpoint_active", endpoint, "") == Some(1.0);
        if at("primary") {
            self.standby = reachable("backup", "handshake");
            let probe = "vpn_egress_tunnel_probe_success{path=\"media\"}";
            self.probe = yes(value(&page.body, probe));
            self.probes.extend(self.probe);
            let large = "vpn_egress_tunnel_large_probe_success{path=\"media\"}";
            self.large_probe = yes(value(&page.body, large));
            self.age = of("handshake_age_seconds", "primary", "").or(self.age);
        }
        let after = fault.elapsed().as_secs_f64();
        if at("backup") {
            self.switched.get_or_insert(after);
        }
        let fault_at = epoch() - after;
        for (alert, at) in alerts(world, "firing", fault.elapsed().as_secs()) {
            self.firing.entry(alert).or_insert(at - fault_at);
        }
        self.pending = alerts(world, "pending", PENDING).into_keys().collect();
        let Ok(page) = world.http_get(&format!("{ACTUATOR}/metrics")) else { return };
        let asked = page.body.lines().filter_map(|line| {
            let labels = line.strip_prefix("vpn_egress_actuator_alerts_total{action=\"")?;
            let (action, rest) = labels.split_once("\",outcome=\"")?;
            let (outcome, count) = rest.split_once("\"} ")?;
            (count != "0" && action != "heartbeat").then(|| format!("{action}: {outcome}"))
        });
        self.outcomes.extend(asked);
        let set_back = "vpn_egress_actuator_peers_set_back_total{path=\"media\"}";
        self.set_back = value(&page.body, set_back).unwrap_or(self.set_back);
    }

    /// Whether there is nothing left to wait for; that there is nothing too much is seen later.
    fn has_all_of(&self, situation: Situation) -> bool {
        let expected = situation.expected();
        let acted = match expected.act {
            Act::Nothing => true,
            Act::Failover => self.switched.is_some(),
            Act::NoStandby => self.outcomes.contains("failover: no_reachable_standby"),
            Act::SetBack => self.set_back > 0.0,
        };
        let probed = expected.probe != Probe::SomeLost || self.probes.contains(&false);
        let told = expected.firing.iter().all(|alert| self.firing.contains_key(*alert))
            && expected.pending.iter().all(|alert| self.pending.contains(*alert));
        acted && probed && told
    }
}
