//! `validate`: the config, one classified health check, whether another firewall is in the way, and
//! what cannot work as it is set up.
//! Changes nothing, needs no daemon.

use std::path::Path;

use egress::config::{Config, PathConfig};
use egress::error::chain;
use egress::firewall::foreign::Blocked;
use egress::handshakes::Handshakes;
use egress::health::Verdict;
use egress::observe;
use egress::pins;
use egress::state::Store;

use crate::advice;
use crate::control::{Reply, exit};
use crate::engine::from_elsewhere;

/// Why a converge would refuse the file, as the devices of this host are now.
pub fn on_host(file: &Path, store: &Store) -> Result<(), String> {
    let devices = observe::devices()
        .map_err(|error| format!("the devices of this host cannot be listed: {}", chain(error)))?;
    pins::config_on(file, store, &observe::host(&devices)).map(|_| ()).map_err(chain)
}

pub fn validate(config: &Config, store: &Store, on_host: Option<String>) -> Reply {
    let mut lines = vec![format!("config: {} path(s), valid", config.paths.len())];
    let mut worst = exit::DONE;
    if let Some(why) = on_host {
        lines[0] = format!("config: a converge would refuse it: {why}");
        worst = exit::CONFIG;
    }
    for path in &config.paths {
        let cycle = observe::check(path, store, false, &Handshakes::default());
        for endpoint in &path.endpoints {
            let pinned = endpoint.hostname.iter();
            lines.extend(pinned.map(|host| {
                format!("{}: {host} is {}, as pinned", path.name, endpoint.address.ip())
            }));
        }
        lines.push(format!("{}: {}", path.name, cycle.verdict));
        worst = worst.max(code(&cycle.verdict));
        worst = worst.max(in_the_way(path, &mut lines));
        if observe::large_pass(path, cycle.probe_took) == Some(false) {
            lines.push(format!(
                "{}: packets as large as the tunnel's MTU get no answer, and small ones do: set a \
                 smaller `mtu`, and converge",
                path.name
            ));
        }
        if let Some(why) = from_elsewhere(path) {
            lines.push(format!("{}: {why}", path.name));
            worst = worst.max(exit::REFUSED);
        }
        let left_out = path.workload.subordinate_ids_left_out();
        lines.extend(left_out.iter().map(|said| format!("{}: {said}", path.name)));
        lines.extend(advice::of(path).iter().map(|advice| format!("{}: {advice}", path.name)));
    }
    Reply::new(lines, worst)
}

/// Rules of other programs that block what the path needs. What only may block changes no exit code.
fn in_the_way(path: &PathConfig, lines: &mut Vec<String>) -> u8 {
    match observe::in_the_way(path) {
        Ok(found) => {
            let sure = found.blocked.iter().any(Blocked::is_sure);
            let said = found.blocked.iter().map(ToString::to_string);
            let advice = advice::of_docker(path, found.docker_resolver.as_deref());
            let all = said.chain(found.unread).chain(advice);
            lines.extend(all.map(|said| format!("{}: {said}", path.name)));
            if sure { exit::REFUSED } else { exit::DONE }
        }
        Err(error) => {
            lines.push(format!("{}: other firewalls were not read: {}", path.name, chain(error)));
            exit::DONE
        }
    }
}

fn code(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Up => exit::DONE,
        Verdict::TunnelDown(_) => exit::TUNNEL_DOWN,
        Verdict::Leak(_) => exit::LEAK,
        Verdict::UplinkDown(_) | Verdict::Stopped | Verdict::Roamed | Verdict::Unknown(_) => {
            exit::REFUSED
        }
    }
}
