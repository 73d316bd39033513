//! Talks to `nft`, through the nftables crate, and never without a bound on the time it may take.

use std::time::Duration;

use nftables::helper::{self, DEFAULT_NFT, NftablesError};
use serde_json::{Value, json};

use crate::bounded::{TimedOut, bounded};

/// `nft -f` waits for kernel grace periods: 16 ms at the median, 52 ms with a thousand endpoints on
/// a small machine. Two seconds is a machine in trouble.
const NFT_TIMEOUT: Duration = Duration::from_secs(2);

/// A transaction can lose a race against another writer of the same table; then it is built anew.
pub const ATTEMPTS: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft did not answer")]
    Hung(#[source] TimedOut),
    #[error("nft could not be run: install nftables, or see that it is in PATH")]
    Missing(#[source] std::io::Error),
    #[error("nft refused to {doing}: {said}")]
    Refused { doing: &'static str, said: String },
    #[error("nft answered what is not understood")]
    Answer(#[source] serde_json::Error),
    #[error("what was loaded is not what was sent: another program is changing table {0}")]
    NotAsSent(&'static str),
}

fn run<T: Send + 'static>(
    doing: &'static str,
    call: impl FnOnce() -> Result<T, NftablesError> + Send + 'static,
) -> Result<T, NftError> {
    let answer = bounded("nft", NFT_TIMEOUT, call).map_err(NftError::Hung)?;
    answer.map_err(|error| match error {
        NftablesError::NftExecution { inner, .. } => NftError::Missing(inner),
        NftablesError::NftFailed { stderr, .. } => {
            // Our own JSON comes back below the message, hundreds of lines of it.
            let said = stderr.lines().next().unwrap_or("no reason given").to_owned();
            NftError::Refused { doing, said }
        }
        other => NftError::Refused { doing, said: other.to_string() },
    })
}

/// Sends `commands` as one transaction.
pub fn apply(doing: &'static str, commands: &[Value]) -> Result<(), NftError> {
    let payload = json!({ "nftables": commands }).to_string();
    run(doing, move || helper::apply_ruleset_raw(&payload, DEFAULT_NFT, helper::DEFAULT_ARGS))?;
    Ok(())
}

/// The objects that `nft -j list WHAT` prints, or `None` where there is no such table.
pub fn list(what: &[&str]) -> Result<Option<Vec<Value>>, NftError> {
    let mut arguments = vec!["list".to_owned()];
    arguments.extend(what.iter().map(|&word| word.to_owned()));
    let listed = run("list", move || helper::get_current_ruleset_raw(DEFAULT_NFT, &arguments));
    let text = match listed {
        Err(NftError::Refused { said, .. }) if said.contains("No such file or directory") => {
            return Ok(None);
        }
        other => other?,
    };
    let mut answer: Value = serde_json::from_str(&text).map_err(NftError::Answer)?;
    let objects = match answer["nftables"].take() {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    };
    Ok(Some(objects.into_iter().filter(|object| object.get("metainfo").is_none()).collect()))
}
