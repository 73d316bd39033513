//! The file system inside: our own `/run` and `/var/lib`, and the host's files read-only.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Configs, logs and state of one world. On a tmpfs, so it ends with the world.
pub const SCRATCH: &str = "/run/lab";

/// `TMPDIR` inside: the host's `/tmp` is read-only there.
pub const TEMPORARY: &str = "/run/lab/tmp";

/// Kernel interfaces and what is ours: these stay writable.
const WRITABLE: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/var/lib"];

/// Must run first inside, before anything is written anywhere.
pub fn prepare() {
    for fresh in ["/run", "/var/lib"] {
        mount(&["-t", "tmpfs", "-o", "mode=0755", "tmpfs", fresh]);
    }
    for dir in ["/run/netns", "/run/wireguard", SCRATCH, TEMPORARY] {
        fs::create_dir_all(dir).unwrap_or_else(|error| panic!("creating {dir}: {error}"));
    }
    protect_host_files();
}

/// A program under test that writes where it should not must fail, not change the host.
fn protect_host_files() {
    let table = fs::read_to_string("/proc/self/mounts")
        .unwrap_or_else(|error| panic!("reading the mount table: {error}"));
    for line in table.lines() {
        let mut fields = line.split(' ');
        let (Some(point), Some(options)) = (fields.nth(1), fields.nth(1)) else {
            continue;
        };
        let point = point.replace("\\040", " ");
        let ours = WRITABLE.iter().any(|dir| Path::new(&point).starts_with(dir));
        if !ours && options.split(',').any(|option| option == "rw") {
            mount(&["-o", "remount,bind,ro", &point]);
        }
    }
}

fn mount(arguments: &[&str]) {
    let output = Command::new("mount")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot start mount: {error}"));
    assert!(
        output.status.success(),
        "mount {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
