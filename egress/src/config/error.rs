//! What can be wrong with a configuration, where, and the mend.
//!
//! Must never hold a text that may be a key: what a message quotes goes through [`Shown`] (S10).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::shown::Shown;
use crate::key::InvalidKey;
use crate::names::InvalidName;

/// Why a configuration is refused: place, problem and mend in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    pub place: Place,
    pub problem: Box<Problem>,
    #[source]
    pub(super) cause: Option<io::Error>,
}

/// A file, the line where it is known for certain, and the key where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    pub line: Option<usize>,
    /// As in `paths[0].endpoints[1].name`; may be empty.
    pub key: String,
}

impl Place {
    pub(super) fn file(file: &Path) -> Self {
        Self { file: file.to_owned(), line: None, key: String::new() }
    }

    pub(super) fn line(file: &Path, line: Option<usize>) -> Self {
        Self { line, ..Self::file(file) }
    }

    pub(super) fn with(self, problem: Problem) -> ConfigError {
        ConfigError { place: self, problem: Box::new(problem), cause: None }
    }

    pub(super) fn with_cause(self, problem: Problem, cause: io::Error) -> ConfigError {
        ConfigError { place: self, problem: Box::new(problem), cause: Some(cause) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        Ok(())
    }
}

/// What is wrong, and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    // The files themselves.
    #[error("there is no such file; write it, or name another with --config.file")]
    NoConfig,
    #[error("cannot be read; make it a file that this program's user or group may read")]
    UnreadableConfig,
    #[error("is more than {0} bytes, too big for a configuration; name the right file")]
    TooBig(u64),
    #[error("is not UTF-8 text; save it as such")]
    NotUtf8,
    #[error("the file {0} does not exist; create it or correct the name")]
    FileMissing(PathBuf),
    #[error(
        "the file {0} cannot be read; give this program's group read access (chgrp, chmod g+r), \
         or hand it over as a systemd credential"
    )]
    FileUnreadable(PathBuf),
    #[error("{0} is no regular file; name a file with the key")]
    NotAFile(PathBuf),
    #[error(
        "the file {file} holds a key and is open to everybody (mode {mode:04o}); \
         run: chmod o-rwx {file}, and consider the key known to others"
    )]
    Exposed { file: PathBuf, mode: u32 },

    // YAML.
    #[error("is not valid YAML: {0}; check the indentation and the quotes")]
    Syntax(String),
    #[error(
        "this form of YAML has no place here (a tag, a list as a key, nesting without end); \
         write plain keys and values"
    )]
    OddYaml,
    #[error("has nothing in it; begin with `paths:`")]
    Empty,
    #[error("want {want}, found {found}")]
    Type { want: &'static str, found: &'static str },
    #[error("unknown key {key}{}; known here: {}", meant(.nearest.as_ref()), .known.join(", "))]
    UnknownKey { key: Shown, nearest: Option<&'static str>, known: &'static [&'static str] },
    #[error("the key `{0}` is given twice; keep one")]
    KeyTwice(&'static str),
    #[error("the key `{0}` is missing; add it")]
    Missing(&'static str),
    #[error("the list is empty; {0}")]
    EmptyList(&'static str),
    #[error(
        "a secret does not belong into this file (its value is not shown); write it to a file of \
         its own, chmod it 0600, and name that with `{0}`"
    )]
    InlineSecret(&'static str),
    #[error(
        "this looks like a key (not shown), and no key belongs here; write it to a file of its \
         own, chmod it 0600, and name that file"
    )]
    KeyInWrongPlace,

    // Values.
    #[error("{0}")]
    Name(InvalidName),
    #[error("the text (not shown) is no name: want a-z, A-Z, 0-9, `_`, `-`")]
    HiddenName,
    #[error("{0}")]
    Key(InvalidKey),
    #[error("{0} is no duration; write a whole number with its unit, such as 500ms, 5s or 3m")]
    Duration(Shown),
    #[error("a duration of zero has no meaning here; write at least 1ms")]
    ZeroDuration,
    #[error("is longer than a day; check the unit")]
    LongDuration,
    #[error("is no mark; write a number from 1 to 0xffffffff, such as 0xca6c")]
    Fwmark,
    #[error(
        "{0} is no interface name: want 1 to 15 characters of a-z, A-Z, 0-9, `.`, `_`, `-`, `@`"
    )]
    Interface(Shown),
    #[error(
        "{0} is no host name: want 1 to 253 visible characters, as in the alerts' label `host`"
    )]
    Host(Shown),
    #[error("{0} is a hostname; put the address: a killswitch must not depend on DNS")]
    Hostname(Shown),
    #[error(
        "{0} is a hostname, and no converge has looked up its address yet: run `actuator converge`, \
         which does and pins it, or put the address"
    )]
    NotPinned(Shown),
    #[error(
        "{host} cannot be looked up ({why}), and no address of it is pinned from before: mend DNS \
         (a resolver inside the tunnel, or one in `allow` with `dns: allow`), or put the address"
    )]
    Unresolved { host: Shown, why: String },
    #[error("{0} is no address; write one such as 192.0.2.1 or 2001:db8::1")]
    Address(Shown),
    #[error("{0} is no network; write an address or a network such as 192.168.10.0/24")]
    Net(Shown),
    #[error(
        "{0} is no address with a port; write 192.0.2.1:51820, or [2001:db8::1]:51820 for IPv6"
    )]
    SocketAddress(Shown),
    #[error("{0} cannot answer through a tunnel; put the address of one host in it")]
    NoProbeTarget(Shown),
    #[error("{0} is no address with a port, such as `10.64.0.1:443` or `[fd00::1]:443`")]
    TargetPort(Shown),
    #[error("{0} is no name that DNS could be asked for; write one such as `example.com`, or `.`")]
    DnsName(Shown),
    #[error("only `kind: dns` asks for a name; remove `query`, or write the kind")]
    QueryWithoutDns,
    #[error("{0} cannot be talked to; put the address and port of one server")]
    NoPeerAddress(Shown),
    #[error("is no MTU; write bytes from 1280 to 65535, such as 1420")]
    Mtu,
    #[error("is no keepalive; write seconds from 1 to 65535, such as 25")]
    Keepalive,
    #[error(
        "keepalives are off; write seconds such as 25: without them an idle tunnel makes no \
         handshakes, and their age would mean nothing"
    )]
    KeepaliveOff,
    #[error("{got} is not known here; write {want}")]
    Choice { got: Shown, want: &'static str },
    #[error(
        "is neither one bit, such as 0x2000000, nor a value within its mask, such as \
         \"0x2000000/0xff000000\"; write one of them"
    )]
    WorkloadMark,
    #[error(
        "{0} is no network namespace; write the name of one, as in `ip netns`, or the absolute path \
         of its file"
    )]
    Netns(Shown),
    #[error(
        "has no meaning for a network namespace, whose only way out is the tunnel that `converge` \
         puts there; remove it"
    )]
    NotForNetns,
    #[error("{0} is no cgroup; write its path below /sys/fs/cgroup, such as `vpn.slice`")]
    Cgroup(Shown),
    #[error("there is no user {0} on this host; create it, or write its number")]
    UnknownUser(Shown),
    #[error(
        "is no user; write a name, a number below 4294967295, or a range of numbers such as \
         \"100000-165535\""
    )]
    Uid,
    #[error(
        "the subordinate ids of this user cannot be read from /etc/subuid ({0}); correct the file"
    )]
    Subordinate(String),
    #[error("root runs the tunnel and the host; lock another user, or the whole host")]
    RootLocked,
    #[error(
        "there is no cgroup /sys/fs/cgroup/{0}; make it before what runs in it starts, best a \
         systemd slice, which stays when its services end"
    )]
    NoCgroup(String),

    #[error(
        "is no SHA-256 fingerprint of a certificate; write 64 hexadecimal digits, with or without \
         colons, as `openssl x509 -noout -fingerprint -sha256` prints them"
    )]
    Fingerprint,

    // What does not fit together.
    #[error("`{0}` cannot stand beside `{1}`; remove one of them")]
    Exclude(&'static str, &'static str),
    #[error("`{name}` is used twice; names must differ{}", earlier(.first.as_ref()))]
    NameTwice { name: String, first: Option<usize> },
    #[error(
        "a second path locks the whole host, which `{0}` does already; whole-host locks exclude \
         each other: keep one path, with all endpoints"
    )]
    SecondHostLock(String),
    #[error("is the tunnel of path `{0}` already; give each path an interface of its own")]
    TunnelTwice(String),
    #[error(
        "the mark {0:#x} is that of path `{1}` already; give each path its own, and its routing too"
    )]
    FwmarkTwice(u32, String),
    #[error(
        "cannot be told from that of path `{0}`; give each scoped path a bit of its own, such as \
         0x2000000, or another value of the same mask"
    )]
    WorkloadMarkTwice(String),
    #[error(
        "the mark is also the number of the routing table, and {0} is one of the kernel's own; \
         write another, such as 0xca6c, or `bring_up: off`"
    )]
    MarkIsKernelTable(u32),
    #[error("has a bit in common with the fwmark {0:#x}; write another, such as 0x2000000")]
    MarksShareBits(u32),
    #[error("`{0}` is locked in by path `{1}` already; remove it in one of them")]
    ClaimedTwice(String, String),
    #[error("`{0}` is the tunnel of path `{1}`; no path may use another's: remove it here")]
    TunnelOfAnother(String, String),
    #[error("`{0}` is a tunnel; name the device by which the workload enters, such as its bridge")]
    WorkloadIsTunnel(String),
    #[error("`{0}` is an uplink; name the device by which the workload enters, such as its bridge")]
    WorkloadIsUplink(String),
    #[error("has no meaning for `workload: host`; remove it")]
    NotForHost(&'static str),
    #[error(
        "endpoint `{second}` is `{first}` again: same private key, peer key and address; \
         remove one"
    )]
    SameIdentity { first: String, second: String },
    #[error(
        "endpoints of one path must share their tunnel addresses: {} but {}; get both from the \
         provider for the same device, or make two paths", .0[0], .0[1]
    )]
    TunnelAddresses(Box<[TunnelAddresses; 2]>),
    #[error("the peer's key is this host's own; put the server's public key")]
    OwnKey,
    #[error("`{0}` cannot stand beside `wg_quick`; remove one of them")]
    BesideWgQuick(&'static str),
    #[error("`{0}` is the tunnel itself; name the device that leads to the Internet")]
    UplinkIsTunnel(String),
    #[error("`{0}` is the tunnel itself; remove it here")]
    AllowedIsTunnel(String),
    #[error("`{0}` is an uplink; allowing it would open the lock: remove it here")]
    AllowedIsUplink(String),
    #[error("`lo` is the loopback device, which leads nowhere; {0}")]
    Loopback(&'static str),
    #[error(
        "no device can be named `{0}`, which the kernel keeps for settings of all devices; correct \
         the name"
    )]
    ReservedInterface(String),
    #[error(
        "`{0}` is the bridge or bond, a port or the parent of the uplink `{1}`: what leaves by it \
         leaves this host, and allowing it would open the lock; remove it here"
    )]
    AllowedLeadsOut(String, String),
    #[error(
        "`{0}` is a port of `{1}`, and its traffic enters by that; name `{1}` if all of it is \
         locked in"
    )]
    WorkloadIsPort(String, String),
    #[error("`{0}` is another name of the device `{1}`, which no rule would match; write `{1}`")]
    AlternativeName(String, String),
    #[error(
        "`{0}` exists and is not a WireGuard device ({1}), so the lock would let everything out by \
         it; name the WireGuard device, or one that does not exist yet"
    )]
    NotWireguard(String, String),
    #[error(
        "the uplinks cannot be found ({0}), so no device can be compared with them; see `ip route`"
    )]
    NoUplinks(String),
    #[error("`{0}` is listed twice; keep one")]
    ListedTwice(String),
    #[error("`{0}` is everything, which would open the lock; name only what is local")]
    AllowsEverything(String),
    #[error(
        "`{0}` would open the lock: with it, `allow` and `management` of this path together hold \
         more than a /8 of the public IPv4 addresses or a /16 of the IPv6 ones; list only the hosts \
         and networks that you use"
    )]
    AllowsTooMuch(String),
    #[error("a probe's timeout must be shorter than `interval` ({0:?}); shorten it")]
    ProbeTimeout(Duration),
    #[error(
        "`handshake_stale_after` is too short: a working tunnel renews its handshake only every \
         two minutes and then waits for the next keepalive, which endpoint `{endpoint}` sends \
         every {keepalive} s, so it would read as down; write more than {oldest:?}"
    )]
    StaleTooSoon { endpoint: String, keepalive: u16, oldest: Duration },

    // The wg-quick file.
    #[error("unknown key {key}{} in [{section}]; correct or remove the line", meant(.nearest.as_ref()))]
    UnknownWgKey { key: Shown, nearest: Option<&'static str>, section: &'static str },
    #[error("is no `Key = value`; correct or remove the line (not shown)")]
    NoAssignment,
    #[error("unknown section; only [Interface] and [Peer] are known")]
    UnknownSection,
    #[error("stands before any section; begin with [Interface]")]
    NoSection,
    #[error("a second [Peer]; an endpoint is exactly one peer: make one file for each")]
    SecondPeer,
    #[error("there is no [{0}] section; add it")]
    MissingSection(&'static str),
    #[error("[{section}] has no {key}; add it")]
    MissingWgKey { section: &'static str, key: &'static str },
}

fn meant(nearest: Option<&&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

fn earlier(line: Option<&usize>) -> String {
    line.map_or_else(String::new, |line| format!(" (first on line {line})"))
}

/// The tunnel addresses of one endpoint, and the file they stand in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelAddresses {
    pub endpoint: String,
    pub addresses: Vec<String>,
    pub file: PathBuf,
}

impl fmt::Display for TunnelAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, addresses, file } = self;
        write!(f, "`{endpoint}` has {} (in {})", addresses.join(", "), file.display())
    }
}
