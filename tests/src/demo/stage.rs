//! What is on stage: the world, both programs, Prometheus and Alertmanager with the files of
//! `alerting-rules/`, and a workload that sends all the time.

use std::time::{Duration, Instant};

use lab::programs::{ACTUATOR, EXPORTER};
use lab::shipped::Loop;
use lab::{Backend, EgressConfig, Exit, Instances, Leak, Workload, World};
use serde_json::Value;

use super::failure::{Done, Whose, ensure, within};
use super::measured::Measured;
use super::say::Say;

/// The first handshake; a lost initiation is repeated after 5 s.
const FIRST_TRAFFIC: Duration = Duration::from_secs(20);
/// The exporter's first good cycle; Prometheus looks for Alertmanagers every 5 s.
const CHAIN: Duration = Duration::from_secs(40);

pub struct Stage {
    pub say: Say,
    pub world: World,
    pub measured: Measured,
    /// Sends to `world` every 50 ms, from the lock to the end.
    pub workload: Workload,
    _running: Loop,
}

impl Stage {
    /// Locks the host and starts everything. Traffic flows by exit A when it returns.
    pub fn raise(say: Say, mut world: World) -> Done<Self> {
        let mut measured = Measured::default();
        say.done(&format!(
            "five network namespaces: egress (the host under test), router, vpn-a, vpn-b, world; \
             {} WireGuard",
            match world.backend() {
                Backend::Kernel => "the kernel's",
                Backend::Userspace => "userspace",
            }
        ));
        measured.control = world.positive_control();
        say.done(&format!(
            "before the lock, the router sees what leaves outside the tunnel: {} packets of {} kinds",
            measured.control,
            Leak::ALL.len()
        ));

        say.step("1. The lock, the tunnel, the traffic");
        world.write_config(&EgressConfig::default());
        let said = world.actuator(&["converge"]);
        say.quote("actuator converge", &said);
        let locked = said.exit == 0 && said.out.contains("changed: killswitch and watch loaded");
        ensure(locked, "converge locks the host", format!("exit {}", said.exit))?;
        world.reset_observer();
        say.line("the router counts from here, until the end");

        let running = world.start_loop(Instances::One);
        say.done("exporter, actuator, Prometheus and Alertmanager run, with the files of alerting-rules/");
        let workload = world.start_workload();
        let stage = Self { say, world, measured, workload, _running: running };
        stage.flows_by(Exit::A, Instant::now(), FIRST_TRAFFIC)?;
        stage.say.done("the workload is answered by the world, by exit A (vpn-a)");
        stage.chain_is_closed()?;
        Ok(stage)
    }

    /// The time to the first answer by `exit` to something sent after `since`.
    pub fn flows_by(&self, exit: Exit, since: Instant, limit: Duration) -> Done<Duration> {
        let claim = format!("traffic flows by exit {exit:?}");
        within(limit, &claim, || {
            self.first_answer(exit, since)
                .ok_or_else(|| format!("latest answer by {:?}", self.workload.last_exit()))
        })
        .see_logs(&["actuator", "exporter"])
    }

    pub fn first_answer(&self, exit: Exit, since: Instant) -> Option<Duration> {
        let answers = self.workload.answers_since(since);
        answers.iter().find(|answer| answer.exit == exit).map(|answer| answer.received - since)
    }

    pub fn exporter(&self, series: &str) -> Option<f64> {
        self.world.metric(EXPORTER, series)
    }

    pub fn actuator(&self, series: &str) -> Option<f64> {
        self.world.metric(ACTUATOR, series)
    }

    /// Alerts for an action that reached the actuator and had this outcome.
    pub fn outcomes(&self, action: &str, outcome: &str) -> f64 {
        let series = format!(
            "vpn_egress_actuator_alerts_total{{action=\"{action}\",outcome=\"{outcome}\"}}"
        );
        self.actuator(&series).unwrap_or(0.0)
    }

    /// Prometheus scrapes both programs and knows Alertmanager, and the exporter has looked once.
    fn chain_is_closed(&self) -> Done {
        within(CHAIN, "Prometheus scrapes both programs", || {
            let seen = self.prometheus("query?query=sum(up)")["result"][0]["value"][1].clone();
            if seen == "2" { Ok(()) } else { Err(seen) }
        })
        .see_logs(&["prometheus"])?;
        within(CHAIN, "Prometheus knows Alertmanager", || {
            let seen = self.prometheus("alertmanagers")["activeAlertmanagers"].clone();
            if seen.as_array().is_some_and(|all| all.len() == 1) { Ok(()) } else { Err(seen) }
        })
        .see_logs(&["prometheus"])?;
        within(CHAIN, "the exporter's health cycles find the tunnel up", || {
            let series = "vpn_egress_cycles_total{path=\"media\",verdict=\"up\"}";
            let seen = self.exporter(series).unwrap_or(0.0);
            if seen >= 1.0 { Ok(()) } else { Err(format!("{seen} good cycles")) }
        })
        .see_logs(&["exporter"])?;
        self.say.done(
            "Prometheus scrapes both programs and knows Alertmanager; the health cycle says: up",
        );
        Ok(())
    }

    /// `data` of an answer of Prometheus' API.
    fn prometheus(&self, what: &str) -> Value {
        let url = format!("http://{}/api/v1/{what}", World::PROMETHEUS);
        let body = self.world.http_get(&url).map(|response| response.body).unwrap_or_default();
        let json: Value = serde_json::from_str(&body).unwrap_or_default();
        json["data"].clone()
    }
}
