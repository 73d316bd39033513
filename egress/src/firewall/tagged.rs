//! IP inside 802.1Q tags and `PPPoE` sessions, as a frame on an uplink carries it.
//!
//! It is a leak like any IP, unless it is the tunnel's own: where both a device and the one below it
//! are uplinks, the lower one sees the upper one's packets in their wrapping. There they are known
//! by mark and address; nft finds no ports behind a tag.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::dsl::{Rule, Words, accept, any_of, is, marked, rule};
use super::rules::Rules;

/// Around an IP packet: which frames, where they say what is inside and where it begins (in bytes
/// from the start of the frame), and the words for IPv4 and IPv6 inside.
struct Wrapping {
    frame: &'static str,
    kind_at: usize,
    starts_at: usize,
    kinds: [&'static str; 2],
}

const ETHER: [&str; 2] = ["0x0800", "0x86dd"];
const TAGS: &str = "{ 8021q, 8021ad }";

const WRAPPINGS: [Wrapping; 3] = [
    Wrapping { frame: "one tag", kind_at: 16, starts_at: 18, kinds: ETHER },
    Wrapping { frame: "two tags", kind_at: 20, starts_at: 22, kinds: ETHER },
    // RFC 2516: PPP's protocol numbers.
    Wrapping { frame: "PPPoE", kind_at: 20, starts_at: 22, kinds: ["0x0021", "0x0057"] },
];

impl Wrapping {
    fn matches(&self) -> Vec<Words> {
        match self.frame {
            "one tag" => vec![is("ether type", TAGS)],
            "two tags" => vec![is("ether type", TAGS), is("@ll,128,16", "{ 0x8100, 0x88a8 }")],
            _ => vec![is("ether type", "0x8864")],
        }
    }

    fn kind(&self) -> String {
        format!("@ll,{},16", self.kind_at * 8)
    }
}

pub fn rules(path: &Rules, leaked: &Words) -> Vec<Rule> {
    let mut rules = Vec::new();
    for wrapping in &WRAPPINGS {
        for (version, kind) in wrapping.kinds.iter().enumerate() {
            let hosts: BTreeSet<String> = path
                .endpoints
                .iter()
                .filter(|one| one.is_ipv4() == (version == 0))
                .map(|one| raw(one.ip()))
                .collect();
            if hosts.is_empty() {
                continue;
            }
            // Where the destination is: RFC 791, 3.1 and RFC 8200, 3.
            let (offset, bits) = if version == 0 { (16, 32) } else { (24, 128) };
            let to = format!("@ll,{},{bits}", (wrapping.starts_at + offset) * 8);
            let mut words = vec![marked(path.fwmark)];
            words.extend(wrapping.matches());
            words.extend([is(wrapping.kind(), kind), is(to, any_of(&hosts)), accept()]);
            rules.push(rule(words, "the tunnel's own packet as an uplink below another sees it"));
        }
        let mut words = wrapping.matches();
        words.push(is(wrapping.kind(), any_of(wrapping.kinds)));
        words.push(leaked.clone());
        rules.push(rule(words, "IP in a tag or a PPPoE session leaves like any other: a leak"));
    }
    rules
}

fn raw(address: IpAddr) -> String {
    let bytes: Vec<u8> = match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    };
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
