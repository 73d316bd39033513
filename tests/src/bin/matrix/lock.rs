//! What keeps the host in while the faults happen: ours, nothing, and what others document.

use std::time::Duration;

use clap::ValueEnum;
use lab::addresses::{Endpoint, FWMARK, Ns, TUNNEL, UPLINK};
use lab::{EgressConfig, Process, World, eventually};
use serde::{Deserialize, Serialize};

const SOON: Duration = Duration::from_secs(20);

/// A table of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Lock {
    /// Both walls, `actuator serve` and `exporter`.
    Ours,
    /// Nothing: the positive control.
    None,
    /// The killswitch that wg-quick(8) documents, word for word.
    WgQuick,
    /// nft with policy drop that accepts `ct state established` first.
    Established,
}

impl Lock {
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::Ours => "vpn-egress",
            Self::None => "No lock: the positive control",
            Self::WgQuick => "The killswitch of wg-quick(8)",
            Self::Established => "nft, policy drop, `established` first",
        }
    }

    /// Locks the host; what runs from now on.
    pub fn apply(self, world: &World) -> Vec<Process> {
        match self {
            Self::None => Vec::new(),
            Self::Ours => {
                world.write_config(&config(0));
                world.actuator_ok(&["converge"]);
                let programs = vec![world.start_actuator(), world.start_exporter()];
                eventually(SOON, "the path is locked and up", || {
                    let said = world.actuator(&["validate"]);
                    if said.exit == 0 { Ok(()) } else { Err(said) }
                });
                programs
            }
            Self::WgQuick => {
                let rule = WG_QUICK.replace("%i", TUNNEL);
                world.exec_ok(Ns::Egress, &["sh", "-c", &rule]);
                Vec::new()
            }
            Self::Established => {
                world.nft(Ns::Egress, &established());
                Vec::new()
            }
        }
    }
}

/// Our config; every number makes other rules.
pub fn config(number: u8) -> EgressConfig {
    let allow = format!("allow: [10.0.0.{}/32]", 100 + number);
    EgressConfig { path_lines: vec![allow], ..EgressConfig::quick() }
}

/// Debian 12's wg-quick(8), `PostUp` of its example; `%i` is the interface.
const WG_QUICK: &str = "iptables -I OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) \
                        -m addrtype ! --dst-type LOCAL -j REJECT";

fn established() -> String {
    let endpoints = Endpoint::ALL.map(|endpoint| endpoint.address().to_string()).join(", ");
    format!(
        "table inet lock {{
    chain output {{
        type filter hook output priority filter; policy drop;
        ct state established,related accept
        oifname {{ \"lo\", \"{TUNNEL}\" }} accept
        meta mark {FWMARK} ip daddr {{ {endpoints} }} udp dport 51820 accept
        oifname \"{UPLINK}\" udp sport 68 udp dport 67 accept
        icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }} accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        oifname \"{TUNNEL}\" accept
    }}
}}
"
    )
}
