//! The routing rules and routes that lead into a tunnel: what is wanted, and what is missing of it.
//!
//! Every rule has a priority of its own here, so that a rule that is put back finds its place.

use std::ffi::CString;
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use nix::net::if_::if_indextoname;

use super::{Family, Selector, Tunnel, TunnelError, routing};
use crate::process;

/// What is on local networks stays there. Shared by all paths.
const LOCAL_FIRST: u32 = 31_000;
/// A tunnel's own packets go by the uplink, not by the tunnel of a path of the whole host.
const OWN_PACKETS: u32 = 31_001;
/// Into the tunnel of a scoped workload; before that of the whole host.
const SCOPED: u32 = 31_010;
const HOST: u32 = 31_100;

/// `ip` answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A rule or a route, as `ip` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub family: Family,
    /// Without `add` and `del`: `rule priority 31100 not fwmark 0xca6c lookup 51820`.
    pub object: &'static str,
    pub what: String,
}

impl Entry {
    fn rule(family: Family, what: String) -> Self {
        Self { family, object: "rule", what }
    }
}

/// The rules of one family, in the order in which they are added.
pub fn wanted_rules(tunnel: &Tunnel, family: Family) -> Vec<Entry> {
    let (mark, table) = (tunnel.fwmark, tunnel.table());
    let rule = |what| Entry::rule(family, what);
    let mut rules =
        vec![rule(format!("priority {LOCAL_FIRST} lookup main suppress_prefixlength 0"))];
    match &tunnel.selector {
        Selector::Host => {
            rules.push(rule(format!("priority {HOST} not fwmark {mark:#x} lookup {table}")));
        }
        Selector::Marked(workload) => {
            rules.push(rule(format!("priority {OWN_PACKETS} fwmark {mark:#x} lookup main")));
            rules.push(rule(format!("priority {SCOPED} fwmark {workload} lookup {table}")));
        }
        // On the host only the tunnel's own packets are to be routed, past any other path's tunnel.
        Selector::Netns(_) => {
            return vec![rule(format!("priority {OWN_PACKETS} fwmark {mark:#x} lookup main"))];
        }
        Selector::Users(users) => {
            rules.push(rule(format!("priority {OWN_PACKETS} fwmark {mark:#x} lookup main")));
            rules.extend(users.iter().map(|user| {
                rule(format!("priority {SCOPED} uidrange {} lookup {table}", user.ends()))
            }));
            // The user decides the source address; the mark decides the way, for what is marked is
            // routed again, and IPv4 forgets the user then.
            let marked = Some(tunnel.workload_mark).filter(|mark| mark.mask() != 0);
            rules.extend(
                marked.map(|mark| rule(format!("priority {SCOPED} fwmark {mark} lookup {table}"))),
            );
        }
    }
    rules
}

/// Those that are not there.
pub fn missing_rules(tunnel: &Tunnel, family: Family) -> Result<Vec<Entry>, TunnelError> {
    let there = rules_there(family)?;
    Ok(wanted_rules(tunnel, family)
        .into_iter()
        .filter(|rule| !there.contains(&rule.what))
        .collect())
}

/// Those of ours that nobody else's path needs.
pub fn own_rules(tunnel: &Tunnel, family: Family) -> Result<Vec<Entry>, TunnelError> {
    Ok(own(tunnel, family, &rules_there(family)?))
}

/// What keeps local networks local stays for as long as anything leads into another path's tunnel.
fn own(tunnel: &Tunnel, family: Family, there: &[String]) -> Vec<Entry> {
    let mut own = wanted_rules(tunnel, family);
    let leads = [SCOPED, HOST].map(|priority| format!("priority {priority} "));
    let of_another = |rule: &String| {
        leads.iter().any(|lead| rule.starts_with(lead)) && !own.iter().any(|one| one.what == *rule)
    };
    if there.iter().any(of_another) {
        own.retain(|rule| !rule.what.starts_with(&format!("priority {LOCAL_FIRST} ")));
    }
    own.retain(|rule| there.contains(&rule.what));
    own
}

