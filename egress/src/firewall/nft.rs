//! Talks to `nft`, and never without a bound on the time it may take. Rules go to it in its own
//! language; what the kernel has is read as JSON.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bounded::TimedOut;
use crate::process::{self, RunError};

/// `nft -f` waits for kernel grace periods: 16 ms at the median, 52 ms with a thousand endpoints on
/// a small machine. Two seconds is a machine in trouble.
pub const NFT_TIMEOUT: Duration = Duration::from_secs(2);

/// What an `nft` is given where the last one hung: an act of several calls, such as a hard stop,
/// must not wait two seconds for each.
const AFTER_A_HANG: Duration = Duration::from_millis(300);

/// How long a hang is remembered: longer than any act takes.
const REMEMBERED: Duration = Duration::from_secs(5);

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
    #[error(
        "nft may not {doing}: the kernel's rules are for who has CAP_NET_ADMIN: run as root; a \
         container needs --cap-add NET_ADMIN"
    )]
    NotPermitted { doing: &'static str },
    #[error(
        "nft may not send rules of this size to {doing}: inside a user namespace it may not enlarge \
         its buffer for them. Raise the sysctl net.core.wmem_default on the host, or configure fewer paths"
    )]
    TooLarge { doing: &'static str },
    #[error("nft answered what is not understood")]
    Answer(#[source] serde_json::Error),
    #[error("what was loaded is not what was sent: another program is changing table {0}")]
    NotAsSent(&'static str),
    /// Several have asked at once, and were told the same.
    #[error(transparent)]
    Shared(#[from] Arc<NftError>),
}

static LAST_HANG: Mutex<Option<Instant>> = Mutex::new(None);

fn run(doing: &'static str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, NftError> {
    let last_hang = || LAST_HANG.lock().unwrap_or_else(PoisonError::into_inner);
    let lately = last_hang().is_some_and(|at| at.elapsed() < REMEMBERED);
    let limit = if lately { AFTER_A_HANG } else { NFT_TIMEOUT };
    let mut nft = Command::new("nft");
    nft.args(arguments);
    let output = process::run(nft, input, limit).map_err(|error| match error {
        RunError::Start(error) => NftError::Missing(error),
        RunError::Hung(after) => {
            *last_hang() = Some(Instant::now());
            NftError::Hung(after)
        }
    })?;
    if output.status.success() {
        *last_hang() = None;
        return Ok(output.stdout);
    }
    Err(refusal(doing, &String::from_utf8_lossy(&output.stderr)))
}

/// What nft's own words mean.
fn refusal(doing: &'static str, said: &str) -> NftError {
    // Our own rules come back below the message.
    let said = said.lines().next().unwrap_or("no reason given").to_owned();
    if said.contains("Operation not permitted") {
        return NftError::NotPermitted { doing };
    }
    if said.contains("Message too long") {
        return NftError::TooLarge { doing };
    }
    NftError::Refused { doing, said }
}

/// Sends `commands`, in nft's own language, as one transaction.
pub fn apply(doing: &'static str, commands: &str) -> Result<(), NftError> {
    run(doing, &["-f", "-"], commands.as_bytes()).map(|_| ())
}

/// The objects that `nft -j list WHAT` prints, or `None` where there is no such table.
pub fn list(what: &[&str]) -> Result<Option<Vec<Value>>, NftError> {
    let arguments: Vec<&str> = ["-j", "list"].into_iter().chain(what.iter().copied()).collect();
    let text = match run("list tables", &arguments, b"") {
        Err(NftError::Refused { said, .. }) if said.contains("No such file or directory") => {
            return Ok(None);
        }
        other => other?,
    };
    let mut answer: Value = serde_json::from_slice(&text).map_err(NftError::Answer)?;
    let objects = match answer["nftables"].take() {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    };
    Ok(Some(objects.into_iter().filter(|object| object.get("metainfo").is_none()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nft_says_is_told_with_its_mend() {
        let told = |said: &str| refusal("load a table", said).to_string();
        // As nft 1.0.6 says it, where it may not enlarge its buffer.
        let large = told("netlink: Error: Could not process rule: Message too long\n");
        assert!(large.contains("net.core.wmem_default"), "{large}");
        let forbidden = told("Error: Could not process rule: Operation not permitted\n");
        assert!(forbidden.contains("CAP_NET_ADMIN"), "{forbidden}");
        let other = told("Error: syntax error\nadd rule inet secret\n");
        assert_eq!(other, "nft refused to load a table: Error: syntax error");
    }
}
