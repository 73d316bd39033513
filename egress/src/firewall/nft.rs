//! Talks to `nft`, and never without a bound on the time it may take. Rules go to it in its own
//! language; what the kernel has is read as JSON, through the nftables crate.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nftables::helper::{self, DEFAULT_NFT, NftablesError};
use serde_json::Value;

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

/// Sends `commands`, in nft's own language, as one transaction.
pub fn apply(doing: &'static str, commands: &str) -> Result<(), NftError> {
    let commands = commands.to_owned();
    let answer = bounded("nft", NFT_TIMEOUT, move || feed(&commands)).map_err(NftError::Hung)?;
    let output = answer.map_err(NftError::Missing)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NftError::Refused { doing, said: reason(&String::from_utf8_lossy(&output.stderr)) })
}

fn feed(commands: &str) -> std::io::Result<Output> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = nft.stdin.take() {
        // Where it ends without reading all of it, its status says why.
        let _ = stdin.write_all(commands.as_bytes());
    }
    nft.wait_with_output()
}

/// The message without our own rules, which come back below it.
fn reason(stderr: &str) -> String {
    stderr.lines().next().unwrap_or("no reason given").to_owned()
}

/// The objects that `nft -j list WHAT` prints, or `None` where there is no such table.
pub fn list(what: &[&str]) -> Result<Option<Vec<Value>>, NftError> {
    let mut arguments = vec!["list".to_owned()];
    arguments.extend(what.iter().map(|&word| word.to_owned()));
    let ask = move || helper::get_current_ruleset_raw(DEFAULT_NFT, &arguments);
    let text = match bounded("nft", NFT_TIMEOUT, ask).map_err(NftError::Hung)? {
        Ok(text) => text,
        Err(NftablesError::NftExecution { inner, .. }) => return Err(NftError::Missing(inner)),
        Err(NftablesError::NftFailed { stderr, .. }) => match reason(&stderr) {
            none if none.contains("No such file or directory") => return Ok(None),
            said => return Err(NftError::Refused { doing: "list", said }),
        },
        Err(other) => {
            return Err(NftError::Refused { doing: "list", said: other.to_string() });
        }
    };
    let mut answer: Value = serde_json::from_str(&text).map_err(NftError::Answer)?;
    let objects = match answer["nftables"].take() {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    };
    Ok(Some(objects.into_iter().filter(|object| object.get("metainfo").is_none()).collect()))
}
