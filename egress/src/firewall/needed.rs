//! The packets that a path needs to pass, and what is known of each on its way through the host.

use std::net::IpAddr;

use ipnet::IpNet;

use super::facts::{Fact, Facts};
use super::rules::Rules;
use crate::config::Workload;

const OUT: &[&str] = &["output", "postrouting", "egress"];
const IN: &[&str] = &["ingress", "prerouting", "input"];
const THROUGH: &[&str] = &["prerouting", "forward", "postrouting"];

/// Of every base chain that translates destinations (`dstnat`), and of what translates answers back.
const TRANSLATED: i64 = -100;

/// Networks that no address of the internet is in.
const NOT_INTERNET: [&str; 11] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// What a packet is needed for: what may be done to it depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The tunnel's own packet to an endpoint.
    Tunnel,
    /// An endpoint's answer.
    Answer,
    /// What is to leave by the tunnel.
    Workload,
    /// A question for a name, which is redirected more often than anything else.
    Name,
    /// What comes out of the tunnel.
    Back,
}

/// A packet that has to pass, and the hooks that it passes.
pub struct Needed {
    pub what: String,
    pub task: Task,
    pub hooks: &'static [&'static str],
    facts: Facts,
    /// The destination before answers are translated back, where that is another one.
    untranslated: Option<Fact>,
    pub mark: Option<u64>,
}

/// What is known of the host around the path.
#[derive(Debug, Default)]
pub struct Addresses {
    /// The device that the tunnel's packets leave by, where there is one only.
    pub uplink: Option<String>,
    /// Every address of this host, with its device and its network.
    pub own: Vec<(String, IpNet)>,
}

impl Addresses {
    /// Those of a device, in one family; nothing is known where it has none.
    fn of(&self, device: Option<&str>, is_ipv4: bool) -> Option<Fact> {
        let its = self
            .own
            .iter()
            .filter(|(name, net)| Some(name.as_str()) == device && net.addr().is_ipv4() == is_ipv4);
        let its: Vec<IpAddr> = its.map(|(_, net)| net.addr()).collect();
        (!its.is_empty()).then_some(Fact::OneOf(its))
    }

    fn internet(&self) -> Fact {
        let known = NOT_INTERNET.iter().filter_map(|net| net.parse().ok());
        let local = self.own.iter().map(|(_, net)| net.trunc());
        Fact::Outside(known.chain(local).filter(|net: &IpNet| net.prefix_len() > 0).collect())
    }
}

impl Needed {
    /// Whether a chain of this family sees it.
    pub fn is_of(&self, family: &str) -> bool {
        let protocol = match self.facts.get("protocol") {
            Some(Fact::Word(word)) => word.as_str(),
            _ => return true,
        };
        ["inet", "netdev", protocol].contains(&family)
    }

    /// Whether a chain of this type sees it: one that translates sees the first packet of a
    /// connection only.
    pub fn is_of_type(&self, kind: &str) -> bool {
        kind != "nat" || self.facts.get("ct state") != Some(&word("established"))
    }

    pub fn facts_at(&self, hook: &str, priority: i64) -> Facts {
        let mut facts = self.facts.clone();
        if hook == "prerouting" && priority < TRANSLATED {
            facts.extend(self.untranslated.clone().map(|fact| ("daddr", fact)));
        }
        facts
    }
}

fn word(word: &str) -> Fact {
    Fact::Word(word.to_owned())
}

