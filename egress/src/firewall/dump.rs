//! Everything that one table of the kernel holds, read by netlink dumps, as the kernel has it.
//!
//! Only reads. What of it makes a rule the rule that it is, `canonical` knows.

use std::collections::BTreeMap;
use std::io;

use nftables::types::NfFamily;

use super::netlink::{absent, body, request};
use crate::netlink::{Attributes, Connection, Message, Request};

/// `linux/netfilter/nf_tables.h`
mod message {
    pub const NEWTABLE: u16 = 0;
    pub const GETTABLE: u16 = 1;
    pub const NEWCHAIN: u16 = 3;
    pub const GETCHAIN: u16 = 4;
    pub const NEWRULE: u16 = 6;
    pub const GETRULE: u16 = 7;
    pub const NEWSET: u16 = 9;
    pub const GETSET: u16 = 10;
    pub const NEWSETELEM: u16 = 12;
    pub const GETSETELEM: u16 = 13;
    pub const NEWOBJ: u16 = 18;
    pub const GETOBJ: u16 = 19;
    pub const NEWFLOWTABLE: u16 = 22;
    pub const GETFLOWTABLE: u16 = 23;
}

/// In every message that names a table.
const NFTA_TABLE: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_HANDLE: u16 = 4;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_CHAIN_FLAGS: u16 = 10;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_FLOWTABLE_NAME: u16 = 2;

pub const NFT_OBJECT_COUNTER: u32 = 1;
pub const NFT_SET_ANONYMOUS: u32 = 0x1;
const NFT_SET_MAP: u32 = 0x8;
/// Filled by the rules themselves, as traffic passes.
pub const NFT_SET_EVAL: u32 = 0x20;

#[derive(Debug)]
pub struct Table {
    pub handle: u64,
    pub flags: u32,
    pub chains: Vec<Chain>,
    /// In the kernel's order, which within a chain decides what they do.
    pub rules: Vec<Rule>,
    pub sets: BTreeMap<String, Set>,
    pub objects: Vec<Object>,
    pub flowtables: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// `None`: not attached, other chains go to it.
    pub hook: Option<Hook>,
    pub flags: u32,
}

/// Where a base chain is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `route` or `nat`.
    pub kind: String,
    /// `linux/netfilter.h`, by the family.
    pub number: u32,
    pub priority: i32,
    /// `NF_DROP` is 0, `NF_ACCEPT` 1.
    pub policy: u32,
    /// Sorted.
    pub devices: Vec<String>,
}

#[derive(Debug)]
pub struct Rule {
    pub chain: String,
    /// Attributes: a list of expressions.
    pub expressions: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Set {
    pub flags: u32,
    /// The attributes of the set itself.
    pub attributes: Vec<u8>,
    /// Each the attributes of one element. Empty where the rules fill the set.
    pub elements: Vec<Vec<u8>>,
}

impl Set {
    pub fn is_anonymous(&self) -> bool {
        self.flags & NFT_SET_ANONYMOUS != 0
    }

