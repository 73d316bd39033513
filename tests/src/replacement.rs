//! Rules replaced under load: what must stay inside is tried, what must pass is sent, and each is
//! counted where it cannot be mistaken: outside at the router, inside on both sides of the rules.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::addresses::{FWMARK, Ns, TUNNEL, UPLINK, WIREGUARD_PORT, WORLD, WORLD_HOLE};
use crate::container::BRIDGE;
use crate::egress_config::EgressConfig;
use crate::eventually::eventually;
use crate::flood::Flood;
use crate::kinds::Sender;
use crate::process::Process;
use crate::world::{World, await_listening};

/// Datagrams of the host and of the container, and the transfer.
const HOST: u16 = 7120;
const CONTAINER: u16 = 7121;
const TRANSFER: u16 = 7122;
/// Datagrams per second of each of the two.
const RATE: u32 = 1000;
/// What is under way when the senders end has arrived by then, or is lost.
const ARRIVAL: Duration = Duration::from_secs(20);
/// Far longer than a packet takes.
const QUIET: Duration = Duration::from_millis(200);

/// What a sender says at its end.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Sent {
    pub datagrams: u64,
    pub refused: u64,
    pub bytes: u64,
    pub broken: u64,
}

/// What became of it all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replaced {
    pub rounds: u32,
    /// Packets that must not get out, and those that did.
    pub tried: u64,
    pub outside: u64,
    /// Datagrams and answers that must pass, and those that the rules did not let pass.
    pub permitted: u64,
    pub dropped: u64,
    /// Of those that passed the rules, the ones that did not come to the far end.
    pub lost: u64,
    /// Bytes of the transfer, and how often it broke.
    pub transferred: u64,
    pub broken: u64,
    /// Times that a counter of ours was lower than before, or gone.
    pub counters_fell: u64,
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} replacements: {} of {} packets got outside; of {} that must pass the rules dropped \
             {}, and {} were lost on the way; {} MB transferred, broken off {} times; counters fell \
             {} times",
            self.rounds,
            self.outside,
            self.tried,
            self.permitted,
            self.dropped,
            self.lost,
            self.transferred / 1_000_000,
            self.broken,
            self.counters_fell
        )
    }
}

/// Everything that is under way while rules are replaced; started before the lock.
pub struct Load {
    floods: Vec<Flood>,
    _far: Vec<Process>,
}

impl World {
    /// Starts every kind of traffic that must not get out, so many packets of each per second, with
    /// a container and a static route past the tunnel to try; and what must pass can be counted.
    #[track_caller]
    pub fn start_load(&self, rate: u32) -> Load {
        self.add_container();
        self.route_outside(WORLD_HOLE);
        let mut far = self.start_far_ends();
        far.extend(self.count_ways());
        let senders = [Sender::Host, Sender::User, Sender::Container];
        let start = |sender| self.start_flood(sender, rate, |_| true);
        Load { floods: senders.into_iter().filter_map(start).collect(), _far: far }
    }

    /// A converge to another list of endpoints for each number.
    #[track_caller]
    pub fn converge_other_endpoints(&self, number: u32) {
        let host = 20 + u8::try_from(number % 200).unwrap_or(0);
        let extra_endpoints = vec![([203, 0, 113, host], WIREGUARD_PORT).into()];
        let path_lines = vec![format!("allow_interfaces: [{BRIDGE}]")];
        self.write_config(&EgressConfig { extra_endpoints, path_lines, ..EgressConfig::quick() });
        let said = self.actuator_ok(&["converge"]);
        assert!(said.contains("killswitch and watch loaded"), "{said}");
    }

