//! What the lab needs of the machine, and the mend where it is missing.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Every program the world is built with, and the Debian package that has it.
const TOOLS: [(&str, &str); 9] = [
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("wg", "wireguard-tools"),
    ("ping", "iputils-ping"),
    ("sh", "dash"),
    ("busybox", "busybox"),
];

/// Where an ordinary user's `PATH` does not look, and `nft` is.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// How the namespaces can be had on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    UserNamespace,
    /// Root, where user namespaces are not allowed: the host's users are seen, its network is not.
    RootOnly,
}

impl Entry {
    /// The arguments of `unshare`.
    pub fn arguments(self) -> &'static [&'static str] {
        const ALL: &[&str] = &[
            "--user",
            "--map-root-user",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ];
        match self {
            Self::UserNamespace => ALL,
            Self::RootOnly => ALL.split_at(2).1,
        }
    }
}

/// Run in namespaces made for it: does it work at all, and does this kernel have `WireGuard`?
const PROBE: &str =
    "ip link set lo up && { ip link add wg0 type wireguard 2>/dev/null && echo wireguard; true; }";

/// What the probe found.
struct Kernel {
    has_wireguard: bool,
}

impl Kernel {
    fn check(&self) -> Result<(), String> {
        if self.has_wireguard { Ok(()) } else { check_userspace_wireguard() }
    }
}

/// `PATH` with the system's directories at its end.
pub fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    for dir in SYSTEM_DIRS {
        path.push(":");
        path.push(dir);
    }
    path
}

/// Where a program is, by that `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&path()).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// How many users a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    One,
    /// Where root runs the lab, root stays out of a user namespace.
    Several,
}

/// Checks the tools and how the namespaces can be had. `LAB_USERNS=no` keeps root out of a user
/// namespace, whatever the test needs.
pub fn check(users: Users) -> Result<Entry, String> {
    check_tools(|tool| find(tool).is_some())?;
    let root = users == Users::Several && nix::unistd::geteuid().is_root();
    let refused = if root || env::var_os("LAB_USERNS").is_some_and(|value| value == "no") {
        "not tried".to_owned()
    } else {
        match attempt(Entry::UserNamespace) {
            Ok(kernel) => return kernel.check().map(|()| Entry::UserNamespace),
            Err(refused) => refused,
        }
    };
    if let Ok(kernel) = attempt(Entry::RootOnly) {
        return kernel.check().map(|()| Entry::RootOnly);
    }
    Err(format!(
        "this machine does not let the lab have namespaces of its own (unshare: {}); {}",
        refused.trim(),
        mend()
    ))
}

/// Names the wireguard-go package or the tun device where the kernel has no `WireGuard`.
fn check_userspace_wireguard() -> Result<(), String> {
    if find("wireguard-go").is_none() {
        return Err(
            "this kernel has no WireGuard and wireguard-go is not found; on Debian and Ubuntu: \
             apt-get install wireguard-go, or modprobe wireguard"
                .into(),
        );
    }
    fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").map(drop).map_err(|error| {
        format!(
            "wireguard-go needs /dev/net/tun, which this user cannot open ({error}); as root: \
                 modprobe tun && chmod 0666 /dev/net/tun, or modprobe wireguard"
        )
    })
}

fn check_tools(is_there: impl Fn(&str) -> bool) -> Result<(), String> {
    let missing = TOOLS.iter().filter(|(tool, _)| !is_there(tool));
    let (tools, mut packages): (Vec<&str>, Vec<&str>) = missing.copied().unzip();
    if tools.is_empty() {
        return Ok(());
    }
    packages.dedup();
    Err(format!(
        "the lab needs {}, not found; on Debian and Ubuntu: apt-get install {}",
        tools.join(", "),
        packages.join(" ")
    ))
}

fn attempt(entry: Entry) -> Result<Kernel, String> {
    let output = Command::new("unshare")
        .env("PATH", path())
        .args(entry.arguments())
        .args(["--", "sh", "-c", PROBE])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(Kernel { has_wireguard: output.stdout.starts_with(b"wireguard") })
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn mend() -> &'static str {
    let sysctl = |name: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|value| value.trim().to_owned())
    };
    if sysctl("kernel/apparmor_restrict_unprivileged_userns").is_some_and(|value| value != "0") {
        "AppArmor restricts them here (Ubuntu 23.10 and later): run the lab as root, or as root: \
         sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    } else if sysctl("kernel/unprivileged_userns_clone").is_some_and(|value| value == "0") {
        "they are switched off for ordinary users: run the lab as root, or as root: \
         sysctl -w kernel.unprivileged_userns_clone=1"
    } else if sysctl("user/max_user_namespaces").is_some_and(|value| value == "0") {
        "their number is limited to none: as root: sysctl -w user.max_user_namespaces=15000"
    } else {
        "in a container, it needs --privileged, or --cap-add SYS_ADMIN --cap-add NET_ADMIN with \
         --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    }
}

#[cfg(test)]
mod tests {
    use super::check_tools;

    #[test]
    fn names_the_packages_of_what_is_missing() {
        assert_eq!(check_tools(|_| true), Ok(()));
        let refused = check_tools(|tool| tool != "nft" && tool != "wg");
        let text = "the lab needs nft, wg, not found; on Debian and Ubuntu: \
                    apt-get install nftables wireguard-tools";
        assert_eq!(refused, Err(text.to_owned()));
    }
}
