//! One set-up with one workload, in a world of its own, measured at one moment after another. What
//! is wrong is collected, and nothing is judged here but by what the observers saw.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::links::{KINDS, Seen, counter_name};
use super::moment::Moment;
use super::volley::{SERVICE_PORT, Volley};
use super::workload::{Scope, forget_cgroup};
use super::{Carried, Families, NotHere, Setup, Surroundings};
use crate::addresses::{
    Endpoint, NAMES_PORT, Ns, ROUTER, ROUTER_V6, TUNNEL_CLIENT, TUNNEL_CLIENT_V6, UPLINK, WORLD,
    WORLD_HOLE, WORLD_HOLE_V6, WORLD_V6,
};
use crate::egress_config::EgressConfig;
use crate::process::Process;
use crate::programs::kill;
use crate::world::World;

/// How long something may take that has to come true, on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// What is on its way arrives: all links are on this machine.
const ARRIVAL: Duration = Duration::from_millis(250);
/// Of the stream that converges are run into.
const STREAM: Duration = Duration::from_secs(4);
/// How often a stranger tries; nobody answers it under a lock.
const KNOCK: &str = "400";

/// What was measured at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    pub tried: u64,
    /// Packets outside the tunnel, by kind.
    pub outside: BTreeMap<String, u64>,
    /// Some of them.
    pub flows: Vec<String>,
    /// What else is not as promised.
    pub wrong: Vec<String>,
}

impl Cell {
    pub fn leaked(&self) -> u64 {
        self.outside.values().sum()
    }
}

/// What the observers have to see without a lock.
pub struct Control {
    pub ports: Vec<String>,
    pub kinds: Vec<&'static str>,
}

/// A world in which one set-up is measured.
pub struct Bench<'a> {
    world: &'a mut World,
    scope: Scope,
    around: Surroundings,
    daemon: Option<Process>,
    converges: u8,
    services: Vec<Process>,
}

impl<'a> Bench<'a> {
    /// Builds the set-up, the workload in it, and a world that answers.
    ///
    /// # Errors
    ///
    /// This kernel cannot make it.
    pub fn build(world: &'a mut World, setup: Setup, scope: Scope) -> Result<Self, NotHere> {
        world.forget_tunnel();
        scope.prepare(world).map_err(NotHere)?;
        let around = setup.build(world)?;
        lead_outside(world, &around);
        forward_port(world);
        world.watch_links(&around.ports);
        let ports = format!("{SERVICE_PORT},{NAMES_PORT}");
        let lab = World::program("lab").display().to_string();
        let services = vec![
            world.spawn(Ns::World, "service", &[&lab, "service", "--ports", &ports]),
            scope.spawn(
                world,
                "workload-service",
                &["service", "--ports", &SERVICE_PORT.to_string()],
            ),
        ];
        Ok(Self { world, scope, around, daemon: None, converges: 0, services })
    }

    /// Measures at one moment.
    pub fn measure(&mut self, moment: Moment) -> Cell {
        let mut cell = Cell::default();
        match moment {
            Moment::Unlocked => self.control(&mut cell),
            Moment::Healthy => self.healthy(&mut cell),
            Moment::Converging => self.converging(&mut cell),
            Moment::HardStop => self.hard_stop(&mut cell),
            Moment::DaemonKilled => {
                self.daemon_is_dead();
                self.attack(moment, &mut cell);
            }
            Moment::KillswitchAlone => {
                self.daemon_is_dead();
                self.converge(&mut cell);
                self.delete(Ns::Egress, "netdev", "vpn_egress_watch", &mut cell);
                self.attack(moment, &mut cell);
            }
            Moment::WatchAlone => {
                self.daemon_is_dead();
                self.converge(&mut cell);
                let (ns, name) = self.scope.first_wall();
                self.delete(ns, "inet", name, &mut cell);
                self.attack(moment, &mut cell);
            }
        }
        cell
    }

    /// Every kind, and every link, is seen while nothing is locked.
    fn control(&mut self, cell: &mut Cell) {
        self.attack(Moment::Unlocked, cell);
        let (kinds, ports) = self.expected();
        for kind in kinds {
            if !cell.outside.contains_key(kind) {
                cell.wrong.push(format!("blind: no {kind} was seen without a lock"));
            }
        }
        for port in ports {
            if !cell.flows.iter().any(|flow| flow.ends_with(&format!("at {port}"))) {
                cell.wrong.push(format!("blind: nothing was seen at {port} without a lock"));
            }
        }
    }

