//! The lab: a world of network namespaces with real `WireGuard`, real nftables, real Prometheus
//! and real Alertmanager, built by one call in user, network, mount and pid namespaces of its own.
//!
//! It needs no root and touches nothing of the host: what it builds ends with the process that
//! asked for it, however that process ends.
//!
//! ```text
//!                              +--------+ va  198.51.100.0/24 --- vpn-a (wga)
//!   egress --- 10.0.0.0/24 lan | router | vb  203.0.113.0/24  --- vpn-b (wgb)
//!   (wg0)                      +--------+ wan 192.0.2.0/24    --- world (echo)
//! ```
//!
//! The router is the outside observer: it, and not the host under test, says what left outside
//! the tunnel. A test is written like this:
//!
//! ```no_run
//! # use lab::World;
//! // #[test]
//! fn s1_something() {
//!     lab::inside("s1_something", |world: &mut World| {
//!         assert_eq!(world.observed_outside(), 0);
//!     });
//! }
//! ```

pub mod addresses;
mod bring_up;
pub mod clock;
pub mod container;
pub mod controller;
pub mod crowds;
mod dhcp;
mod egress_config;
mod enter;
mod eventually;
mod exec;
mod faults;
pub mod fleet;
pub mod flood;
mod host_faults;
mod http;
mod ids;
pub mod incidents;
mod keys;
pub mod kinds;
mod leaks;
pub mod many;
pub mod markdown;
pub mod misbehaving;
mod monitoring;
mod mounts;
mod observer;
mod outages;
pub mod pages;
mod preflight;
mod process;
pub mod programs;
pub mod replacement;
mod saturation;
mod schema;
mod scopes;
mod session;
pub mod setups;
pub mod shipped;
pub mod side_by_side;
pub mod standbys;
mod suricata;
mod tamper;
mod topology;
mod wireguard;
mod workload;
mod world;

pub use addresses::{Endpoint, Exit, Ns};
pub use egress_config::EgressConfig;
pub use enter::{enter_for_bin, enter_with_users_for_bin, inside, inside_heard, inside_with_users};
pub use eventually::{Observed, eventually};
pub use faults::Direction;
pub use http::Response;
pub use ids::{IpsBlock, Signature, Volume};
pub use kinds::Kind;
pub use leaks::{Attempts, Leak};
pub use monitoring::{Alertmanagers, Instances};
pub use observer::Class;
pub use outages::{Judged, Outage};
pub use process::Process;
pub use saturation::{Carried, Load, Saturation};
pub use schema::mistakes;
pub use scopes::Sender;
pub use session::Session;
pub use suricata::{Inline, Inspected};
pub use tamper::Tampering;
pub use wireguard::{Backend, Keepalive};
pub use workload::{Answer, Workload};
pub use world::World;

/// As WireGuard's userspace protocol writes keys.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
