//! The API key: read from its file when it is used, and shown to nobody but the controller (S10).

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::unknown::Unknown;

/// The bits that let others than owner and group in.
const OTHERS: u32 = 0o007;

/// Any honest key is far shorter.
const MOST: u64 = 4096;

pub fn read(file: &Path) -> Result<Zeroizing<String>, Unknown> {
    let unreadable = |source| Unknown::KeyUnreadable { file: file.to_owned(), source };
    let wrong = |problem| Unknown::Key { file: file.to_owned(), problem };
    // Before it is opened: opening a named pipe would wait for a writer.
    if !fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(wrong("is no regular file; name a file with the key"));
    }
    let opened = File::open(file).map_err(unreadable)?;
    let mode = opened.metadata().map_err(unreadable)?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(Unknown::KeyExposed { file: file.to_owned() });
    }
    let mut text = Zeroizing::new(String::new());
    opened.take(MOST).read_to_string(&mut text).map_err(unreadable)?;
    let key = Zeroizing::new(text.trim().to_owned());
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
        return Err(wrong("is no API key; put the key and nothing else into it, on one line"));
    }
    Ok(key)
}
