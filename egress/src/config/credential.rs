//! Key files for a program that may not read them: systemd hands it a copy of each
//! (`LoadCredential=`), which nobody else can read.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

/// What to read for `file`: the file itself; or its copy, where the file is not for us and there is
/// one. The file comes first, for the copy is as old as the program's start.
pub(super) fn readable(file: &Path) -> PathBuf {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
    let denied = || access(file, AccessFlags::R_OK) == Err(Errno::EACCES);
    let copy = directory.map(|directory| copy_of(file, &directory));
    copy.filter(|copy| denied() && copy.exists()).unwrap_or_else(|| file.to_owned())
}

/// Named as the file is, with `_` for `/`. So `LoadCredential=etc_wireguard:/etc/wireguard` hands
/// over all that is in there: systemd joins the names in the same way.
fn copy_of(file: &Path, directory: &OsStr) -> PathBuf {
    let name = file.to_string_lossy().trim_start_matches('/').replace('/', "_");
    Path::new(directory).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_named_as_systemd_names_what_is_in_a_directory() {
        let copy = copy_of(Path::new("/etc/wireguard/wg0.conf"), OsStr::new("/run/credentials/x"));
        assert_eq!(copy, Path::new("/run/credentials/x/etc_wireguard_wg0.conf"));
    }
}
