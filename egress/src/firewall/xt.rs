//! Extensions of iptables in rules of other programs. `nft -j` says of them no more than their names;
//! what they hold is asked of the kernel, and decoded for those that decide about a path.

use std::collections::BTreeMap;
use std::io;

use nftables::types::NfFamily;
use serde_json::Value;

use super::facts::{Fact, Facts, Truth};
use super::netlink::{body, open, request};
use crate::netlink::Attributes;

/// `linux/netfilter/nf_tables.h`
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
/// The same for a match and for a target.
const NFTA_XT_NAME: u16 = 1;
const NFTA_XT_REVISION: u16 = 2;
const NFTA_XT_INFO: u16 = 3;

/// `linux/netfilter/xt_addrtype.h`, `xt_conntrack.h`, `xt_connmark.h`
const ADDRESS_LOCAL: u16 = 1 << 2;
const ADDRESS_UNICAST: u16 = 1 << 1;
const ADDRTYPE_INVERT_DESTINATION: u32 = 0x2;
const CONNTRACK_STATE: u16 = 0x1;
const CONNMARK_RESTORE: u8 = 2;

/// What a rule holds, by its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RulePlace {
    family: &'static str,
    table: String,
    chain: String,
    handle: u64,
}

/// An extension as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Raw {
    is_target: bool,
    name: String,
    revision: u32,
    info: Vec<u8>,
}

