//! Many standby endpoints that are probed beside a transfer through the tunnel: what the router sees
//! of their handshakes, and whether the tunnel notices.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::addresses::{Endpoint, Ns, TUNNEL, UPLINK, WIREGUARD_PORT, WORLD};
use crate::egress_config::EgressConfig;
use crate::eventually::eventually;
use crate::keys::KeyPair;
use crate::process::Process;
use crate::world::{World, await_listening};

const TRANSFER: u16 = 7131;
/// What is on the way when the exporter stands still has arrived by then, or is lost.
const ARRIVAL: Duration = Duration::from_secs(20);
/// Far longer than a handshake takes.
const QUIET: Duration = Duration::from_millis(300);
/// Between two looks at where the tunnel's peers are.
const LOOK: Duration = Duration::from_millis(100);

/// What became of the probes, and of the tunnel beside them.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Handshakes that were begun, and those that were answered, as the router saw them; the
    /// tunnel's own are among them.
    pub begun: u64,
    pub answered: u64,
    /// Times that either side's peer was seen at another address or port than before.
    pub roamed: u64,
    /// Bytes of the transfer, and the time it had, without probes and with them.
    pub without: Moved,
    pub with: Moved,
    pub broken: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    pub bytes: u64,
    pub time: Duration,
}

impl Moved {
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53
    pub fn per_second(self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64()
    }
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} handshakes begun, {} answered; peers roamed {} times; transfer {}; \
             {:.1} MB/s without probes, {:.1} MB/s with them, ratio {:.3}",
            self.begun,
            self.answered,
            self.roamed,
            if self.broken { "broken off" } else { "never broken off" },
            self.without.per_second() / 1e6,
            self.with.per_second() / 1e6,
            self.with.per_second() / self.without.per_second()
        )
    }
}

/// A transfer through the tunnel, and its far end.
pub struct Transfer {
    sender: Process,
    _sink: Process,
}

impl World {
    /// A path with so many standbys, each a peer of its own, half of them at the server that the
    /// tunnel is at; asked every second.
    #[track_caller]
    pub fn write_config_with_standbys(&self, count: u32) {
        let mut peers: BTreeMap<Endpoint, String> = BTreeMap::new();
        let mut lines = String::new();
        for number in 0..count {
            let endpoint = if number % 2 == 0 { Endpoint::A } else { Endpoint::B };
            let keys = KeyPair::generate();
            let _ = writeln!(
                peers.entry(endpoint).or_default(),
                "[Peer]\nPublicKey = {}\nAllowedIPs = 10.65.{}.{}/32\n",
                keys.public,
                number / 250,
                number % 250 + 1
            );
            let file = self.write_file(&format!("standby-{number}.key"), &keys.private, 0o600);
            let _ = writeln!(
                lines,
                "      - {{name: standby-{number}, address: \"{}\", public_key: {}, \
                 private_key_file: {}, probe_interval: 1s}}",
                endpoint.socket(),
                self.server_public_key(endpoint),
                file.display()
            );
        }
        for (endpoint, peers) in peers {
            let file = self.write_file("peers.conf", &peers, 0o600);
            let line = ["wg", "addconf", endpoint.device(), &file.to_string_lossy()];
            self.exec_ok(endpoint.ns(), &line);
        }
        self.write_config(&EgressConfig::quick());
        self.edit_config("    health:\n", &format!("{lines}    health:\n"));
    }

    /// Sends what this line of shell prints.
    #[track_caller]
    pub fn start_transfer(&self, sender: &str) -> Transfer {
        let lab = Self::program("lab").display().to_string();
        let listen = format!("--listen={WORLD}:{TRANSFER}");
        let mut sink = self.spawn(Ns::World, "standbys-sink", &[&lab, "sink", &listen]);
        await_listening(&mut sink, &["tcp"], TRANSFER, 1);
        let line = format!("{sender} > /dev/tcp/{WORLD}/{TRANSFER}");
        let sender = self.spawn(Ns::Egress, "standbys-transfer", &["bash", "-c", &line]);
        Transfer { sender, _sink: sink }
    }

