//! Why nothing can be said of the exemption, and the mend.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What kept the controller's answer from being known. None of it says that the exemption is absent.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    #[error("no controller is configured; write `ids.unifi` into the config (docs/ids.md)")]
    NotConfigured,
    #[error("the address of this host as the inspection sees it is not known: {0}")]
    Address(String),

    // This side.
    #[error("the file with the API key, {file}, cannot be read; create it, mode 0600 or 0640")]
    KeyUnreadable {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the file with the API key, {file}, can be read by others; run: chmod o-rwx {file}, and \
         consider the key known to others"
    )]
    KeyExposed { file: PathBuf },
    #[error("the file with the API key, {file}, {problem}")]
    Key { file: PathBuf, problem: &'static str },
    #[error("the authorities in {file} cannot be read: {problem}; give a PEM file of certificates")]
    Authorities { file: PathBuf, problem: String },
    #[error(
        "this system trusts no certificate authority that could be read; install ca-certificates, \
         or give `ca_file` or `pin_sha256`"
    )]
    NoAuthorities,
    #[error("TLS cannot be set up: {0}")]
    Tls(String),

    // The way there.
    #[error("{to} refuses connections: {hint}")]
    Refused {
        to: SocketAddr,
        hint: String,
        #[source]
        source: io::Error,
    },
    #[error("{to} cannot be reached: {hint}")]
    Unreachable {
        to: SocketAddr,
        hint: String,
        #[source]
        source: io::Error,
    },
    #[error("{to} did not answer within {limit:?}, {doing}; is it up, and is the address right?")]
    Slow { to: SocketAddr, limit: Duration, doing: &'static str },
    #[error(
        "the controller's certificate is not the pinned one: it has {seen}. Either it was renewed, \
         or somebody else answers: compare at the controller itself, then correct `pin_sha256`"
    )]
    WrongPin { seen: String },
    #[error(
        "the controller's certificate is not trusted ({problem}): give its authority as `ca_file`, \
         or pin it with `pin_sha256` (docs/ids.md says how to get that)"
    )]
    Untrusted { problem: String },
    #[error("the connection to the controller broke: {0}; try again")]
    Broken(String),

    // What it answered.
    #[error(
        "the controller answered {status}: it does not accept the API key, which has expired, was \
         deleted, or was mistyped; make a new one there and put it into {file}"
    )]
    KeyRejected { status: u16, file: PathBuf },
    #[error(
        "the controller answered 403: the API key is known, but may not do this; its owner needs to \
         be an administrator of this site"
    )]
    NotAllowed,
    #[error("the controller answered 429, too many requests; try again {}", after(.0.as_deref()))]
    TooMany(Option<String>),
    #[error(
        "the controller answered {status}, a redirect to {to}; it is not followed, because the API \
         key would go with it: correct `url`"
    )]
    Redirect { status: u16, to: String },
    #[error(
        "the controller answered 404 for {path}: this is no UniFi OS console (a standalone Network \
         Application has no API keys: exempt the host by hand, see `actuator ids render --for \
         unifi`), or a release whose API is another one"
    )]
    NoSuchPath { path: String },
    #[error(
        "the controller answered with a page (HTML) and not with JSON: a login form, or something \
         else than a UniFi controller is at this address"
    )]
    Page,
    #[error("the controller answered {status}; it may be starting: try again in some minutes")]
    Failing { status: u16 },
    #[error("the controller answered {status} and refused: {message}")]
    RefusedByController { status: u16, message: String },
    #[error("the controller's answer is larger than {0} bytes; this is no IPS setting")]
    TooBig(usize),
    #[error("the controller's answer is no JSON: {0}")]
    NoJson(String),
    #[error(
        "the controller answered 200 with an empty list. That says nothing about the exemption: \
         is the site's name right, and has IPS ever been set up there?"
    )]
    Empty,
    #[error(
        "the controller's answer has another shape than this version knows: {0}; nothing was \
         written, exempt the host by hand"
    )]
    Shape(String),
    #[error(
        "the entry was written and accepted, and is not there when read again ({0} tries): somebody \
         else writes this setting at the same time"
    )]
    NotKept(u32),
}

fn after(told: Option<&str>) -> String {
    told.map_or_else(|| "in some minutes".to_owned(), |time| format!("after {time} s"))
}

/// What a stranger said, as far as it can be printed: short and on one line.
pub(crate) fn printable(text: &str) -> String {
    const MOST: usize = 120;
    let clean: String = text.chars().filter(|c| !c.is_control()).take(MOST).collect();
    if clean.len() == text.len() { clean } else { format!("{clean}...") }
}
