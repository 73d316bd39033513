//! What an endpoint answers beside the tunnel.

use std::time::Duration;

use crate::config::{Endpoint, PathConfig};
use crate::probe::{HandshakeOutcome, HandshakeRequest, ProbeError, Reply, echo_marked, handshake};

/// A handshake takes one round trip; an endpoint that needs two seconds is a bad one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A real handshake with an endpoint of the path, beside the device.
pub fn shake_hands(path: &PathConfig, endpoint: &Endpoint) -> Result<HandshakeOutcome, ProbeError> {
    handshake(&HandshakeRequest {
        address: endpoint.address,
        private_key: &endpoint.private_key,
        public_key: endpoint.public_key,
        preshared_key: endpoint.preshared_key.as_ref(),
        fwmark: path.fwmark,
        timeout: HANDSHAKE_TIMEOUT,
    })
}

/// As for a handshake.
const ECHO_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the endpoint's host answers an echo beside the tunnel: it tells a blocked port from a
/// dead host. Some providers never answer one.
pub fn echo_endpoint(path: &PathConfig, endpoint: &Endpoint) -> Result<Reply, ProbeError> {
    echo_marked(endpoint.address.ip(), path.fwmark, ECHO_TIMEOUT)
}