/// The extensions of all rules, in each rule's order.
#[derive(Debug, Default)]
pub struct XtRules(BTreeMap<RulePlace, Vec<Raw>>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Xt {
    Match(Condition),
    Target(Target),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Always,
    Unknown,
    /// The mark, or that of the connection, under a mask.
    Mark {
        of: &'static str,
        value: u64,
        mask: u64,
        inverted: bool,
    },
    /// The kind of the destination's address.
    Destination {
        kinds: u16,
        inverted: bool,
    },
    /// States of the connection.
    States {
        mask: u16,
        inverted: bool,
    },
    Ports {
        of: &'static str,
        ports: Vec<(u64, u64)>,
        inverted: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// It gives no verdict.
    Nothing,
    Refuses,
    /// Accepts, or translates the source.
    Ends,
    Redirects(Option<String>),
    SetsMark(MarkChange),
    Unknown,
}

/// How a target changes the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkChange {
    To {
        value: u64,
        mask: u64,
    },
    /// From the connection's.
    Restored {
        of_connection: u64,
        mask: u64,
    },
    Unknown,
}

impl MarkChange {
    pub fn of(self, mark: Option<u64>, facts: &Facts) -> Option<u64> {
        match self {
            Self::To { value, mask } => {
                Some((mark.or((mask == u64::from(u32::MAX)).then_some(0))? & !mask) ^ value)
            }
            Self::Restored { of_connection, mask } => {
                let Some(Fact::Number(connection)) = facts.get("ct mark") else { return None };
                Some((mark? & !mask) ^ (connection & of_connection))
            }
            Self::Unknown => None,
        }
    }
}

impl Condition {
    pub fn holds(&self, facts: &Facts, mark: Option<u64>) -> Truth {
        let invert = |truth: Truth, inverted: bool| if inverted { truth.not() } else { truth };
        match self {
            Self::Always => Truth::Yes,
            Self::Unknown => Truth::Maybe,
            Self::Mark { of, value, mask, inverted } => {
                let known = match (*of, facts.get(of)) {
                    ("mark", _) => mark,
                    (_, Some(Fact::Number(number))) => Some(*number),
                    _ => None,
                };
                let truth = known.map_or(Truth::Maybe, |known| Truth::of(known & mask == *value));
                invert(truth, *inverted)
            }
            Self::Destination { kinds, inverted } => {
                let kind = match facts.get("fib daddr type") {
                    Some(Fact::Word(word)) if word == "local" => ADDRESS_LOCAL,
                    Some(Fact::Word(word)) if word == "unicast" => ADDRESS_UNICAST,
                    _ => return Truth::Maybe,
                };
                invert(Truth::of(kinds & kind != 0), *inverted)
            }
            Self::States { mask, inverted } => {
                let state = match facts.get("ct state") {
                    Some(Fact::Word(word)) if word == "established" => 1 << 1,
                    Some(Fact::Word(word)) if word == "new" => 1 << 3,
                    _ => return Truth::Maybe,
                };
                invert(Truth::of(mask & state != 0), *inverted)
            }
            Self::Ports { of, ports, inverted } => match facts.get(of) {
                Some(Fact::Number(port)) => {
                    let among = ports.iter().any(|(low, high)| (low..=high).contains(&port));
                    invert(Truth::of(among), *inverted)
                }
                _ => Truth::Maybe,
            },
        }
    }
}

impl XtRules {
    /// Of iptables and ip6tables, which is where they are.
    pub fn read() -> io::Result<Self> {
        let mut kernel = open()?;
        let mut found = BTreeMap::new();
        for (family, word) in [(NfFamily::IP, "ip"), (NfFamily::IP6, "ip6")] {
            let rules = kernel.dump(&request(NFT_MSG_GETRULE, family), |message| {
                let rule = body(&message, NFT_MSG_NEWRULE)?;
                Ok(extensions(rule).filter(|(_, raw)| !raw.is_empty()))
            })?;
            for ((table, chain, handle), raw) in rules.into_iter().flatten() {
                found.insert(RulePlace { family: word, table, chain, handle }, raw);
            }
        }
        Ok(Self(found))
    }

    /// The `nth` extension of a rule, where `nft -j` shows `body`.
    pub fn get(&self, rule: &Value, nth: usize, body: &Value) -> Xt {
        let text = |key: &str| rule[key].as_str().unwrap_or_default();
        let family = if text("family") == "ip6" { "ip6" } else { "ip" };
        let place = RulePlace {
            family,
            table: text("table").to_owned(),
            chain: text("chain").to_owned(),
            handle: rule["handle"].as_u64().unwrap_or_default(),
        };
        let raw = self.0.get(&place).and_then(|all| all.get(nth));
        let is_target = raw.map_or(body["type"] == "target", |raw| raw.is_target);
        let name = raw.map(|raw| raw.name.as_str()).or(body["name"].as_str()).unwrap_or_default();
        if is_target {
            Xt::Target(target(name, raw, family))
        } else {
            Xt::Match(condition(name, raw))
        }
    }
}

type Extensions = ((String, String, u64), Vec<Raw>);

fn extensions(rule: Attributes<'_>) -> Option<Extensions> {
    let text = |kind: u16| rule.text(kind).map(ToOwned::to_owned);
    let place = (text(NFTA_RULE_TABLE)?, text(NFTA_RULE_CHAIN)?, rule.be64(NFTA_RULE_HANDLE)?);
    let raw = |(_, expression): (u16, &[u8])| {
        let expression = Attributes::new(expression);
        let is_target = match expression.text(NFTA_EXPR_NAME)? {
            "match" => false,
            "target" => true,
            _ => return None,
        };
        let data = expression.nested(NFTA_EXPR_DATA)?;
        Some(Raw {
            is_target,
            name: data.text(NFTA_XT_NAME)?.to_owned(),
            revision: data.be32(NFTA_XT_REVISION)?,
            info: data.get(NFTA_XT_INFO)?.to_vec(),
        })
    };
    let all = rule.nested(NFTA_RULE_EXPRESSIONS)?.iter().filter_map(raw).collect();
    Some((place, all))
}

impl Raw {
    fn u32(&self, at: usize) -> Option<u64> {
        let bytes = self.info.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_ne_bytes(bytes)))
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.info.get(at..at + 2)?.try_into().ok()?))
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.info.get(at).copied()
    }
}

fn condition(name: &str, raw: Option<&Raw>) -> Condition {
    let known = match name {
        "comment" => Some(Condition::Always),
        "mark" => raw.and_then(|raw| mark_condition(raw, "mark")),
        "connmark" => raw.and_then(|raw| mark_condition(raw, "ct mark")),
        "addrtype" => raw.and_then(addrtype),
        "conntrack" => raw.and_then(conntrack),
        "multiport" => raw.and_then(multiport),
        _ => None,
    };
    known.unwrap_or(Condition::Unknown)
}

/// `xt_mark_mtinfo1`, `xt_connmark_mtinfo1`
fn mark_condition(raw: &Raw, of: &'static str) -> Option<Condition> {
    let (value, mask, inverted) = (raw.u32(0)?, raw.u32(4)?, raw.u8(8)? != 0);
    (raw.revision == 1).then_some(Condition::Mark { of, value, mask, inverted })
}

