//! Replaces a whole table in one transaction: counters keep their values, everything else becomes
//! exactly what was asked for, and what is not ours is gone.

use std::fmt::Write as _;

use nftables::types::NfFamily;
use serde_json::Value;

use super::listing::{Listing, family_word};
use super::netlink;
use super::nft::{self, ATTEMPTS, NftError};
use super::table::{Chain, TableSpec};

/// Loads `spec`, reads it back and returns what the kernel now has.
///
/// What is read is what was sent, for nobody else wrote in between: the ruleset's generation is one
/// more than before. Where others write all the time, two loads that read alike are believed.
pub fn replace(spec: &TableSpec) -> Result<Listing, NftError> {
    let mut last: Option<String> = None;
    let mut attempt = 1;
    loop {
        let outcome = replace_once(spec);
        match outcome {
            Ok((loaded, Alone::Yes)) => return Ok(loaded),
            Ok((loaded, Alone::Unsure)) => {
                let digest = loaded.digest();
                if last.as_ref() == Some(&digest) {
                    return Ok(loaded);
                }
                if attempt == ATTEMPTS {
                    return Err(NftError::NotAsSent(spec.name));
                }
                last = Some(digest);
            }
            Err(NftError::Refused { .. } | NftError::NotAsSent(_)) if attempt < ATTEMPTS => {}
            Err(error) => return Err(error),
        }
        tracing::debug!(attempt, table = spec.name, "another program writes: table is built anew");
        attempt += 1;
    }
}

/// Whether nobody else can have changed what was loaded before it was read.
enum Alone {
    Yes,
    Unsure,
}

fn replace_once(spec: &TableSpec) -> Result<(Listing, Alone), NftError> {
    let before = netlink::generation().ok();
    let present = Listing::read(spec.family, spec.name)?;
    nft::apply("load a table", &commands(spec, present.as_ref()))?;
    let loaded = Listing::read(spec.family, spec.name)?.ok_or(NftError::NotAsSent(spec.name))?;
    let alone = before.zip(netlink::generation().ok()).is_some_and(|(before, after)| {
        // The kernel leaves zero out.
        after == before.wrapping_add(1) || (before == u32::MAX && after == 1)
    });
    if (spec.objects(), spec.rules().count()) == (loaded.objects().count(), loaded.rules()) {
        Ok((loaded, if alone { Alone::Yes } else { Alone::Unsure }))
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
pub fn commands(spec: &TableSpec, present: Option<&Listing>) -> String {
    let (family, table) = (family_word(spec.family), spec.name);
    let flags = spec.flags.map_or_else(String::new, |flags| format!(" {{ flags {flags}; }}"));
    let mut commands = spec.first.clone().unwrap_or_default();
    let _ = writeln!(commands, "add table {family} {table}{flags}\nflush table {family} {table}");
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
