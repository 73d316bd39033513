//! The router as an IPS: it drops on a signature that ciphertext meets by chance, as section 11 of
//! the design has it. Random bytes match k bits once in 2^k packets.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::addresses::{Ns, WIREGUARD_PORT, WORLD};
use crate::process::Process;
use crate::world::World;

/// RFC 863; nobody listens there.
const DISCARD_PORT: u16 = 9;

/// What a match blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpsBlock {
    /// The packet, and nothing else: what an inline IPS does.
    Packet,
    /// This flow only: a new source port gets through.
    Flow,
    /// This host towards the endpoint's address and port, from every source port.
    AddressAndPort,
}

/// How much of the first ciphertext byte must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// One packet in 16.
    FourBits,
    /// One packet in 256.
    EightBits,
    /// One packet in 16 384: met in seconds under load, in hours by an idle tunnel.
    FourteenBits,
}

/// The host under test sends this much into the tunnel until it is dropped.
#[derive(Debug)]
pub struct Volume(#[allow(dead_code)] Process);

impl World {
    /// Inspects what the host sends to endpoints, and blocks for `block_time` on a match.
    #[track_caller]
    pub fn ips_on(&self, signature: Signature, block: IpsBlock, block_time: Duration) {
        let bits = match signature {
            Signature::FourBits => 4,
            Signature::EightBits => 8,
            Signature::FourteenBits => 14,
        };
        // And its reverse, as gateways block.
        let (types, key, reverse) = match block {
            IpsBlock::Flow => (
                "ipv4_addr . inet_service . ipv4_addr . inet_service",
                "ip saddr . udp sport . ip daddr . udp dport",
                "ip daddr . udp dport . ip saddr . udp sport",
            ),
            IpsBlock::Packet | IpsBlock::AddressAndPort => {
                let types = "ipv4_addr . ipv4_addr . inet_service";
                (types, "ip saddr . ip daddr . udp dport", "ip daddr . ip saddr . udp sport")
            }
        };
        let remember = match block {
            IpsBlock::Packet => String::new(),
            IpsBlock::Flow | IpsBlock::AddressAndPort => format!("add @blocked {{ {key} }}"),
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
        oifname \"lan\" {reverse} @blocked drop
        jump inspect
    }}
    chain inspect {{
        iifname \"lan\" udp dport {WIREGUARD_PORT} @th,64,32 0x04000000 @th,192,{bits} 7 counter name matches {remember} drop
    }}
}}
",
                block_time.as_millis()
            ),
        );
    }

    /// Ends the inspection; what is blocked stays so for its time.
    #[track_caller]
    pub fn ips_disarm(&self) {
        self.nft(Ns::Router, "flush chain inet ips inspect\n");
    }

    /// How many packets met the signature.
    #[track_caller]
    pub fn ips_matches(&self) -> u64 {
        let listed =
            self.exec_ok(Ns::Router, &["nft", "-j", "list", "counter", "inet", "ips", "matches"]);
        let json: Value = serde_json::from_str(&listed).expect("nft -j prints JSON");
        json["nftables"][1]["counter"]["packets"].as_u64().expect("a counter")
    }

    /// Sends some 2.4 MB a second through the tunnel, far above a megabit a second.
    #[track_caller]
    pub fn start_volume(&self) -> Volume {
        let lab = Self::program("lab").display().to_string();
        let target = SocketAddr::new(WORLD.into(), DISCARD_PORT).to_string();
        let line = [lab.as_str(), "volume", "--target", &target, "--packets-per-second", "2000"];
        Volume(self.spawn(Ns::Egress, "volume", &line))
    }

    /// Ends the inspection and every block.
    #[track_caller]
    pub fn ips_off(&self) {
        self.nft(Ns::Router, "delete table inet ips\n");
    }
}