/// `xt_addrtype_info_v1`
fn addrtype(raw: &Raw) -> Option<Condition> {
    let (source, kinds, flags) = (raw.u16(0)?, raw.u16(2)?, raw.u32(4)?);
    let inverted = flags & u64::from(ADDRTYPE_INVERT_DESTINATION) != 0;
    // Of the source, or by a device: not decided here.
    let plain = source == 0 && flags & !u64::from(ADDRTYPE_INVERT_DESTINATION) == 0;
    (raw.revision == 1 && plain).then_some(Condition::Destination { kinds, inverted })
}

/// `xt_conntrack_mtinfo3`: eight addresses of 16 bytes, two of 4, five ports, then the flags.
fn conntrack(raw: &Raw) -> Option<Condition> {
    let (flags, inverted, mask) = (raw.u16(146)?, raw.u16(148)?, raw.u16(150)?);
    let inverted = inverted & CONNTRACK_STATE != 0;
    let states_only = raw.revision == 3 && flags == CONNTRACK_STATE;
    states_only.then_some(Condition::States { mask, inverted })
}

/// `xt_multiport_v1`: which, how many, 15 ports, 15 marks of a range's first, inverted.
fn multiport(raw: &Raw) -> Option<Condition> {
    let of = match raw.u8(0)? {
        0 => "sport",
        1 => "dport",
        _ => return None,
    };
    let count = usize::from(raw.u8(1)?).min(15);
    let mut ports = Vec::new();
    let mut at = 0;
    while at < count {
        let low = u64::from(raw.u16(2 + 2 * at)?);
        let is_range = raw.u8(32 + at)? != 0;
        let high = if is_range { u64::from(raw.u16(4 + 2 * at)?) } else { low };
        ports.push((low, high));
        at += if is_range { 2 } else { 1 };
    }
    let inverted = raw.u8(47)? != 0;
    (raw.revision == 1).then_some(Condition::Ports { of, ports, inverted })
}

fn target(name: &str, raw: Option<&Raw>, family: &str) -> Target {
    match name {
        "REJECT" | "DROP" | "TARPIT" => Target::Refuses,
        "SNAT" | "MASQUERADE" | "NETMAP" | "ACCEPT" => Target::Ends,
        "REDIRECT" => Target::Redirects(None),
        "DNAT" => Target::Redirects(raw.and_then(|raw| destination(raw, family))),
        "MARK" => Target::SetsMark(raw.and_then(mark_target).unwrap_or(MarkChange::Unknown)),
        "CONNMARK" => match raw.map(connmark) {
            Some(Some(change)) => Target::SetsMark(change),
            // It saves, or sets that of the connection.
            Some(None) => Target::Nothing,
            None => Target::SetsMark(MarkChange::Unknown),
        },
        "LOG" | "NFLOG" | "ULOG" | "TCPMSS" | "TCPOPTSTRIP" | "CHECKSUM" | "DSCP" | "TOS"
        | "TTL" | "HL" | "SET" | "CLASSIFY" | "CT" | "NOTRACK" | "TRACE" | "AUDIT" | "LED"
        | "ECN" | "IDLETIMER" | "SECMARK" | "CONNSECMARK" | "RATEEST" => Target::Nothing,
        _ => Target::Unknown,
    }
}

/// `xt_mark_tginfo2`
fn mark_target(raw: &Raw) -> Option<MarkChange> {
    let (value, mask) = (raw.u32(0)?, raw.u32(4)?);
    (raw.revision == 2).then_some(MarkChange::To { value, mask })
}

/// `xt_connmark_tginfo1`, and `xt_connmark_tginfo2`, which shifts the mark before it uses it.
fn connmark(raw: &Raw) -> Option<MarkChange> {
    let (of_connection, mask) = (raw.u32(4)?, raw.u32(8)?);
    match (raw.revision, raw.u8(12)?, raw.u8(13)?, raw.u8(14)?) {
        (1, CONNMARK_RESTORE, ..) | (2, _, 0, CONNMARK_RESTORE) => {
            Some(MarkChange::Restored { of_connection, mask })
        }
        (2, _, _, CONNMARK_RESTORE) => Some(MarkChange::Unknown),
        (1 | 2, ..) => None,
        _ => Some(MarkChange::Unknown),
    }
}

