//! Runs `nft`. Rules are sent to it in its own language. What the kernel has is read by netlink; only
//! the rules of other programs are read from `nft`, as JSON.
//!
//! How long an `nft` may take is chosen by the situation of the caller: a lock must be loaded however
//! long that takes, while a query has somebody waiting. What `nft` printed is never an error by itself:
//! its exit status and its answer decide.

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Output};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bounded::TimedOut;
use crate::process::{self, Patience, RunError};

/// A query. `nft` answers within 20 ms with a thousand endpoints on a small machine. Two seconds is a
/// machine in trouble, and the caller reports that instead of waiting.
pub const NFT_TIMEOUT: Duration = Duration::from_secs(2);

/// A change of the rules, where the caller does not choose otherwise: nothing else can do what it is
/// for. `nft -f` waits for kernel grace periods (16 ms at the median) and for modules to be loaded,
/// which took 14 s on a slow machine. It must be shorter than the service's watchdog (2 min).
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a query is given after another one hung: an act of several queries must not wait two seconds
/// for each.
const AFTER_A_HANG: Duration = Duration::from_millis(300);

/// How long a hang is remembered: longer than an act of several queries takes.
const REMEMBERED: Duration = Duration::from_secs(5);

/// A transaction can lose a race against another writer of the same table; then it is built again.
pub const ATTEMPTS: usize = 3;

thread_local! {
    static PATIENCE: Cell<Option<Patience>> = const { Cell::new(None) };
}

