//! The kinds of traffic of the leak matrix: who sends each, and how the router tells it from the
//! others without asking the host.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A column of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Connection attempts.
    TcpNew,
    /// Connections opened before the lock: what they send, and their segments once they are dead.
    TcpOld,
    UdpNew,
    /// Sockets that were answered before the lock.
    UdpOld,
    Icmp,
    DnsUdp,
    DnsTcp,
    /// TCP and UDP to port 853.
    Dot,
    /// UDP, TCP and ICMP by IPv6.
    Ipv6,
    Multicast,
    Broadcast,
    /// Datagrams larger than the uplink's MTU.
    Fragments,
    /// UDP, TCP, ICMP and DNS of a container behind a bridge, by flows old and new.
    Forwarded,
    /// UDP and TCP of another user.
    OtherUser,
    /// UDP to the endpoints, after an attempt to put the tunnel's mark on it.
    ForgedMark,
    /// Frames by `AF_PACKET`, past the IP stack: plain, tagged, tagged twice, later fragments.
    Packet,
}

/// The process that sends a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sender {
    /// Root on the host.
    Host,
    /// On the host, without a capability in its network namespace.
    User,
    Container,
}

/// ICMP echo identifiers.
pub const ECHO_ID_HOST: u16 = 0x1ab0;
pub const ECHO_ID_CONTAINER: u16 = 0x1ab1;

impl Kind {
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The head of its column.
    pub const fn title(self) -> &'static str {
        match self {
            Self::TcpNew => "TCP new",
            Self::TcpOld => "TCP old",
            Self::UdpNew => "UDP new",
            Self::UdpOld => "UDP old",
            Self::Icmp => "ICMP",
            Self::DnsUdp => "DNS UDP",
            Self::DnsTcp => "DNS TCP",
            Self::Dot => "DoT",
            Self::Ipv6 => "IPv6",
            Self::Multicast => "multi-cast",
            Self::Broadcast => "broad-cast",
            Self::Fragments => "frag-ments",
            Self::Forwarded => "for-warded",
            Self::OtherUser => "other user",
            Self::ForgedMark => "forged mark",
            Self::Packet => "AF_ PACKET",
        }
    }

    /// Past the IP stack, where only the watch sees it, and counts it as the leak that it is.
    pub const fn is_raw(self) -> bool {
        matches!(self, Self::Packet)
    }

    pub const fn sender(self) -> Sender {
        match self {
            Self::Forwarded => Sender::Container,
            Self::OtherUser | Self::ForgedMark => Sender::User,
            _ => Sender::Host,
        }
    }

    /// The port it is sent to, where that is what tells it from the others.
    pub const fn port(self) -> u16 {
        match self {
            Self::DnsUdp | Self::DnsTcp => 53,
            Self::Dot => 853,
            Self::TcpNew => 7101,
            Self::TcpOld => 7102,
            Self::UdpNew => 7103,
            Self::UdpOld => 7104,
            Self::Ipv6 => 7105,
            Self::Multicast => 7106,
            Self::Broadcast => 7107,
            Self::Packet => 7108,
            Self::Fragments => 7109,
            Self::Forwarded => 7110,
            Self::OtherUser => 7111,
            // To the endpoints' own port.
            Self::ForgedMark => crate::addresses::WIREGUARD_PORT,
            Self::Icmp => 0,
        }
    }

    pub(crate) fn counter(self) -> String {
        format!("kind_{}", self.name().replace('-', "_"))
    }

    /// How nft on the router knows it. Where several match, the first of [`Kind::by_precedence`].
    pub(crate) fn matches(self, endpoints: &str) -> Vec<String> {
        let port = self.port();
        match self {
            Self::Packet => vec![
                "meta protocol { 8021q, 8021ad }".into(),
                format!("ip frag-off & 0x3fff != 0 ip daddr {{ {endpoints} }}"),
                format!("udp dport {port}"),
            ],
            Self::Fragments => vec!["ip frag-off & 0x3fff != 0".into()],
            Self::ForgedMark => vec![format!("ip daddr {{ {endpoints} }} udp dport {port}")],
            Self::Icmp => vec![format!("icmp type echo-request icmp id {ECHO_ID_HOST}")],
            Self::Forwarded => vec![
                format!("meta l4proto {{ tcp, udp }} th dport {port}"),
                format!("icmp type echo-request icmp id {ECHO_ID_CONTAINER}"),
            ],
            Self::Ipv6 => vec![
                format!("meta protocol ip6 meta l4proto {{ tcp, udp }} th dport {port}"),
                "icmpv6 type echo-request".into(),
            ],
            Self::TcpNew | Self::TcpOld | Self::DnsTcp => vec![format!("tcp dport {port}")],
            _ => vec![format!("meta l4proto {{ tcp, udp }} th dport {port}")],
        }
    }

    pub(crate) fn by_precedence() -> Vec<Self> {
        let mut all = Self::value_variants().to_vec();
        all.sort_by_key(|kind| match kind {
            Self::Packet => 0,
            Self::Fragments => 1,
            // TCP to port 53 before UDP.
            Self::DnsTcp => 2,
            _ => 3,
        });
        all
    }
}
