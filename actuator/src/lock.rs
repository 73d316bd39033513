//! One writer per host: the daemon for as long as it lives, else one command at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Held until dropped; the kernel drops it with the process, however that ends.
#[derive(Debug)]
pub struct WriterLock(#[allow(dead_code, reason = "held for its lifetime only")] File);

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another writer is at work: {holder}")]
    Held { holder: String },
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
                lock.set_len(0).map_err(unusable)?;
                lock.rewind().map_err(unusable)?;
                write!(lock, "{who} (pid {})", std::process::id()).map_err(unusable)?;
                Ok(Self(lock))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = WriterLock::take(directory.path(), "serve").expect("free");
        let error = WriterLock::take(directory.path(), "converge").expect_err("held");
        let pid = std::process::id();
        assert_eq!(error.to_string(), format!("another writer is at work: serve (pid {pid})"));
        drop(first);
        WriterLock::take(directory.path(), "converge").expect("free again");
    }
}
