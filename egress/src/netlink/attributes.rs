//! The attributes of a message, read in place.

use std::io;

use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};

use super::not_understood;

/// A run of attributes: the rest of a message after its protocol's header, or what one attribute nests.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// (type, value) of each, in the kernel's order. One that is cut short ends them.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        NlasIterator::new(self.0).map_while(Result::ok).filter_map(|attribute| {
            let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
            Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..length)?))
        })
    }

    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(its, _)| *its == kind).map(|(_, value)| value)
    }

    pub fn nested(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self)
    }

    /// A text that ends with a zero byte, or with the attribute.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        text(self.get(kind)?)
    }

    pub fn u8(self, kind: u16) -> Option<u8> {
        Some(u8::from_ne_bytes(self.fixed(kind)?))
    }

    pub fn u16(self, kind: u16) -> Option<u16> {
        Some(u16::from_ne_bytes(self.fixed(kind)?))
    }

    pub fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.fixed(kind)?))
    }

    pub fn u64(self, kind: u16) -> Option<u64> {
        Some(u64::from_ne_bytes(self.fixed(kind)?))
    }

    /// In network byte order, as netfilter sends its numbers.
    pub fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.fixed(kind)?))
    }

    pub fn be64(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.fixed(kind)?))
    }

    fn fixed<const N: usize>(self, kind: u16) -> Option<[u8; N]> {
        self.get(kind)?.try_into().ok()
    }

    /// The same of an attribute that the kernel always sends.
    pub fn required<T>(self, read: impl FnOnce(Self) -> Option<T>) -> io::Result<T> {
        read(self).ok_or_else(not_understood)
    }
}

/// A text that ends with a zero byte, or with its bytes.
pub fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Request;
    use super::*;

    #[test]
    fn what_a_request_holds_is_what_attributes_read() {
        let request = Request::new(1, &[])
            .text(1, "table")
            .nested(2, |inner| inner.bytes(3, &7_u32.to_be_bytes()).bytes(4, &[9]));
        let attributes = Attributes::new(request.payload());
        assert_eq!(attributes.text(1), Some("table"));
        let inner = attributes.nested(2).expect("nested");
        assert_eq!((inner.be32(3), inner.u8(4), inner.u8(5)), (Some(7), Some(9), None));
        assert_eq!(inner.be64(3), None, "a number of another size is not that number");
        assert_eq!(attributes.iter().map(|(kind, _)| kind).collect::<Vec<_>>(), [1, 2]);
    }

    proptest! {
        #[test]
        fn noise_ends_and_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Attributes::new(&noise).iter().count() <= 50);
        }
    }
}
