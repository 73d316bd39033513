//! Replaces a whole table in one transaction: counters keep their values, everything else becomes
//! exactly what was asked for, and what is not ours is gone.

use std::fmt::Write as _;

use nftables::types::NfFamily;
use serde_json::Value;

use super::listing::{Listing, family_word};
use super::nft::{self, ATTEMPTS, NftError};
use super::table::{Chain, TableSpec};

/// Loads `spec`, reads it back and returns what the kernel now has.
pub fn replace(spec: &TableSpec) -> Result<Listing, NftError> {
    let mut attempt = 1;
    loop {
        match replace_once(spec) {
            Err(error @ (NftError::Refused { .. } | NftError::NotAsSent(_)))
                if attempt < ATTEMPTS =>
            {
                tracing::debug!(%error, attempt, table = spec.name, "table is built anew");
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

fn replace_once(spec: &TableSpec) -> Result<Listing, NftError> {
    let present = Listing::read(spec.family, spec.name)?;
    nft::apply("load a table", &commands(spec, present.as_ref()))?;
    let loaded = Listing::read(spec.family, spec.name)?.ok_or(NftError::NotAsSent(spec.name))?;
    if (spec.objects(), spec.rules().count()) == (loaded.objects().count(), loaded.rules()) {
        Ok(loaded)
    } else {
        Err(NftError::NotAsSent(spec.name))
    }
}

/// Removes a table, and says whether it was there.
pub fn remove(family: NfFamily, table: &str) -> Result<bool, NftError> {
    if Listing::read(family, table)?.is_none() {
        return Ok(false);
    }
    nft::apply("remove a table", &format!("delete table {} {table}\n", family_word(family)))?;
    Ok(true)
}

/// The transaction. `flush table` takes only the rules; sets, chains and objects that are foreign
/// or of another shape are deleted one by one, and sets always, for they keep their elements.
/// Base chains of the right shape stay, so that no packet meets a hook that is half made.
fn commands(spec: &TableSpec, present: Option<&Listing>) -> String {
    let (family, table) = (family_word(spec.family), spec.name);
    let mut commands = format!("add table {family} {table}\nflush table {family} {table}\n");
    for (kind, body) in present.into_iter().flat_map(Listing::objects) {
        let name = body["name"].as_str().unwrap_or_default();
        let stays = match kind {
            "table" | "rule" => true,
            "counter" => spec.counters.iter().any(|wanted| wanted == name),
            "chain" => spec.chains.iter().any(|wanted| is_same(wanted, body)),
            _ => false,
        };
        if !stays {
            let _ = writeln!(commands, "delete {kind} {family} {table} {name}");
        }
    }
    commands + &spec.text()
}

/// Whether a chain of the kernel can stay as it is.
fn is_same(wanted: &Chain, body: &Value) -> bool {
    // nft 1.0.6 does not list a chain's device; adding it again attaches it again.
    let hook = wanted.hook;
    let word = |field: &str, wanted: Option<&str>| body[field].as_str() == wanted;
    body["name"] == wanted.name
        && word("type", hook.map(|hook| hook.kind))
        && word("hook", hook.map(|hook| hook.point))
        && word("policy", hook.map(|hook| hook.policy.word()))
        && body["prio"].as_i64() == hook.map(|hook| i64::from(hook.priority))
}
