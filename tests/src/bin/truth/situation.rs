//! The rows: what goes wrong, how it is made to, and what has to be seen of it.

use clap::ValueEnum;
use lab::{Direction, Endpoint, Load, Saturation, World};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Situation {
    Healthy,
    HandshakeStale,
    Saturated,
    ServerStopped,
    ToServerLost,
    FromServerLost,
    WrongKey,
    ForwardsNothing,
    LargeLost,
    NamesDead,
    ProbedNamesDead,
    Roamed,
    UplinkDown,
    NothingAnswers,
}

/// What has to be seen of a situation; of several looks, the last one while the path was still at
/// the endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The verdict, with its reason.
    pub verdict: &'static str,
    pub age: Age,
    pub probe: Probe,
    /// A probe of large packets.
    pub large_probe: Reading,
    /// The endpoint by a handshake from a fresh socket.
    pub handshake: Reading,
    /// Its host by an echo.
    pub echo: Reading,
    /// The other endpoint by a handshake.
    pub standby: Reading,
    pub uplink: Reading,
    /// The alerts that fire, beside the watchdog; and no others do.
    pub firing: &'static [&'static str],
    /// Alerts that would, if it went on; others may as well.
    pub pending: &'static [&'static str],
    pub act: Act,
    /// What users see: small packets, large ones, name lookups.
    pub small: bool,
    pub large: bool,
    pub names: bool,
}

/// Of the latest handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    Fresh,
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Answered,
    Lost,
    /// Lost at some cycles, whatever the others found.
    SomeLost,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Yes,
    No,
    /// No series: it was not asked, or the answer would tell nothing.
    Missing,
    /// Now this, now that.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Nothing,
    /// To the backup, and traffic flows by it.
    Failover,
    /// A failover was asked for, and none done.
    NoStandby,
    /// The peer, to its configured address.
    SetBack,
}

const HEALTHY: Expected = Expected {
    verdict: "up",
    age: Age::Fresh,
    probe: Probe::Answered,
    large_probe: Reading::Yes,
    handshake: Reading::Missing,
    echo: Reading::Yes,
    standby: Reading::Yes,
    uplink: Reading::Yes,
    firing: &[],
    pending: &[],
    act: Act::Nothing,
    small: true,
    large: true,
    names: true,
};

const DOWN: Expected = Expected {
    verdict: "tunnel-down (probe lost and nothing received)",
    probe: Probe::Lost,
    large_probe: Reading::Missing,
    handshake: Reading::No,
    firing: &["VpnEgressTunnelDown"],
    act: Act::Failover,
    small: false,
    large: false,
    names: false,
    ..HEALTHY
};

impl Situation {
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::Healthy => "none: all is well",
            Self::HandshakeStale => "handshake stale, no probe configured",
            Self::Saturated => "probe lost in a saturated tunnel",
            Self::ServerStopped => "server stopped, its host lives",
            Self::ToServerLost => "one-way blackhole, to the server",
            Self::FromServerLost => "one-way blackhole, from the server",
            Self::WrongKey => "the server's key was rotated",
            Self::ForwardsNothing => "the peer lives and forwards nothing",
            Self::LargeLost => "MTU blackhole: large packets are lost",
            Self::NamesDead => "DNS dead inside the tunnel",
            Self::ProbedNamesDead => "DNS dead inside the tunnel, and the probe asks there",
            Self::Roamed => "the peer answers from elsewhere",
            Self::UplinkDown => "uplink down (no carrier)",
            Self::NothingAnswers => "nothing behind the gateway answers",
        }
    }

    pub const fn expected(self) -> Expected {
        match self {
            Self::Healthy => HEALTHY,
            Self::HandshakeStale => Expected {
                verdict: "tunnel-down (handshake stale)",
                age: Age::Stale,
                probe: Probe::Off,
                echo: Reading::No,
                ..DOWN
            },
            Self::Saturated => {
                Expected { probe: Probe::SomeLost, large_probe: Reading::Any, ..HEALTHY }
            }
            Self::ServerStopped | Self::WrongKey => DOWN,
            Self::ToServerLost | Self::FromServerLost => Expected { echo: Reading::No, ..DOWN },
            Self::ForwardsNothing => Expected { handshake: Reading::Yes, ..DOWN },
            Self::LargeLost => Expected {
                large: false,
                large_probe: Reading::No,
                pending: &["VpnEgressLargePacketsLost"],
                ..HEALTHY
            },
            Self::NamesDead => Expected { names: false, ..HEALTHY },
            Self::ProbedNamesDead => Expected {
                names: false,
                probe: Probe::Lost,
                large_probe: Reading::Missing,
                pending: &["VpnEgressProbeUnanswered"],
                ..HEALTHY
            },
            Self::Roamed => Expected {
                verdict: "roamed",
                probe: Probe::SomeLost,
                large_probe: Reading::Any,
                firing: &["VpnEgressRoamed"],
                act: Act::SetBack,
                ..HEALTHY
            },
            Self::UplinkDown => Expected {
                verdict: "uplink-down (no carrier on eth0)",
                probe: Probe::Lost,
                large_probe: Reading::Missing,
                echo: Reading::Missing,
                standby: Reading::Missing,
                uplink: Reading::No,
                firing: &["VpnEgressUplinkDown"],
                small: false,
                large: false,
                names: false,
                ..HEALTHY
            },
            Self::NothingAnswers => {
                Expected { echo: Reading::No, standby: Reading::No, act: Act::NoStandby, ..DOWN }
            }
        }
    }

    /// Does it to the path's primary; what it needs to go on is kept.
    pub fn commit(self, world: &mut World) -> Option<Saturation> {
        let primary = Endpoint::A;
        match self {
            Self::Healthy => {}
            Self::Saturated => return Some(world.saturate(Load::Upload)),
            Self::HandshakeStale => world.blackhole(primary, Direction::Both),
            Self::ServerStopped => {
                // A host says so once a second at most, and would spend it on the users' packets.
                world.sysctl(primary.ns(), "net.ipv4.icmp_ratelimit", "0");
                world.stop_server(primary);
            }
            Self::ToServerLost => world.blackhole(primary, Direction::ToServer),
            Self::FromServerLost => world.blackhole(primary, Direction::FromServer),
            Self::WrongKey => world.rotate_key(primary),
            Self::ForwardsNothing => world.server_forwards(primary, false),
            Self::LargeLost => world.drop_large(primary),
            Self::NamesDead | Self::ProbedNamesDead => world.drop_names(primary),
            Self::Roamed => world.answer_from(primary, "198.51.100.11"),
            Self::UplinkDown => world.uplink_down(),
            Self::NothingAnswers => {
                for endpoint in Endpoint::ALL {
                    world.blackhole(endpoint, Direction::Both);
                }
            }
        }
        None
    }
}
