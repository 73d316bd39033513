//! The file system inside: our own `/run` and `/var/lib`, and the host's files read-only.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Configs, logs and state of one world. On a tmpfs, so it ends with the world.
pub const SCRATCH: &str = "/run/lab";

/// What `/etc/resolv.conf` says inside.
pub const RESOLVERS: &str = "/run/lab/resolv.conf";

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
    own_resolvers();
    protect_host_files();
}

/// The world has no resolver, whatever the machine asks: `/etc/resolv.conf` is a file of ours, empty
/// until a test writes [`RESOLVERS`]. On many machines it is a link into `/run`, which is ours.
fn own_resolvers() {
    const NAMED: &str = "/etc/resolv.conf";
    fs::write(RESOLVERS, "").unwrap_or_else(|error| panic!("{RESOLVERS}: {error}"));
    match fs::read_link(NAMED) {
        Ok(target) => {
            let target = Path::new("/etc").join(target);
            let made = target.parent().map_or(Ok(()), fs::create_dir_all);
            // A link that leads elsewhere is left as it is: what it names is not written to.
            let _ = made.and_then(|()| std::os::unix::fs::symlink(RESOLVERS, &target));
        }
        Err(_) if Path::new(NAMED).exists() => mount(&["--bind", RESOLVERS, NAMED]),
        Err(_) => {}
    }
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
