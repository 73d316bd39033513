//! The router as an IPS: it drops on a signature that ciphertext meets by chance, as section 11 of
//! the design has it. Random bytes match k bits once in 2^k packets.

use std::time::Duration;

use crate::addresses::{Ns, WIREGUARD_PORT};
use crate::world::World;

/// What a match blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpsBlock {
    /// This flow only: a new source port gets through.
    Flow,
    /// The endpoint's address and port, from every source port.
    AddressAndPort,
}

/// How much of the first ciphertext byte must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// One packet in 16.
    FourBits,
    /// One packet in 256.
    EightBits,
}

impl World {
    /// Inspects what the host sends to endpoints, and blocks for `block_time` on a match.
    #[track_caller]
    pub fn ips_on(&self, signature: Signature, block: IpsBlock, block_time: Duration) {
        let bits = match signature {
            Signature::FourBits => 4,
            Signature::EightBits => 8,
        };
        let (types, key) = match block {
            IpsBlock::Flow => (
                "ipv4_addr . inet_service . ipv4_addr . inet_service",
                "ip saddr . udp sport . ip daddr . udp dport",
            ),
            IpsBlock::AddressAndPort => ("ipv4_addr . inet_service", "ip daddr . udp dport"),
        };
        // After 8 bytes of UDP come 16 of a data message's header (type 4), then ciphertext.
        self.nft(
            Ns::Router,
            &format!(
                "table inet ips
delete table inet ips
table inet ips {{
    counter matches {{ }}
    set blocked {{ type {types}; flags dynamic, timeout; timeout {}ms; size 1024; }}
    chain forward {{
        type filter hook forward priority -1;
        iifname \"lan\" {key} @blocked drop
        iifname \"lan\" udp dport {WIREGUARD_PORT} @th,64,32 0x04000000 @th,192,{bits} 7 counter name matches add @blocked {{ {key} }} drop
    }}
}}
",
                block_time.as_millis()
            ),
        );
    }

    /// Ends the inspection and every block.
    #[track_caller]
    pub fn ips_off(&self) {
        self.nft(Ns::Router, "delete table inet ips\n");
    }
}