impl Patience {
    /// Runs `act`; every `nft` that this thread starts in it may take this long.
    pub fn during<T>(self, act: impl FnOnce() -> T) -> T {
        struct Restore(Option<Patience>);
        impl Drop for Restore {
            fn drop(&mut self) {
                PATIENCE.set(self.0);
            }
        }
        let _restore = Restore(PATIENCE.replace(Some(self)));
        act()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft did not answer")]
    Hung(#[source] TimedOut),
    #[error("nft could not be run: install nftables, or see that it is in PATH")]
    Missing(#[source] std::io::Error),
    #[error("nft refused to {doing}: {said}")]
    Refused { doing: &'static str, said: String },
    #[error("nft, asked to {doing}, was killed by {signal}: {why}")]
    Killed { doing: &'static str, signal: &'static str, why: &'static str },
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
    #[error("the kernel's rules could not be read over netlink")]
    Unread(#[source] std::io::Error),
    #[error("the network devices of this host could not be listed")]
    Devices(#[source] std::io::Error),
    #[error("nft answered what is not understood")]
    Answer(#[source] serde_json::Error),
    #[error("what was loaded is not what was sent: another program is changing table {0}")]
    NotAsSent(&'static str),
    /// Several have asked at once, and were told the same.
    #[error(transparent)]
    Shared(#[from] Arc<NftError>),
}

impl NftError {
    /// The kernel refused to say what rules it has.
    pub fn unread(source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => Self::NotPermitted { doing: "list tables" },
            _ => Self::Unread(source),
        }
    }
}

fn run(doing: &'static str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, NftError> {
    let patience = PATIENCE
        .get()
        .unwrap_or_else(|| if input.is_empty() { query_patience() } else { WRITE_TIMEOUT.into() });
    let mut nft = Command::new("nft");
    // Without a terminal's description some builds complain before they do anything.
    nft.args(arguments).env("TERM", "dumb").env("LC_ALL", "C");
    let output = process::run(nft, input, patience).map_err(|error| match error {
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
    Err(failure(doing, &output))
}

static LAST_HANG: Mutex<Option<Instant>> = Mutex::new(None);

fn last_hang() -> std::sync::MutexGuard<'static, Option<Instant>> {
    LAST_HANG.lock().unwrap_or_else(PoisonError::into_inner)
}

fn query_patience() -> Patience {
    let lately = last_hang().is_some_and(|at| at.elapsed() < REMEMBERED);
    if lately { AFTER_A_HANG.into() } else { NFT_TIMEOUT.into() }
}

/// Why an `nft` did not do what it was to do.
fn failure(doing: &'static str, output: &Output) -> NftError {
    if let Some(signal) = output.status.signal() {
        return killed(doing, signal);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = complaint(&stderr).map_or_else(|| silent(output.status), str::to_owned);
    if said.contains("Operation not permitted") {
        return NftError::NotPermitted { doing };
    }
    if said.contains("Message too long") {
        return NftError::TooLarge { doing };
    }
    NftError::Refused { doing, said }
}

fn killed(doing: &'static str, signal: i32) -> NftError {
    let signal = Signal::try_from(signal).ok();
    let why = match signal {
        // Sets have carried userdata since 1.1.2 that earlier versions follow into nowhere.
        Some(Signal::SIGSEGV | Signal::SIGBUS | Signal::SIGABRT) => {
            "rules on this kernel were written by a newer nft; install nft >= 1.1.2 here too"
        }
        Some(Signal::SIGKILL) => "most likely out of memory: see `dmesg`",
        Some(Signal::SIGSYS) => "a seccomp filter forbids it what it needs",
        _ => "see `dmesg`",
    };
    NftError::Killed {
        doing,
        signal: signal.map_or("a signal without a name", Signal::as_str),
        why,
    }
}

/// The line that says why. Warnings can come before it, and our own rules come back below it.
fn complaint(stderr: &str) -> Option<&str> {
    let mut lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next();
    lines.find(|line| line.contains("Error: ")).or(first)
}

fn silent(status: ExitStatus) -> String {
    format!("it ended with {status} and printed no reason")
}

/// Sends `commands`, in nft's own language, as one transaction.
pub fn apply(doing: &'static str, commands: &str) -> Result<(), NftError> {
    run(doing, &["-f", "-"], commands.as_bytes()).map(|_| ())
}

/// What `nft -j list` prints.
#[derive(Debug)]
pub struct Ruleset(Vec<Value>);

impl Ruleset {
    pub fn of(objects: Vec<Value>) -> Self {
        Self(objects)
    }

    /// (kind, body) of every object.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().filter_map(|object| {
            let (kind, body) = object.as_object()?.iter().next()?;
            Some((kind.as_str(), body))
        })
    }
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
    let mut answer: Value = serde_json::from_slice(json(&text)).map_err(NftError::Answer)?;
    let objects = match answer["nftables"].take() {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    };
    Ok(Some(objects.into_iter().filter(|object| object.get("metainfo").is_none()).collect()))
}

/// The answer, without lines that were printed before it.
fn json(text: &[u8]) -> &[u8] {
    let is_begin = |at: &usize| text[*at] == b'{' && (*at == 0 || text[at - 1] == b'\n');
    &text[(0..text.len()).find(is_begin).unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: i32, stderr: &str) -> String {
        let status = ExitStatus::from_raw(status);
        let output = Output { status, stdout: Vec::new(), stderr: stderr.into() };
        failure("load a table", &output).to_string()
    }

    #[test]
    fn a_failed_nft_is_reported_with_its_remedy() {
        let exit_1 = 1 << 8;
        for (status, stderr, wanted) in [
            // As nft 1.0.6 says it, where it may not enlarge its buffer.
            (exit_1, "netlink: Error: Could not process rule: Message too long\n", "wmem_default"),
            (exit_1, "Error: Could not process rule: Operation not permitted\n", "CAP_NET_ADMIN"),
            (
                exit_1,
                "Error: syntax error\nadd rule inet secret\n",
                "nft refused to load a table: Error: syntax error",
            ),
            // What is printed before is no reason.
            (
                exit_1,
                "tput: no terminfo\n\n/dev/stdin:1:1-3: Error: syntax error\n",
                "nft refused to load a table: /dev/stdin:1:1-3: Error: syntax error",
            ),
            (exit_1, " \n", "it ended with exit status: 1 and printed no reason"),
            (11, "", "killed by SIGSEGV"),
            (11, "", "install nft >= 1.1.2"),
            (
                9,
                "Warning: noise\n",
                "asked to load a table, was killed by SIGKILL: most likely out",
            ),
            (31, "", "SIGSYS"),
        ] {
            let said = said(status, stderr);
            assert!(said.contains(wanted), "{stderr:?}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn an_answer_is_found_below_what_was_printed_before_it() {
        for noise in ["", "tput: no terminfo {\n", "\n\n"] {
            let text = format!("{noise}{{\"nftables\": []}}\n");
            let answer: Value = serde_json::from_slice(json(text.as_bytes())).expect("JSON");
            assert!(answer["nftables"].is_array(), "{text}");
        }
        assert_eq!(json(b"no answer"), b"no answer");
    }

    #[test]
    fn patience_is_the_callers_and_ends_with_the_act() {
        let inner = Patience::Forever.during(|| {
            let outer = PATIENCE.get();
            let query = Patience::Interactive(NFT_TIMEOUT).during(|| PATIENCE.get());
            (outer, query, PATIENCE.get())
        });
        let (outer, query, after) = inner;
        assert_eq!(outer, Some(Patience::Forever));
        assert_eq!(query, Some(Patience::Interactive(NFT_TIMEOUT)));
        assert_eq!(after, Some(Patience::Forever));
        assert_eq!(PATIENCE.get(), None);
    }
}
