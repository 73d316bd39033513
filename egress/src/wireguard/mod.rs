//! Reads a WireGuard device: the kernel's over generic netlink, a userspace one by its socket.
//!
//! Nothing that either answers may make this panic, wait without a bound, or keep more than a bounded
//! number of bytes.

mod kernel;
mod userspace;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

pub use kernel::read as read_kernel;
pub use userspace::read as read_userspace;

use crate::key::{PublicKey, SecretKey};

/// Everything that a device says of itself, but for its private key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Public half of the device's private key. `None`: it has none.
    pub public_key: Option<PublicKey>,
    /// `None`: none, which the kernel says by zero.
    pub fwmark: Option<u32>,
    pub listen_port: Option<u16>,
    pub peers: Vec<Peer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub public_key: PublicKey,
    /// `None`: none, which the kernel says by zeros.
    pub preshared_key: Option<SecretKey>,
    pub address: Option<SocketAddr>,
    /// Seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// `None`: never.
    pub last_handshake: Option<SystemTime>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub allowed: BTreeSet<(IpAddr, u8)>,
}

impl Peer {
    fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            address: None,
            persistent_keepalive: 0,
            last_handshake: None,
            received_bytes: 0,
            sent_bytes: 0,
            allowed: BTreeSet::new(),
        }
    }
}

/// A key that is not all zeros, which is how both say that there is none.
fn some_key(bytes: [u8; 32]) -> Option<[u8; 32]> {
    (bytes != [0; 32]).then_some(bytes)
}
