//! Looks up the hostnames of a path's endpoints, for a converge and for nothing else. What it finds
//! is pinned by the converge; an answer that cannot be had changes no pin.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::time::Duration;

use egress::bounded::bounded;
use egress::config::NoAddress;
use egress::names::PathName;
use egress::pins::{self, Pin, Pins};
use egress::state::{Store, Timestamp};

/// A resolver that lives answers within one; a converge has other things to do within its own bound.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What every hostname stands for now, by path, and what has to be said of it.
pub struct Resolver<'a> {
    store: &'a Store,
    found: RefCell<BTreeMap<PathName, Found>>,
}

/// Of one path.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub pins: Pins,
    /// Hostnames that were not answered, whose pin stays.
    pub warnings: Vec<String>,
}

impl<'a> Resolver<'a> {
    pub fn new(store: &'a Store) -> Self {
        Self { store, found: RefCell::default() }
    }

    /// For reading the config.
    pub fn lookup(&self, path: &PathName, host: &str) -> Result<IpAddr, NoAddress> {
        let mut found = self.found.borrow_mut();
        let found = found.entry(path.clone()).or_default();
        if let Some(known) = found.pins.get(host) {
            return Ok(known.address);
        }
        let pinned = pins::read(self.store, path).get(host).copied();
        let (pin, warning) = choose(host, pinned, ask(host), Timestamp::now())?;
        found.pins.insert(host.to_owned(), pin);
        found.warnings.extend(warning);
        Ok(pin.address)
    }

    pub fn found(self) -> BTreeMap<PathName, Found> {
        self.found.into_inner()
    }
}

/// What is pinned stays where the answer still has it: a name of several servers must not wander.
fn choose(
    host: &str,
    pinned: Option<Pin>,
    answer: Result<Vec<IpAddr>, String>,
    now: Timestamp,
) -> Result<(Pin, Option<String>), NoAddress> {
    match (answer, pinned) {
        (Ok(addresses), Some(pin)) if addresses.contains(&pin.address) => Ok((pin, None)),
        (Ok(addresses), _) => {
            let first = addresses.iter().find(|ip| ip.is_ipv4()).or(addresses.first());
            let address = *first.ok_or_else(|| NoAddress::Unresolved("no address".to_owned()))?;
            Ok((Pin { address, at: now }, None))
        }
        (Err(why), Some(pin)) => {
            let warning = format!(
                "hostname {host} cannot be looked up ({why}): {} stays pinned",
                pin.address
            );
            Ok((pin, Some(warning)))
        }
        (Err(why), None) => Err(NoAddress::Unresolved(why)),
    }
}

/// What DNS says, as this host is set up to ask it.
fn ask(host: &str) -> Result<Vec<IpAddr>, String> {
    let name = host.to_owned();
    let answer = bounded("dns", TIMEOUT, move || {
        // Any port: it is left out of the answer.
        (name.as_str(), 0).to_socket_addrs().map_err(|error| error.to_string())
    });
    let addresses = answer.map_err(|late| late.to_string())??;
    Ok(addresses.map(|address| address.ip().to_canonical()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));
    const NEW: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

    #[test]
    fn a_pin_changes_only_where_the_answer_no_longer_has_it() {
        let pin = Pin { address: OLD, at: Timestamp(1) };
        let now = Timestamp(2);
        let v6: IpAddr = "2001:db8::1".parse().expect("an address");
        let chosen = |pinned, answer: Result<Vec<IpAddr>, &str>| {
            choose("de1.example", pinned, answer.map_err(str::to_owned), now)
        };
        assert_eq!(chosen(None, Ok(vec![v6, NEW])), Ok((Pin { address: NEW, at: now }, None)));
        assert_eq!(chosen(Some(pin), Ok(vec![NEW, OLD])), Ok((pin, None)), "it wanders not");
        let moved = Ok((Pin { address: NEW, at: now }, None));
        assert_eq!(chosen(Some(pin), Ok(vec![NEW])), moved);
        let (kept, warning) = chosen(Some(pin), Err("no answer")).expect("the pin");
        assert_eq!(kept, pin);
        let warning = warning.expect("a warning");
        assert!(warning.contains("de1.example cannot be looked up (no answer)"), "{warning}");
        let none = Err(NoAddress::Unresolved("no answer".to_owned()));
        assert_eq!(chosen(None, Err("no answer")), none);
        assert!(chosen(None, Ok(Vec::new())).is_err());
    }
}
