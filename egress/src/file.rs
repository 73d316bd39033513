//! Reads a small file that others may have put anything in the place of.
//!
//! Must never wait: opening a named pipe would, for a writer that never comes. And must never read
//! without a bound.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

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
}
