//! Where a rule of another program breaks what a path needs: said with its table and chain.
//!
//! Read from the ruleset, nothing is sent and nothing is changed. What is read with certainty
//! *blocks*, what rests on something that is not understood *may block*.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use super::facts::Truth;
pub use super::needed::Addresses;
use super::needed::{Needed, Task, needed};
use super::nft::{self, NftError, Ruleset};
use super::reading::{Deed, Effect, Table};
use super::rules::Rules;
use super::xt::XtRules;
use crate::error::chain;

/// Ours begin like this.
const OURS: &str = "vpn_egress";

/// Endpoints whose packets are followed: a rule that breaks one breaks its neighbours too, and a list
/// may have a thousand.
const ENDPOINTS: usize = 16;

/// Docker's resolver inside a container. It answers for dockerd, which is outside of the namespace.
const DOCKER_RESOLVER: &str = "127.0.0.11";

/// A rule, or a policy, that is in a path's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// What it is done to.
    what: String,
    table: String,
    effect: Effect,
    harm: Harm,
}

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Harm {
    Refused,
    /// To this address, which the lock does not let it reach.
    Redirected(Option<String>),
    /// The tunnel's packets are known by their mark, which is another one then.
    MarkLost {
        from: u32,
        to: Option<u64>,
    },
    /// Packets with this mark leave by another device than the tunnel.
    Rerouted {
        mark: u64,
        device: String,
        tunnel: String,
    },
    /// By this flowtable, which the forward hook does not see.
    Offloaded(String),
}

impl Blocked {
    pub fn is_sure(&self) -> bool {
        self.effect.sure && !matches!(self.harm, Harm::Offloaded(_))
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, table, effect, harm } = self;
        let place = &effect.place;
        let by =
            place.rule.map_or("policy drop".to_owned(), |handle| format!("rule handle {handle}"));
        let may = if effect.sure { "" } else { "may " };
        let s = if effect.sure { "s" } else { "" };
        write!(f, "table {table}, chain {} ", place.chain)?;
        match harm {
            Harm::Refused => write!(f, "{may}block{s} {what} ({by}): accept it there"),
            Harm::Redirected(to) => {
                let to = to.as_deref().unwrap_or("this host itself");
                write!(
                    f,
                    "{may}redirect{s} {what} to {to} ({by}), where the lock does not let it: leave it \
                     out there"
                )
            }
            Harm::MarkLost { from, to } => {
                let to = to.map_or("another".to_owned(), |to| format!("{to:#x}"));
                write!(
                    f,
                    "{may}change{s} the mark of {what} from {from:#x} to {to} ({by}), and by its mark \
                     the lock knows it: leave packets with the mark {from:#x} out there"
                )
            }
            Harm::Rerouted { mark, device, tunnel } => write!(
                f,
                "{may}give{s} {what} the mark {mark:#x} ({by}), with which it leaves by {device} and \
                 not by {tunnel}, so the lock stops it: leave it out there, or the rule for that mark"
            ),
            Harm::Offloaded(flowtable) => write!(
                f,
                "{may}hand{s} {what} to flowtable {flowtable} ({by}), past the killswitch's forward \
                 chain: the watch alone judges it. Leave it out there"
            ),
        }
    }
}

/// What was found in the rulesets of others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// What is certain comes first.
    pub blocked: Vec<Blocked>,
    /// What could not be read.
    pub unread: Vec<String>,
    /// Table and chain that redirect Docker's resolver, where they are in this namespace.
    pub docker_resolver: Option<String>,
}

/// Where the kernel sends packets.
pub trait Routing {
    /// The device by which an IPv4 packet of the host's own with this mark leaves; to this address, or
    /// to somewhere in the internet. `None`: it is not known.
    fn leaves_by(&self, to: Option<IpAddr>, mark: u32) -> Option<String>;
}

/// What is in the way of `path`, in every table that is not ours.
pub fn read(path: &Rules, host: &Addresses, routing: &dyn Routing) -> Result<Foreign, NftError> {
    let ruleset = Ruleset::of(nft::list(&["ruleset"])?.unwrap_or_default());
    let (xt, unread) = match XtRules::read() {
        Ok(xt) => (xt, None),
        Err(error) => {
            let why = format!("what iptables' extensions hold was not read: {}", chain(error));
            (XtRules::default(), Some(why))
        }
    };
    let mut found = find(&ruleset, &xt, path, host, routing);
    found.unread.extend(unread);
    Ok(found)
}

