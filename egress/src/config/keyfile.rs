//! Files that hold keys.
//!
//! Must never accept one that everybody can read, and never say what is in it (S10).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::credential;
use super::cursor::Cursor;
use super::error::{ConfigError, Place, Problem};
use crate::key::SecretKey;

/// The bits that let others than owner and group in.
const OTHERS: u32 = 0o007;

/// Any honest key file or wg-quick file is far smaller.
const MOST: u64 = 64 * 1024;

/// The file's name, meant from the config's directory.
pub(super) fn resolve(named: &Cursor<'_>) -> Result<PathBuf, ConfigError> {
    let name = named.value(|text| match text {
        "" => Err(Problem::Type { want: "a file's name", found: "nothing" }),
        name => Ok(PathBuf::from(name)),
    })?;
    Ok(named.directory().join(name))
}

/// The key that is all there is in the file.
pub(super) fn key(named: &Cursor<'_>) -> Result<SecretKey, ConfigError> {
    let file = resolve(named)?;
    let text = read(named, &file)?;
    text.parse().map_err(|error| Place::file(&file).with(Problem::Key(error)))
}

/// The file's text. What is wrong with the file is told at the line that names it.
pub(super) fn read(named: &Cursor<'_>, file: &Path) -> Result<Zeroizing<String>, ConfigError> {
    named.note(&credential::readable(file));
    read_for(&|| named.blame(), file)
}

/// The same; what is wrong with the file is told of `blamed`. That is asked for only then: a line is
/// found by a walk through the whole config.
pub(super) fn read_for(
    blamed: &dyn Fn() -> Place,
    file: &Path,
) -> Result<Zeroizing<String>, ConfigError> {
    let refused = |cause: io::Error| {
        let problem = match cause.kind() {
            io::ErrorKind::NotFound => Problem::FileMissing(file.to_owned()),
            io::ErrorKind::InvalidData => return Place::file(file).with(Problem::NotUtf8),
            _ => Problem::FileUnreadable(file.to_owned()),
        };
        blamed().with_cause(problem, cause)
    };
    let readable = credential::readable(file);
    // Before it is opened: opening a named pipe would wait for a writer.
    if !fs::metadata(&readable).map_err(refused)?.is_file() {
        return Err(blamed().with(Problem::NotAFile(file.to_owned())));
    }
    let opened = File::open(&readable).map_err(refused)?;
    let found = opened.metadata().map_err(refused)?;
    let mode = found.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(blamed().with(Problem::Exposed { file: file.to_owned(), mode }));
    }
    if found.len() > MOST {
        return Err(Place::file(file).with(Problem::TooBig(MOST)));
    }
    // Room from the start, so that no copy is left behind by growing.
    let room = usize::try_from(MOST).unwrap_or(usize::MAX) + 1;
    let mut text = Zeroizing::new(String::with_capacity(room));
    opened.take(MOST).read_to_string(&mut text).map_err(refused)?;
    Ok(text)
}
