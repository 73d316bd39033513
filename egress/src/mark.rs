//! The bits of a packet's mark that say whose it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value under a mask, as `ip rule` writes it: other bits of the mark are other programs'. One bit
/// is the usual one; where paths share a mask, there are as many values as it has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Mark {
    value: u32,
    mask: u32,
}

/// In a state file. One bit is a number, as in those that know of nothing else.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Bits(u32),
    Masked { value: u32, mask: u32 },
}

impl Mark {
    /// These bits, whatever others are.
    pub const fn bits(bits: u32) -> Self {
        Self { value: bits, mask: bits }
    }

    /// `None`: nobody could be told by it.
    pub const fn masked(value: u32, mask: u32) -> Option<Self> {
        if value != 0 && value & !mask == 0 { Some(Self { value, mask }) } else { None }
    }

    pub const fn value(self) -> u32 {
        self.value
    }

    pub const fn mask(self) -> u32 {
        self.mask
    }

    /// Whether a packet can carry one of them only: the same bits with another value, or other bits.
    pub const fn is_told_from(self, other: Self) -> bool {
        if self.mask == other.mask {
            self.value != other.value
        } else {
            self.mask & other.mask == 0
        }
    }
}

impl From<Written> for Mark {
    fn from(written: Written) -> Self {
        match written {
            Written::Bits(bits) => Self::bits(bits),
            Written::Masked { value, mask } => Self { value, mask },
        }
    }
}

impl From<Mark> for Written {
    fn from(Mark { value, mask }: Mark) -> Self {
        if value == mask { Self::Bits(value) } else { Self::Masked { value, mask } }
    }
}

/// As `ip rule` writes it.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_cannot_carry_two_that_are_told_apart() {
        let masked = |value| Mark::masked(value, 0xff00_0000).expect("a mark");
        let (one, two, bit) = (masked(0x0100_0000), masked(0x0300_0000), Mark::bits(0x80));
        for (one, other, apart) in [
            (one, two, true),
            (one, one, false),
            (one, bit, true),
            (one, Mark::bits(0x0100_0000), false),
            (two, Mark::bits(0x0400_0000), false),
            (bit, Mark::bits(0x40), true),
        ] {
            assert_eq!(one.is_told_from(other), apart, "{one} {other}");
            assert_eq!(other.is_told_from(one), apart, "{other} {one}");
        }
        assert_eq!(Mark::masked(0, 0xff), None);
        assert_eq!(Mark::masked(0x100, 0xff), None);
    }

    #[test]
    fn one_bit_is_kept_as_it_always_was() {
        let json = |mark: Mark| serde_json::to_string(&mark).expect("JSON");
        let bit = Mark::bits(0x0100_0000);
        assert_eq!(json(bit), "16777216");
        let masked = Mark::masked(5, 0xff).expect("a mark");
        for mark in [bit, masked, Mark::default()] {
            assert_eq!(serde_json::from_str::<Mark>(&json(mark)).expect("a mark"), mark);
        }
    }
}
