//! Replaces a whole table in one transaction: counters keep their values, everything else becomes
//! exactly what was asked for, and what is not ours is gone.

use nftables::schema::NfListObject;
use serde_json::{Value, json};

use super::listing::{Listing, family_word};
use super::nft::{self, ATTEMPTS, NftError};
use super::table::TableSpec;

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
    if count(spec) == (loaded.objects().count(), loaded.rules()) {
        Ok(loaded)
    } else {
        Err(NftError::NotAsSent(spec.name))
    }
}

/// Removes a table, and says whether it was there.
pub fn remove(family: nftables::types::NfFamily, table: &str) -> Result<bool, NftError> {
    if Listing::read(family, table)?.is_none() {
        return Ok(false);
    }
    let table = json!({"table": {"family": family_word(family), "name": table}});
    nft::apply("remove a table", &[json!({ "delete": table })]).map(|()| true)
}

/// Objects that a listing of the loaded table must hold: all, and of these the rules.
fn count(spec: &TableSpec) -> (usize, usize) {
    let rules =
        spec.objects.iter().filter(|object| matches!(object, NfListObject::Rule(_))).count();
    (spec.objects.len(), rules)
}

/// The transaction. `flush table` takes only the rules; sets, chains and objects that are foreign
/// or of another shape are deleted one by one, and sets always, for they keep their elements.
/// Base chains of the right shape stay, so that no packet meets a hook that is half made.
fn commands(spec: &TableSpec, present: Option<&Listing>) -> Vec<Value> {
    let family = family_word(spec.family);
    let table = json!({"table": {"family": family, "name": spec.name}});
    let mut commands = vec![json!({ "add": table }), json!({ "flush": table })];
    for (kind, body) in present.into_iter().flat_map(Listing::objects) {
        let stays = match kind {
            "table" | "rule" => true,
            "set" => false,
            _ => spec.objects.iter().any(|wanted| is_same(wanted, kind, body)),
        };
        if !stays {
            let named = json!({"family": family, "table": spec.name, "name": body["name"]});
            commands.push(json!({ "delete": { kind: named } }));
        }
    }
    commands.extend(spec.objects.iter().map(|object| json!({ "add": object })));
    commands
}

/// Whether an object of the kernel can stay as it is.
fn is_same(wanted: &NfListObject, kind: &str, body: &Value) -> bool {
    match wanted {
        NfListObject::Counter(counter) => kind == "counter" && body["name"] == *counter.name,
        NfListObject::Chain(chain) if kind == "chain" && body["name"] == *chain.name => {
            let wanted = json!(chain);
            // nft 1.0.6 does not list a chain's device; adding it again attaches it again.
            ["type", "hook", "prio", "policy"].iter().all(|field| wanted[field] == body[field])
        }
        _ => false,
    }
}
