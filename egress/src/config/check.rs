//! What each value alone cannot show: that they fit together.
//!
//! Must never mend anything by itself: two readings of a lock are no lock.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;

use super::cursor::{Cursor, Fields};
use super::error::{ConfigError, Problem, TunnelAddresses};
use super::health::HEALTH;
use super::read::Found;
use super::span;
use super::{BringUp, Endpoint, PathConfig, Uplinks, Workload};

/// `REKEY_AFTER_TIME` of the protocol: a working session's handshake is renewed no sooner, and
/// then with the next packet, which on an idle tunnel is the next keepalive.
const REKEY_AFTER: Duration = Duration::from_secs(120);

/// The device by which a host reaches itself, and nothing else.
pub(super) const LOOPBACK: &str = "lo";

pub(super) fn paths(at: &[Cursor<'_>], paths: &[PathConfig]) -> Result<(), ConfigError> {
    for (nth, path) in paths.iter().enumerate() {
        for (first, earlier) in paths[..nth].iter().enumerate() {
            if earlier.name == path.name {
                let (name, line) = (path.name.to_string(), at[first].line());
                let problem = Problem::NameTwice { name, first: line };
                return Err(at[nth].error_after(&at[first], problem));
            }
            if (&earlier.workload, &path.workload) == (&Workload::Host, &Workload::Host) {
                let problem = Problem::SecondHostLock(earlier.name.to_string());
                return Err(at[nth].error_after(&at[first], problem));
            }
        }
    }
    Ok(())
}

/// Each against all before it: by name, by identity, and by the tunnel addresses of the first one
/// that names any.
pub(super) fn endpoints(found: &[Found<'_>]) -> Result<(), ConfigError> {
    let (mut names, mut identities) = (BTreeMap::new(), BTreeMap::new());
    let mut addressed: Option<(&Found<'_>, BTreeSet<String>)> = None;
    for second in found {
        let other = &second.endpoint;
        if let Some(first) = names.insert(&other.name, second) {
            let (name, line) = (other.name.to_string(), first.name_at.line());
            let problem = Problem::NameTwice { name, first: line };
            return Err(second.name_at.error_after(&first.name_at, problem));
        }
        if let Some(first) = identities.insert(identity(other), second) {
            let (first_name, second_name) =
                (first.endpoint.name.to_string(), other.name.to_string());
            let problem = Problem::SameIdentity { first: first_name, second: second_name };
            return Err(second.at.error_after(&first.at, problem));
        }
        let there = addresses(other);
        match &addressed {
            _ if there.is_empty() => {}
            None => addressed = Some((second, there)),
            Some((_, here)) if *here == there => {}
            Some((first, here)) => return Err(differ((first, here.clone()), (second, there))),
        }
    }
    Ok(())
}

fn differ(
    first: (&Found<'_>, BTreeSet<String>),
    second: (&Found<'_>, BTreeSet<String>),
) -> ConfigError {
    let (at, first_at) = (&second.0.at, &first.0.at);
    let side = |(found, addresses): (&Found<'_>, BTreeSet<String>)| TunnelAddresses {
        endpoint: found.endpoint.name.to_string(),
        addresses: addresses.into_iter().collect(),
        file: found.file.clone(),
    };
    let problem = Problem::TunnelAddresses(Box::new([side(first), side(second)]));
    at.error_after(first_at, problem)
}

fn identity(endpoint: &Endpoint) -> (&[u8; 32], &[u8; 32], std::net::SocketAddr) {
    (endpoint.private_key.expose(), endpoint.public_key.as_bytes(), endpoint.address)
}

fn addresses(endpoint: &Endpoint) -> BTreeSet<String> {
    endpoint.tunnel_addresses.iter().map(ToString::to_string).collect()
}

pub(super) fn path(fields: &Fields<'_>, path: &PathConfig) -> Result<(), ConfigError> {
    let uplinks: &[String] = match &path.uplinks {
        Uplinks::Auto => &[],
        Uplinks::Named(names) => names,
    };
    if path.interface == LOOPBACK {
        let written = fields.get("interface");
        let problem = Problem::Loopback("name the WireGuard device, such as `wg0`");
        return Err(written.as_ref().unwrap_or(fields.at()).error(problem));
    }
    each(fields, "uplinks", uplinks, |name| match name.as_str() {
        LOOPBACK => {
            Some(Problem::Loopback("name the device that leads to the Internet, or write `auto`"))
        }
        name if name == path.interface => Some(Problem::UplinkIsTunnel(name.to_owned())),
        _ => None,
    })?;
    each(fields, "allow_interfaces", &path.allow_interfaces, |name| {
        if name == LOOPBACK {
            return Some(Problem::Loopback("it is always allowed, so remove it"));
        }
        if *name == path.interface {
            return Some(Problem::AllowedIsTunnel(name.clone()));
        }
        uplinks.contains(name).then(|| Problem::AllowedIsUplink(name.clone()))
    })?;
    networks(fields, path)?;
    each(fields, "ntp", &path.ntp, |_| None)?;
    table(fields, path)?;
    staleness(fields, path)
}

/// What may be reached outside the tunnel is judged as a whole: the lists open the same walls.
fn networks(fields: &Fields<'_>, path: &PathConfig) -> Result<(), ConfigError> {
    let reached = RefCell::new(Vec::<IpNet>::new());
    for (key, nets) in [("allow", &path.allow), ("management", &path.management)] {
        each(fields, key, nets, |net| {
            if net.prefix_len() == 0 {
                return Some(Problem::AllowsEverything(net.to_string()));
            }
            let mut reached = reached.borrow_mut();
            reached.push(*net);
            span::opens_the_lock(&reached).then(|| Problem::AllowsTooMuch(net.to_string()))
        })?;
    }
    Ok(())
}

/// The routing table has the mark's number, and must be nobody else's.
fn table(fields: &Fields<'_>, path: &PathConfig) -> Result<(), ConfigError> {
    /// `default`, `main` and `local`, of `linux/rtnetlink.h`.
    const KERNELS: std::ops::RangeInclusive<u32> = 253..=255;
    if path.bring_up == BringUp::Off || !KERNELS.contains(&path.fwmark) {
        return Ok(());
    }
    let written = fields.get("fwmark");
    let at = written.as_ref().unwrap_or(fields.at());
    Err(at.error(Problem::MarkIsKernelTable(path.fwmark)))
}

/// Every item of a list that was written: none twice, and none that the rule objects to.
fn each<T: PartialEq + ToString>(
    fields: &Fields<'_>,
    key: &str,
    values: &[T],
    objection: impl Fn(&T) -> Option<Problem>,
) -> Result<(), ConfigError> {
    for (nth, value) in values.iter().enumerate() {
        let twice = || {
            let again = values[..nth].contains(value);
            again.then(|| Problem::ListedTwice(value.to_string()))
        };
        if let Some(problem) = objection(value).or_else(twice) {
            let list = fields.get(key).map(|list| list.items()).transpose()?;
            let item = list.as_ref().and_then(|items| items.get(nth));
            return Err(item.unwrap_or(fields.at()).error(problem));
        }
    }
    Ok(())
}

/// A healthy tunnel must never look down (S4 counts such cycles).
fn staleness(fields: &Fields<'_>, path: &PathConfig) -> Result<(), ConfigError> {
    for endpoint in &path.endpoints {
        let keepalive = endpoint.persistent_keepalive;
        let oldest = REKEY_AFTER + Duration::from_secs(keepalive.into());
        if path.health.handshake_stale_after <= oldest {
            let problem =
                Problem::StaleTooSoon { endpoint: endpoint.name.to_string(), keepalive, oldest };
            let health = fields.get("health").map(|at| at.fields(HEALTH)).transpose()?;
            let written = health.and_then(|fields| fields.get("handshake_stale_after"));
            return Err(written.as_ref().unwrap_or(fields.at()).error(problem));
        }
    }
    Ok(())
}
