//! What a provider's file says of itself, before there is a config that names it.
//!
//! Must never hand out a key (S10).

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::error::{ConfigError, Place};
use super::keyfile;
use super::server::Server;
use super::wg_quick::{self, WgQuick};

/// The parts of a provider's file that are no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// This host's addresses inside the tunnel.
    pub addresses: Vec<IpNet>,
    /// The server, as it is written, with its port.
    pub server: String,
    /// Whether the server is a hostname.
    pub named: bool,
    /// The resolvers that it names.
    pub dns: Vec<IpAddr>,
}

impl Provider {
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let said = said(&|| Place::file(file), file)?;
        let (server, named) = match said.endpoint {
            Server::Address(address) => (address.to_string(), false),
            Server::Name { host, port } => (format!("{host}:{port}"), true),
        };
        Ok(Self { addresses: said.addresses, server, named, dns: said.dns })
    }
}

/// The file, understood. What is wrong with the file itself is told of `blamed`.
pub(super) fn said(blamed: &dyn Fn() -> Place, file: &Path) -> Result<WgQuick, ConfigError> {
    let text = keyfile::read_for(blamed, file)?;
    wg_quick::parse(&text).map_err(|fault| Place::line(file, fault.line).with(fault.problem))
}