/// `nf_nat_range`, and its predecessor for IPv4.
fn destination(raw: &Raw, family: &str) -> Option<String> {
    let at = if raw.revision == 0 && family == "ip" { 8 } else { 4 };
    if family == "ip6" {
        let octets: [u8; 16] = raw.info.get(at..at + 16)?.try_into().ok()?;
        return Some(std::net::Ipv6Addr::from(octets).to_string());
    }
    let octets: [u8; 4] = raw.info.get(at..at + 4)?.try_into().ok()?;
    Some(std::net::Ipv4Addr::from(octets).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(name: &str, revision: u32, info: &[&[u8]]) -> Raw {
        Raw { is_target: true, name: name.to_owned(), revision, info: info.concat() }
    }

    fn words(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    /// As the kernel sent them for iptables 1.8.9.
    #[test]
    fn targets_that_change_the_mark_are_decoded() {
        const ALL: u32 = u32::MAX;
        let facts = Facts::from([("ct mark", Fact::Number(0x1200))]);
        let after = |target: Target| match target {
            Target::SetsMark(change) => change.of(Some(0xca6c), &facts),
            other => panic!("{other:?}"),
        };
        for (name, revision, info, mark) in [
            ("CONNMARK", 1, [&words(&[0, ALL, ALL])[..], &[2, 0, 0, 0]].concat(), Some(0x1200)),
            (
                "CONNMARK",
                1,
                [&words(&[0, 0xff00, 0xff00])[..], &[2, 0, 0, 0]].concat(),
                Some(0x126c),
            ),
            ("CONNMARK", 2, [&words(&[0, ALL, ALL])[..], &[0, 0, 2, 0]].concat(), Some(0x1200)),
            ("CONNMARK", 2, [&words(&[0, ALL, ALL])[..], &[0, 4, 2, 0]].concat(), None),
            ("MARK", 2, words(&[2, ALL]), Some(2)),
            ("MARK", 2, words(&[0x1_0000, 0x1_0000]), Some(0x1_ca6c)),
            ("MARK", 9, words(&[2, ALL]), None),
        ] {
            let raw = raw(name, revision, &[&info]);
            assert_eq!(after(target(name, Some(&raw), "ip")), mark, "{raw:?}");
        }
        let save = raw("CONNMARK", 1, &[&words(&[0, ALL, ALL]), &[1, 0, 0, 0]]);
        assert_eq!(target("CONNMARK", Some(&save), "ip"), Target::Nothing);
        // Not known what it does, but what it may do.
        assert_eq!(target("CONNMARK", None, "ip"), Target::SetsMark(MarkChange::Unknown));
        assert_eq!(target("SOMETHING", None, "ip"), Target::Unknown);
    }

    #[test]
    fn conditions_hold_by_what_is_known() {
        let facts = Facts::from([
            ("fib daddr type", Fact::Word("unicast".to_owned())),
            ("ct state", Fact::Word("established".to_owned())),
            ("dport", Fact::Number(443)),
        ]);
        let holds = |name: &str, revision: u32, info: &[u8]| {
            condition(name, Some(&raw(name, revision, &[info]))).holds(&facts, Some(0xca6c))
        };
        let mut states = [0; 168];
        states[146..148].copy_from_slice(&CONNTRACK_STATE.to_ne_bytes());
        states[150..152].copy_from_slice(&(1_u16 << 1 | 1 << 2).to_ne_bytes());
        let mut ports = [0; 48];
        (ports[0], ports[1]) = (1, 2);
        ports[2..4].copy_from_slice(&80_u16.to_ne_bytes());
        ports[4..6].copy_from_slice(&443_u16.to_ne_bytes());
        let local = [&0_u16.to_ne_bytes()[..], &ADDRESS_LOCAL.to_ne_bytes(), &[0; 4]].concat();
        for (name, revision, info, truth) in [
            ("comment", 0, vec![], Truth::Yes),
            ("owner", 1, vec![], Truth::Maybe),
            ("mark", 1, [words(&[0xca6c, u32::MAX]), vec![0]].concat(), Truth::Yes),
            ("mark", 1, [words(&[0xca6c, u32::MAX]), vec![1]].concat(), Truth::No),
            ("connmark", 1, [words(&[1, 1]), vec![0]].concat(), Truth::Maybe),
            ("addrtype", 1, local, Truth::No),
            ("conntrack", 3, states.to_vec(), Truth::Yes),
            ("conntrack", 2, states.to_vec(), Truth::Maybe),
            ("multiport", 1, ports.to_vec(), Truth::Yes),
            ("multiport", 1, ports[..40].to_vec(), Truth::Maybe),
        ] {
            assert_eq!(holds(name, revision, &info), truth, "{name} {info:?}");
        }
    }
}