    fn expected(&self) -> (Vec<&'static str>, Vec<String>) {
        let kinds = KINDS.into_iter().filter(|kind| match *kind {
            "packet" => self.scope == Scope::Host && self.around.families == Families::Both,
            kind => self.around.families == Families::Both || !kind.ends_with('4'),
        });
        let ports = self.around.ports.iter().map(|port| counter_name(&port.device));
        (kinds.collect(), ports.collect())
    }

    /// The tunnel carries what it should, strangers get no answer, and nothing counts as a leak.
    fn healthy(&mut self, cell: &mut Cell) {
        self.converge(cell);
        self.start_daemon();
        self.disturb();
        self.carries(cell);
        self.guest_is_free(cell);
        self.assert_none_counted("in an ordinary period", cell);
        self.attack(Moment::Healthy, cell);
        self.assert_none_counted("of what the killswitch should have refused", cell);
        self.carries(cell);
    }

    fn converging(&mut self, cell: &mut Cell) {
        if self.daemon.is_none() {
            self.converge(cell);
            self.start_daemon();
        }
        let stream = STREAM.as_millis().to_string();
        let line = self.volley(&["--for-ms", &stream], Moment::KillswitchAlone);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let mut sender = self.scope.spawn(self.world, "stream", &line);
        let until = Instant::now() + STREAM;
        while Instant::now() < until {
            self.converge(cell);
        }
        sender.wait(SOON);
        let volley: Volley = serde_json::from_str(sender.log().trim()).unwrap_or_default();
        cell.tried += volley.tried();
        if volley.tried() == 0 {
            cell.wrong.push(format!("nothing was sent: {}", sender.log()));
        }
        self.take(cell);
    }

    /// By a path whose state is lost. The tunnel is cut as well.
    fn hard_stop(&mut self, cell: &mut Cell) {
        if self.daemon.is_none() {
            self.converge(cell);
            self.start_daemon();
        }
        self.world.lose_state("media");
        let stopped = until(|| self.world.standing("media") == "stopped");
        if !stopped {
            cell.wrong.push("a path without a state is not cut".into());
        }
        self.attack(Moment::HardStop, cell);
        self.guest_is_free(cell);
        for (question, answer) in
            self.asked_by_workload(&[SocketAddr::new(WORLD.into(), SERVICE_PORT)])
        {
            if answer.parse::<IpAddr>().is_ok() {
                cell.wrong.push(format!("{question} is answered during a hard stop"));
            }
        }
        let said = self.world.actuator(&["release", "--reason", "measured"]);
        if said.exit != 0 {
            cell.wrong.push(format!("release: {said:?}"));
        }
    }

    /// A volley, strangers at every address, and what came of it.
    fn attack(&mut self, moment: Moment, cell: &mut Cell) {
        let locked = moment != Moment::Unlocked;
        if locked {
            self.disturb();
        }
        let more: &[&str] = if locked { &[] } else { &["--for-ms", "300"] };
        let line = self.volley(more, moment);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let said = self.scope.run(self.world, &line);
        let volley: Volley = serde_json::from_str(said.trim())
            .unwrap_or_else(|error| panic!("lab volley said {said:?}: {error}"));
        cell.tried += volley.tried();
        self.knock();
        self.take(cell);
    }

    fn volley(&self, more: &[&str], moment: Moment) -> Vec<String> {
        let list = |all: &[String]| all.join(",");
        let texts = |all: &[IpAddr]| {
            let all = all.iter().filter(|address| self.around.has_family(**address));
            all.map(IpAddr::to_string).collect::<Vec<_>>()
        };
        let mut line =
            vec!["volley".to_owned(), "--targets".into(), list(&texts(&self.around.all_targets()))];
        let resolvers = [WORLD.into(), WORLD_V6.into(), ROUTER.into(), ROUTER_V6.into()];
        line.extend(["--resolvers".into(), list(&texts(&resolvers))]);
        if self.scope.is_on_host() {
            line.extend(["--devices".into(), list(&self.around.devices)]);
            let mut sources = self.around.sources.clone();
            // Not there before there is a tunnel.
            sources.push(TUNNEL_CLIENT_V6.into());
            line.extend(["--sources".into(), list(&texts(&sources))]);
        }
        // The daemon stops the path for a frame, which then is all that the moment shows.
        let frames =
            self.scope == Scope::Host && moment.stops_frames() && moment != Moment::Healthy;
        if frames && self.around.families == Families::Both {
            line.extend(["--frames".into(), list(&self.around.devices)]);
        }
        line.extend(more.iter().map(|&word| word.to_owned()));
        line
    }

