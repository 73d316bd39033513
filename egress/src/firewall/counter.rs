//! Named counters, asked of the kernel by netlink: neither the look before a switch nor a scrape
//! shall wait for a process to start. What is not understood is an error, and `nft` is asked instead.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;

use netlink_packet_utils::nla::DefaultNla;
use nftables::types::NfFamily;

use super::listing::Count;
use super::netlink::{ask, attribute, body, dump, number, strange, text};

/// `linux/netfilter/nf_tables.h`.
const NFT_MSG_NEWOBJ: u16 = 18;
const NFT_MSG_GETOBJ: u16 = 19;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// `None`: there is no such counter, or no such table.
pub fn read(table: &str, name: &str) -> io::Result<Option<Count>> {
    let attributes = [text(NFTA_OBJ_TABLE, table), text(NFTA_OBJ_NAME, name), counters()];
    parse(&ask(NFT_MSG_GETOBJ, number(NfFamily::NetDev), &attributes)?)
}

/// All counters of a table, by name.
pub fn all(family: NfFamily, table: &str) -> io::Result<BTreeMap<String, Count>> {
    let named = |message: &Vec<u8>| -> io::Result<(String, Count)> {
        let count = parse(message)?.ok_or_else(strange)?;
        let name = body(message, NFT_MSG_NEWOBJ)?.and_then(|body| attribute(body, NFTA_OBJ_NAME));
        let name =
            name.and_then(|bytes| CString::from_vec_with_nul(bytes).ok()?.into_string().ok());
        Ok((name.ok_or_else(strange)?, count))
    };
    dump(NFT_MSG_GETOBJ, number(family), &[text(NFTA_OBJ_TABLE, table), counters()])?
        .iter()
        .map(named)
        .collect()
}

fn counters() -> DefaultNla {
    DefaultNla::new(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_be_bytes().to_vec())
}

fn parse(reply: &[u8]) -> io::Result<Option<Count>> {
    let Some(body) = body(reply, NFT_MSG_NEWOBJ)? else {
        return Ok(None);
    };
    let data = attribute(body, NFTA_OBJ_DATA).ok_or_else(strange)?;
    let number = |kind| {
        let bytes: [u8; 8] = attribute(&data, kind)?.try_into().ok()?;
        Some(u64::from_be_bytes(bytes))
    };
    let packets = number(NFTA_COUNTER_PACKETS).ok_or_else(strange)?;
    let bytes = number(NFTA_COUNTER_BYTES).ok_or_else(strange)?;
    Ok(Some(Count { packets, bytes }))
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
}
