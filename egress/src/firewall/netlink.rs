//! Questions to `nf_tables` over netlink.

use std::io;

use nftables::types::NfFamily;
use nix::errno::Errno;

use crate::netlink::{Attributes, Connection, Message, Protocol, Request, not_understood};

/// `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;

/// With which the names of all our tables begin.
const PREFIX: &str = "vpn_egress";

/// Family, version, resource.
const HEADER: usize = 4;

/// The number of the ruleset's generation: each transaction, of anybody, makes it one more.
pub fn generation() -> io::Result<u32> {
    let request = Request::new(kind(NFT_MSG_GETGEN), &[0; HEADER]);
    open()?
        .ask(request, |reply| body(&reply, NFT_MSG_NEWGEN)?.required(|body| body.be32(NFTA_GEN_ID)))
}

/// Whether there is such a table.
pub fn has_table(family: NfFamily, name: &str) -> io::Result<bool> {
    let request = request(NFT_MSG_GETTABLE, family).text(NFTA_TABLE_NAME, name);
    let found = ask(request, |reply| body(&reply, NFT_MSG_NEWTABLE).map(|_| ()))?;
    Ok(found.is_some())
}

pub fn open() -> io::Result<Connection> {
    Connection::open(Protocol::Netfilter)
}

/// The answer to one question; `None` where the kernel has no such thing.
pub fn ask<T>(
    request: Request,
    read: impl FnOnce(Message<'_>) -> io::Result<T>,
) -> io::Result<Option<T>> {
    absent(open()?.ask(request, read))
}

/// Of an answer, `None` where it says that there is no such thing.
pub fn absent<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(None),
        other => other.map(Some),
    }
}

pub fn request(message: u16, family: NfFamily) -> Request {
    Request::new(kind(message), &[number(family), 0, 0, 0])
}

fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

/// `linux/netfilter.h`
fn number(family: NfFamily) -> u8 {
    match family {
        NfFamily::INet => 1,
        NfFamily::IP => 2,
        NfFamily::ARP => 3,
        NfFamily::NetDev => 5,
        NfFamily::Bridge => 7,
        NfFamily::IP6 => 10,
    }
}

/// The attributes of a message of this kind.
pub fn body<'a>(message: &Message<'a>, wanted: u16) -> io::Result<Attributes<'a>> {
    let of_this_kind = message.kind == kind(wanted);
    message.attributes(HEADER).filter(|_| of_this_kind).ok_or_else(not_understood)
}

/// Whether a notification is about a table of ours, or about anything in one. All that have a table
/// name it in their first attribute.
pub fn is_of_our_tables(message: &Message<'_>) -> bool {
    let table = || message.attributes(HEADER)?.text(NFTA_TABLE_NAME);
    message.kind >> 8 == NFNL_SUBSYS_NFTABLES
        && message.kind != kind(NFT_MSG_NEWGEN)
        && table().is_some_and(|name| name.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::messages;

    #[test]
    fn a_change_of_our_tables_is_told_from_that_of_another() {
        let is_ours = |message: u16, table: &str| {
            let notification = request(message, NfFamily::INet).text(NFTA_TABLE_NAME, table);
            messages(&notification.datagram()).all(|one| is_of_our_tables(&one))
        };
        let new_rule = 6;
        assert!(is_ours(new_rule, "vpn_egress"));
        assert!(is_ours(0, "vpn_egress_watch_guard"));
        assert!(!is_ours(new_rule, "docker"));
        // The end of each transaction has a number there.
        assert!(!is_ours(NFT_MSG_NEWGEN, "vpn_egress"));
    }
}
