//! Replaces a whole table in one transaction: counters keep their values, everything else becomes
//! exactly what was asked for, and what is not ours is gone.

use std::fmt::Write as _;

use nftables::types::NfFamily;

use super::dump;
use super::listing::{self, Listing, family_word};
use super::netlink;
use super::nft::{self, ATTEMPTS, NftError};
use super::table::{Chain, Hook, TableSpec};

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
                let digest = loaded.digest().to_owned();
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
    if (spec.objects(), spec.rules().count()) == (loaded.objects(), loaded.rules()) {
        Ok((loaded, if alone { Alone::Yes } else { Alone::Unsure }))
    } else {
        Err(NftError::NotAsSent(spec.name))
    }
}

/// Removes a table, and says whether it was there.
pub fn remove(family: NfFamily, table: &str) -> Result<bool, NftError> {
    if !listing::is_there(family, table)? {
        return Ok(false);
    }
    nft::apply("remove a table", &format!("delete table {} {table}\n", family_word(family)))?;
    Ok(true)
}

/// The transaction. `flush table` takes only the rules; sets, chains and objects that are foreign
/// or of another shape are deleted one by one, and sets always, for they keep their elements; but those
/// stay that rules fill. Base chains of the right shape stay, so that no packet meets a hook that is half made.
pub fn commands(spec: &TableSpec, present: Option<&Listing>) -> String {
    let (family, table) = (family_word(spec.family), spec.name);
    let flags = spec.flags.map_or_else(String::new, |flags| format!(" {{ flags {flags}; }}"));
    let mut commands = spec.first.clone().unwrap_or_default();
    let _ = writeln!(commands, "add table {family} {table}{flags}\nflush table {family} {table}");
    let mut delete = |kind: &str, name: &str| {
        let _ = writeln!(commands, "delete {kind} {family} {table} {name}");
    };
    for chain in present.map_or(&[][..], Listing::chains) {
        if !spec.chains.iter().any(|wanted| is_same(spec.family, wanted, chain)) {
            delete("chain", &chain.name);
        }
    }
    for (kind, name) in present.map_or(&[][..], Listing::others) {
        if !stays(spec, kind, name) {
            delete(kind, name);
        }
    }
    commands + &spec.text()
}

/// Whether an object of the kernel, which is neither a chain nor a rule, can stay as it is.
fn stays(spec: &TableSpec, kind: &str, name: &str) -> bool {
    match kind {
        "counter" => spec.counters.iter().any(|wanted| wanted == name),
        "set" => spec.sets.iter().any(|wanted| wanted.is_dynamic() && wanted.name == name),
        _ => false,
    }
}

/// Whether a chain of the kernel can stay as it is. A device that it is to have and has not is added
/// by adding the chain again.
fn is_same(family: NfFamily, wanted: &Chain, present: &dump::Chain) -> bool {
    let at = match (wanted.hook, &present.hook) {
        (Some(wanted_at), Some(at)) => {
            at.kind == wanted_at.kind
                && Some(at.number) == hook_number(family, wanted_at)
                && at.policy == wanted_at.policy.number()
                && at.priority == wanted_at.priority
                && at.devices.iter().all(|device| wanted.device.as_ref() == Some(device))
        }
        (None, None) => true,
        _ => false,
    };
    at && present.name == wanted.name
}

/// `linux/netfilter.h`
fn hook_number(family: NfFamily, hook: Hook) -> Option<u32> {
    match (family, hook.point) {
        (NfFamily::NetDev, "ingress") => Some(0),
        (NfFamily::NetDev, "egress") => Some(1),
        (NfFamily::NetDev, _) => None,
        (_, "prerouting") => Some(0),
        (_, "input") => Some(1),
        (_, "forward") => Some(2),
        (_, "output") => Some(3),
        (_, "postrouting") => Some(4),
        _ => None,
    }
}
