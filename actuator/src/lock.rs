//! One writer per host: the daemon for as long as it lives, else one command at a time.
//!
//! Two locks make one: a file in the state directory, which says who, and a name that belongs to
//! the network namespace as the rules do. Two daemons with state directories of their own would
//! otherwise fight over the same tables.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::socket::{self, Shutdown, getsockopt, sockopt};

/// An abstract socket: the kernel keeps it per network namespace, and needs no file for it.
const NAME: &[u8] = b"vpn-egress/writer";

/// Held until dropped; the kernel drops it with the process, however that ends.
#[derive(Debug)]
#[allow(dead_code, reason = "held for their lifetime only")]
pub struct WriterLock {
    file: File,
    /// `None`: somebody who may not write the rules sits on the name.
    name: Option<Name>,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another writer is at work: {holder}")]
    Held { holder: String },
    #[error(
        "refused: another actuator (pid {pid}) keeps the rules of this network namespace, by another --state.directory; end it, or use its directory"
    )]
    Elsewhere { pid: i32 },
    #[error("{file} cannot be locked: run as root, or check --state.directory")]
    Unusable {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl WriterLock {
    /// `who` is written down for those who find the lock taken.
    pub fn take(directory: &Path, who: &str) -> Result<Self, LockError> {
        Self::take_named(directory, who, NAME)
    }

    fn take_named(directory: &Path, who: &str, name: &[u8]) -> Result<Self, LockError> {
        let file = directory.join("lock");
        let unusable = |source| LockError::Unusable { file: file.clone(), source };
        fs::create_dir_all(directory).map_err(unusable)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // Whoever may open it may hold it.
            .mode(0o600)
            .open(&file)
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {
                // For people; on a full disk it is left out, and the lock holds all the same.
                let told = lock.set_len(0).and_then(|()| lock.rewind());
                let told = told.and_then(|()| write!(lock, "{who} (pid {})", std::process::id()));
                if let Err(error) = told {
                    tracing::warn!(file = %file.display(), %error, "who holds the lock is not told");
                }
                Ok(Self { file: lock, name: Name::take(name)? })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                lock.read_to_string(&mut holder).map_err(unusable)?;
                Err(LockError::Held { holder })
            }
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }
}

#[derive(Debug)]
struct Name(UnixListener);

impl Name {
    fn take(name: &[u8]) -> Result<Option<Self>, LockError> {
        let unusable =
            |source| LockError::Unusable { file: PathBuf::from("@vpn-egress/writer"), source };
        let address = SocketAddr::from_abstract_name(name).map_err(unusable)?;
        let error = match UnixListener::bind_addr(&address) {
            Ok(listener) => return Self::answering(listener).map(Some).map_err(unusable),
            Err(error) => error,
        };
        match holder(&address).filter(|_| error.kind() == io::ErrorKind::AddrInUse) {
            Some(pid) => Err(LockError::Elsewhere { pid }),
            // Any user can bind a name, and must not keep the lock from being loaded by it.
            None if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!("somebody else sits on the name of the writer: passed over");
                Ok(None)
            }
            None => Err(unusable(error)),
        }
    }

    /// Takes in who asks, and says nothing: a queue that is full would hide who holds the name.
    fn answering(listener: UnixListener) -> io::Result<Self> {
        let asked = listener.try_clone()?;
        let take_in = move || while asked.accept().is_ok() {};
        thread::Builder::new().name("writer".to_owned()).spawn(take_in)?;
        Ok(Self(listener))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Ends the thread that waits on it; where that fails, the process's end does.
        let _ = socket::shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

/// The process that holds the name, where it is root's or our own user's.
fn holder(address: &SocketAddr) -> Option<i32> {
    let stream = UnixStream::connect_addr(address).ok()?;
    let who = getsockopt(&stream, sockopt::PeerCredentials).ok()?;
    let own = nix::unistd::geteuid().as_raw();
    (who.uid() == 0 || who.uid() == own).then(|| who.pid())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_second_writer_is_told_who_the_first_is() {
        let pid = std::process::id();
        // Not the real name: other tests run in this namespace.
        let name = format!("vpn-egress/test-{pid}");
        let take = |directory: &tempfile::TempDir, who| {
            WriterLock::take_named(directory.path(), who, name.as_bytes())
        };
        let directory = tempfile::tempdir().expect("a directory");
        let first = take(&directory, "serve").expect("free");
        let error = take(&directory, "converge").expect_err("held");
        assert_eq!(error.to_string(), format!("another writer is at work: serve (pid {pid})"));
        let other = tempfile::tempdir().expect("a directory");
        for _ in 0..300 {
            // As often as a supervisor starts it anew: the queue of who asks does not fill up.
            let error = take(&other, "serve").expect_err("the same rules");
            assert!(error.to_string().contains(&format!("(pid {pid})")), "{error}");
        }
        drop(first);
        let started = Instant::now();
        while take(&other, "converge").is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "free again");
            thread::yield_now();
        }
    }
}
