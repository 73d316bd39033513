//! What the kernel is seen to enforce, asked of it by netlink alone: whether a path is cut or locked
//! must be known where `nft` hangs, crashes or lies.
//!
//! A counter shows that a path was meant; only rules in its chains show that packets are judged.

use std::collections::BTreeSet;
use std::io;

use nftables::types::NfFamily;

use super::netlink::{ask, body, open, request};
use super::stop::{self, StopKind};
use super::{counter, guard, killswitch, permits};
use crate::names::PathName;

/// `linux/netfilter/nf_tables.h`.
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;

/// How the kernel's stop table, or the guard's copy of it, cuts this path. `None`: it does not.
pub fn stop(path: &PathName) -> io::Result<Option<StopKind>> {
    match own_stop(path)? {
        Some(kind) => Ok(Some(kind)),
        None => stop_in(guard::STOP, path),
    }
}

/// The same, of the stop table alone: its copy ends with the daemon.
pub fn own_stop(path: &PathName) -> io::Result<Option<StopKind>> {
    stop_in(stop::TABLE, path)
}

fn stop_in(table: &str, path: &PathName) -> io::Result<Option<StopKind>> {
    if !cuts(table, path)? {
        return Ok(None);
    }
    let no_state = has_chain(table, &permits::named(path, stop::NO_STATE))?;
    Ok(Some(if no_state { StopKind::NoState } else { StopKind::Latched }))
}

/// Whether the killswitch, or the guard's copy of it, holds this path.
pub fn killswitch(path: &PathName) -> io::Result<bool> {
    let blocked = permits::named(path, "blocked");
    for table in [killswitch::TABLE, guard::KILLSWITCH] {
        let judged = || Ok::<_, io::Error>(ruled_chains(table)?.contains(killswitch::LAST));
        if counter::exists(NfFamily::INet, table, &blocked)? && judged()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A table that was flushed keeps its counters and chains, and stops nothing.
fn cuts(table: &str, path: &PathName) -> io::Result<bool> {
    if !counter::exists(NfFamily::INet, table, &permits::named(path, stop::STOPPED))? {
        return Ok(false);
    }
    let ruled = ruled_chains(table)?;
    Ok(stop::judging(path).iter().all(|chain| ruled.contains(chain)))
}

/// The chains of a table that have rules; none where there is no such table.
fn ruled_chains(table: &str) -> io::Result<BTreeSet<String>> {
    let asked = request(NFT_MSG_GETRULE, NfFamily::INet).text(NFTA_RULE_TABLE, table);
    let rules = open()?.dump(&asked, |message| {
        let rule = body(&message, NFT_MSG_NEWRULE)?;
        let of = rule.required(|rule| rule.text(NFTA_RULE_TABLE))?;
        let chain = rule.required(|rule| rule.text(NFTA_RULE_CHAIN))?;
        Ok((of == table).then(|| chain.to_owned()))
    })?;
    // Kernels that do not know the filter send the rules of every table.
    Ok(rules.into_iter().flatten().collect())
}

fn has_chain(table: &str, chain: &str) -> io::Result<bool> {
    let asked = request(NFT_MSG_GETCHAIN, NfFamily::INet)
        .text(NFTA_CHAIN_TABLE, table)
        .text(NFTA_CHAIN_NAME, chain);
    Ok(ask(asked, |reply| body(&reply, NFT_MSG_NEWCHAIN).map(|_| ()))?.is_some())
}
