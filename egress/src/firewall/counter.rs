//! One named counter, asked of the kernel by netlink: the look before a switch must not wait for a
//! process to start. What is not understood is an error, and `nft` is asked instead.

use std::io;

use netlink_packet_utils::nla::{DefaultNla, Nla as _, NlasIterator};
use netlink_packet_utils::{Emitable as _, traits::Parseable as _};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use super::listing::Count;

/// `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWOBJ: u16 = 18;
const NFT_MSG_GETOBJ: u16 = 19;
const NFPROTO_NETDEV: u8 = 5;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// `linux/netlink.h`
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Length, type, flags, sequence, port.
const HEADER: usize = 16;
/// Family, version, resource.
const GENERIC: usize = 4;

/// `None`: there is no such counter, or no such table.
pub fn read(table: &str, name: &str) -> io::Result<Option<Count>> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(table, name), 0)?;
    // The kernel has answered by the time it took the request; so there is nothing to wait for.
    socket.set_non_blocking(true)?;
    let (reply, _) = socket.recv_from_full()?;
    parse(&reply)
}

fn request(table: &str, name: &str) -> Vec<u8> {
    let text = |text: &str| [text.as_bytes(), b"\0"].concat();
    let attributes = [
        DefaultNla::new(NFTA_OBJ_TABLE, text(table)),
        DefaultNla::new(NFTA_OBJ_NAME, text(name)),
        DefaultNla::new(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_be_bytes().to_vec()),
    ];
    let attributes = attributes.as_slice();
    let mut message = vec![0; HEADER + GENERIC + attributes.buffer_len()];
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[0..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETOBJ).to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message[HEADER] = NFPROTO_NETDEV;
    attributes.emit(&mut message[HEADER + GENERIC..]);
    message
}

fn parse(reply: &[u8]) -> io::Result<Option<Count>> {
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "netlink: not understood");
    let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match kind.ok_or_else(strange)? {
        NLMSG_ERROR => {
            let code = reply.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
            match Errno::from_raw(-i32::from_ne_bytes(code.ok_or_else(strange)?)) {
                Errno::ENOENT => Ok(None),
                other => Err(other.into()),
            }
        }
        kind if kind == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWOBJ => {
            let body = reply.get(HEADER + GENERIC..).ok_or_else(strange)?;
            let data = attribute(body, NFTA_OBJ_DATA).ok_or_else(strange)?;
            let number = |kind| {
                let bytes: [u8; 8] = attribute(&data, kind)?.try_into().ok()?;
                Some(u64::from_be_bytes(bytes))
            };
            let packets = number(NFTA_COUNTER_PACKETS).ok_or_else(strange)?;
            let bytes = number(NFTA_COUNTER_BYTES).ok_or_else(strange)?;
            Ok(Some(Count { packets, bytes }))
        }
        _ => Err(strange()),
    }
}

fn attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_strange_reply_is_an_error_and_no_count(reply in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!matches!(parse(&reply), Ok(Some(_))));
        }
    }

    #[test]
    fn the_kernels_no_is_told_from_an_error() {
        let error = |code: i32| {
            let mut reply = vec![0; HEADER];
            reply[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            reply.extend((-code).to_ne_bytes());
            parse(&reply)
        };
        assert_eq!(error(Errno::ENOENT as i32).expect("an answer"), None);
        assert!(error(Errno::EPERM as i32).is_err());
    }
}
