//! Network namespaces by name or path, and work done inside one.
//!
//! A thread enters a namespace and never comes back: every piece of work gets a thread of its own,
//! which ends with it. What the thread starts (programs, other threads) is inside too. The file system
//! stays that of this program, so whatever is read below `/sys` is the host's.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::process::{self, RunError};

/// Where ip-netns(8) keeps those with a name.
const NAMED: &str = "/run/netns";

/// The longest name; far more than anybody writes.
const LONGEST: usize = 64;

/// `ip` answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error(
        "network namespace {0} does not exist: run `actuator converge`, which makes it, or \
         `ip netns add {0}`"
    )]
    Missing(Netns),
    #[error(
        "network namespace {netns} cannot be entered: give this program CAP_SYS_ADMIN, and see that \
         {} is a network namespace", netns.file().display()
    )]
    Shut {
        netns: Netns,
        #[source]
        source: io::Error,
    },
    #[error("no thread could be started for network namespace {0}")]
    NoThread(Netns, #[source] io::Error),
    #[error("ip could not be run: install iproute2, or see that it is in PATH")]
    NoIp(#[source] RunError),
    #[error(
        "network namespace {0} could not be made ({1}): make it on the host, `ip netns add {0}`"
    )]
    Refused(Netns, String),
}

/// A network namespace: a name below `/run/netns`, or the absolute path of its file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Netns(String);

impl Netns {
    /// `None`: neither a name nor an absolute path.
    pub fn parse(text: &str) -> Option<Self> {
        let narrow = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
        let is_name = (1..=LONGEST).contains(&text.len())
            && text.chars().all(narrow)
            && !text.starts_with(['.', '-']);
        let plain = |c: char| narrow(c) || c == '/';
        let is_path = text.starts_with('/')
            && text.chars().all(plain)
            && !text.split('/').any(|part| part == ".." || part == ".");
        (is_name || is_path).then(|| Self(text.to_owned()))
    }

    pub fn file(&self) -> PathBuf {
        if self.is_path() { PathBuf::from(&self.0) } else { Path::new(NAMED).join(&self.0) }
    }

    fn is_path(&self) -> bool {
        self.0.starts_with('/')
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn exists(&self) -> bool {
        self.file().exists()
    }

    /// Whether both are the same namespace now, by whatever name.
    pub fn is_same(&self, other: &Self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let identity = |netns: &Self| {
            let file = std::fs::metadata(netns.file()).ok()?;
            Some((file.dev(), file.ino()))
        };
        self == other || identity(self).is_some_and(|own| identity(other) == Some(own))
    }

    /// Makes one that has a name, where all of this host sees it.
    pub fn create(&self) -> Result<(), NetnsError> {
        if self.is_path() {
            let why = "it is given by its path".to_owned();
            return Err(NetnsError::Refused(self.clone(), why));
        }
        // A program with a file system view of its own (a hardened unit, a container's helper) would
        // make a name that nobody else sees.
        let mut make = if has_view_of_its_own() {
            let mut make = Command::new("nsenter");
            make.args(["--target", "1", "--mount", "--", "ip"]);
            make
        } else {
            Command::new("ip")
        };
        make.args(["netns", "add", &self.0]).env("LC_ALL", "C");
        let output = process::run(make, b"", TIMEOUT).map_err(NetnsError::NoIp)?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let said = said.lines().next().unwrap_or("no reason given").to_owned();
            return Err(NetnsError::Refused(self.clone(), said));
        }
        if !self.exists() {
            let why = "it was made, and this program does not see it".to_owned();
            return Err(NetnsError::Refused(self.clone(), why));
        }
        Ok(())
    }
}

/// Whether the first process sees other mounts than this one.
fn has_view_of_its_own() -> bool {
    let view = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let (own, first) = (view("self"), view("1"));
    first.is_some() && own != first
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Does `work` inside the namespace, or right here where there is none.
pub fn within<T: Send>(
    netns: Option<&Netns>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetnsError> {
    let Some(netns) = netns else { return Ok(work()) };
    let file = File::open(netns.file()).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => NetnsError::Missing(netns.clone()),
        _ => NetnsError::Shut { netns: netns.clone(), source },
    })?;
    thread::scope(|scope| {
        let inside = move || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            Ok::<T, nix::Error>(work())
        };
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, inside);
        let thread = thread.map_err(|error| NetnsError::NoThread(netns.clone(), error))?;
        match thread.join() {
            Ok(done) => done
                .map_err(|error| NetnsError::Shut { netns: netns.clone(), source: error.into() }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_name_or_an_absolute_path() {
        for (text, file) in [
            ("media", "/run/netns/media"),
            ("vpn-egress.1@x", "/run/netns/vpn-egress.1@x"),
            ("/run/user/1000/netns/cni-1", "/run/user/1000/netns/cni-1"),
            ("/proc/12/ns/net", "/proc/12/ns/net"),
        ] {
            assert_eq!(Netns::parse(text).map(|it| it.file()), Some(file.into()), "{text}");
        }
        for text in ["", "a b", "a/b", "../x", "-x", ".", "..", "/run/../x", "a;b", &"x".repeat(65)]
        {
            assert_eq!(Netns::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_an_error_with_its_remedy() {
        let missing = Netns::parse("vpn-egress-none").expect("a name");
        let error = within(Some(&missing), || ()).expect_err("missing").to_string();
        assert!(error.contains("does not exist: run `actuator converge`"), "{error}");
        let wrong = Netns::parse("/etc/passwd").expect("a path");
        let error = within(Some(&wrong), || ()).expect_err("no namespace").to_string();
        assert!(error.contains("/etc/passwd is a network namespace"), "{error}");
        assert_eq!(within(None, || 7).expect("here"), 7);
    }
}
