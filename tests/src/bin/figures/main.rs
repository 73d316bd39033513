//! `figures`: measures what the project promises about time, and about rules that are replaced, in
//! one run on one machine, so that ratios hold where absolute numbers do not. Never part of a test.

mod idle;
mod outages;
mod probes;
mod saturation;
mod scrape;
mod summary;
mod tamper;
mod worker;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use lab::crowds::{CROWDS, CROWDS_BY_TLS, Door, Size};
use lab::incidents::Backup;
use lab::programs::{ACTUATOR, tunnel_down};
use lab::{
    Direction, EgressConfig, Endpoint, Exit, Instances, Keepalive, Leak, Ns, Process, World,
    eventually,
};

use nix::sys::signal::Signal;
use summary::Summary;

#[derive(Parser)]
#[command(about = "Measures switch, hard stop, failover, repair and scrape")]
struct Arguments {
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// How long a tunnel is saturated with each kind of traffic, and an idle host is watched.
    #[arg(long, default_value_t = 3)]
    minutes: u32,
    /// Only this kind of traffic: 0 up, 1 down, 2 both ways, 3 up and nothing comes back.
    #[arg(long)]
    load: Option<u32>,
    /// Inside a world of its own: measure this, once entered.
    #[arg(long, hide = true)]
    inside: Option<Part>,
    /// Which round it is, where each has a world of its own.
    #[arg(long, hide = true, default_value_t = 0)]
    round: u32,
    #[command(subcommand)]
    worker: Option<worker::Worker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Switch,
    Leak,
    Failover,
    Replace,
    Tamper,
    Incidents,
    Crowd,
    Outages,
    Probes,
    Saturation,
    Scrape,
    Idle,
}

const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let arguments = Arguments::parse();
    if let Some(worker) = &arguments.worker {
        return worker.run();
    }
    if let Some(part) = arguments.inside {
        lab::enter_for_bin();
        return match part {
            Part::Switch => switches(arguments.rounds.max(20)),
            Part::Leak => leak(arguments.round),
            Part::Failover => failovers(arguments.rounds),
            Part::Replace => replacements(arguments.rounds * 100),
            Part::Tamper => tamper::tamperings(arguments.rounds.max(10)),
            Part::Incidents => incidents(arguments.rounds),
            Part::Crowd => crowds(),
            Part::Probes => probes::probes(arguments.rounds),
            Part::Outages => outages::of_one_kind(arguments.round, arguments.rounds),
            Part::Scrape => scrape::of_size(arguments.round, arguments.rounds),
            // Minutes, not rounds.
            Part::Idle => idle::of_size(arguments.round, arguments.rounds),
            Part::Saturation => saturation::of_one_kind(arguments.round, arguments.rounds),
        };
    }
    let chosen = |part| arguments.only.is_none_or(|only| only == part);
    for part in [
        Part::Switch,
        Part::Failover,
        Part::Incidents,
        Part::Replace,
        Part::Tamper,
        Part::Crowd,
        Part::Probes,
    ] {
        if chosen(part) {
            print!("{}", in_a_world(part, arguments.rounds, 0));
        }
    }
    if chosen(Part::Leak) {
        leaks(arguments.rounds);
    }
    if chosen(Part::Scrape) {
        for size in 0..scrape::COUNT {
            print!("{}", in_a_world(Part::Scrape, arguments.rounds, size));
        }
    }
    if chosen(Part::Idle) {
        for size in 0..idle::COUNT {
            print!("{}", in_a_world(Part::Idle, arguments.minutes, size));
        }
    }
    if chosen(Part::Outages) {
        outages::of_every_kind(arguments.rounds);
    }
    if chosen(Part::Saturation) {
        saturation::of_every_kind(arguments.minutes, arguments.load);
    }
}

