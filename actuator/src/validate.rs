//! `validate`: the config, and one classified health check. Changes nothing, needs no daemon.

use egress::config::Config;
use egress::handshakes::Handshakes;
use egress::health::Verdict;
use egress::observe;
use egress::state::Store;

use crate::control::{Reply, exit};

pub fn validate(config: &Config, store: &Store) -> Reply {
    let mut lines = vec![format!("config: {} path(s), valid", config.paths.len())];
    let mut worst = exit::DONE;
    for path in &config.paths {
        let cycle = observe::check(path, store, false, &Handshakes::default());
        lines.push(format!("{}: {}", path.name, cycle.verdict));
        worst = worst.max(code(&cycle.verdict));
    }
    Reply::new(lines, worst)
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
