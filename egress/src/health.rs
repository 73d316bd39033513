//! One health check's judgement: `evidence -> verdict`, and nothing else.
//!
//! *Tunnel-down* is said on evidence only, and never of a path whose lock, state or uplink is in
//! doubt: a switch would not mend that, and a leak must never cause one (S3, S7).

use std::fmt;
use std::time::Duration;

/// What arrives on a tunnel that lives but carries nothing, within one probe's timeout: two
/// keepalives (32 bytes each), a handshake initiation (148), a response (92) and a cookie (64).
/// Anything above is traffic.
pub const EXPLAINED_BYTES: u64 = 2 * 32 + 148 + 92 + 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    pub standing: Standing,
    pub lock: Lock,
    pub leak: Leak,
    pub uplink: Uplink,
    pub peer: Peer,
    pub probe: Probe,
    pub clock: Clock,
    /// Just started, switched, released or resumed: too early to call the tunnel down.
    pub settling: bool,
}

/// What state says of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Locked,
    /// A stop is latched, and the kernel is seen to cut the path.
    Stopped,
    /// A stop is latched in state, and the kernel is not seen to cut the path: packets may pass.
    Latched,
    Unlocked,
    Unknown(String),
}

/// The loaded rules against the intended ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    Intact,
    Broken,
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leak {
    None,
    /// Packets above the baseline.
    Seen(u64),
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    Up,
    /// Why, with the device and the gateway by name.
    Down(String),
    Unknown(String),
}

/// The wall clock against the latest time that was used in a handshake. A responder ignores a
/// handshake whose time is not later than the last one's, so behind it no endpoint can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Right,
    Behind(Duration),
}

/// The device's live peer against the active endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// `None`: never a handshake.
    Active {
        handshake_age: Option<Duration>,
    },
    Roamed,
    /// Another endpoint, or none: the device is not what state says.
    Other,
    Unknown(String),
}

/// The probe through the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    Off,
    Answered,
    /// No answer; `received` bytes came in by the tunnel between its sending and its timeout.
    Silent {
        received: u64,
    },
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Up,
    TunnelDown(DownReason),
    Leak(u64),
    UplinkDown(String),
    Stopped,
    Roamed,
    Unknown(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownReason {
    NeverHandshaken,
    HandshakeStale,
    Unreachable,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverHandshaken => "no handshake ever",
            Self::HandshakeStale => "handshake stale",
            Self::Unreachable => "probe lost and nothing received",
        })
    }
}

impl Verdict {
    /// Every word that can be a `verdict` label.
    pub const WORDS: [&'static str; 7] =
        ["up", "tunnel-down", "leak", "uplink-down", "stopped", "roamed", "unknown"];

    pub fn word(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::TunnelDown(_) => "tunnel-down",
            Self::Leak(_) => "leak",
            Self::UplinkDown(_) => "uplink-down",
            Self::Stopped => "stopped",
            Self::Roamed => "roamed",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TunnelDown(reason) => write!(f, "tunnel-down ({reason})"),
            Self::Leak(packets) => write!(f, "leak ({packets} packets above the baseline)"),
            Self::UplinkDown(reason) => write!(f, "uplink-down ({reason})"),
            Self::Unknown(reason) => write!(f, "unknown ({reason})"),
            plain => f.write_str(plain.word()),
        }
    }
}

