//! Files that hold keys.
//!
//! Must never accept one that everybody can read, and never say what is in it (S10).

use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::cursor::Cursor;
use super::error::{ConfigError, Place, Problem};
use crate::key::SecretKey;

/// The bits that let others than owner and group in.
const OTHERS: u32 = 0o007;

/// Any honest key file or wg-quick file is far smaller.
const MOST: u64 = 64 * 1024;

/// Where systemd puts what a unit's `LoadCredential=` names, each under a name without directories.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The file's name, meant from the config's directory; or the credential of the same name.
pub(super) fn resolve(named: &Cursor<'_>) -> Result<PathBuf, ConfigError> {
    let name = named.value(|text| match text {
        "" => Err(Problem::Type { want: "a file's name", found: "nothing" }),
        name => Ok(PathBuf::from(name)),
    })?;
    let file = named.directory().join(name);
    let Some(credential) = credential(&file, env::var_os(CREDENTIALS).map(PathBuf::from)) else {
        return Ok(file);
    };
    match named.same_credential(&credential, &file) {
        Some(other) => Err(named.error(Problem::CredentialTwice { file, other })),
        None => Ok(credential),
    }
}

/// What stands for the file, where systemd has handed it over: a program without root cannot read
/// the file itself.
fn credential(file: &Path, directory: Option<PathBuf>) -> Option<PathBuf> {
    let credential = directory?.join(file.file_name()?);
    credential.is_file().then_some(credential)
}

/// The key that is all there is in the file.
pub(super) fn key(named: &Cursor<'_>) -> Result<SecretKey, ConfigError> {
    let file = resolve(named)?;
    let text = read(named, &file)?;
    text.parse().map_err(|error| Place::file(&file).with(Problem::Key(error)))
}

/// The file's text. What is wrong with the file is told at the line that names it.
pub(super) fn read(named: &Cursor<'_>, file: &Path) -> Result<Zeroizing<String>, ConfigError> {
    let refused = |cause: io::Error| {
        let problem = match cause.kind() {
            io::ErrorKind::NotFound => Problem::FileMissing(file.to_owned()),
            io::ErrorKind::InvalidData => return Place::file(file).with(Problem::NotUtf8),
            _ => Problem::FileUnreadable(file.to_owned()),
        };
        named.error_because(problem, cause)
    };
    named.note(file);
    // Before it is opened: opening a named pipe would wait for a writer.
    if !fs::metadata(file).map_err(refused)?.is_file() {
        return Err(named.error(Problem::NotAFile(file.to_owned())));
    }
    let opened = File::open(file).map_err(refused)?;
    let found = opened.metadata().map_err(refused)?;
    let mode = found.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(named.error(Problem::Exposed { file: file.to_owned(), mode }));
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
