//! Netlink framing, once for all protocols: messages, attributes, requests, dumps and notifications.
//!
//! What the messages of a protocol mean is known by the module that sends them: `firewall` speaks
//! `nf_tables`, `probe::rtnetlink` and `links` speak rtnetlink. Nothing that the kernel sends may make
//! this panic: a message that is cut short ends what is read, an attribute that is missing is an error.

mod attributes;
mod connection;
mod message;
mod request;

pub use attributes::Attributes;
pub use connection::{Connection, Listener, Protocol};
pub use message::Message;
#[cfg(test)]
pub use message::messages;
pub use request::Request;

/// The kernel's answer is not what the protocol says.
pub fn not_understood() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "netlink: the reply is not understood")
}
