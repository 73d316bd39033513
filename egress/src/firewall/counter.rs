//! Named counters, asked of the kernel by netlink: neither the look before a switch nor a scrape
//! shall wait for more than that. What is not understood is an error, never zero.

use std::collections::BTreeMap;
use std::io;

use nftables::types::NfFamily;

use super::listing::Count;
use super::netlink::{absent, ask, body, open, request};
use super::nft::NftError;
use super::{killswitch, permits, watch};
use crate::names::PathName;
use crate::netlink::{Attributes, Request};

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

/// The counters of one wall, of all paths, by one question.
#[derive(Debug)]
pub struct Counters(BTreeMap<String, Count>);

impl Counters {
    /// None where there is no such table.
    pub fn of_watch() -> Result<Self, NftError> {
        Self::read(NfFamily::NetDev, watch::TABLE)
    }

    pub fn of_killswitch() -> Result<Self, NftError> {
        Self::read(NfFamily::INet, killswitch::TABLE)
    }

    fn read(family: NfFamily, table: &str) -> Result<Self, NftError> {
        let counters = absent(all(family, table)).map_err(NftError::unread)?;
        Ok(Self(counters.unwrap_or_default()))
    }

    /// What the watch has counted of this path. `None`: there is no such counter, which is not zero.
    pub fn leaked(&self, path: &PathName) -> Option<Count> {
        self.0.get(&permits::named(path, "leaked")).copied()
    }

    /// Whether the killswitch has the rules of this path.
    pub fn holds(&self, path: &PathName) -> bool {
        self.0.contains_key(&permits::named(path, "blocked"))
    }
}

/// `None`: there is no such counter, or no such table.
pub fn read(table: &str, name: &str) -> io::Result<Option<Count>> {
    let request = counters(NfFamily::NetDev, table).text(NFTA_OBJ_NAME, name);
    ask(request, |reply| count(body(&reply, NFT_MSG_NEWOBJ)?))
}

/// Whether the table has a counter of this name.
pub fn exists(family: NfFamily, table: &str, name: &str) -> io::Result<bool> {
    let request = counters(family, table).text(NFTA_OBJ_NAME, name);
    Ok(ask(request, |reply| count(body(&reply, NFT_MSG_NEWOBJ)?))?.is_some())
}

/// All counters of a table, by name.
pub fn all(family: NfFamily, table: &str) -> io::Result<BTreeMap<String, Count>> {
    let found = open()?.dump(&counters(family, table), |message| {
        let body = body(&message, NFT_MSG_NEWOBJ)?;
        let name = body.required(|body| body.text(NFTA_OBJ_NAME))?;
        Ok((name.to_owned(), count(body)?))
    })?;
    Ok(found.into_iter().collect())
}

fn counters(family: NfFamily, table: &str) -> Request {
    request(NFT_MSG_GETOBJ, family)
        .text(NFTA_OBJ_TABLE, table)
        .bytes(NFTA_OBJ_TYPE, &NFT_OBJECT_COUNTER.to_be_bytes())
}

/// Of a counter object.
fn count(object: Attributes<'_>) -> io::Result<Count> {
    let data = object.required(|object| object.nested(NFTA_OBJ_DATA))?;
    Ok(Count {
        packets: data.required(|data| data.be64(NFTA_COUNTER_PACKETS))?,
        bytes: data.required(|data| data.be64(NFTA_COUNTER_BYTES))?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn noise_is_an_error_and_no_count(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(count(Attributes::new(&noise)).is_err());
        }
    }
}