    pub fn is_map(&self) -> bool {
        self.flags & NFT_SET_MAP != 0
    }
}

#[derive(Debug, Clone)]
pub struct Object {
    pub name: String,
    /// `NFT_OBJECT_*`
    pub kind: u32,
}

/// `None`: there is no such table. [`io::ErrorKind::NotFound`]: something of it was removed while it
/// was read, [`io::ErrorKind::Interrupted`]: it changed all the time.
pub fn table(family: NfFamily, name: &str) -> io::Result<Option<Table>> {
    let mut kernel = super::netlink::open()?;
    let asked = request(message::GETTABLE, family).text(NFTA_TABLE, name);
    let own = kernel.ask(asked, |reply| {
        let own = body(&reply, message::NEWTABLE)?;
        let number = |kind| own.required(|own| own.be32(kind));
        Ok((own.required(|own| own.be64(NFTA_TABLE_HANDLE))?, number(NFTA_TABLE_FLAGS)?))
    });
    let Some((handle, flags)) = absent(own)? else {
        return Ok(None);
    };
    let of = |message| request(message, family).text(NFTA_TABLE, name);
    // Older kernels send all tables' rules where the request names no chain.
    let ours = |attributes: Attributes<'_>| attributes.text(NFTA_TABLE) == Some(name);
    let chains = listed(&mut kernel, &of(message::GETCHAIN), message::NEWCHAIN, ours, chain)?;
    let rules = listed(&mut kernel, &of(message::GETRULE), message::NEWRULE, ours, rule)?;
    let objects = listed(&mut kernel, &of(message::GETOBJ), message::NEWOBJ, ours, object)?;
    let flowtable = |its: Attributes<'_>| its.required(|its| owned(its, NFTA_FLOWTABLE_NAME));
    let asked = of(message::GETFLOWTABLE);
    let flowtables = listed(&mut kernel, &asked, message::NEWFLOWTABLE, ours, flowtable)?;
    let mut sets = BTreeMap::new();
    for (set_name, mut set) in
        listed(&mut kernel, &of(message::GETSET), message::NEWSET, ours, set)?
    {
        if set.flags & NFT_SET_EVAL == 0 {
            let asked = of(message::GETSETELEM).text(NFTA_SET_ELEM_LIST_SET, &set_name);
            let parts = kernel.dump(&asked, elements).map_err(gone)?;
            set.elements = parts.into_iter().flatten().collect();
        }
        sets.insert(set_name, set);
    }
    Ok(Some(Table { handle, flags, chains, rules, sets, objects, flowtables }))
}

fn gone(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(nix::errno::Errno::ENOENT as i32) {
        return io::ErrorKind::NotFound.into();
    }
    error
}

/// One kind of thing of one table.
fn listed<T>(
    kernel: &mut Connection,
    request: &Request,
    wanted: u16,
    ours: impl Fn(Attributes<'_>) -> bool,
    read: impl Fn(Attributes<'_>) -> io::Result<T>,
) -> io::Result<Vec<T>> {
    let found = kernel.dump(request, |message| {
        let attributes = body(&message, wanted)?;
        if ours(attributes) { read(attributes).map(Some) } else { Ok(None) }
    });
    Ok(found.map_err(gone)?.into_iter().flatten().collect())
}

fn owned(attributes: Attributes<'_>, kind: u16) -> Option<String> {
    attributes.text(kind).map(str::to_owned)
}

fn chain(its: Attributes<'_>) -> io::Result<Chain> {
    let hook = its.nested(NFTA_CHAIN_HOOK).map(|at| hook(its, at)).transpose()?;
    let flags = its.be32(NFTA_CHAIN_FLAGS).unwrap_or(0);
    Ok(Chain { name: its.required(|its| owned(its, NFTA_CHAIN_NAME))?, hook, flags })
}

fn hook(chain: Attributes<'_>, at: Attributes<'_>) -> io::Result<Hook> {
    let texts = |list: Attributes<'_>| -> Vec<String> {
        list.iter()
            .map(|(_, name)| String::from_utf8_lossy(until_zero(name)).into_owned())
            .collect()
    };
    // A chain that was given one device has it in both places.
    let mut devices = at.nested(NFTA_HOOK_DEVS).map(texts).unwrap_or_default();
    devices.extend(at.text(NFTA_HOOK_DEV).map(str::to_owned));
    devices.sort();
    devices.dedup();
    let priority = at.required(|at| at.be32(NFTA_HOOK_PRIORITY))?;
    Ok(Hook {
        kind: chain.required(|chain| owned(chain, NFTA_CHAIN_TYPE))?,
        number: at.required(|at| at.be32(NFTA_HOOK_HOOKNUM))?,
        priority: i32::from_be_bytes(priority.to_be_bytes()),
        policy: chain.required(|chain| chain.be32(NFTA_CHAIN_POLICY))?,
        devices,
    })
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn rule(its: Attributes<'_>) -> io::Result<Rule> {
    Ok(Rule {
        chain: its.required(|its| owned(its, NFTA_RULE_CHAIN))?,
        expressions: its.get(NFTA_RULE_EXPRESSIONS).unwrap_or_default().to_vec(),
    })
}

fn set(its: Attributes<'_>) -> io::Result<(String, Set)> {
    let name = its.required(|its| owned(its, NFTA_SET_NAME))?;
    let flags = its.be32(NFTA_SET_FLAGS).unwrap_or(0);
    Ok((name, Set { flags, attributes: its.bytes().to_vec(), elements: Vec::new() }))
}

fn elements(message: Message<'_>) -> io::Result<Vec<Vec<u8>>> {
    let list = body(&message, message::NEWSETELEM)?.nested(NFTA_SET_ELEM_LIST_ELEMENTS);
    let elements = list.into_iter().flat_map(Attributes::iter);
    Ok(elements.map(|(_, element)| element.to_vec()).collect())
}

fn object(its: Attributes<'_>) -> io::Result<Object> {
    Ok(Object {
        name: its.required(|its| owned(its, NFTA_OBJ_NAME))?,
        kind: its.required(|its| its.be32(NFTA_OBJ_TYPE))?,
    })
}