    /// The far ends, and a counter at each place that a permitted packet passes.
    #[track_caller]
    fn count_ways(&self) -> [Process; 2] {
        let chain = |name: &str, hook: &str, device: &str, rules: &[String]| {
            format!(
                "    chain {name} {{\n        type filter hook {hook} device \"{device}\" priority 0;\n        {}\n    }}\n",
                rules.join("\n        ")
            )
        };
        let table = |counters: &[&str], chains: &str| {
            let counters: Vec<String> =
                counters.iter().map(|name| format!("    counter {name} {{ }}\n")).collect();
            let counters = counters.concat();
            format!("table netdev lab_ways {{\n{counters}{chains}}}\n")
        };
        let count = |port: &str, number: u16, counter: &str| {
            format!("udp {port} {number} counter name {counter}")
        };
        let out = [count("dport", HOST, "host_out"), count("dport", CONTAINER, "container_out")];
        let back = [count("sport", CONTAINER, "answers_in")];
        let chains =
            chain("out", "egress", TUNNEL, &out) + &chain("back", "ingress", TUNNEL, &back);
        self.nft(Ns::Egress, &table(&["host_out", "container_out", "answers_in"], &chains));
        self.nft(Ns::Egress, &around_the_walls());
        let arrived =
            [count("dport", HOST, "host_far"), count("dport", CONTAINER, "container_far")];
        let chains = chain("far", "ingress", UPLINK, &arrived);
        self.nft(Ns::World, &table(&["host_far", "container_far"], &chains));
        let chains = chain("home", "ingress", UPLINK, &[count("sport", CONTAINER, "answers_home")]);
        self.nft(Ns::Container, &table(&["answers_home"], &chains));

        let lab = Self::program("lab").display().to_string();
        let echo = [HOST, CONTAINER].map(|port| format!("--listen={WORLD}:{port}"));
        let mut echo = self.spawn(Ns::World, "ways-udp", &[&lab, "echo", &echo[0], &echo[1]]);
        let listen = format!("--listen={WORLD}:{TRANSFER}");
        let mut sink = self.spawn(Ns::World, "ways-tcp", &[&lab, "sink", &listen]);
        await_listening(&mut echo, &["udp"], CONTAINER, 1);
        await_listening(&mut echo, &["udp"], HOST, 1);
        await_listening(&mut sink, &["tcp"], TRANSFER, 1);
        [echo, sink]
    }

    /// Does `replace` so many times under load.
    #[track_caller]
    pub fn replace_under_load(
        &mut self,
        load: &mut Load,
        rounds: u32,
        mut replace: impl FnMut(&Self, u32),
    ) -> Replaced {
        self.reset_observer();
        let before = self.quiet_ways(load);
        let tried_before = tried(&mut load.floods);
        let transfer = format!("--tcp={WORLD}:{TRANSFER}");
        let host = Permitted::start(Ns::Egress, HOST, &[&transfer]);
        let container = Permitted::start(Ns::Container, CONTAINER, &[]);
        let mut replaced = Replaced { rounds, ..Replaced::default() };
        let mut counters = self.our_counters();
        for round in 0..rounds {
            replace(self, round);
            let now = self.our_counters();
            let fell =
                |(name, count): &(&String, &u64)| now.get(*name).is_none_or(|is| is < *count);
            replaced.counters_fell += counters.iter().filter(fell).count() as u64;
            counters = now;
        }
        let (host, container) = (host.end(), container.end());
        replaced.tried = tried(&mut load.floods) - tried_before;
        replaced.outside = self.observed_outside();

        let ways = self.quiet_ways(load);
        let passed = |name: &str| ways[name] - before[name];
        let (host_out, container_out) = (passed("host_out"), passed("container_out"));
        let (answers, home) = (passed("answers_in"), passed("answers_home"));
        replaced.permitted =
            host.datagrams + host.refused + container.datagrams + container.refused + answers;
        replaced.dropped = host.refused
            + container.refused
            + host.datagrams.abs_diff(host_out)
            + container.datagrams.abs_diff(container_out)
            + answers.abs_diff(home)
            + passed("tunnel_before_killswitch").abs_diff(passed("tunnel_after_killswitch"))
            + passed("tunnel_before_watch").abs_diff(passed("tunnel_after_watch"));
        replaced.lost =
            host_out.abs_diff(passed("host_far")) + container_out.abs_diff(passed("container_far"));
        replaced.transferred = host.bytes;
        replaced.broken = host.broken;
        replaced
    }

