//! Questions to `nf_tables` over netlink, for what must not wait for a process to start. What is not
//! understood is an error, and `nft` is asked instead.

use std::io;

use netlink_packet_utils::nla::{DefaultNla, Nla as _, NlasIterator};
use netlink_packet_utils::{Emitable as _, traits::Parseable as _};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nftables::types::NfFamily;
use nix::errno::Errno;

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

/// `linux/netlink.h`
const NLM_F_REQUEST: u16 = 0x1;
/// Of a dump's messages: what was dumped changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Length, type, flags, sequence, port.
const HEADER: usize = 16;
/// Family, version, resource.
const GENERIC: usize = 4;

/// The number of the ruleset's generation: each transaction, of whomever, makes it one more.
pub fn generation() -> io::Result<u32> {
    let reply = ask(NFT_MSG_GETGEN, 0, &[])?;
    let id = body(&reply, NFT_MSG_NEWGEN)?
        .and_then(|body| attribute(body, NFTA_GEN_ID)?.try_into().ok())
        .ok_or_else(strange)?;
    Ok(u32::from_be_bytes(id))
}

/// Whether there is such a table.
pub fn has_table(family: NfFamily, name: &str) -> io::Result<bool> {
    let reply = ask(NFT_MSG_GETTABLE, number(family), &[text(NFTA_TABLE_NAME, name)])?;
    Ok(body(&reply, NFT_MSG_NEWTABLE)?.is_some())
}

/// `linux/netfilter.h`; those of our tables.
pub fn number(family: NfFamily) -> u8 {
    match family {
        NfFamily::NetDev => 5,
        _ => 1,
    }
}

/// An attribute that is a text.
pub fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), b"\0"].concat())
}

/// Whether a notification is about a table of ours, or about anything in one. All that have a table
/// name it in their first attribute.
pub fn is_of_our_tables(message: &[u8]) -> bool {
    let ours = |body| {
        attribute(body, NFTA_TABLE_NAME).is_some_and(|name| name.starts_with(PREFIX.as_bytes()))
    };
    let kind = message_type(message);
    kind.is_some_and(|kind| kind >> 8 == NFNL_SUBSYS_NFTABLES)
        && kind != Some(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN)
        && message.get(HEADER + GENERIC..).is_some_and(ours)
}

/// One question of `nf_tables`, and the kernel's reply to it.
pub fn ask(message: u16, family: u8, attributes: &[DefaultNla]) -> io::Result<Vec<u8>> {
    let socket = send(&request(message, NLM_F_REQUEST, family, attributes))?;
    let (reply, _) = socket.recv_from_full()?;
    Ok(reply)
}

/// All that there is of a kind: the messages of the kernel's reply.
pub fn dump(message: u16, family: u8, attributes: &[DefaultNla]) -> io::Result<Vec<Vec<u8>>> {
    let socket = send(&request(message, NLM_F_REQUEST | NLM_F_DUMP, family, attributes))?;
    let mut found = Vec::new();
    loop {
        let (part, _) = socket.recv_from_full()?;
        for message in messages(&part) {
            match message_type(message).ok_or_else(strange)? {
                NLMSG_DONE => return Ok(found),
                _ if flags(message).is_none_or(|flags| flags & NLM_F_DUMP_INTR != 0) => {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                _ => found.push(message.to_vec()),
            }
        }
    }
}

fn send(request: &[u8]) -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(request, 0)?;
    // The kernel has answered by the time it took the request, and has the next part of a dump when
    // one is taken; so there is nothing to wait for.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// The messages that one reply consists of; what is torn ends it.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(length) = bytes.get(0..4).and_then(|length| length.try_into().ok()) {
        let length = u32::from_ne_bytes(length) as usize;
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else { break };
        found.push(message);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn request(kind: u16, flags: u16, family: u8, attributes: &[DefaultNla]) -> Vec<u8> {
    let mut message = vec![0; HEADER + GENERIC + attributes.buffer_len()];
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[0..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&(NFNL_SUBSYS_NFTABLES << 8 | kind).to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[HEADER] = family;
    attributes.emit(&mut message[HEADER + GENERIC..]);
    message
}

/// The attributes of a reply of this kind; `None` where the kernel says that there is no such thing.
pub fn body(reply: &[u8], wanted: u16) -> io::Result<Option<&[u8]>> {
    match message_type(reply).ok_or_else(strange)? {
        NLMSG_ERROR => {
            let code = reply.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
            match Errno::from_raw(-i32::from_ne_bytes(code.ok_or_else(strange)?)) {
                Errno::ENOENT => Ok(None),
                other => Err(other.into()),
            }
        }
        kind if kind == NFNL_SUBSYS_NFTABLES << 8 | wanted => {
            reply.get(HEADER + GENERIC..).map(Some).ok_or_else(strange)
        }
        _ => Err(strange()),
    }
}

pub fn strange() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "netlink: not understood")
}

fn message_type(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?))
}

fn flags(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(6..8)?.try_into().ok()?))
}

pub fn attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let found = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() & NLA_TYPE_MASK == kind)?;
    let attribute = DefaultNla::parse(&found).ok()?;
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_no_is_told_from_an_error() {
        let error = |code: i32| {
            let mut reply = vec![0; HEADER];
            reply[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            reply.extend((-code).to_ne_bytes());
            body(&reply, NFT_MSG_NEWGEN).map(|found| found.map(<[u8]>::to_vec))
        };
        assert_eq!(error(Errno::ENOENT as i32).expect("an answer"), None);
        assert!(error(Errno::EPERM as i32).is_err());
    }

    #[test]
    fn a_reply_is_taken_apart_and_a_torn_end_is_left_out() {
        let message = |kind: u16, rest: usize| {
            let name = DefaultNla::new(NFTA_TABLE_NAME, vec![b'x'; rest]);
            request(kind, NLM_F_REQUEST, 1, &[name])
        };
        let whole = [message(1, 4), message(2, 8)].concat();
        assert_eq!(messages(&whole), [&message(1, 4)[..], &message(2, 8)]);
        for end in 0..whole.len() {
            assert!(messages(&whole[..end]).len() < 2, "{end}");
        }
        assert!(messages(&[0; 64]).is_empty(), "and no loop without end");
    }

    #[test]
    fn a_change_of_our_tables_is_told_from_that_of_another() {
        let notification = |kind: u16, table: &str| {
            let name = [table.as_bytes(), b"\0"].concat();
            let mut message =
                request(kind, NLM_F_REQUEST, 1, &[DefaultNla::new(NFTA_TABLE_NAME, name)]);
            message[HEADER] = 1;
            message
        };
        let new_rule = 6;
        assert!(is_of_our_tables(&notification(new_rule, "vpn_egress")));
        assert!(is_of_our_tables(&notification(0, "vpn_egress_watch_guard")));
        assert!(!is_of_our_tables(&notification(new_rule, "docker")));
        // The end of each transaction has a number there.
        assert!(!is_of_our_tables(&notification(NFT_MSG_NEWGEN, "vpn_egress")));
    }
}
