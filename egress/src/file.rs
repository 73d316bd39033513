//! Small files: read where others may have put anything in their place, told apart, put in place.
//!
//! Must never wait: opening a named pipe would, for a writer that never comes. And must never read
//! without a bound, nor leave half a file where a whole one was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;

/// Opens a regular file for reading, and nothing else.
pub fn open(file: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(file)?;
    if opened.metadata()?.is_file() {
        Ok(opened)
    } else {
        let kind = io::ErrorKind::InvalidInput;
        Err(io::Error::new(kind, "it is no regular file: put one in its place"))
    }
}

/// All of a regular file that holds no more than `most` bytes.
pub fn read(file: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(file)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let why = format!("it is larger than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// What a file was when it was looked at: while it is the same, so is what is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// A file that changed so lately may change again without a new time: clocks of file systems tick.
const UNSETTLED: Duration = Duration::from_secs(2);

impl Stamp {
    /// `None`: not there, or changed just now, so that it says nothing.
    pub fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(changed.0).ok()?))?;
        let settled = SystemTime::now().duration_since(at).is_ok_and(|age| age > UNSETTLED);
        settled.then(|| Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            changed,
        })
    }
}

/// Puts a file in place whole, readable by all: who reads finds the old one or the new one.
pub fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = file.with_file_name(name);
    // What others may have put there is not followed.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&fresh)?;
    let written = opened.write_all(content).and_then(|()| opened.sync_all());
    written.and_then(|()| fs::rename(&fresh, file)).inspect_err(|_| {
        // Half a file is nobody's.
        let _ = fs::remove_file(&fresh);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_a_directory_and_a_giant_are_refused_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let giant = directory.path().join("giant");
        std::fs::write(&giant, [b' '; 11]).expect("written");
        for (file, said) in [
            (pipe.as_path(), "no regular file"),
            (directory.path(), "no regular file"),
            (&giant, "larger than 10 bytes"),
        ] {
            let error = read(file, 10).expect_err("refused");
            assert!(error.to_string().contains(said), "{error}");
        }
        assert_eq!(read(&giant, 11).expect("read").len(), 11);
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("page.prom");
        std::fs::write(&file, "old").expect("written");
        // What somebody left there, or put there, is not followed.
        let elsewhere = directory.path().join("elsewhere");
        std::fs::write(&elsewhere, "theirs").expect("written");
        std::os::unix::fs::symlink(&elsewhere, directory.path().join("page.prom.new"))
            .expect("a link");
        let before = std::fs::metadata(&file).expect("there").ino();
        replace(&file, b"new").expect("replaced");
        assert_eq!(std::fs::read(&file).expect("read"), b"new");
        assert_eq!(std::fs::read(&elsewhere).expect("read"), b"theirs");
        assert_ne!(
            std::fs::metadata(&file).expect("there").ino(),
            before,
            "never written in place"
        );
        let entries = std::fs::read_dir(directory.path()).expect("read").count();
        assert_eq!(entries, 2, "nothing is left behind");
        std::fs::remove_file(&file).expect("removed");
        std::fs::create_dir(&file).expect("in the way");
        replace(&file, b"new").expect_err("a directory is in the way");
        assert_eq!(std::fs::read_dir(directory.path()).expect("read").count(), 2);
    }
}
