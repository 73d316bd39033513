//! Fresh keys for every world. The client's keys differ per endpoint, so that an endpoint is
//! known by its keys as well as by its address.

use crate::addresses::{Endpoint, Ns};
use crate::world;

/// A private key and the public key that belongs to it, in base64.
#[derive(Clone)]
pub struct KeyPair {
    pub private: String,
    pub public: String,
}

impl KeyPair {
    pub fn generate() -> Self {
        let private = wg("genkey", "");
        let public = wg("pubkey", &private);
        Self { private, public }
    }
}

/// What one endpoint is configured with, on both sides.
#[derive(Clone)]
pub struct EndpointKeys {
    pub client: KeyPair,
    pub server: KeyPair,
    pub preshared: Option<String>,
}

impl EndpointKeys {
    pub fn generate(endpoint: Endpoint) -> Self {
        Self {
            client: KeyPair::generate(),
            server: KeyPair::generate(),
            preshared: (endpoint == Endpoint::B).then(|| wg("genpsk", "")),
        }
    }

    /// What must not be found in any log, metric or argument list.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        [&self.client.private, &self.server.private]
            .into_iter()
            .chain(&self.preshared)
            .map(String::as_str)
    }
}

fn wg(what: &str, input: &str) -> String {
    world::exec_with_input(Ns::Egress, &["wg", what], input).trim().to_owned()
}
