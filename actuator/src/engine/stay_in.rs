//! Whom a load of the walls would cut off: said before it is done, and refused where that is the
//! person who asks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use egress::config::{DnsPolicy, Workload};
use egress::connections::{self, Connection, Established, OpenedBy};
use egress::error::chain;
use egress::firewall::Rules;

/// Named in one message; more are counted.
const NAMED: usize = 10;

/// Ports that the walls refuse whatever is allowed: DNS, and DNS over TLS.
const DNS_PORTS: [u16; 2] = [53, 853];

/// What loading `new` cuts of what `old` lets live; `old` is `None` where there is no lock yet.
pub struct CutOff {
    /// Of the sessions of the person who asks.
    pub own: Vec<Connection>,
    /// Everything else, each with its program where that is known.
    pub others: Vec<String>,
}

impl CutOff {
    pub fn by(new: &Rules, old: Option<&Rules>, sessions: &[Connection]) -> Self {
        let devices = connections::devices().unwrap_or_else(|error| {
            tracing::warn!(error = chain(error), "this host's addresses could not be read");
            BTreeMap::new()
        });
        let established = connections::established().unwrap_or_else(|error| {
            tracing::warn!(error = chain(error), "established connections could not be read");
            Vec::new()
        });
        let dies = |one: &Connection, opened: OpenedBy| {
            !lives(new, one, opened, &devices)
                && old.is_none_or(|old| lives(old, one, opened, &devices))
        };
        // A session by SSH was opened by its peer, whatever the table of connections says.
        let own: Vec<Connection> =
            sessions.iter().copied().filter(|one| dies(one, OpenedBy::Peer)).collect();
        let others: Vec<Established> = established
            .into_iter()
            .filter(|one| dies(&one.connection, one.opened_by) && !own.contains(&one.connection))
            .collect();
        let programs = connections::programs(&others);
        let others = others.iter().map(|one| {
            let program = programs.get(&one.connection);
            let program = program.map_or_else(String::new, |program| format!(" ({program})"));
            let Connection { local, peer } = one.connection;
            match one.opened_by {
                OpenedBy::Peer => format!("{peer} -> {local}{program}"),
                OpenedBy::ThisHost => format!("{local} -> {peer}{program}"),
            }
        });
        Self { own, others: others.collect() }
    }

    /// Why it must not be done, if it must not.
    pub fn refusal(&self) -> Option<String> {
        let first = self.own.first()?;
        let own = named(&self.own());
        let also = match self.others.as_slice() {
            [] => String::new(),
            others => format!("; also {}", named(others)),
        };
        Some(format!(
            "refused: this would cut the session you ask from, {own}{also}; add {} to \
             `management`, or use --force",
            first.peer.ip()
        ))
    }

    /// All that is cut, in one line; `None` where nothing is.
    pub fn listed(&self) -> Option<String> {
        let all = [self.own(), self.others.clone()].concat();
        (!all.is_empty()).then(|| named(&all))
    }

    fn own(&self) -> Vec<String> {
        self.own.iter().map(|one| format!("{} -> {}", one.peer, one.local)).collect()
    }
}

fn named(connections: &[String]) -> String {
    let named = connections.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match connections.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Whether a connection goes on under `rules`. By which device it leaves is taken from the address
/// that it is bound to.
fn lives(
    rules: &Rules,
    one: &Connection,
    opened: OpenedBy,
    devices: &BTreeMap<IpAddr, String>,
) -> bool {
    let peer = one.peer.ip();
    let within = |nets: &[ipnet::IpNet]| nets.iter().any(|net| net.contains(&peer));
    let by_device = devices
        .get(&one.local.ip())
        .is_some_and(|name| *name == rules.interface || rules.allow_interfaces.contains(name));
    let is_dns = rules.dns == DnsPolicy::Refuse && DNS_PORTS.contains(&one.peer.port());
    // A scoped lock leaves the host's own connections alone; those of its users are not looked for.
    rules.workload != Workload::Host
        || peer.is_loopback()
        || devices.contains_key(&peer)
        || by_device
        || (within(&rules.management) && opened == OpenedBy::Peer)
        || (within(&rules.allow) && !is_dns)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use egress::config::Config;

    use super::*;

    fn rules(lines: &str) -> Rules {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("egress.yml");
        let key = dir.path().join("key");
        std::fs::write(&key, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=").expect("written");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("set");
        let yaml = format!(
            "paths:\n  - name: media\n    interface: wg0\n{lines}\n    endpoints:\n      - name: a\n        \
             address: 198.51.100.10:51820\n        public_key: \
             AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\n        private_key_file: {}\n",
            key.display()
        );
        std::fs::write(&file, yaml).expect("written");
        Rules::of(&Config::load(&file).expect("valid").paths[0])
    }

    #[test]
    fn a_connection_lives_by_what_the_walls_let_out() {
        let rules = rules(
            "    management: [10.0.0.0/24]\n    allow: [10.1.0.0/16]\n    allow_interfaces: [br0]",
        );
        let devices: BTreeMap<IpAddr, String> =
            [("10.0.0.2", "eth0"), ("10.64.0.2", "wg0"), ("172.20.0.1", "br0")]
                .map(|(address, device)| (address.parse().expect("one"), device.to_owned()))
                .into();
        let lives = |local: &str, peer: &str, opened| {
            let at = |text: &str| text.parse().expect("an address");
            lives(&rules, &Connection { local: at(local), peer: at(peer) }, opened, &devices)
        };
        let (us, them) = (OpenedBy::ThisHost, OpenedBy::Peer);
        for (local, peer, opened, wanted) in [
            ("10.0.0.2:22", "10.0.0.9:4000", them, true),
            // Management opens, this host does not.
            ("10.0.0.2:4000", "10.0.0.9:22", us, false),
            ("10.0.0.2:22", "192.0.2.1:4000", them, false),
            ("10.0.0.2:4000", "10.1.2.3:445", us, true),
            // DNS is refused before the allow-list.
            ("10.0.0.2:4000", "10.1.2.3:853", us, false),
            ("10.64.0.2:4000", "192.0.2.1:443", us, true),
            ("172.20.0.1:53", "172.20.0.2:4000", them, true),
            ("127.0.0.1:80", "127.0.0.1:4000", them, true),
            ("10.0.0.2:80", "10.64.0.2:4000", them, true),
        ] {
            assert_eq!(lives(local, peer, opened), wanted, "{local} {peer} {opened:?}");
        }
    }
}
