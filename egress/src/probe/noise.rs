//! The initiator's half of the WireGuard handshake: two messages and the cookie, nothing after.
//!
//! The Noise protocol itself is `snow`'s; here are the frames around it, as section 5.4 of the
//! WireGuard paper draws them. Why not the whole of a userspace WireGuard: the ones in Rust count
//! their timestamps from 37 leap seconds, the kernel's and Go's implementation from 10. A responder
//! ignores a timestamp that is not later than the last one of the same key, so a probe through them
//! would lock the device out of the very endpoint it has just found alive, for 27 seconds.

use std::time::{Duration, SystemTime};

use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, Mac};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use snow::HandshakeState;

use super::{ProbeError, unguessable};
use crate::key::{PublicKey, SecretKey};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const MAC1_LABEL: &[u8] = b"mac1----";
const COOKIE_LABEL: &[u8] = b"cookie--";

/// The preshared key of a peer that has none.
const NO_PRESHARED_KEY: [u8; 32] = [0; 32];
/// Where the preshared key is mixed in: after the second message's other keys.
const PRESHARED_KEY_AT: u8 = 2;

/// The first four bytes of a message: its type and three zeros.
const INITIATION: [u8; 4] = [1, 0, 0, 0];
const RESPONSE: [u8; 4] = [2, 0, 0, 0];
const COOKIE_REPLY: [u8; 4] = [3, 0, 0, 0];

/// The lengths of the messages, and of the MACs that end the first two.
pub(super) const INITIATION_LENGTH: usize = 148;
const RESPONSE_LENGTH: usize = 92;
const COOKIE_REPLY_LENGTH: usize = 64;
const MAC: usize = 16;

/// The kernel's count of TAI64 seconds at the start of 1970: 2^62, and the ten leap seconds of
/// 1972. The device stamps its initiations so, and the probe's have to fall in line with them.
const TAI64_AT_1970: u64 = (1 << 62) + 10;

/// Timestamps are cut down to this many nanoseconds, as the device does: the time of a probe is
/// nobody's business to the nanosecond, and a probe's timestamp is never ahead of the clock.
const TIMESTAMP_STEP: u32 = 1 << 24;

/// What a datagram was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The authentic response to the initiation of this number, counted from 0.
    Response(usize),
    /// An authentic cookie: the responder is under load and wants to see that we are at our
    /// address. The next initiation will carry it.
    Cookie,
    /// Neither: noise, a replay, or a handshake with other keys.
    Nothing,
}

/// Our side of the handshake.
pub(super) struct Initiator<'a> {
    private_key: &'a SecretKey,
    public_key: PublicKey,
    preshared_key: &'a [u8; 32],
    /// Every initiation may still be answered.
    sent: Vec<Sent>,
    cookie: Option<Vec<u8>>,
}

struct Sent {
    index: [u8; 4],
    mac1: [u8; MAC],
    noise: HandshakeState,
}

impl<'a> Initiator<'a> {
    pub(super) fn new(
        private_key: &'a SecretKey,
        public_key: PublicKey,
        preshared_key: Option<&'a SecretKey>,
    ) -> Self {
        let preshared_key = preshared_key.map_or(&NO_PRESHARED_KEY, SecretKey::expose);
        Self { private_key, public_key, preshared_key, sent: Vec::new(), cookie: None }
    }

    /// A new initiation, with the responder's cookie if it gave one.
    pub(super) fn initiation(&mut self) -> Result<[u8; INITIATION_LENGTH], ProbeError> {
        let mut noise = self.noise().map_err(ProbeError::Noise)?;
        let [index @ .., _, _, _, _] = unguessable().to_ne_bytes();
        let mut message = [0; INITIATION_LENGTH];
        let (head, tail) = message.split_at_mut(INITIATION_LENGTH - 2 * MAC);
        let (mac1_field, mac2_field) = tail.split_at_mut(MAC);
        head[0..4].copy_from_slice(&INITIATION);
        head[4..8].copy_from_slice(&index);
        noise.write_message(&timestamp(since_1970()), &mut head[8..]).map_err(ProbeError::Noise)?;

        let mac1 = mac(&labelled(MAC1_LABEL, self.public_key), &[head]);
        mac1_field.copy_from_slice(&mac1);
        if let Some(cookie) = &self.cookie {
            mac2_field.copy_from_slice(&mac(cookie, &[head, &mac1]));
        }
        self.sent.push(Sent { index, mac1, noise });
        Ok(message)
    }

    fn noise(&self) -> Result<HandshakeState, snow::Error> {
        snow::Builder::new(PATTERN.parse()?)
            .prologue(PROLOGUE)?
            .local_private_key(self.private_key.expose())?
            .remote_public_key(self.public_key.as_bytes())?
            .psk(PRESHARED_KEY_AT, self.preshared_key)?
            .build_initiator()
    }