/// The order is the rule: what would make a later answer worthless is asked first.
pub fn classify(evidence: &Evidence, stale_after: Duration) -> Verdict {
    match &evidence.standing {
        Standing::Stopped => return Verdict::Stopped,
        Standing::Latched => {
            return Verdict::Unknown("a hard stop is latched, and the path is not seen cut".into());
        }
        Standing::Unknown(why) => return Verdict::Unknown(why.clone()),
        Standing::Unlocked => return Verdict::Unknown("the lock was taken off".into()),
        Standing::Locked => {}
    }
    match &evidence.leak {
        Leak::Seen(packets) => return Verdict::Leak(*packets),
        Leak::Unknown(why) => return Verdict::Unknown(why.clone()),
        Leak::None => {}
    }
    match &evidence.lock {
        Lock::Broken => return Verdict::Unknown("the rules are not the intended ones".into()),
        Lock::Unknown(why) => return Verdict::Unknown(why.clone()),
        Lock::Intact => {}
    }
    match &evidence.uplink {
        Uplink::Down(why) => return Verdict::UplinkDown(why.clone()),
        Uplink::Unknown(why) => return Verdict::Unknown(why.clone()),
        Uplink::Up => {}
    }
    let age = match &evidence.peer {
        Peer::Unknown(why) => return Verdict::Unknown(why.clone()),
        Peer::Other => return Verdict::Unknown("the device is not at the active endpoint".into()),
        Peer::Roamed => return Verdict::Roamed,
        Peer::Active { handshake_age } => *handshake_age,
    };
    match tunnel(age, &evidence.probe, stale_after) {
        Verdict::TunnelDown(reason) if evidence.settling => {
            Verdict::Unknown(format!("settling: {reason}"))
        }
        // Another endpoint would not answer either: no failover is spent on a clock.
        Verdict::TunnelDown(reason) => match evidence.clock {
            Clock::Behind(by) => Verdict::Unknown(format!(
                "clock: {} s behind the latest handshake, set it right ({reason})",
                by.as_secs()
            )),
            Clock::Right => Verdict::TunnelDown(reason),
        },
        verdict => verdict,
    }
}

