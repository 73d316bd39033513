//! The server of an endpoint: an address, or a hostname that stands for one.
//!
//! Must never ask DNS: whoever reads a config says what a hostname stands for.

use std::net::{IpAddr, SocketAddr};

use super::error::Problem;
use super::shown::Shown;
use super::value;
use crate::names::PathName;

/// As it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Server {
    Address(SocketAddr),
    Name { host: String, port: u16 },
}

/// What a hostname in a path's endpoints stands for.
pub type Lookup<'a> = dyn Fn(&PathName, &str) -> Result<IpAddr, NoAddress> + 'a;

/// Why a hostname stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAddress {
    /// No converge has resolved it yet.
    NotPinned,
    /// DNS does not say, and it is not pinned from before.
    Unresolved(String),
}

impl Server {
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        if !is_hostname(host) {
            return value::server(text).map(Self::Address);
        }
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| Problem::SocketAddress(Shown::of(text)))?;
        Ok(Self::Name { host: host.to_ascii_lowercase(), port })
    }

    /// The address to send to, and the hostname that it stands for.
    pub fn at(
        self,
        path: &PathName,
        lookup: &Lookup<'_>,
    ) -> Result<(SocketAddr, Option<String>), Problem> {
        match self {
            Self::Address(address) => Ok((address, None)),
            Self::Name { host, port } => match lookup(path, &host) {
                Ok(ip) => Ok((SocketAddr::new(ip, port), Some(host))),
                Err(NoAddress::NotPinned) => Err(Problem::NotPinned(Shown::of(&host))),
                Err(NoAddress::Unresolved(why)) => {
                    Err(Problem::Unresolved { host: Shown::of(&host), why })
                }
            },
        }
    }
}

/// A DNS name: labels of letters, digits, hyphens and underscores, one of them with a letter.
fn is_hostname(text: &str) -> bool {
    const LONGEST: usize = 253;
    const LONGEST_LABEL: usize = 63;
    let label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= LONGEST
        && name.split('.').all(label)
        && name.contains(|c: char| c.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_or_a_hostname_with_a_port() {
        let name = |host: &str, port| Server::Name { host: host.to_owned(), port };
        let table = [
            ("de1.example.net:51820", Some(name("de1.example.net", 51820))),
            ("DE-1.example:1", Some(name("de-1.example", 1))),
            ("192.0.2.1:51820", Some(Server::Address(([192, 0, 2, 1], 51820).into()))),
            ("[2001:db8::1]:9", Some(Server::Address("[2001:db8::1]:9".parse().expect("one")))),
            ("de1.example.net:0", None),
            ("de1.example.net:65536", None),
            ("de1.example.net", None),
            ("de1..example:1", None),
            ("2001:db8::1:51820", None),
            ("192.0.2.256:51820", None),
        ];
        for (text, expected) in table {
            assert_eq!(Server::parse(text).ok(), expected, "{text}");
        }
    }
}