    /// Tells what a datagram is.
    pub(super) fn read(&mut self, datagram: &[u8]) -> Answer {
        match (datagram.first_chunk(), datagram.len()) {
            (Some(&RESPONSE), RESPONSE_LENGTH) => {
                self.response(datagram).map_or(Answer::Nothing, Answer::Response)
            }
            (Some(&COOKIE_REPLY), COOKIE_REPLY_LENGTH) => match self.cookie_reply(datagram) {
                Some(cookie) => {
                    self.cookie = Some(cookie);
                    Answer::Cookie
                }
                None => Answer::Nothing,
            },
            _ => Answer::Nothing,
        }
    }

    /// Type, its index, our index, the Noise message, the MACs.
    fn response(&mut self, datagram: &[u8]) -> Option<usize> {
        let (head, macs) = datagram.split_at_checked(RESPONSE_LENGTH - 2 * MAC)?;
        let key = labelled(MAC1_LABEL, self.private_key.public());
        if macs.get(..MAC)? != mac(&key, &[head]) {
            return None;
        }
        let index = head.get(8..12)?;
        let number = self.sent.iter().position(|sent| sent.index == index)?;
        let noise = &mut self.sent.get_mut(number)?.noise;
        // A message that does not authenticate leaves the state as it was. The payload is empty.
        let length = noise.read_message(head.get(12..)?, &mut []).ok()?;
        (length == 0).then_some(number)
    }

    /// Type, our index, nonce, and the cookie, sealed to the first MAC of what it replies to.
    fn cookie_reply(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        let index = datagram.get(4..8)?;
        let sent = self.sent.iter().find(|sent| sent.index == index)?;
        let payload = Payload { msg: datagram.get(32..)?, aad: &sent.mac1 };
        let key = labelled(COOKIE_LABEL, self.public_key);
        XChaCha20Poly1305::new(&key.into())
            .decrypt(XNonce::from_slice(datagram.get(8..32)?), payload)
            .ok()
    }
}

/// The key that a public key makes with a label.
fn labelled(label: &[u8], key: PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(key.as_bytes()).finalize().into()
}

/// BLAKE2s of 16 bytes with a key of up to 32.
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC] {
    // The only keys that come here are of 32 bytes, or a cookie of 16.
    let Ok(mut mac) = <Blake2sMac<U16> as Mac>::new_from_slice(key) else {
        return [0; MAC];
    };
    for part in parts {
        Mac::update(&mut mac, part);
    }
    mac.finalize_fixed().into()
}

/// The wall clock. One from before 1970 counts as 1970: the responder will find it too old.
fn since_1970() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// TAI64N: eight bytes of seconds and four of nanoseconds, big-endian so that they sort.
fn timestamp(since_1970: Duration) -> [u8; 12] {
    let nanoseconds = since_1970.subsec_nanos() / TIMESTAMP_STEP * TIMESTAMP_STEP;
    let mut stamp = [0; 12];
    stamp[..8].copy_from_slice(&(TAI64_AT_1970 + since_1970.as_secs()).to_be_bytes());
    stamp[8..].copy_from_slice(&nanoseconds.to_be_bytes());
    stamp
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The number that the kernel and wireguard-go add: a probe's timestamp must never be later
    /// than one that the device makes after it.
    #[test]
    fn a_probe_is_stamped_like_the_device_stamps() {
        let at = Duration::new(1_700_000_000, 0x0200_0001);
        let stamp = timestamp(at);
        assert_eq!(stamp[..8], (0x4000_0000_0000_000a_u64 + 1_700_000_000).to_be_bytes());
        assert_eq!(stamp[8..], 0x0200_0000_u32.to_be_bytes());
    }

    proptest! {
        #[test]
        fn timestamps_sort_like_time(
            a in 0u64..u64::from(u32::MAX) * 1_000_000_000,
            b in 0u64..u64::from(u32::MAX) * 1_000_000_000,
        ) {
            let (early, late) = (a.min(b), a.max(b));
            let stamp = |nanoseconds| timestamp(Duration::from_nanos(nanoseconds));
            prop_assert!(stamp(early) <= stamp(late));
        }

        #[test]
        fn noise_is_never_an_answer(
            kind in 0u8..6,
            length in proptest::sample::select(vec![0_usize, 3, 4, 31, 32, 64, 92, 148]),
            noise in proptest::collection::vec(any::<u8>(), 148),
            ours in any::<bool>(),
        ) {
            let private_key = SecretKey::from_bytes([1; 32]);
            let public_key = SecretKey::from_bytes([2; 32]).public();
            let mut initiator = Initiator::new(&private_key, public_key, None);
            initiator.initiation()?;
            // As near to a message as noise gets: a type, and our own index where it belongs.
            let mut datagram = noise;
            datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
            if ours {
                let index = initiator.sent[0].index;
                datagram[4..8].copy_from_slice(&index);
                datagram[8..12].copy_from_slice(&index);
            }
            prop_assert_eq!(initiator.read(&datagram[..length]), Answer::Nothing);
        }
    }
}
