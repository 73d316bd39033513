//! A message to the kernel.

use std::io;

use netlink_packet_core::NLA_HEADER_SIZE;

use super::message::HEADER;

/// Built attribute by attribute; framed when it is sent.
#[derive(Debug, Clone)]
pub struct Request {
    kind: u16,
    /// Room for the netlink header, then the protocol's header and the attributes.
    bytes: Vec<u8>,
    /// An attribute was longer than its length field can say.
    too_long: bool,
}

impl Request {
    /// `header`: the protocol's fixed header.
    pub fn new(kind: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes.extend(header);
        let mut request = Self { kind, bytes, too_long: false };
        request.align();
        request
    }

    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let start = self.open(kind);
        self.bytes.extend(value);
        self.close(start);
        self
    }

    /// A text, with the zero byte that ends it.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat())
    }

    #[must_use]
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.open(kind | netlink_packet_core::NLA_F_NESTED);
        let mut filled = fill(self);
        filled.close(start);
        filled
    }

    /// The whole message.
    pub(super) fn framed(mut self, flags: u16, sequence: u32) -> io::Result<Vec<u8>> {
        let length = u32::try_from(self.bytes.len()).ok().filter(|_| !self.too_long);
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "netlink: too long");
        self.bytes[0..4].copy_from_slice(&length.ok_or_else(too_long)?.to_ne_bytes());
        self.bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.bytes)
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        debug_assert!(self.bytes.len() >= start + NLA_HEADER_SIZE);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// What the message says, without its frame.
    #[cfg(test)]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// The message as the kernel would notify of it.
    #[cfg(test)]
    pub fn datagram(self) -> Vec<u8> {
        self.framed(0, 0).expect("a short message")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_is_too_long_is_an_error_and_no_other_message() {
        let long = Request::new(1, &[]).bytes(1, &vec![0; usize::from(u16::MAX)]);
        assert!(long.framed(0, 0).is_err());
    }
}
