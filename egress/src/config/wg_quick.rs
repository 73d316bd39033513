//! The provider's own file, in the format of wg-quick(8) with exactly one peer.
//!
//! Must never run or look up anything it names, and never quote a value that may be a key (S10).

use std::net::IpAddr;

use ipnet::IpNet;

use super::error::Problem;
use super::nearest::nearest;
use super::server::Server;
use super::shown::Shown;
use super::value;
use crate::key::{PublicKey, SecretKey};

/// Known to wg-quick and of no meaning here: the killswitch, the mark and the routes are ours.
const IGNORED: [&str; 8] =
    ["Table", "FwMark", "ListenPort", "PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig"];
const INTERFACE: [&str; 4] = ["PrivateKey", "Address", "DNS", "MTU"];
const PEER: [&str; 5] =
    ["PublicKey", "PresharedKey", "Endpoint", "AllowedIPs", "PersistentKeepalive"];

/// A longer unknown key may be a piece of a secret: it is not printed.
const LONGEST_KEY: usize = 20;

/// What the file says.
#[derive(Debug)]
pub(super) struct WgQuick {
    pub private_key: SecretKey,
    pub addresses: Vec<IpNet>,
    pub public_key: PublicKey,
    pub preshared_key: Option<SecretKey>,
    pub endpoint: Server,
    pub allowed_ips: Vec<IpNet>,
    pub keepalive: Option<u16>,
    pub mtu: Option<u16>,
    /// The resolvers that it names; search domains are left out.
    pub dns: Vec<IpAddr>,
}

/// What is wrong, and in which line, counted from 1.
#[derive(Debug)]
pub(super) struct Fault {
    pub line: Option<usize>,
    pub problem: Problem,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Interface,
    Peer,
}

impl Section {
    fn name(self) -> &'static str {
        match self {
            Self::Interface => "Interface",
            Self::Peer => "Peer",
        }
    }

    fn keys(self) -> Vec<&'static str> {
        match self {
            Self::Interface => INTERFACE.into_iter().chain(IGNORED).collect(),
            Self::Peer => PEER.to_vec(),
        }
    }
}

#[derive(Default)]
struct Found {
    interface_line: Option<usize>,
    peer_line: Option<usize>,
    private_key: Option<SecretKey>,
    addresses: Vec<IpNet>,
    public_key: Option<PublicKey>,
    preshared_key: Option<SecretKey>,
    endpoint: Option<Server>,
    allowed_ips: Vec<IpNet>,
    keepalive: Option<u16>,
    mtu: Option<u16>,
    dns: Vec<IpAddr>,
}

pub(super) fn parse(text: &str) -> Result<WgQuick, Fault> {
    let mut found = Found::default();
    let mut section = None;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (nth, line) in text.lines().enumerate() {
        let number = nth + 1;
        let at = |problem| Fault { line: Some(number), problem };
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if line.starts_with('[') {
            section = Some(found.enter(line, number).map_err(at)?);
            continue;
        }
        let section = section.ok_or_else(|| at(Problem::NoSection))?;
        let (key, value) = line.split_once('=').ok_or_else(|| at(Problem::NoAssignment))?;
        found.set(section, key.trim(), value.trim()).map_err(at)?;
    }
    found.complete()
}

impl Found {
    fn enter(&mut self, header: &str, line: usize) -> Result<Section, Problem> {
        if header.eq_ignore_ascii_case("[Interface]") {
            self.interface_line.get_or_insert(line);
            return Ok(Section::Interface);
        }
        if !header.eq_ignore_ascii_case("[Peer]") {
            return Err(Problem::UnknownSection);
        }
        match self.peer_line.replace(line) {
            None => Ok(Section::Peer),
            Some(_) => Err(Problem::SecondPeer),
        }
    }

    fn set(&mut self, section: Section, key: &str, value: &str) -> Result<(), Problem> {
        let keys = section.keys();
        let Some(known) = keys.iter().find(|known| known.eq_ignore_ascii_case(key)) else {
            return Err(unknown(section, key, &keys));
        };
        match *known {
            "PrivateKey" => once(&mut self.private_key, known, secret(value)?),
            "PublicKey" => once(&mut self.public_key, known, value.parse().map_err(Problem::Key)?),
            "PresharedKey" => once(&mut self.preshared_key, known, secret(value)?),
            "Endpoint" => once(&mut self.endpoint, known, Server::parse(value)?),
            "PersistentKeepalive" => once(&mut self.keepalive, known, keepalive(value)?),
            "MTU" => once(&mut self.mtu, known, value::mtu_text(value)?),
            "DNS" => {
                self.dns
                    .extend(value.split(',').filter_map(|one| one.trim().parse::<IpAddr>().ok()));
                Ok(())
            }
            "Address" => list(&mut self.addresses, value, value::host_net),
            "AllowedIPs" => list(&mut self.allowed_ips, value, value::net),
            _ => Ok(()),
        }
    }

    fn complete(self) -> Result<WgQuick, Fault> {
        let (interface, peer) = (self.interface_line, self.peer_line);
        let no_section = |name| Fault { line: None, problem: Problem::MissingSection(name) };
        if interface.is_none() {
            return Err(no_section("Interface"));
        }
        if peer.is_none() {
            return Err(no_section("Peer"));
        }
        let missing = |section: Section, key| Fault {
            line: if section == Section::Peer { peer } else { interface },
            problem: Problem::MissingWgKey { section: section.name(), key },
        };
        if self.addresses.is_empty() {
            return Err(missing(Section::Interface, "Address"));
        }
        if self.allowed_ips.is_empty() {
            return Err(missing(Section::Peer, "AllowedIPs"));
        }
        Ok(WgQuick {
            private_key: self
                .private_key
                .ok_or_else(|| missing(Section::Interface, "PrivateKey"))?,
            addresses: self.addresses,
            public_key: self.public_key.ok_or_else(|| missing(Section::Peer, "PublicKey"))?,
            preshared_key: self.preshared_key,
            endpoint: self.endpoint.ok_or_else(|| missing(Section::Peer, "Endpoint"))?,
            allowed_ips: self.allowed_ips,
            keepalive: self.keepalive,
            mtu: self.mtu,
            dns: self.dns,
        })
    }
}

fn unknown(section: Section, key: &str, keys: &[&'static str]) -> Problem {
    let short = key.len() <= LONGEST_KEY;
    Problem::UnknownWgKey {
        key: if short { Shown::of(key) } else { Shown::hidden() },
        nearest: nearest(key, keys),
        section: section.name(),
    }
}

fn once<T>(slot: &mut Option<T>, key: &'static str, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Problem::KeyTwice(key)),
    }
}

fn secret(text: &str) -> Result<SecretKey, Problem> {
    text.parse().map_err(Problem::Key)
}

/// Lists may be spread over commas and lines.
fn list(
    into: &mut Vec<IpNet>,
    text: &str,
    parse: fn(&str) -> Result<IpNet, Problem>,
) -> Result<(), Problem> {
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let net = parse(part)?;
        if !into.contains(&net) {
            into.push(net);
        }
    }
    Ok(())
}

fn keepalive(text: &str) -> Result<u16, Problem> {
    if text.eq_ignore_ascii_case("off") {
        return Err(Problem::KeepaliveOff);
    }
    text.parse().map_err(|_| Problem::Keepalive).and_then(value::keepalive)
}