    /// Strangers connect to the workload's service past the tunnel: from the world and from the LAN.
    fn knock(&self) {
        let lab = World::program("lab").display().to_string();
        let services: Vec<String> = self
            .around
            .knocked
            .iter()
            .map(|address| SocketAddr::new(*address, SERVICE_PORT).to_string())
            .collect();
        let services = services.join(",");
        for ns in [Ns::World, Ns::Router] {
            self.world.run(ns, &[&lab, "reach", "--timeout-ms", KNOCK, "--services", &services]);
        }
    }

    fn take(&self, cell: &mut Cell) {
        thread::sleep(ARRIVAL);
        let mut seen: Seen = self.world.take_seen(&self.around.ports);
        if self.scope != Scope::Host {
            // The rest of the host is free.
            seen.kinds.remove("other");
        }
        let leaked: u64 = seen.kinds.values().sum();
        if leaked > 0 {
            cell.flows.extend(seen.flows.into_iter().take(12));
            let ports = seen.ports.into_iter().filter(|(_, packets)| *packets > 0);
            cell.flows.extend(ports.map(|(port, packets)| format!("{packets} packets at {port}")));
        }
        for (kind, packets) in seen.kinds {
            *cell.outside.entry(kind).or_default() += packets;
        }
    }

    fn converge(&mut self, cell: &mut Cell) {
        if self.scope == Scope::Netns && self.converges == 0 {
            // A namespace with another way out is refused.
            self.world.unplug_container();
        }
        self.converges += 1;
        let mut path_lines = self.around.path_lines.clone();
        // Every one makes other rules. A namespace has no such ways outside.
        if self.scope == Scope::Netns {
            path_lines.clear();
        } else {
            path_lines.push(format!("ntp: [10.0.0.{}]", 100 + self.converges % 100));
        }
        self.world.write_config(&EgressConfig {
            workload: self.scope.config(),
            path_lines,
            ..EgressConfig::quick()
        });
        if self.around.families == Families::V6 {
            self.world.name_servers_by_v6();
        }
        let said = self.world.actuator(&["converge"]);
        if said.exit != 0 {
            cell.wrong.push(format!("converge: {} {}", said.exit, said.err.trim()));
        }
        if self.converges == 1 {
            // What left until here was not locked yet.
            thread::sleep(ARRIVAL);
            drop(self.world.take_seen(&self.around.ports));
        }
    }

    fn start_daemon(&mut self) {
        self.daemon = Some(self.world.start_actuator());
    }

