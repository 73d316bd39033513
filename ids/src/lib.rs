//! Whether the egress host is exempt from an IDS/IPS on the way: asked of the controller that knows,
//! and the exemption made there.
//!
//! Must never take *unknown* for *absent* or the other way round, never write anything but the one
//! entry added to what is there, and never send the API key to anybody but the controller (S10).

mod address;
mod http;
mod key;
mod setting;
mod tls;
mod unifi;
mod unknown;

pub use address::{Found, How, egress_addresses};
pub use setting::{Exemption, Setting, added, differences};
pub use unifi::{Applied, Unifi};
pub use unknown::Unknown;
