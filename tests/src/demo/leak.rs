//! Steps 5 and 6: a hole in the killswitch, a leak, the hard stop that comes of it, and its release.

use std::thread;
use std::time::{Duration, Instant};

use lab::addresses::{ECHO_HOLE, WORLD_HOLE};
use lab::programs::{ACTUATOR, tunnel_down};
use lab::{Class, Exit, Leak, Workload};
use serde_json::json;

use super::failure::{Done, Failure, Whose, ensure, within};
use super::say::seconds;
use super::stage::Stage;

/// A scrape, an evaluation, a delivery, and a busy machine.
const STOP: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(20);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_secs(3);
/// The alert still fires after a release, and is told again and again.
const TOLD_AGAIN: Duration = Duration::from_secs(30);
const FRAMES: u64 = 5;

const ALERT: &str = "VpnEgressLeak";
const BLOCKED: &str = "vpn_egress_blocked_packets_total{path=\"media\"}";
const LEAKED: &str = "vpn_egress_leaked_packets_total{path=\"media\"}";
const REPAIRS: &str = "vpn_egress_actuator_repairs_total{path=\"media\",table=\"killswitch\"}";
const ENGAGED: &str = "vpn_egress_actuator_hard_stop_engaged{path=\"media\"}";
const LOGS: &[&str] = &["exporter", "prometheus", "alertmanager-0", "actuator"];

/// What has been seen of a leak so far.
#[derive(Debug, Default)]
struct Stopping {
    fired: bool,
    engaged: Option<Duration>,
}

impl Stopping {
    fn look(&mut self, stage: &Stage, since: Instant) {
        let say = stage.say;
        if !self.fired && stage.world.fires(ALERT) {
            self.fired = true;
            say.done(&format!("alert {ALERT} fires (Prometheus, /api/v1/alerts)"));
        }
        if self.engaged.is_none() && stage.actuator(ENGAGED) == Some(1.0) {
            self.engaged = Some(since.elapsed());
            say.done(&format!("hard stop engaged, {} after the frames", seconds(since.elapsed())));
        }
    }
}

pub fn hole(stage: &mut Stage) -> Done {
    stage.say.step("5. A hole in the killswitch, and a leak");
    observer_is_awake(stage)?;
    let stray = second_program(stage)?;
    let since = punch(stage)?;
    let mut stopping = Stopping::default();
    within(STOP, "alert, hard stop", || {
        stopping.look(stage, since);
        let seen = format!("{stopping:?}");
        stopping.engaged.filter(|_| stopping.fired).ok_or(seen)
    })
    .see_logs(LOGS)?;
    stage.measured.leak_to_stop = stopping.engaged;
    nothing_passes(stage, &stray)?;
    nothing_undoes_it(stage)?;
    let answers = stray.answers();
    let outside = answers.iter().filter(|answer| answer.exit == Exit::Direct).count();
    ensure(outside == 0, "the world never answered past the tunnel", outside)
}

/// It sees the tunnel's packets now, and saw the control's before the lock.
fn observer_is_awake(stage: &Stage) -> Done {
    let tunnel = stage.world.observed(Class::Tunnel);
    ensure(tunnel > 0, "the router sees the tunnel's packets", tunnel)?;
    stage.say.line(&format!(
        "the router, since the lock: {tunnel} packets of the tunnel, {} outside it; before the \
         lock it saw {} outside",
        stage.world.observed_outside(),
        stage.measured.control,
    ));
    Ok(())
}

/// A second program of the workload, whose packets a route sends past the tunnel.
fn second_program(stage: &mut Stage) -> Done<Workload> {
    let stray = stage.world.start_workload_to(ECHO_HOLE);
    within(SOON, "the second program is answered by exit A", || {
        stray.last_exit().filter(|exit| *exit == Exit::A).ok_or("no answer")
    })?;
    let before = stage.exporter(BLOCKED).unwrap_or(0.0);
    stage.world.route_outside(WORLD_HOLE);
    stage.say.line(&format!("a route sends what is for {WORLD_HOLE} past the tunnel"));
    let blocked = within(SOON, "the killswitch blocks it", || {
        let now = stage.exporter(BLOCKED).unwrap_or(0.0);
        if now > before { Ok(now - before) } else { Err(now) }
    })
    .see_logs(&["exporter"])?;
    stage
        .say
        .done(&format!("first wall: the killswitch blocks it, blocked packets so far: {blocked}"));
    Ok(stray)
}

