//! Single values: what a text means, or why it means nothing.
//!
//! Must never look up a name: an address is an address.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::error::Problem;
use super::health::DnsName;
use super::shown::Shown;
use crate::mark::Mark;
use crate::names::InvalidName;

/// The kernel's limit (IFNAMSIZ, less the closing zero).
const LONGEST_INTERFACE: usize = 15;

/// Of a whole DNS name.
const LONGEST_HOST: usize = 253;

/// Beyond this a duration is a slip of the unit.
const LONGEST_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn name<T: FromStr<Err = InvalidName>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error| {
        if Shown::of(text).is_hidden() { Problem::HiddenName } else { Problem::Name(error) }
    })
}

pub(super) fn duration(text: &str) -> Result<Duration, Problem> {
    let wrong = || Problem::Duration(Shown::of(text));
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let duration = number.checked_mul(milliseconds).map(Duration::from_millis);
    match duration {
        Some(Duration::ZERO) => Err(Problem::ZeroDuration),
        Some(duration) if duration <= LONGEST_DURATION => Ok(duration),
        _ => Err(Problem::LongDuration),
    }
}

/// What a label says, compared as it stands.
pub(super) fn host(text: &str) -> Result<String, Problem> {
    let fits = (1..=LONGEST_HOST).contains(&text.len());
    if fits && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(Problem::Host(Shown::of(text)))
}

/// Narrower than the kernel: a `*` would be a wildcard in a rule, and open the lock.
pub(super) fn interface(text: &str) -> Result<String, Problem> {
    let narrow = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    let fits = (1..=LONGEST_INTERFACE).contains(&text.len());
    // The kernel keeps these two for the settings of all devices and of new ones.
    if text == "all" || text == "default" {
        return Err(Problem::ReservedInterface(text.to_owned()));
    }
    if fits && text.chars().all(narrow) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err(Problem::Interface(Shown::of(text)))
}

pub(super) fn ip(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map(|ip: IpAddr| ip.to_canonical()).map_err(|_| {
        if is_hostname(text) { hostname(text) } else { Problem::Address(Shown::of(text)) }
    })
}

/// What can answer an echo from inside the tunnel.
pub(super) fn target(text: &str) -> Result<IpAddr, Problem> {
    let target = ip(text)?;
    if target.is_unspecified() || target.is_multicast() || target.is_loopback() {
        return Err(Problem::NoProbeTarget(Shown::of(text)));
    }
    Ok(target)
}

/// The same, and the port to connect to.
pub(super) fn target_port(text: &str) -> Result<SocketAddr, Problem> {
    let address: SocketAddr = text.parse().map_err(|_| {
        let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
        if is_hostname(host) { hostname(host) } else { Problem::TargetPort(Shown::of(text)) }
    })?;
    let ip =
        target(&address.ip().to_string()).map_err(|_| Problem::NoProbeTarget(Shown::of(text)))?;
    if address.port() == 0 {
        return Err(Problem::TargetPort(Shown::of(text)));
    }
    Ok(SocketAddr::new(ip, address.port()))
}

/// An address with its port, or alone and with the usual one.
pub(super) fn target_or_port(text: &str, usual: u16) -> Result<SocketAddr, Problem> {
    match text.parse::<IpAddr>() {
        Ok(_) => target(text).map(|ip| SocketAddr::new(ip, usual)),
        Err(_) => target_port(text),
    }
}

pub(super) fn dns_name(text: &str) -> Result<DnsName, Problem> {
    DnsName::parse(text).ok_or_else(|| Problem::DnsName(Shown::of(text)))
}

/// A network, or an address as the network of it alone. Keeps the bits after the prefix: they are
/// the host's own address where this is a tunnel address.
pub(super) fn host_net(text: &str) -> Result<IpNet, Problem> {
    let net = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| IpNet::from(ip)));
    net.map_err(|_| {
        let host = text.split('/').next().unwrap_or(text);
        if is_hostname(host) { hostname(host) } else { Problem::Net(Shown::of(text)) }
    })
}

pub(super) fn net(text: &str) -> Result<IpNet, Problem> {
    host_net(text).map(|net| net.trunc())
}

/// The address and port of a server.
pub(super) fn server(text: &str) -> Result<SocketAddr, Problem> {
    let address: SocketAddr = text.parse().map_err(|_| {
        let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
        if is_hostname(host) { hostname(host) } else { Problem::SocketAddress(Shown::of(text)) }
    })?;
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err(Problem::NoPeerAddress(Shown::of(text)));
    }
    // A mapped address would leave as IPv4 and never match a rule for IPv6.
    Ok(if ip == address.ip() { address } else { SocketAddr::new(ip, address.port()) })
}

pub(super) fn keepalive(seconds: u64) -> Result<u16, Problem> {
    match u16::try_from(seconds) {
        Ok(0) => Err(Problem::KeepaliveOff),
        Ok(seconds) => Ok(seconds),
        Err(_) => Err(Problem::Keepalive),
    }
}

/// IPv6 asks for 1280; a tunnel without IPv6 has no use for less.
const SMALLEST_MTU: u16 = 1280;

pub(super) fn mtu(bytes: u64) -> Result<u16, Problem> {
    u16::try_from(bytes).ok().filter(|mtu| *mtu >= SMALLEST_MTU).ok_or(Problem::Mtu)
}

pub(super) fn mtu_text(text: &str) -> Result<u16, Problem> {
    text.parse().map_err(|_| Problem::Mtu).and_then(mtu)
}

pub(super) fn fwmark(number: u64) -> Result<u32, Problem> {
    u32::try_from(number).ok().filter(|mark| *mark != 0).ok_or(Problem::Fwmark)
}

/// A mark given in quotes.
pub(super) fn fwmark_text(text: &str) -> Result<u32, Problem> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| Problem::Fwmark).and_then(fwmark)
}

/// A value and its mask.
pub(super) fn masked(text: &str) -> Result<Mark, Problem> {
    let parts = text.split_once('/').map(|(value, mask)| (fwmark_text(value), fwmark_text(mask)));
    let Some((Ok(value), Ok(mask))) = parts else { return Err(Problem::WorkloadMark) };
    Mark::masked(value, mask).ok_or(Problem::WorkloadMark)
}

fn hostname(text: &str) -> Problem {
    Problem::Hostname(Shown::of(text))
}

fn is_hostname(text: &str) -> bool {
    text.parse::<IpAddr>().is_err()
        && text.contains(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_alphanumeric() || "-._".contains(c))
}