    /// Lets the exporter probe until so many handshakes were begun, in windows of `window`, each
    /// after one of the same length in which it stands still.
    #[track_caller]
    pub fn probe_beside(
        &self,
        transfer: &mut Transfer,
        exporter: &mut Process,
        window: Duration,
        handshakes: u64,
    ) -> Beside {
        // What was begun before it is counted would be answered after.
        exporter.kill(Signal::SIGSTOP);
        self.count_handshakes();
        self.quiet_handshakes();
        self.count_handshakes();
        let mut beside = Beside::default();
        let mut peers = self.peers_are_at();
        while beside.begun < handshakes {
            exporter.kill(Signal::SIGSTOP);
            beside.without.add(self.moved(window, |_| {}));
            exporter.kill(Signal::SIGCONT);
            beside.with.add(self.moved(window, |world| {
                let now = world.peers_are_at();
                beside.roamed += u64::from(now != peers);
                peers = now;
            }));
            beside.begun = self.handshakes().0;
        }
        exporter.kill(Signal::SIGSTOP);
        (beside.begun, beside.answered) = self.quiet_handshakes();
        exporter.kill(Signal::SIGCONT);
        beside.broken = !transfer.sender.is_alive();
        beside
    }

    fn moved(&self, window: Duration, mut look: impl FnMut(&Self)) -> Moved {
        let (started, before) = (Instant::now(), self.arrived());
        while started.elapsed() < window {
            look(self);
            std::thread::sleep(LOOK);
        }
        Moved { bytes: self.arrived() - before, time: started.elapsed() }
    }

    /// Bytes that came to the far end of the transfer.
    fn arrived(&self) -> u64 {
        let file = format!("/sys/class/net/{UPLINK}/statistics/rx_bytes");
        self.exec_ok(Ns::World, &["cat", &file]).trim().parse().unwrap_or(0)
    }

    /// Where each side of the tunnel has the other.
    fn peers_are_at(&self) -> [String; 2] {
        let own = &self.keys[&Endpoint::A].client.public;
        let shown = |ns, device| self.exec_ok(ns, &["wg", "show", device, "endpoints"]);
        let here = shown(Ns::Egress, TUNNEL);
        let there = shown(Ns::VpnA, Endpoint::A.device());
        let of_tunnel = there.lines().find(|line| line.starts_with(own.as_str()));
        [here, of_tunnel.unwrap_or_default().to_owned()]
    }

    /// The router counts handshakes from here.
    #[track_caller]
    pub fn count_handshakes(&self) {
        self.nft(
            Ns::Router,
            &format!(
                "table inet handshakes\ndelete table inet handshakes\ntable inet handshakes {{
    counter begun {{ }}
    counter answered {{ }}
    chain forward {{
        type filter hook forward priority -10;
        iifname \"lan\" udp dport {WIREGUARD_PORT} @th,64,32 0x01000000 counter name begun
        oifname \"lan\" udp sport {WIREGUARD_PORT} @th,64,32 0x02000000 counter name answered
    }}
}}\n"
            ),
        );
    }

    /// Those begun and those answered since [`World::count_handshakes`].
    pub fn handshakes(&self) -> (u64, u64) {
        let line = ["nft", "--json", "list", "counters", "table", "inet", "handshakes"];
        let json: Value =
            serde_json::from_str(&self.exec_ok(Ns::Router, &line)).unwrap_or_default();
        let counters = json["nftables"].as_array().cloned().unwrap_or_default();
        let of = |name: &str| {
            let found = counters.iter().find(|one| one["counter"]["name"] == name);
            found.and_then(|one| one["counter"]["packets"].as_u64()).unwrap_or(0)
        };
        (of("begun"), of("answered"))
    }

    fn quiet_handshakes(&self) -> (u64, u64) {
        let mut counted = self.handshakes();
        eventually(ARRIVAL, "no handshake is under way any more", || {
            let then = std::mem::replace(&mut counted, self.handshakes());
            std::thread::sleep(QUIET);
            then == counted
        });
        counted
    }
}

impl Moved {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.time += other.time;
    }
}
