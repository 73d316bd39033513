//! The messages of one datagram.

use std::io;

use netlink_packet_core::NetlinkBuffer;
use nix::errno::Errno;

use super::not_understood;

/// Length, type, flags, sequence, port.
pub(super) const HEADER: usize = 16;
/// `linux/netlink.h`
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
/// Of a dump's messages: what was dumped changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;

#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// The protocol's header, then its attributes.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// What follows a protocol's header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Option<super::Attributes<'a>> {
        self.payload.get(header..).map(super::Attributes::new)
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// The error that an `NLMSG_ERROR` or the end of a dump carries; none is an acknowledgement.
    pub(super) fn error(&self) -> io::Result<()> {
        let code = self.payload.get(..4).and_then(|code| code.try_into().ok());
        match code.map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            // A dump may end without a code.
            None if self.kind == NLMSG_DONE => Ok(()),
            Some(code) if code < 0 => Err(Errno::from_raw(code.saturating_neg()).into()),
            _ => Err(not_understood()),
        }
    }
}

/// One that is cut short ends them.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(datagram).ok()?;
        let length = buffer.length() as usize;
        let (kind, flags) = (buffer.message_type(), buffer.flags());
        let sequence = buffer.sequence_number();
        let payload = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, flags, sequence, payload })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Request;
    use super::*;

    #[test]
    fn a_reply_is_taken_apart_and_a_torn_end_is_left_out() {
        let message = |kind: u16, rest: usize| {
            Request::new(kind, &[]).bytes(1, &vec![b'x'; rest]).framed(0, 0).expect("short")
        };
        let whole = [message(1, 3), message(2, 8)].concat();
        let kinds = |bytes: &[u8]| messages(bytes).map(|one| one.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&whole), [1, 2]);
        for end in 0..whole.len() {
            assert!(kinds(&whole[..end]).len() < 2, "{end}");
        }
        assert!(kinds(&[0; 64]).is_empty(), "and no loop without end");
    }

    #[test]
    fn an_acknowledgement_is_told_from_an_error() {
        let code = |kind: u16, code: i32| {
            let payload = code.to_ne_bytes();
            Message { kind, flags: 0, sequence: 0, payload: &payload }.error()
        };
        assert!(code(NLMSG_ERROR, 0).is_ok());
        let refused = code(NLMSG_ERROR, -(Errno::EPERM as i32)).expect_err("an error");
        assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32));
        assert!(code(NLMSG_DONE, -(Errno::EMSGSIZE as i32)).is_err(), "a dump that failed midway");
        assert!(code(NLMSG_ERROR, 7).is_err());
    }

    proptest! {
        #[test]
        fn noise_ends_and_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(messages(&noise).filter(|one| one.error().is_err()).count() <= 18);
        }
    }
}