    /// The counters while nothing is under way: none is ahead of the next.
    fn quiet_ways(&self, load: &Load) -> BTreeMap<String, u64> {
        load.floods.iter().for_each(|flood| flood.signal(Signal::SIGSTOP));
        let mut ways = self.ways();
        eventually(ARRIVAL, "nothing is under way any more", || {
            let then = std::mem::replace(&mut ways, self.ways());
            std::thread::sleep(QUIET);
            if then == ways { Ok(()) } else { Err(then) }
        });
        load.floods.iter().for_each(|flood| flood.signal(Signal::SIGCONT));
        ways
    }

    fn ways(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for ns in [Ns::Egress, Ns::Container, Ns::World] {
            let listed = self.exec_ok(ns, &["nft", "--json", "list", "counters"]);
            all.extend(named(&listed, |counter| counter["table"] == "lab_ways"));
        }
        all
    }

    fn our_counters(&self) -> BTreeMap<String, u64> {
        let listed = self.exec_ok(Ns::Egress, &["nft", "--json", "list", "counters"]);
        named(&listed, |counter| {
            counter["table"].as_str().is_some_and(|table| table.starts_with("vpn_egress"))
        })
    }
}

/// The tunnel's own packets, before and after each wall: a refusal there is a loss too, and would
/// look like one of the network's.
fn around_the_walls() -> String {
    let own = format!("meta mark {FWMARK} udp dport {WIREGUARD_PORT}");
    let chain = |name: &str, hook: &str, priority: i32| {
        format!(
            "    counter tunnel_{name} {{ }}
    chain {name} {{
        type filter hook {hook} priority {priority};
        {own} counter name tunnel_{name}
    }}\n"
        )
    };
    let at_uplink = format!("egress device \"{UPLINK}\"");
    format!(
        "table inet lab_ways {{\n{}{}}}\ntable netdev lab_ways {{\n{}{}}}\n",
        chain("before_killswitch", "output", -5),
        chain("after_killswitch", "output", 5),
        chain("before_watch", &at_uplink, -5),
        chain("after_watch", &at_uplink, 5)
    )
}

fn named(listed: &str, wanted: impl Fn(&Value) -> bool) -> BTreeMap<String, u64> {
    let json: Value = serde_json::from_str(listed).unwrap_or_default();
    let all = json["nftables"].as_array().into_iter().flatten();
    all.filter_map(|object| object.get("counter"))
        .filter(|counter| wanted(counter))
        .filter_map(|counter| {
            Some((counter["name"].as_str()?.to_owned(), counter["packets"].as_u64()?))
        })
        .collect()
}

fn tried(floods: &mut [Flood]) -> u64 {
    floods.iter_mut().flat_map(|flood| flood.tried().into_values()).map(|one| one.packets).sum()
}

/// A process that sends what must pass.
struct Permitted(Child);

impl Permitted {
    #[track_caller]
    fn start(ns: Ns, port: u16, more: &[&str]) -> Self {
        let child = Command::new("ip")
            .args(["netns", "exec", ns.name()])
            .arg(World::program("lab"))
            .args(["permitted", "--rate", &RATE.to_string(), &format!("--udp={WORLD}:{port}")])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{ns}: cannot start a sender: {error}")))
    }

    #[track_caller]
    fn end(mut self) -> Sent {
        drop(self.0.stdin.take());
        let mut said = String::new();
        if let Some(mut output) = self.0.stdout.take() {
            let _ = output.read_to_string(&mut said);
        }
        serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("a sender said {said:?}: {error}"))
    }
}

impl Drop for Permitted {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