pub fn needed(path: &Rules, host: &Addresses) -> Vec<Needed> {
    let mut needed = Vec::new();
    for endpoint in &path.endpoints {
        needed.extend(handshake(path, host, *endpoint));
    }
    // A connection as most are, of the family that every tunnel has.
    let connection = |l4: &str, (ports, port): (&'static str, u64), state: &str| {
        facts([
            ("protocol", Some(word("ip"))),
            ("nfproto", Some(word("ipv4"))),
            ("l4proto", Some(word(l4))),
            (ports, Some(Fact::Number(port))),
            ("ct state", Some(word(state))),
        ])
    };
    let name = &path.interface;
    let internet = host.internet();
    let outwards = |mut facts: Facts, enters: Option<&str>| {
        facts.extend(enters.map(|device| ("iifname", word(device))));
        facts.insert("oifname", word(name));
        facts.insert("daddr", internet.clone());
        facts.insert("fib daddr type", word("unicast"));
        facts
    };
    let whole_host = path.workload == Workload::Host;
    // What scoped workloads carry is given to them by the killswitch, at its own place.
    let mark = whole_host.then_some(0);
    let new = |l4, port| connection(l4, ("dport", port), "new");
    needed.push(Needed {
        what: format!("what this host sends into {name}"),
        task: Task::Workload,
        hooks: OUT,
        facts: outwards(new("tcp", 443), None),
        untranslated: None,
        mark,
    });
    if whole_host {
        needed.push(Needed {
            what: "questions for names".to_owned(),
            task: Task::Name,
            hooks: &["output"],
            facts: outwards(new("udp", 53), None),
            untranslated: None,
            mark,
        });
    }
    let back = |leaves: Option<&str>| {
        let mut facts = connection("tcp", ("sport", 443), "established");
        facts.insert("iifname", word(name));
        facts.extend(leaves.map(|device| ("oifname", word(device))));
        facts
    };
    let tunnel_address = host.of(Some(name), true);
    let mut answers = back(None);
    answers.extend(tunnel_address.clone().map(|fact| ("daddr", fact)));
    answers.insert("fib daddr type", word("local"));
    needed.push(Needed {
        what: format!("answers out of {name}"),
        task: Task::Back,
        hooks: IN,
        facts: answers,
        untranslated: None,
        mark: None,
    });
    for bridge in path.allow_interfaces.iter().chain(path.workload.interfaces()) {
        needed.push(Needed {
            what: format!("what is forwarded from {bridge} into {name}"),
            task: Task::Workload,
            hooks: THROUGH,
            facts: outwards(new("tcp", 443), Some(bridge)),
            untranslated: None,
            mark,
        });
        needed.push(Needed {
            what: format!("answers forwarded from {name} to {bridge}"),
            task: Task::Back,
            hooks: THROUGH,
            facts: back(Some(bridge)),
            untranslated: tunnel_address.clone(),
            mark: None,
        });
    }
    needed
}

fn facts<const N: usize>(facts: [(&'static str, Option<Fact>); N]) -> Facts {
    let known = facts.into_iter().filter_map(|(name, fact)| Some((name, fact?)));
    // No packet of these is translated, so none has this status.
    known.chain([("ct status", word("none"))]).collect()
}

/// Out, with the path's mark; and the answer to it.
fn handshake(path: &Rules, host: &Addresses, endpoint: std::net::SocketAddr) -> [Needed; 2] {
    let is_ipv4 = endpoint.is_ipv4();
    let uplink = host.uplink.as_deref();
    let common = |ports: &'static str, addresses: &'static str| {
        facts([
            ("protocol", Some(word(if is_ipv4 { "ip" } else { "ip6" }))),
            ("nfproto", Some(word(if is_ipv4 { "ipv4" } else { "ipv6" }))),
            ("l4proto", Some(word("udp"))),
            (ports, Some(Fact::Number(endpoint.port().into()))),
            (addresses, Some(Fact::Address(endpoint.ip()))),
        ])
    };
    let mark = Some(u64::from(path.fwmark));
    let mut out = common("dport", "daddr");
    out.extend(uplink.map(|uplink| ("oifname", word(uplink))));
    out.insert("ct state", word("new"));
    out.insert("fib daddr type", word("unicast"));
    // A connection that begins has no mark.
    out.insert("ct mark", Fact::Number(0));
    let mut back = common("sport", "saddr");
    back.extend(uplink.map(|uplink| ("iifname", word(uplink))));
    back.extend(host.of(uplink, is_ipv4).map(|fact| ("daddr", fact)));
    back.insert("ct state", word("established"));
    back.insert("fib daddr type", word("local"));
    let packet = |what: String, task, hooks, facts, mark| Needed {
        what,
        task,
        hooks,
        facts,
        untranslated: None,
        mark,
    };
    [
        packet(format!("handshakes to {endpoint}"), Task::Tunnel, OUT, out, mark),
        packet(format!("answers from {endpoint}"), Task::Answer, IN, back, None),
    ]
}
