//! What a locked egress path is, and how to see and touch it.
//!
//! Mechanism, no policy: nothing in here knows Prometheus, HTTP or which breach calls for what.
//! Names and promises (S1 to S10) are those of `DESIGN.md`.

pub mod bounded;
pub mod clock;
pub mod config;
pub mod connections;
mod conntrack;
pub mod cut;
pub mod device;
pub mod error;
pub mod events;
pub mod fault;
pub mod file;
pub mod firewall;
pub mod handshakes;
pub mod health;
pub mod key;
pub mod links;
pub mod mark;
pub mod names;
pub mod neighbours;
pub(crate) mod netlink;
pub mod netns;
pub mod observe;
pub mod pause;
pub mod pins;
pub mod probe;
pub mod process;
pub mod run;
pub mod state;
pub mod tunnel;
pub mod users;
pub mod waiting;
mod wireguard;

#[cfg(test)]
mod upgrade_tests;