    fn daemon_is_dead(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            kill(&mut daemon);
            // Its guard's tables go with it.
            until(|| !self.ruleset().contains("_guard"));
        }
    }

    fn ruleset(&self) -> String {
        self.world.exec_ok(Ns::Egress, &["nft", "list", "tables"])
    }

    fn delete(&self, ns: Ns, family: &str, name: &str, cell: &mut Cell) {
        let output = self.world.run(ns, &["nft", "delete", "table", family, name]);
        // What leaves a namespace is the tunnel's own.
        if !output.status.success() && self.scope != Scope::Netns {
            cell.wrong.push(format!("there was no table {family} {name} to delete"));
        }
    }

    fn disturb(&self) {
        if let Some(disturb) = self.around.disturbance {
            disturb(self.world);
        }
    }

    /// Both directions, by the tunnel's exit and by no other.
    fn carries(&self, cell: &mut Cell) {
        if self.around.carried == Carried::Nothing {
            return;
        }
        let services = self.asked_services();
        let mut wrong = Vec::new();
        let carried = until(|| {
            wrong = self.wrong_answers(&services);
            wrong.is_empty()
        });
        if !carried {
            cell.wrong.extend(wrong);
        }
    }

    /// A cgroup's packets are marked after they were routed: without an IPv4 default route they have
    /// no route to begin with.
    fn carries_v4(&self) -> bool {
        !(self.scope == Scope::Cgroups && self.around.families == Families::V6)
    }

    fn asked_services(&self) -> Vec<SocketAddr> {
        let mut services = vec![
            SocketAddr::new(WORLD.into(), SERVICE_PORT),
            SocketAddr::new(WORLD_V6.into(), SERVICE_PORT),
        ];
        if self.around.carried == Carried::All {
            services.push(SocketAddr::new(WORLD.into(), NAMES_PORT));
            services.push(SocketAddr::new(WORLD_V6.into(), NAMES_PORT));
        }
        services.retain(|service| service.is_ipv6() || self.carries_v4());
        services
    }

    fn wrong_answers(&self, services: &[SocketAddr]) -> Vec<String> {
        let mut wrong = Vec::new();
        let exits: [IpAddr; 2] = [Endpoint::A.address().into(), Endpoint::A.address_v6().into()];
        for (question, answer) in self.asked_by_workload(services) {
            if !answer.parse().is_ok_and(|address| exits.contains(&address)) {
                wrong.push(format!("through the tunnel: {question}: {answer}"));
            }
        }
        for target in [IpAddr::from(WORLD), WORLD_V6.into()] {
            if !self.pings(target) {
                wrong.push(format!("through the tunnel: ping {target}: no answer"));
            }
        }
        // A port that the provider forwards.
        let forwarded = SocketAddr::new(self.around.server(Endpoint::A), SERVICE_PORT).to_string();
        let lab = World::program("lab").display().to_string();
        let line = [&*lab, "reach", "--services", &forwarded];
        let said = self.world.exec_ok(Ns::World, &line);
        for (question, answer) in answers(&said) {
            if answer.parse::<IpAddr>().is_err() {
                wrong.push(format!("forwarded port: {question}: {answer}"));
            }
        }
        wrong
    }

    fn pings(&self, target: IpAddr) -> bool {
        if self.scope.is_on_host() && self.scope != Scope::Host {
            // A volley shows what a user's or a cgroup's ping does; `ping` itself may have a capability.
            return true;
        }
        self.world.ping(self.scope.ns(), &target.to_string())
    }

    fn asked_by_workload(&self, services: &[SocketAddr]) -> BTreeMap<String, String> {
        let services: Vec<String> = services.iter().map(SocketAddr::to_string).collect();
        let line = ["reach", "--services", &services.join(",")];
        answers(&self.scope.run(self.world, &line))
    }

    fn guest_is_free(&self, cell: &mut Cell) {
        if self.around.guest.is_some() && !until(|| self.world.ping(Ns::Guest, &WORLD.to_string()))
        {
            cell.wrong.push("another machine is cut off".into());
        }
    }

    fn assert_none_counted(&self, when: &str, cell: &mut Cell) {
        let line = self.world.program_line("exporter", &["--once"]);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let page = self.world.exec_ok(Ns::Egress, &line);
        let series = "vpn_egress_leaked_packets_total{path=\"media\"} ";
        match page.lines().find_map(|line| line.strip_prefix(series)) {
            Some("0") => {}
            Some(packets) => cell.wrong.push(format!("{packets} packets counted as leaked {when}")),
            None => cell.wrong.push(format!("no count of leaked packets {when}")),
        }
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        self.services.clear();
        if self.scope == Scope::Cgroups {
            forget_cgroup(self.world);
        }
    }
}

fn answers(said: &str) -> BTreeMap<String, String> {
    serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{said:?}: {error}"))
}

/// Like [`crate::eventually`], for what may never come true.
fn until(mut holds: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + SOON;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > give_up {
            return false;
        }
        thread::sleep(ARRIVAL);
    }
}

/// Routes that lead past the tunnel, whoever made them.
fn lead_outside(world: &World, around: &Surroundings) {
    let upper = around.devices.first().map_or(UPLINK, String::as_str);
    let v4 = format!("ip route replace {WORLD_HOLE}/32 via {ROUTER} dev {upper}\n");
    let v6 = format!("ip -6 route replace {WORLD_HOLE_V6}/128 via {ROUTER_V6} dev {upper}\n");
    let script = if around.families == Families::Both { v4 + &v6 } else { v6 };
    world.exec_ok(Ns::Egress, &["sh", "-ec", &script]);
}

/// The provider forwards a port to its client, in both families.
fn forward_port(world: &World) {
    world.nft(
        Ns::VpnA,
        &format!(
            "table inet forwarded {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        iifname \"{UPLINK}\" meta nfproto ipv4 meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} dnat ip to {TUNNEL_CLIENT}
        iifname \"{UPLINK}\" meta nfproto ipv6 meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} dnat ip6 to {TUNNEL_CLIENT_V6}
    }}
}}
"
        ),
    );
}