/// Stale, **or** unreachable: the probe failed and nothing came but what an idle peer sends.
///
/// What came through the tunnel just now beats the handshake's age, which rests on the wall clock:
/// a clock that is stepped must not take a working tunnel down.
fn tunnel(age: Option<Duration>, probe: &Probe, stale_after: Duration) -> Verdict {
    match (age, probe) {
        (_, Probe::Answered) => Verdict::Up,
        (_, Probe::Silent { received }) if *received > EXPLAINED_BYTES => Verdict::Up,
        (None, _) => Verdict::TunnelDown(DownReason::NeverHandshaken),
        (Some(age), _) if age > stale_after => Verdict::TunnelDown(DownReason::HandshakeStale),
        (_, Probe::Silent { .. }) => Verdict::TunnelDown(DownReason::Unreachable),
        (_, Probe::Unknown(why)) => Verdict::Unknown(why.clone()),
        (_, Probe::Off) => Verdict::Up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(180);

    fn healthy() -> Evidence {
        Evidence {
            standing: Standing::Locked,
            lock: Lock::Intact,
            leak: Leak::None,
            uplink: Uplink::Up,
            peer: Peer::Active { handshake_age: Some(Duration::from_secs(30)) },
            probe: Probe::Answered,
            clock: Clock::Right,
            settling: false,
        }
    }

    fn verdict(change: impl FnOnce(&mut Evidence)) -> Verdict {
        let mut evidence = healthy();
        change(&mut evidence);
        classify(&evidence, STALE)
    }

    fn aged(seconds: Option<u64>) -> Peer {
        Peer::Active { handshake_age: seconds.map(Duration::from_secs) }
    }

    #[test]
    fn a_healthy_path_is_up() {
        assert_eq!(classify(&healthy(), STALE), Verdict::Up);
        assert_eq!(verdict(|e| e.probe = Probe::Off), Verdict::Up);
        assert_eq!(verdict(|e| e.peer = aged(Some(180))), Verdict::Up);
    }

    #[test]
    fn stale_never_or_unreachable_is_down() {
        use DownReason::{HandshakeStale, NeverHandshaken, Unreachable};
        for probe in [Probe::Off, Probe::Silent { received: 0 }, Probe::Unknown("why".into())] {
            let with = |age| {
                verdict(|e| {
                    e.peer = aged(age);
                    e.probe = probe.clone();
                })
            };
            assert_eq!(with(Some(181)), Verdict::TunnelDown(HandshakeStale));
            assert_eq!(with(None), Verdict::TunnelDown(NeverHandshaken));
        }
        let silent = Probe::Silent { received: 0 };
        assert_eq!(verdict(|e| e.probe = silent), Verdict::TunnelDown(Unreachable));
    }

    #[test]
    fn a_clock_that_is_stepped_does_not_take_a_working_tunnel_down() {
        assert_eq!(verdict(|e| e.peer = aged(Some(100_000))), Verdict::Up);
        let busy = verdict(|e| {
            e.peer = aged(Some(100_000));
            e.probe = Probe::Silent { received: 2_000_000 };
        });
        assert_eq!(busy, Verdict::Up);
    }

    #[test]
    fn a_clock_that_is_behind_spends_no_failover() {
        for (age, probe) in [(None, Probe::Off), (Some(30), Probe::Silent { received: 0 })] {
            let behind = verdict(|e| {
                e.clock = Clock::Behind(Duration::from_secs(86_400));
                e.peer = aged(age);
                e.probe = probe;
            });
            assert!(
                matches!(&behind, Verdict::Unknown(why) if why.starts_with("clock: 86400 s")),
                "{behind}"
            );
        }
        // While the session lives, the clock is no matter.
        assert_eq!(verdict(|e| e.clock = Clock::Behind(Duration::from_secs(60))), Verdict::Up);
    }

    #[test]
    fn a_saturated_tunnel_that_drops_a_probe_is_not_down() {
        let busy = Probe::Silent { received: 2_000_000 };
        assert_eq!(verdict(|e| e.probe = busy), Verdict::Up);
    }

    #[test]
    fn a_peer_that_lives_and_forwards_nothing_is_down_though_its_keepalives_arrive() {
        let keepalives = Probe::Silent { received: 2 * 32 };
        let rekeyed = Probe::Silent { received: EXPLAINED_BYTES };
        for probe in [keepalives, rekeyed] {
            assert_eq!(verdict(|e| e.probe = probe), Verdict::TunnelDown(DownReason::Unreachable));
        }
    }

    #[test]
    fn s3_where_both_breaches_are_on_the_table_the_leak_wins() {
        let both = |e: &mut Evidence| {
            e.leak = Leak::Seen(1);
            e.peer = aged(None);
            e.probe = Probe::Silent { received: 0 };
        };
        assert_eq!(verdict(both), Verdict::Leak(1));
    }

    #[test]
    fn s7_what_is_unknown_never_reads_as_healthy_nor_as_down() {
        let why = || String::from("why");
        let unknown: [fn(&mut Evidence, String); 6] = [
            |e, why| e.standing = Standing::Unknown(why),
            |e, why| e.leak = Leak::Unknown(why),
            |e, why| e.lock = Lock::Unknown(why),
            |e, why| e.uplink = Uplink::Unknown(why),
            |e, why| e.peer = Peer::Unknown(why),
            |e, why| e.probe = Probe::Unknown(why),
        ];
        for change in unknown {
            assert_eq!(verdict(|e| change(e, why())), Verdict::Unknown(why()));
        }
        assert!(matches!(verdict(|e| e.lock = Lock::Broken), Verdict::Unknown(_)));
        assert!(matches!(verdict(|e| e.standing = Standing::Unlocked), Verdict::Unknown(_)));
        assert!(matches!(verdict(|e| e.standing = Standing::Latched), Verdict::Unknown(_)));
        assert!(matches!(verdict(|e| e.peer = Peer::Other), Verdict::Unknown(_)));
    }

    #[test]
    fn a_dead_uplink_a_stop_and_roaming_are_named_as_such_while_the_tunnel_is_dead_too() {
        let dead = |e: &mut Evidence| e.probe = Probe::Silent { received: 0 };
        let uplink = verdict(|e| {
            dead(e);
            e.uplink = Uplink::Down("no carrier".into());
        });
        assert_eq!(uplink, Verdict::UplinkDown("no carrier".into()));
        let stopped = verdict(|e| {
            dead(e);
            e.standing = Standing::Stopped;
            e.leak = Leak::Seen(9);
        });
        assert_eq!(stopped, Verdict::Stopped);
        let roamed = verdict(|e| {
            dead(e);
            e.peer = Peer::Roamed;
        });
        assert_eq!(roamed, Verdict::Roamed);
    }

    #[test]
    fn what_settles_is_not_yet_down_but_may_be_up() {
        let settling = verdict(|e| {
            e.settling = true;
            e.probe = Probe::Off;
            e.peer = aged(None);
        });
        assert!(matches!(settling, Verdict::Unknown(why) if why.starts_with("settling")));
        assert_eq!(verdict(|e| e.settling = true), Verdict::Up);
    }
}
