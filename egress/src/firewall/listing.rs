//! A table as the kernel has it: comparable with another one, and its counters.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use nftables::types::NfFamily;
use sha2::{Digest as _, Sha256};

use super::dump::{self, Chain, NFT_OBJECT_COUNTER};
use super::nft::NftError;
use super::{canonical, counter, netlink};

/// How often a table is read again that changed while it was read.
const ATTEMPTS: u32 = 5;

/// Cheap to clone: what was read is shared.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    table: Arc<Table>,
    /// Apart from the rest: they move while the rules stay.
    counters: Arc<BTreeMap<String, Count>>,
}

#[derive(Debug, PartialEq)]
struct Table {
    handle: u64,
    chains: Vec<Chain>,
    /// (kind, name) of all that is neither a chain nor a rule; the kind as nft names it.
    others: Vec<(&'static str, String)>,
    rules: usize,
    digest: String,
}

/// A named counter's value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

pub fn family_word(family: NfFamily) -> &'static str {
    match family {
        NfFamily::NetDev => "netdev",
        _ => "inet",
    }
}

pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    canonical::hex(&mut text, bytes);
    text
}

impl Listing {
    /// `None`: there is no such table.
    pub fn read(family: NfFamily, table: &str) -> Result<Option<Self>, NftError> {
        Self::read_later(family, table, 0)
    }

    /// The same, where its base chains come so many steps of priority `later` than those of the table
    /// that its digest is compared with.
    pub fn read_later(family: NfFamily, table: &str, later: i32) -> Result<Option<Self>, NftError> {
        let mut last = io::ErrorKind::Interrupted.into();
        for _ in 0..ATTEMPTS {
            match Self::read_once(family, table, later) {
                Err(error) if is_a_change(&error) => last = error,
                other => return other.map_err(NftError::unread),
            }
        }
        Err(NftError::unread(last))
    }

    fn read_once(family: NfFamily, name: &str, later: i32) -> io::Result<Option<Self>> {
        let Some(table) = dump::table(family, name)? else {
            return Ok(None);
        };
        let counters = counter::all(family, name)?;
        let canonical = canonical::text(&table, later);
        tracing::trace!(table = name, canonical, "read");
        let named = table.sets.iter().filter(|(_, set)| !set.is_anonymous());
        let sets =
            named.map(|(name, set)| (if set.is_map() { "map" } else { "set" }, name.clone()));
        let objects = table.objects.iter().map(|one| (word(one.kind), one.name.clone()));
        let flowtables = table.flowtables.iter().map(|name| ("flowtable", name.clone()));
        let table = Table {
            handle: table.handle,
            // Flowtables last: a chain may use what a set or an object does not.
            others: sets.chain(objects).chain(flowtables).collect(),
            rules: table.rules.len(),
            chains: table.chains,
            digest: hex(&Sha256::digest(&canonical)),
        };
        Ok(Some(Self { table: Arc::new(table), counters: Arc::new(counters) }))
    }

    /// The same rules, as they have counted since; `None` where these are not the same counters.
    pub fn counted(&self, counters: BTreeMap<String, Count>) -> Option<Self> {
        let same = self.counters.keys().eq(counters.keys());
        same.then(|| Self { counters: Arc::new(counters), table: Arc::clone(&self.table) })
    }

    pub fn chains(&self) -> &[Chain] {
        &self.table.chains
    }

    /// (kind, name) of all that is neither a chain nor a rule, as nft names them.
    pub fn others(&self) -> &[(&'static str, String)] {
        &self.table.others
    }

    /// The table itself, and all that is in it.
    pub fn objects(&self) -> usize {
        1 + self.table.chains.len() + self.table.others.len() + self.table.rules
    }

    pub fn rules(&self) -> usize {
        self.table.rules
    }

    pub fn has_chain(&self, name: &str) -> bool {
        self.table.chains.iter().any(|chain| chain.name == name)
    }

    pub fn counter(&self, name: &str) -> Option<Count> {
        self.counters.get(name).copied()
    }

    /// The kernel gives no number twice: another one is a table that was made again.
    pub fn table_handle(&self) -> u64 {
        self.table.handle
    }

    pub fn has_counters(&self) -> bool {
        !self.counters.is_empty()
    }

    /// SHA-256 over all that makes the rules what they are, whichever `nft` has written them.
    pub fn digest(&self) -> &str {
        &self.table.digest
    }
}

/// Somebody else wrote while the table was read.
fn is_a_change(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::NotFound)
}

/// nft's word for a kind of object.
fn word(kind: u32) -> &'static str {
    match kind {
        NFT_OBJECT_COUNTER => "counter",
        2 => "quota",
        3 => "ct helper",
        4 => "limit",
        6 => "tunnel",
        7 => "ct timeout",
        8 => "secmark",
        9 => "ct expectation",
        10 => "synproxy",
        _ => "object",
    }
}

/// Whether there is such a table.
pub fn is_there(family: NfFamily, table: &str) -> Result<bool, NftError> {
    netlink::has_table(family, table).map_err(NftError::unread)
}