fn find(
    ruleset: &Ruleset,
    xt: &XtRules,
    path: &Rules,
    host: &Addresses,
    routing: &dyn Routing,
) -> Foreign {
    let mut followed = path.clone();
    followed.endpoints.truncate(ENDPOINTS);
    let needed = needed(&followed, host);
    let mut tables: BTreeMap<(&str, &str), Vec<(&str, &Value)>> = BTreeMap::new();
    for (kind, body) in ruleset.objects() {
        let name = body["table"].as_str().unwrap_or_default();
        if !name.starts_with(OURS) {
            let family = body["family"].as_str().unwrap_or_default();
            tables.entry((family, name)).or_default().push((kind, body));
        }
    }
    let mut found = Foreign::default();
    for ((family, name), objects) in tables {
        let in_table = format!("{family} {name}");
        let lacking =
            objects.iter().filter(|(kind, body)| *kind == "rule" && !body["expr"].is_array());
        found.unread.extend(lacking.map(|(_, body)| {
            let chain = body["chain"].as_str().unwrap_or("?");
            format!(
                "table {in_table}, chain {chain}: nft does not say what rule handle {} does",
                body["handle"]
            )
        }));
        if found.docker_resolver.is_none() {
            let asks = objects.iter().find(|(kind, body)| *kind == "rule" && is_for_docker(body));
            found.docker_resolver = asks.map(|(_, body)| {
                format!("table {in_table}, chain {}", body["chain"].as_str().unwrap_or("?"))
            });
        }
        let table = Table::of(objects.iter().copied(), xt);
        let search = Search { table: &table, name: &in_table, family, path, routing };
        for (_, base) in
            objects.iter().filter(|(kind, body)| *kind == "chain" && !body["hook"].is_null())
        {
            search.base_chain(base, &needed, &mut found);
        }
    }
    found.blocked.sort_by_key(|blocked| !blocked.is_sure());
    found
}

fn is_for_docker(rule: &Value) -> bool {
    let conditions = rule["expr"].as_array().into_iter().flatten();
    conditions.map(|one| &one["match"]).any(|one| {
        one["left"]["payload"]["field"] == "daddr"
            && one["op"] == "=="
            && one["right"].as_str() == Some(DOCKER_RESOLVER)
    })
}

/// One table that is searched for what harms a path.
struct Search<'search> {
    table: &'search Table<'search>,
    name: &'search str,
    family: &'search str,
    path: &'search Rules,
    routing: &'search dyn Routing,
}

impl Search<'_> {
    fn base_chain(&self, base: &Value, needed: &[Needed], found: &mut Foreign) {
        let text = |key: &str| base[key].as_str().unwrap_or_default();
        let (chain, hook, kind) = (text("name"), text("hook"), text("type"));
        let priority = base["prio"].as_i64().unwrap_or_default();
        let seen = |packet: &&Needed| {
            packet.hooks.contains(&hook) && packet.is_of(self.family) && packet.is_of_type(kind)
        };
        for packet in needed.iter().filter(seen) {
            // nft 1.0.6 does not say which device a chain of this family is at.
            let reached = if self.family == "netdev" { Truth::Maybe } else { Truth::Yes };
            let facts = packet.facts_at(hook, priority);
            let read = self.table.read(chain, text("policy"), (&facts, packet.mark), reached);
            if !read.complete {
                let why =
                    format!("table {}, chain {chain}: too many rules to read them all", self.name);
                if !found.unread.contains(&why) {
                    found.unread.push(why);
                }
            }
            for effect in read.effects {
                if let Some(harm) = self.harm(packet, &effect, (kind, hook)) {
                    let (what, table) = (packet.what.clone(), self.name.to_owned());
                    found.blocked.push(Blocked { what, table, effect, harm });
                }
            }
        }
    }

    /// `None`: it does no harm to this packet.
    fn harm(&self, packet: &Needed, effect: &Effect, (kind, hook): (&str, &str)) -> Option<Harm> {
        match (&effect.deed, packet.task) {
            // The same rules refuse the connection that is followed as well.
            (Deed::Refuses, Task::Name) => None,
            (Deed::Refuses, _) => Some(Harm::Refused),
            (Deed::Redirects(to), Task::Tunnel) => Some(Harm::Redirected(to.clone())),
            (Deed::Redirects(to), Task::Workload | Task::Name) if hook == "output" => {
                let to = to.as_deref()?;
                self.is_out_of_reach(to.parse().ok()?)
                    .then(|| Harm::Redirected(Some(to.to_owned())))
            }
            (Deed::Marks(to), Task::Tunnel) => {
                let from = self.path.fwmark;
                (*to != Some(u64::from(from))).then_some(Harm::MarkLost { from, to: *to })
            }
            // Where it is routed after the rule.
            (Deed::Marks(Some(mark)), Task::Workload)
                if kind == "route" || hook == "prerouting" =>
            {
                let device = self.routing.leaves_by(None, u32::try_from(*mark).ok()?)?;
                let tunnel = self.path.interface.clone();
                (device != tunnel).then_some(Harm::Rerouted { mark: *mark, device, tunnel })
            }
            (Deed::Offloads(flowtable), Task::Workload | Task::Back) => {
                Some(Harm::Offloaded(flowtable.clone()))
            }
            _ => None,
        }
    }

    /// Whether the lock stops what goes to this address.
    fn is_out_of_reach(&self, to: IpAddr) -> bool {
        let lists = self.path.allow.iter().chain(&self.path.management);
        let listed = lists.into_iter().any(|net| net.contains(&to));
        let device = self.routing.leaves_by(Some(to), 0);
        let by_tunnel = device.is_none_or(|device| device == self.path.interface);
        !to.is_loopback() && !listed && !by_tunnel
    }
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
