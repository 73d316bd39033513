//! A tunnel that carries all it can: a narrow line, and twice as much traffic as fits through it.

use std::net::SocketAddr;

use serde_json::Value;

use crate::addresses::{ECHO, Endpoint, Ns, TUNNEL_CLIENT, WIREGUARD_PORT, WORLD};
use crate::process::Process;
use crate::world::World;

/// What the line carries of the tunnel each way, whatever their size, as a queue that is full drops small and large
/// alike. Few, so that several worlds of a small machine have their turn.
const LINE_PACKETS_PER_SECOND: u32 = 100;
/// What it is given, of one stream.
const PACKETS_PER_SECOND: u32 = 200;
/// RFC 863; nobody listens there.
const DISCARD_PORT: u16 = 9;

/// Which way the traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Large packets out, each that arrives answered by a small one.
    Upload,
    Download,
    Both,
    /// Out, and nothing whatever comes back: no answer, no acknowledgement, no error.
    OneWay,
}

impl Load {
    pub const ALL: [Self; 4] = [Self::Upload, Self::Download, Self::Both, Self::OneWay];
}

/// Traffic and narrow line; the traffic ends when dropped.
pub struct Saturation(#[allow(dead_code)] Vec<Process>);

/// Packets to and from the endpoint, and what the line dropped of them.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    pub arrived: u64,
    pub dropped: u64,
}

impl World {
    /// Narrows the line to endpoint A, and fills it.
    #[track_caller]
    pub fn saturate(&self, load: Load) -> Saturation {
        self.narrow_line(Endpoint::A);
        let nobody = SocketAddr::new(WORLD.into(), DISCARD_PORT);
        let up = |target| self.start_stream(Ns::Egress, "up", target);
        let down = || {
            let client = SocketAddr::new(TUNNEL_CLIENT.into(), DISCARD_PORT);
            self.start_stream(Endpoint::A.ns(), "down", client)
        };
        Saturation(match load {
            Load::Upload => vec![up(ECHO)],
            Load::Download => vec![down()],
            Load::Both => vec![up(ECHO), down()],
            Load::OneWay => {
                // A host says that nobody listens.
                self.nft(
                    Ns::World,
                    "table inet silent { chain output { type filter hook output priority 0; \
                     icmp type destination-unreachable drop; }; }",
                );
                vec![up(nobody)]
            }
        })
    }

    /// What the narrow line has been given, and has dropped, until now.
    #[track_caller]
    pub fn line(&self) -> Carried {
        let count = |name| {
            let listed =
                self.exec_ok(Ns::Router, &["nft", "-j", "list", "counter", "inet", "line", name]);
            let json: Value = serde_json::from_str(&listed).expect("nft -j prints JSON");
            json["nftables"][1]["counter"]["packets"].as_u64().expect("a counter")
        };
        Carried { arrived: count("arrived"), dropped: count("dropped") }
    }

    /// The router drops what is more than the line carries, as a queue does that is full.
    #[track_caller]
    fn narrow_line(&self, endpoint: Endpoint) {
        let address = endpoint.address();
        let limit = format!("limit rate over {LINE_PACKETS_PER_SECOND}/second burst 50 packets");
        self.nft(
            Ns::Router,
            &format!(
                "table inet line {{
    counter arrived {{ }}
    counter dropped {{ }}
    chain to_endpoint {{ counter name arrived {limit} counter name dropped drop; }}
    chain from_endpoint {{ counter name arrived {limit} counter name dropped drop; }}
    chain forward {{
        type filter hook forward priority -2;
        ip daddr {address} udp dport {WIREGUARD_PORT} jump to_endpoint
        ip saddr {address} udp sport {WIREGUARD_PORT} jump from_endpoint
    }}
}}
"
            ),
        );
    }

    fn start_stream(&self, ns: Ns, name: &str, target: SocketAddr) -> Process {
        let lab = Self::program("lab").display().to_string();
        let (target, rate) = (target.to_string(), PACKETS_PER_SECOND.to_string());
        let line = [&lab, "volume", "--target", &target, "--packets-per-second", &rate];
        self.spawn(ns, name, &line)
    }
}
