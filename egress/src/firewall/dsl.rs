//! The few words of nft's language that our rules are made of, each as a function that reads like
//! it. What is written here is what is printed and what is loaded.
//!
//! Not nft's JSON: nft 1.0.6 cannot read a match on a cgroup from it.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::mark::Mark;

pub type Words = String;

/// One rule: what it matches and does, and why it is there.
#[derive(Debug, Clone)]
pub struct Rule {
    pub words: Vec<Words>,
    /// Kept in the kernel as the rule's comment.
    pub why: &'static str,
}

pub fn rule(words: impl IntoIterator<Item = Words>, why: &'static str) -> Rule {
    Rule { words: words.into_iter().collect(), why }
}

/// `{ a, b }`, or the one item alone.
pub fn any_of<T: Display>(items: impl IntoIterator<Item = T>) -> Words {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.as_slice() {
        [single] => single.clone(),
        _ => format!("{{ {} }}", items.join(", ")),
    }
}

pub fn quoted(text: impl Display) -> Words {
    format!("\"{text}\"")
}

pub fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> Words {
    any_of(names.into_iter().map(quoted))
}

pub fn hex(number: u32) -> Words {
    format!("{number:#x}")
}

pub fn prefix(net: IpNet) -> Words {
    if net.prefix_len() == net.max_prefix_len() {
        return net.addr().to_string();
    }
    net.trunc().to_string()
}

/// An element of a set of addresses, ports and marks.
pub fn endpoint(address: SocketAddr, fwmark: u32) -> Words {
    format!("{} . {} . {fwmark:#x}", address.ip(), address.port())
}

pub fn is(left: impl Display, right: impl Display) -> Words {
    format!("{left} {right}")
}

pub fn is_not(left: impl Display, right: impl Display) -> Words {
    format!("{left} != {right}")
}

/// Member of the named set.
pub fn within(left: impl Display, set: &str) -> Words {
    format!("{left} @{set}")
}

pub fn out_by(interface: &str) -> Words {
    is("oifname", quoted(interface))
}

pub fn in_by(interface: &str) -> Words {
    is("iifname", quoted(interface))
}

pub fn marked(fwmark: u32) -> Words {
    is("meta mark", hex(fwmark))
}

/// The mark of the packet or the connection is this one, whatever its other bits are.
pub fn carries(key: &str, mark: Mark) -> Words {
    format!("{key} & {:#x} == {:#x}", mark.mask(), mark.value())
}

/// Sets it, and leaves the other bits.
pub fn give(key: &str, mark: Mark) -> Words {
    let (value, rest) = (mark.value(), !mark.mask());
    if value == mark.mask() {
        return format!("{key} set {key} | {value:#x}");
    }
    format!("{key} set {key} & {rest:#x} | {value:#x}")
}

pub fn port(field: &str, port: u16) -> Words {
    is(field, port)
}

pub fn count(counter: &str) -> Words {
    format!("counter name {}", quoted(counter))
}

pub fn goto(chain: &str) -> Words {
    format!("goto {chain}")
}

pub fn jump(chain: &str) -> Words {
    format!("jump {chain}")
}

pub fn accept() -> Words {
    "accept".to_owned()
}

pub fn drop() -> Words {
    "drop".to_owned()
}

pub fn reset_tcp() -> Words {
    "reject with tcp reset".to_owned()
}

pub fn prohibit() -> Words {
    "reject with icmpx admin-prohibited".to_owned()
}

/// Not the first fragment of a packet.
pub fn later_fragment4() -> Words {
    is_not("ip frag-off & 0x1fff", 0)
}

/// A fragment, the first one too: IPv6 says it in a header of its own.
pub fn any_fragment6() -> Words {
    "exthdr frag exists".to_owned()
}

/// No SYN among the flags: no packet that opens a connection.
pub fn not_opening() -> Words {
    "tcp flags & syn == 0".to_owned()
}

/// `ip` or `ip6`, the header that holds this address.
pub fn header(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}
