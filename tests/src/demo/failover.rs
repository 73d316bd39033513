//! Steps 2 to 4: the primary dies, comes back, and is gone back to by hand.

use std::time::{Duration, Instant};

use lab::{Direction, EgressConfig, Endpoint, Exit};

use super::failure::{Done, Whose, ensure, within};
use super::say::seconds;
use super::stage::Stage;

/// Three cycles of 5 s, a probe's timeout, a scrape, an evaluation, and a busy machine.
const FAILOVER: Duration = Duration::from_secs(60);
/// How long the path is watched once the primary is back.
const STICKY: Duration = Duration::from_secs(15);
/// Two handshakes with a standby, one every 30 s.
const SEEN_AGAIN: Duration = Duration::from_secs(75);
const FAILBACK: Duration = Duration::from_secs(20);

const ALERT: &str = "VpnEgressTunnelDown";
/// `consecutive_down_cycles >= 3` in that rule.
const CYCLES: [u32; 3] = [1, 2, 3];
const DOWN: &str = "vpn_egress_consecutive_down_cycles{endpoint=\"primary\",path=\"media\"}";
const SWITCHES: &str =
    "vpn_egress_actuator_failovers_total{from=\"primary\",path=\"media\",to=\"backup\"}";
const PRIMARY_REACHABLE: &str =
    "vpn_egress_endpoint_reachable{endpoint=\"primary\",method=\"handshake\",path=\"media\"}";
const LOGS: &[&str] = &["exporter", "prometheus", "alertmanager-0", "actuator"];

/// What has been seen of an outage so far.
#[derive(Debug, Default)]
struct Outage {
    cycles: Vec<u32>,
    fired: Option<Duration>,
    switched: Option<Duration>,
    flowing: Option<Duration>,
}

impl Outage {
    /// One look at everything; each news is told once.
    fn look(&mut self, stage: &Stage, since: Instant) {
        let say = stage.say;
        let count = stage.exporter(DOWN).unwrap_or(0.0);
        // A metric is a float, this one counts.
        if let Some(cycle) = (1..=9).find(|&cycle| (count - f64::from(cycle)).abs() < 0.5)
            && self.cycles.last() != Some(&cycle)
        {
            self.cycles.push(cycle);
            say.line(&format!("health cycle: tunnel down, {cycle} in a row"));
        }
        if self.fired.is_none() && stage.world.fires(ALERT) {
            self.fired = Some(since.elapsed());
            say.done(&format!("alert {ALERT} fires (Prometheus, /api/v1/alerts)"));
        }
        if self.switched.is_none() && stage.actuator(SWITCHES) == Some(1.0) {
            self.switched = Some(since.elapsed());
            say.done("the actuator has switched: failovers_total from primary to backup is 1");
        }
        if self.flowing.is_none() {
            self.flowing = stage.first_answer(Exit::B, since);
            if let Some(time) = self.flowing {
                say.done(&format!("traffic flows by exit B, {} after the fault", seconds(time)));
            }
        }
    }
}

pub fn primary_dies(stage: &mut Stage) -> Done {
    let say = stage.say;
    say.step("2. The primary dies");
    ensure(stage.actuator(SWITCHES) == Some(0.0), "no failover so far", "some")?;
    let since = Instant::now();
    stage.world.blackhole(Endpoint::A, Direction::Both);
    say.line("the router drops everything to and from vpn-a, without a word");
    let mut outage = Outage::default();
    let claim = "three down cycles counted, alert, switch, traffic by exit B";
    within(FAILOVER, claim, || {
        outage.look(stage, since);
        let seen = format!("{outage:?}");
        let all = outage.fired.and(outage.switched).and(outage.flowing);
        all.filter(|_| outage.cycles.starts_with(&CYCLES)).ok_or(seen)
    })
    .see_logs(LOGS)?;
    stage.measured.fault_to_flow = outage.flowing;
    Ok(())
}

pub fn primary_returns(stage: &Stage) -> Done {
    let say = stage.say;
    say.step("3. The primary comes back, the path stays");
    within(SEEN_AGAIN, "the exporter sees that the primary does not answer", || {
        let seen = stage.exporter(PRIMARY_REACHABLE);
        if seen == Some(0.0) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .see_logs(&["exporter"])?;
    say.line("exporter: the primary completes no handshake");
    let since = Instant::now();
    stage.world.heal(Endpoint::A);
    say.line("the router lets vpn-a through again");
    let every = EgressConfig::default().standby_interval;
    say.line(&format!("waiting for the exporter's next handshake with it (one every {every})"));
    let mut told = false;
    within(SEEN_AGAIN, "the exporter sees the primary answer again", || {
        let seen = stage.exporter(PRIMARY_REACHABLE);
        if seen == Some(1.0) && !told {
            told = true;
            say.done("exporter: the primary completes handshakes again");
        }
        let watched = since.elapsed();
        if told && watched >= STICKY {
            Ok(())
        } else {
            Err(format!("reachable {seen:?} after {}", seconds(watched)))
        }
    })
    .see_logs(&["exporter"])?;

    let answers = stage.workload.answers_since(since);
    let strays = answers.iter().filter(|answer| answer.exit != Exit::B).count();
    ensure(!answers.is_empty() && strays == 0, "all answers came by exit B", strays)?;
    ensure(stage.world.active_endpoint() == "backup", "the path is at its backup", "elsewhere")?;
    ensure(stage.actuator(SWITCHES) == Some(1.0), "one failover", "more")?;
    say.done(&format!(
        "sticky: {} later all {} answers came by exit B",
        seconds(since.elapsed()),
        answers.len()
    ));
    Ok(())
}

pub fn converge_fails_back(stage: &mut Stage) -> Done {
    let say = stage.say;
    say.step("4. A person goes back: actuator converge");
    let since = Instant::now();
    let said = stage.world.actuator(&["converge"]);
    say.quote("actuator converge", &said);
    let went =
        said.exit == 0 && said.out.contains("changed: endpoint backup -> primary (failback)");
    ensure(went, "converge fails back", format!("exit {}", said.exit)).see_logs(&["actuator"])?;
    stage.flows_by(Exit::A, since, FAILBACK)?;
    say.done("traffic flows by exit A again");
    stage.measured.longest_gap = Some(stage.workload.longest_gap());
    Ok(())
}
