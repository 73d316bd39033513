//! `ids`: who is exempt from inspection by an IDS/IPS, and the controller that knows of it.
//!
//! Must never stand in the lock's way: what is only needed to talk to the controller (the API key,
//! a certificate) is named here and read when it is used.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::cursor::Cursor;
use super::error::{ConfigError, Problem};
use super::shown::Shown;
use super::{keyfile, value};

pub(super) const IDS: &[&str] = &["egress_address", "unifi"];
const UNIFI: &[&str] = &[
    "url",
    "site",
    "api_key_file",
    "ca_file",
    "pin_sha256",
    "server_name",
    "direction",
    "poll_interval",
    "apply",
];

/// The port of `https`.
const HTTPS: u16 = 443;

/// A rebuilt controller is no matter of minutes, and controllers count requests.
const DEFAULT_POLL: Duration = Duration::from_secs(15 * 60);

/// SHA-256, as hexadecimal digits.
const FINGERPRINT: usize = 64;

/// What is known of an IDS/IPS on the way; empty where the file says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// The address that the inspection sees; found by the route where it is left out.
    pub egress_address: Option<IpAddr>,
    pub unifi: Option<Unifi>,
}

/// A UniFi controller, by its own API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unifi {
    pub address: SocketAddr,
    pub site: String,
    /// Not read with the config: see the top.
    pub api_key_file: PathBuf,
    pub trust: Trust,
    /// The name in the controller's certificate, where it is not the address.
    pub server_name: Option<String>,
    pub direction: Direction,
    /// Between two looks of the exporter.
    pub poll_interval: Duration,
    pub apply: Apply,
}

/// What proves that it is the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that this system trusts.
    System,
    /// The authorities, or the very certificate, in this file.
    Authority(PathBuf),
    /// The SHA-256 of the controller's certificate.
    Pin([u8; 32]),
}

/// Which packets of the host are exempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Source,
    Both,
}

/// Who makes the exemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    ByHand,
    Converge,
}

impl Direction {
    /// As a UniFi controller has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "src",
            Self::Both => "both",
        }
    }
}

pub(super) fn ids(at: &Cursor<'_>) -> Result<Ids, ConfigError> {
    let fields = at.fields(IDS)?;
    Ok(Ids {
        egress_address: fields.read("egress_address", None, |at| at.value(host).map(Some))?,
        unifi: fields.read("unifi", None, |at| unifi(at).map(Some))?,
    })
}

fn unifi(at: &Cursor<'_>) -> Result<Unifi, ConfigError> {
    let fields = at.fields(UNIFI)?;
    let trust = match (fields.get("ca_file"), fields.get("pin_sha256")) {
        (Some(file), None) => Trust::Authority(keyfile::resolve(&file)?),
        (None, Some(pin)) => Trust::Pin(fingerprint(&pin)?),
        (None, None) => Trust::System,
        (Some(_), Some(pin)) => {
            return Err(pin.error(Problem::Exclude("pin_sha256", "ca_file")));
        }
    };
    Ok(Unifi {
        address: fields.need("url")?.value(url)?,
        site: fields.read("site", "default".to_owned(), |at| at.value(site))?,
        api_key_file: keyfile::resolve(&fields.need("api_key_file")?)?,
        trust,
        server_name: fields.read("server_name", None, |at| at.value(server_name).map(Some))?,
        direction: fields.read("direction", Direction::Source, |at| at.value(direction))?,
        poll_interval: fields
            .read("poll_interval", DEFAULT_POLL, |at| at.value(value::duration))?,
        apply: fields.read("apply", Apply::ByHand, |at| at.value(apply))?,
    })
}

fn choice(got: &str, want: &'static str) -> Problem {
    Problem::Choice { got: Shown::of(got), want }
}

/// What packets can come from.
fn host(text: &str) -> Result<IpAddr, Problem> {
    let address = value::ip(text)?;
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(choice(text, "this host's address on the network that is inspected"));
    }
    Ok(address)
}

/// An address, for the lock does not depend on names, and nothing behind it.
fn url(text: &str) -> Result<SocketAddr, Problem> {
    const WANT: &str = "`https://`, the controller's address and, if it is not 443, its port, such \
                        as https://192.168.10.1";
    let wrong = || choice(text, WANT);
    let host = text.strip_prefix("https://").ok_or_else(wrong)?;
    let host = host.strip_suffix('/').unwrap_or(host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, HTTPS));
    let address = address.or_else(|_| host.parse()).map_err(|_| wrong())?;
    let unusable = address.ip().is_unspecified() || address.ip().is_multicast();
    if address.port() == 0 || unusable { Err(wrong()) } else { Ok(address) }
}

/// Part of the path of a request: nothing that could lead elsewhere.
fn site(text: &str) -> Result<String, Problem> {
    let narrow = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(narrow) {
        return Ok(text.to_owned());
    }
    Err(choice(text, "the site's short name, as in the controller's own address bar: `default`"))
}

fn server_name(text: &str) -> Result<String, Problem> {
    let narrow = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    if (1..=253).contains(&text.len()) && text.chars().all(narrow) {
        return Ok(text.to_owned());
    }
    Err(choice(text, "the DNS name in the controller's certificate"))
}

fn direction(text: &str) -> Result<Direction, Problem> {
    match text {
        "src" => Ok(Direction::Source),
        "both" => Ok(Direction::Both),
        _ => Err(choice(text, "`src` or `both`")),
    }
}

fn apply(text: &str) -> Result<Apply, Problem> {
    match text {
        "by-hand" => Ok(Apply::ByHand),
        "converge" => Ok(Apply::Converge),
        _ => Err(choice(text, "`by-hand` or `converge`")),
    }
}

/// With or without colons, as openssl and browsers show it. It is no secret, though as long as one.
fn fingerprint(at: &Cursor<'_>) -> Result<[u8; 32], ConfigError> {
    let wrong = || at.error(Problem::Fingerprint);
    let digits: String = at.any_text()?.chars().filter(|c| *c != ':').collect();
    if digits.len() != FINGERPRINT || !digits.is_ascii() {
        return Err(wrong());
    }
    let mut bytes = [0; 32];
    for (byte, nth) in bytes.iter_mut().zip((0..FINGERPRINT).step_by(2)) {
        // `from_str_radix` takes a sign; a fingerprint has none.
        let pair = Some(&digits[nth..nth + 2]).filter(|pair| !pair.starts_with('+'));
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(wrong)?;
    }
    Ok(bytes)
}
