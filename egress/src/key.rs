//! WireGuard keys. A secret can be used, never printed: promise S10.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// 32 bytes, as base64 of 44 characters in every WireGuard tool.
const LENGTH: usize = 32;

/// A private or preshared key. Wiped when dropped; prints as `[secret]`.
#[derive(Clone)]
pub struct SecretKey {
    secret: Zeroizing<[u8; LENGTH]>,
    /// Worked out when it is first asked for: each look at a device asks.
    public: OnceLock<PublicKey>,
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret
    }
}

impl Eq for SecretKey {}

/// A peer's public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; LENGTH]);

/// The text is no key. It is left out of the message on purpose: it may be most of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key: want 44 characters of base64, as `wg genkey` prints")]
pub struct InvalidKey;

fn decode(text: &str) -> Result<Zeroizing<[u8; LENGTH]>, InvalidKey> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| InvalidKey)?);
    let array: [u8; LENGTH] = bytes.as_slice().try_into().map_err(|_| InvalidKey)?;
    Ok(Zeroizing::new(array))
}

impl SecretKey {
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        Self { secret: Zeroizing::new(bytes), public: OnceLock::new() }
    }

    /// The raw key, for the one call that hands it to the device or the handshake.
    pub fn expose(&self) -> &[u8; LENGTH] {
        &self.secret
    }

    /// The public half, if this is a private key.
    pub fn public(&self) -> PublicKey {
        *self.public.get_or_init(|| {
            let secret = boringtun::x25519::StaticSecret::from(*self.secret);
            PublicKey(*boringtun::x25519::PublicKey::from(&secret).as_bytes())
        })
    }
}

impl PublicKey {
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl FromStr for SecretKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        decode(text).map(|secret| Self { secret, public: OnceLock::new() })
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The first key pair of RFC 7748, section 6.1.
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn s10_a_secret_never_prints() {
        let key: SecretKey = PRIVATE.parse().expect("a key");
        assert_eq!(format!("{key:?}"), "[secret]");
        assert!(!InvalidKey.to_string().contains(PRIVATE));
    }

    #[test]
    fn the_public_half_is_derived() {
        let key: SecretKey = PRIVATE.parse().expect("a key");
        assert_eq!(key.public().to_string(), PUBLIC);
    }

    #[test]
    fn what_is_not_32_bytes_is_refused() {
        for text in ["", "short", &PRIVATE[1..], "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=AAAA"]
        {
            assert_eq!(text.parse::<SecretKey>(), Err(InvalidKey));
        }
    }
}
