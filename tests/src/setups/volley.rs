//! What a volley consists of, for the sender and for the observers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Ports that nothing else in the lab uses.
pub const UDP_PORT: u16 = 7301;
pub const TCP_PORT: u16 = 7302;
/// Frames by `AF_PACKET`.
pub const PACKET_PORT: u16 = 7308;
/// Where the workload listens, and where the world does.
pub const SERVICE_PORT: u16 = 7201;
/// Of ICMP echo requests; a ping socket replaces it with its own.
pub const ICMP_ID: u16 = 0x1ab7;

/// What became of the attempts, as the sender saw it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Volley {
    pub sent: u64,
    pub refused: BTreeMap<String, u64>,
}

impl Volley {
    pub fn tried(&self) -> u64 {
        self.sent + self.refused.values().sum::<u64>()
    }
}
