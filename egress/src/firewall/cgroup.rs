//! Which cgroup a name means now. A rule holds the id that its name had when it was loaded: a cgroup
//! that was made anew has another, and the rule no longer matches it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Where nft looks for the unified hierarchy, and nowhere else.
pub const ROOT: &str = "/sys/fs/cgroup";

/// `None`: there is no such cgroup. The kernel's id of a cgroup is its directory's inode.
pub fn id(name: &str) -> Option<u64> {
    let directory = Path::new(ROOT).join(name);
    directory.join("cgroup.procs").is_file().then_some(())?;
    Some(fs::metadata(directory).ok()?.ino())
}