/// A process enters one world, so each measurement is a process; what it printed.
fn in_a_world(part: Part, rounds: u32, round: u32) -> String {
    let program = std::env::current_exe().expect("the path of this program");
    let part = format!("{part:?}").to_lowercase();
    let output = Command::new(program)
        .args(["--inside", &part, "--rounds", &rounds.to_string(), "--round", &round.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("this program runs");
    assert!(output.status.success(), "{part}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Packets that the router saw outside the tunnel, over all rounds of a world.
fn say_outside(world: &World) {
    println!("packets outside the tunnel:        {}", world.observed_outside());
}

fn locked(config: &EgressConfig) -> World {
    let mut world = World::build();
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(config);
    let seen = world.positive_control();
    assert!(seen > 0, "the router sees a leak before the lock");
    world.actuator_ok(&["converge"]);
    world
}

fn await_down(world: &World) {
    eventually(PATIENCE, "the primary is seen to be down", || {
        world.actuator(&["validate"]).out.contains("tunnel-down")
    });
}

/// Webhook received to handshake on the new endpoint, against a bare `wg set` and its handshake.
fn switches(rounds: u32) {
    let mut world = locked(&EgressConfig::quick());
    let mut actuator = world.start_actuator();
    let workload = world.start_workload();
    let (mut webhook, mut bare) = (Summary::new("ms"), Summary::new("ms"));
    let key = world.server_public_key(Endpoint::B).to_owned();
    for _ in 0..rounds {
        workload.wait_for_exit(Exit::A, PATIENCE);
        // The daemon would bring the device back within a second, and spoil the measurement.
        actuator.kill(Signal::SIGSTOP);
        bare.add(world.figures_worker(&["bare", "--config", &world.bare_config()]));
        actuator.kill(Signal::SIGCONT);
        eventually(PATIENCE, "the device is back", || world.status()["live_endpoint"] == "primary");
        world.blackhole(Endpoint::A, Direction::Both);
        await_down(&world);
        // A second cycle, so that the candidates' answers are on record as in a real incident.
        world.exec_ok(Ns::Egress, &["sleep", "2"]);
        let body = serde_json::json!({"version": "4", "alerts": [tunnel_down("primary")]});
        let file = world.write_file("notification.json", &body.to_string(), 0o600);
        let file = file.display().to_string();
        webhook.add(world.figures_worker(&["webhook", "--body", &file, "--key", &key]));
        world.heal(Endpoint::A);
        world.actuator_ok(&["converge", "--force"]);
    }
    println!("bare `wg set` to handshake:        {bare}");
    println!("webhook received to handshake:     {webhook}");
    println!("ratio of medians:                  {:.2}", webhook.median() / bare.median());
    say_outside(&world);
}

/// First leaked packet to hard stop engaged, by the alert path as shipped. A world for each round,
/// where no alert of an earlier leak still fires.
fn leaks(rounds: u32) {
    let (mut first, mut again, mut outside) = (Summary::new("s"), Summary::new("s"), 0.0);
    for round in 0..rounds {
        let said = in_a_world(Part::Leak, rounds, round);
        let numbers: Vec<f64> =
            said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [one, two, packets] = numbers[..] else {
            panic!("the round said {said:?}");
        };
        first.add(one);
        again.add(two);
        outside += packets;
    }
    println!("leak to hard stop engaged:         {first}");
    println!("the same, right after a release:   {again}");
    println!("packets outside the tunnel:        {outside}");
}

fn leak(round: u32) {
    let world = locked(&EgressConfig::default());
    let _parts = world.start_loop(Instances::One);
    // A different phase of scrape and evaluation each time.
    std::thread::sleep(Duration::from_millis(5000 + u64::from(round) * 370));
    let first = leak_to_stop(&world);
    world.actuator_ok(&["release", "--reason", "measured"]);
    let again = leak_to_stop(&world);
    println!("{first} {again} {}", world.observed_outside());
}

fn leak_to_stop(world: &World) -> f64 {
    world.send_outside(Leak::Packet, 1);
    let start = Instant::now();
    eventually(PATIENCE, "the hard stop is engaged", || {
        let engaged = "vpn_egress_actuator_hard_stop_engaged{path=\"media\"}";
        world.metric(ACTUATOR, engaged) == Some(1.0)
    });
    start.elapsed().as_secs_f64()
}

/// Fault to traffic flowing again, at the intervals as shipped.
fn failovers(rounds: u32) {
    let mut world = locked(&EgressConfig::default());
    let _parts = world.start_loop(Instances::One);
    let workload = world.start_workload();
    let mut times = Summary::new("s");
    for round in 0..rounds {
        workload.wait_for_exit(Exit::A, PATIENCE);
        // Past the settling time, and at another phase of the cycle each time.
        std::thread::sleep(Duration::from_millis(12_000 + u64::from(round) * 1370 % 5000));
        world.blackhole(Endpoint::A, Direction::Both);
        let fault = Instant::now();
        workload.wait_for_exit(Exit::B, PATIENCE);
        times.add(fault.elapsed().as_secs_f64());
        world.heal(Endpoint::A);
        eventually(PATIENCE, "the primary is failed back to", || {
            world.actuator(&["converge"]).exit == 0
        });
    }
    println!("fault to traffic flowing again:    {times}");
    say_outside(&world);
}

/// Rules replaced under full load, another list of endpoints each time.
fn replacements(rounds: u32) {
    let mut world = World::build();
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    let mut load = world.start_load(100);
    let open = world.replace_under_load(&mut load, 1, |world, _| {
        world.exec_ok(Ns::Egress, &["sleep", "1"]);
    });
    assert!(open.outside > 0, "the router sees a leak before the lock");
    println!("without a lock, for the control:   {open}");
    world.converge_other_endpoints(0);
    let replaced = world.replace_under_load(&mut load, rounds, |world, round| {
        world.converge_other_endpoints(round + 1);
    });
    println!("rules replaced under load:         {replaced}");
}

/// Switches per incident with two Prometheis and two Alertmanagers in a cluster.
fn incidents(rounds: u32) {
    let mut world = locked(&EgressConfig::quick());
    let _doubled = world.start_doubled_loop();
    let workload = world.start_workload();
    let (mut switches, mut deliveries) = (Summary::new("times"), Summary::new("times"));
    for round in 0..rounds {
        // In every second one the alert is told many times, by everybody, before there is a way out.
        let backup = if round % 2 == 0 { Backup::Alive } else { Backup::DeadAtFirst };
        let incident = world.incident(&workload, backup);
        switches.add(incident.switches);
        deliveries.add(incident.deliveries);
    }
    println!("switches per incident:             {switches}");
    println!("failover alerts per incident:      {deliveries}");
    say_outside(&world);
}

/// A good notification in each kind of crowd: asked to answered, on a connection of its own.
fn crowds() {
    let world = locked(&EgressConfig::quick());
    // With TLS each costs a handshake.
    let (many, fewer) = (Size { held: 10_000, seconds: 6 }, Size { held: 2_000, seconds: 6 });
    let say = |actuator: &Process, door: &Door, who: &str, size: Size, kinds: &[&str]| {
        for kind in kinds {
            let seen = world.crowd(actuator, door, kind, size);
            let mut took = Summary::new("ms");
            seen.took.iter().for_each(|ms| took.add(*ms));
            let (memory, made, ended) = (seen.peak_kib / 1024, seen.made, seen.ended);
            let (failed, answers) = (seen.failed, seen.answers);
            println!(
                "crowd {who} {kind:<10} {took}; failed {failed}; {memory} MiB at most; \
                 {made} connections, {ended} ended, answers {answers:?}"
            );
        }
    };
    let (actuator, door) = world.start_open_actuator();
    say(&actuator, &door, "plain", many, &CROWDS);
    drop(actuator);
    let (actuator, door) = world.start_actuator_behind_tls();
    say(&actuator, &door, "tls", fewer, &CROWDS_BY_TLS);
    say(&actuator, &door.open_to_the_crowd(), "tls, with the token", fewer, &CROWDS[3..9]);
}

trait Figures {
    fn figures_worker(&self, arguments: &[&str]) -> f64;
    fn figures_said(&self, arguments: &[&str]) -> String;
    fn bare_config(&self) -> String;
}

impl Figures for World {
    /// Runs a worker beside the programs, where it can reach the webhook, and takes its number.
    fn figures_worker(&self, arguments: &[&str]) -> f64 {
        let said = self.figures_said(arguments);
        said.trim().parse().unwrap_or_else(|error| panic!("worker said {said:?}: {error}"))
    }

    /// The same, for a worker that says more.
    fn figures_said(&self, arguments: &[&str]) -> String {
        let program = Self::program("figures").display().to_string();
        let line: Vec<&str> =
            std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect();
        let said = self.run_within(Ns::Egress, &line, "", PATIENCE * 2);
        assert!(said.status.success(), "{arguments:?}: {said:?}");
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    /// Files that a bare `wg set` to the backup needs.
    fn bare_config(&self) -> String {
        let directory = self.scratch();
        let peers = self.exec_ok(Ns::Egress, &["wg", "show", "wg0", "peers"]);
        let config = serde_json::json!({
            "private_key_file": directory.join("b.key"),
            "preshared_key_file": directory.join("b.psk"),
            "old": peers.trim(),
            "new": self.server_public_key(Endpoint::B),
            "endpoint": Endpoint::B.socket().to_string(),
        });
        self.write_file("bare.json", &config.to_string(), 0o600).display().to_string()
    }
}