/// Routes of the tunnel's table that are not there; one that leads elsewhere is in the way.
pub fn missing_routes(tunnel: &Tunnel, family: Family) -> Result<Vec<Entry>, TunnelError> {
    let (interface, table) = (&tunnel.interface, tunnel.table());
    let there = routes_there(table, family)?;
    let mut missing = Vec::new();
    for net in tunnel.routes.iter().filter(|net| Family::of(net.addr()) == family) {
        match there.iter().find(|(to, _)| to == net) {
            Some((_, device)) if device == interface => {}
            Some((_, device)) => {
                return Err(TunnelError::InTheWay(format!(
                    "table {table} sends {net} to {device}, not to {interface}: write another \
                     `fwmark` (it numbers the table), or `ip route flush table {table}`"
                )));
            }
            None => missing.push(route(tunnel, *net)),
        }
    }
    Ok(missing)
}

/// The route that leads a network into the tunnel.
pub fn route(tunnel: &Tunnel, net: IpNet) -> Entry {
    Entry {
        family: Family::of(net.addr()),
        object: "route",
        what: format!("{net} dev {} table {}", tunnel.interface, tunnel.table()),
    }
}

/// In the words of [`wanted_rules`].
fn rules_there(family: Family) -> Result<Vec<String>, TunnelError> {
    routing::rules(family).map_err(TunnelError::Routing)
}

/// Each with the name of its device.
fn routes_there(table: u32, family: Family) -> Result<Vec<(IpNet, String)>, TunnelError> {
    let routes = routing::routes(table, family).map_err(TunnelError::Routing)?;
    // A device that went away since has taken its routes along.
    let named = |(to, device): (IpNet, u32)| Some((to, if_indextoname(device).ok()?));
    let text = |(to, name): (IpNet, CString)| (to, name.to_string_lossy().into_owned());
    Ok(routes.into_iter().filter_map(named).map(text).collect())
}

/// Runs `ip`, with `input` on its standard input.
pub fn run(arguments: &[&str], input: &str) -> Result<Vec<u8>, TunnelError> {
    let mut ip = Command::new("ip");
    ip.args(arguments).env("LC_ALL", "C");
    let output = process::run(ip, input.as_bytes(), TIMEOUT).map_err(TunnelError::NoIp)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("no reason given").to_owned();
    let command = [arguments.join(" "), input.trim().replace('\n', "; ")].join(" ");
    Err(TunnelError::Refused { command: command.trim().to_owned(), said })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::Mark;

    fn tunnel(selector: Selector) -> Tunnel {
        Tunnel {
            interface: "wg1".to_owned(),
            addresses: Vec::new(),
            mtu: 1420,
            fwmark: 0xca6d,
            selector,
            workload_mark: Mark::bits(0x0100_0000),
            routes: Vec::new(),
        }
    }

    #[test]
    fn what_is_shared_goes_with_the_last_path() {
        let going = |tunnel: &Tunnel, there: &[String]| -> Vec<String> {
            own(tunnel, Family::V4, there).into_iter().map(|rule| rule.what).collect()
        };
        let words = |tunnel: &Tunnel| -> Vec<String> {
            wanted_rules(tunnel, Family::V4).into_iter().map(|rule| rule.what).collect()
        };
        let host = tunnel(Selector::Host);
        let scoped = Tunnel { fwmark: 0xca6e, ..tunnel(Selector::Marked(Mark::bits(0x0100_0000))) };
        let foreign = "priority 90 lookup 77".to_owned();
        let mut there = [words(&host), words(&scoped)].concat();
        there.push(foreign);
        assert_eq!(going(&host, &there), words(&host)[1..]);
        assert_eq!(going(&scoped, &there), words(&scoped)[1..]);
        there.retain(|rule| !words(&host)[1..].contains(rule));
        assert_eq!(going(&scoped, &there), words(&scoped), "nobody else needs what is shared");
        assert_eq!(going(&host, &there), [""; 0], "the other's path still does");
    }

    #[test]
    fn a_tunnels_own_packets_go_by_the_uplink_before_anybody_is_sent_into_a_tunnel() {
        let priority = |rule: &Entry| -> u32 {
            let words: Vec<&str> = rule.what.split(' ').collect();
            words[1].parse().expect("a priority")
        };
        let scoped = wanted_rules(&tunnel(Selector::Marked(Mark::bits(0x0100_0000))), Family::V4);
        let scoped: Vec<u32> = scoped.iter().map(priority).collect();
        let host: Vec<u32> =
            wanted_rules(&tunnel(Selector::Host), Family::V4).iter().map(priority).collect();
        assert!(scoped.is_sorted() && host.is_sorted());
        assert!(scoped.last() < host.last(), "a scoped workload is not the host's");
    }
}
