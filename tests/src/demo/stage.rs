//! What is on stage: the world, both programs, Prometheus and Alertmanager with the files of
//! `alerting-rules/`, and a workload that sends all the time.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use lab::programs::{ACTUATOR, EXPORTER};
use lab::{Backend, EgressConfig, Exit, Instances, Leak, Process, Workload, World};
use serde_json::Value;

use super::failure::{Done, Failure, Whose, ensure, within};
use super::measured::Measured;
use super::say::{Say, seconds};

const RULES: &str = include_str!("../../../alerting-rules/vpn-egress.rules.yml");
const PROMETHEUS: &str = include_str!("../../../alerting-rules/prometheus.yml");
const ALERTMANAGER: &str = include_str!("../../../alerting-rules/alertmanager.yml");
/// What `alertmanager.yml` says on a real host; the one thing that is changed in it.
const TOKEN_FILE: &str = "/etc/vpn-egress/actuator.token";

/// The first handshake; a lost initiation is repeated after 5 s.
const FIRST_TRAFFIC: Duration = Duration::from_secs(20);
/// The exporter's first good cycle, a scrape, an evaluation, a delivery.
const CHAIN: Duration = Duration::from_secs(40);

pub struct Stage {
    pub say: Say,
    pub world: World,
    pub token: String,
    pub measured: Measured,
    /// Sends to `world` every 50 ms, from the lock to the end.
    pub workload: Workload,
    /// In this order they are ended.
    _running: Vec<Process>,
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
        say.quote("actuator converge", &format!("{}{}", said.out, said.err));
        let locked = said.exit == 0 && said.out.contains("changed: killswitch and watch loaded");
        ensure(locked, "converge locks the host", format!("exit {}", said.exit))?;
        world.reset_observer();
        say.line("the router counts from here, until the end");

        let token = random_token()?;
        let running = start(&mut world, &token)?;
        say.done("exporter, actuator, Prometheus and Alertmanager run, with the files of alerting-rules/");
        let workload = world.start_workload();
        let stage = Self { say, world, token, measured, workload, _running: running };
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

    /// Whether Prometheus says that this alert fires.
    pub fn fires(&self, alert: &str) -> bool {
        let url = format!("http://{}/api/v1/alerts", World::PROMETHEUS);
        let Ok(response) = self.world.http_get(&url) else {
            return false;
        };
        let json: Value = serde_json::from_str(&response.body).unwrap_or_default();
        json["data"]["alerts"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one["labels"]["alertname"] == alert && one["state"] == "firing")
    }

    /// Alerts for an action that reached the actuator and had this outcome.
    pub fn outcomes(&self, action: &str, outcome: &str) -> f64 {
        let series = format!(
            "vpn_egress_actuator_alerts_total{{action=\"{action}\",outcome=\"{outcome}\"}}"
        );
        self.actuator(&series).unwrap_or(0.0)
    }

    /// The heartbeat goes all the way, and the exporter has looked once.
    fn chain_is_closed(&self) -> Done {
        let since = Instant::now();
        within(CHAIN, "the watchdog alert reaches the actuator", || {
            let seen = self.outcomes("heartbeat", "heartbeat");
            if seen >= 1.0 { Ok(()) } else { Err("none") }
        })
        .see_logs(&["prometheus", "alertmanager-0", "actuator"])?;
        within(CHAIN, "the exporter's health cycles find the tunnel up", || {
            let series = "vpn_egress_cycles_total{path=\"media\",verdict=\"up\"}";
            let seen = self.exporter(series).unwrap_or(0.0);
            if seen >= 1.0 { Ok(()) } else { Err(format!("{seen} good cycles")) }
        })
        .see_logs(&["exporter"])?;
        self.say.done(&format!(
            "the chain is closed: the watchdog alert went from Prometheus by Alertmanager to the \
             actuator, the health cycle says up ({} more)",
            seconds(since.elapsed())
        ));
        Ok(())
    }
}

fn start(world: &mut World, token: &str) -> Done<Vec<Process>> {
    let file = world.write_file("actuator.token", token, 0o600);
    let file = file.display().to_string();
    ensure(ALERTMANAGER.contains(TOKEN_FILE), "alertmanager.yml names the token file", "no")?;
    world.write_file("vpn-egress.rules.yml", RULES, 0o644);
    let exporter = world.start_exporter();
    let actuator = world.start_actuator_with(&["--web.bearer-token-file", &file]);
    let alertmanager =
        world.start_alertmanager(&ALERTMANAGER.replace(TOKEN_FILE, &file), Instances::One);
    let prometheus = world.start_prometheus(PROMETHEUS);
    let mut running = vec![prometheus];
    running.extend(alertmanager.processes);
    running.extend([actuator, exporter]);
    Ok(running)
}

fn random_token() -> Done<String> {
    let mut bytes = [0; 24];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::new(format!("no random token: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