/// First a hole in the killswitch, which the guard's copy of it closes; then frames past the IP
/// stack, which no killswitch sees. The moment of those.
fn punch(stage: &mut Stage) -> Done<Instant> {
    let before = stage.exporter(LEAKED).unwrap_or(0.0);
    ensure(before == 0.0, "no leak so far", before)?;
    stage.world.punch_hole(WORLD_HOLE);
    stage.say.line(&format!("somebody tells the killswitch to accept all to {WORLD_HOLE}"));
    within(SOON, "the killswitch is put back", || {
        stage.actuator(REPAIRS).filter(|count| *count >= 1.0).ok_or("no repair")
    })
    .see_logs(&["actuator"])?;
    let leaked = stage.exporter(LEAKED).unwrap_or(0.0);
    ensure(leaked <= before, "nothing came through the hole", leaked)?;
    stage.say.done("the guard's copy let nothing pass, and the actuator has put the rules back");

    let since = Instant::now();
    stage.world.send_outside(Leak::Packet, FRAMES);
    stage.say.line("a program with CAP_NET_RAW sends frames past the IP stack");
    let leaked = within(SOON, "the watch counts", || {
        stage.exporter(LEAKED).filter(|now| *now > before).ok_or("none")
    })
    .see_logs(&["actuator", "exporter"])?;
    stage.say.done(&format!(
        "second wall: the watch stops and counts them, leaked packets so far: {leaked}"
    ));
    Ok(since)
}

/// Not by the tunnel, not past it.
fn nothing_passes(stage: &mut Stage, stray: &Workload) -> Done {
    let since = Instant::now();
    let tunnel = stage.world.observed(Class::Tunnel);
    thread::sleep(SILENCE);
    let answers = stage.workload.answers_since(since).len() + stray.answers_since(since).len();
    let sent = stage.world.observed(Class::Tunnel) - tunnel;
    let outside = stage.world.observed_outside();
    let silent = answers == 0 && sent == 0 && outside == 0;
    let seen = format!("{answers} answers, {sent} packets of the tunnel, {outside} outside");
    ensure(silent, "nothing passes while stopped", seen).see_logs(&["actuator"])?;
    stage.measured.leaked = stage.exporter(LEAKED);
    stage.say.done(&format!(
        "for {}: no answer to the workload, and the router sees no packet, tunnel included",
        seconds(SILENCE)
    ));
    Ok(())
}

fn nothing_undoes_it(stage: &Stage) -> Done {
    let say = stage.say;
    let body = json!({"version": "4", "status": "firing", "alerts": [tunnel_down("primary")]});
    let url = format!("{ACTUATOR}/api/v1/alerts");
    let reply = stage.world.http_post(&url, &body.to_string(), Some(&stage.world.token()));
    let reply = reply.map_err(Failure::new).see_logs(&["actuator"])?;
    let refused = reply.status == 200 && reply.body == r#"{"outcomes":["already_stopped"]}"#;
    let seen = format!("{} {}", reply.status, reply.body);
    ensure(refused, "a failover asked for now is refused", &seen).see_logs(&["actuator"])?;
    say.done(&format!("a failover asked for now, by hand, is refused: {seen}"));

    let said = stage.world.actuator(&["converge"]);
    say.quote("actuator converge", &said);
    let refused = said.exit == 3 && said.err.contains("a hard stop is latched");
    ensure(refused, "converge refuses", format!("exit {}", said.exit)).see_logs(&["actuator"])?;
    say.done("converge refuses too (exit 3)");
    Ok(())
}

pub fn release(stage: &Stage) -> Done {
    let say = stage.say;
    say.step("6. A person releases it");
    stage.world.unroute_outside(WORLD_HOLE);
    say.line("the stray route is taken away");
    let since = Instant::now();
    let said = stage.world.actuator(&["release", "--reason", "demo"]);
    say.quote("actuator release --reason demo", &said);
    let released = said.exit == 0 && said.out.contains("hard stop released (was: leak)");
    ensure(released, "the stop is released", format!("exit {}", said.exit))
        .see_logs(&["actuator"])?;
    let time = stage.flows_by(Exit::A, since, SOON)?;
    say.done(&format!("traffic flows by exit A, {} after it was asked for", seconds(time)));

    say.line(&format!("waiting for {ALERT}, which still fires, to be told again"));
    let before = stage.outcomes("hard-stop", "already_released");
    within(TOLD_AGAIN, "the alert is told again", || {
        let seen = stage.outcomes("hard-stop", "already_released");
        if seen > before { Ok(()) } else { Err(format!("{seen} times")) }
    })
    .see_logs(&["alertmanager-0", "actuator"])?;
    let said = stage.world.actuator(&["status"]);
    say.quote("actuator status", &said);
    let locked = said.exit == 0 && said.out.contains("path media: locked");
    ensure(locked, "released stays released", format!("exit {}", said.exit))
        .see_logs(&["actuator"])?;
    say.done("the old leak was told again and stopped nothing: already_released");
    Ok(())
}
