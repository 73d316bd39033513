//! Attempts to get out beside the tunnel, and the proof that the observer sees them.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::Value;

use crate::addresses::{Ns, UPLINK};
use crate::eventually::eventually;
use crate::observer::Class;
use crate::world::World;

/// A way out that a locked host must not have; each packet is bound to the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Leak {
    Udp4,
    Udp6,
    /// A connection attempt: one SYN and its retransmissions.
    Tcp4,
    Tcp6,
    Icmp4,
    Icmp6,
    /// An IPv4 frame by `AF_PACKET`, past the host's IP stack.
    Packet,
    /// The same in an 802.1Q tag.
    Vlan,
    /// The same in two tags, of which the router takes off one.
    Qinq,
    /// The same in a `PPPoE` session.
    Pppoe,
    /// UDP to a permitted endpoint's address and port, but not of the tunnel: no mark.
    Endpoint,
    /// An ARP request: ordinary, allowed; what the observer's fence is made of.
    Arp,
    /// What every host and bridge sends by itself, here as frames past the host's IP stack.
    Lldp,
    Eapol,
    Igmp,
    Mld,
    Mdns,
}

impl Leak {
    /// Ordinary chatter of a link: none of it is a leak.
    pub const ORDINARY: [Self; 6] =
        [Self::Arp, Self::Lldp, Self::Eapol, Self::Igmp, Self::Mld, Self::Mdns];

    /// Every kind that is a leak.
    pub const ALL: [Self; 10] = [
        Self::Udp4,
        Self::Udp6,
        Self::Tcp4,
        Self::Tcp6,
        Self::Icmp4,
        Self::Icmp6,
        Self::Packet,
        Self::Vlan,
        Self::Qinq,
        Self::Endpoint,
    ];

    /// The kinds that pass the host's IP stack by: only the watch sees them, and each is a leak that
    /// is acted on.
    pub const FRAMES: [Self; 3] = [Self::Packet, Self::Vlan, Self::Qinq];

    /// The kinds that need no `CAP_NET_RAW`.
    pub const UNPRIVILEGED: [Self; 5] =
        [Self::Udp4, Self::Udp6, Self::Tcp4, Self::Tcp6, Self::Endpoint];

    /// As `lab leak --kind` takes it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The class the observer must count it in, besides [`Class::Outside`].
    pub const fn class(self) -> Class {
        match self {
            Self::Udp4 | Self::Packet | Self::Vlan | Self::Mdns => Class::Udp4,
            Self::Udp6 => Class::Udp6,
            Self::Tcp4 => Class::Tcp4,
            Self::Tcp6 => Class::Tcp6,
            Self::Icmp4 => Class::Icmp4,
            Self::Icmp6 => Class::Icmp6,
            Self::Qinq | Self::Pppoe => Class::Encapsulated,
            Self::Endpoint => Class::EndpointBound,
            Self::Arp => Class::Arp,
            Self::Lldp | Self::Eapol => Class::OtherFrames,
            Self::Igmp | Self::Mld => Class::Membership,
        }
    }
}

/// What became of the attempts, as the host saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// How many the kernel took without an error. `AF_PACKET` frames that a netdev hook dropped
    /// are among the errors, packets that a firewall dropped silently are not.
    pub sent: u64,
    /// The error codes of the others, such as `EPERM`.
    pub errors: BTreeMap<String, u64>,
}

impl Attempts {
    /// What `lab leak` said.
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        let json: Value = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("lab leak said {text:?}: {error}"));
        Self {
            sent: json["sent"].as_u64().unwrap_or(0),
            errors: json["errors"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0)))
                .collect(),
        }
    }
}

/// How many packets prove a kind.
const PROOF: u64 = 3;

/// Nothing more comes of what was sent.
const QUIET: Duration = Duration::from_millis(500);
/// How long a packet may take to the router: neighbour discovery is part of it.
const ARRIVAL: Duration = Duration::from_secs(5);

impl World {
    /// Tries to send `count` packets of a kind past the tunnel, by the uplink.
    #[track_caller]
    pub fn send_outside(&self, kind: Leak, count: u64) -> Attempts {
        self.send_by(kind, count, UPLINK)
    }

    /// The same by any device of the host.
    #[track_caller]
    pub fn send_by(&self, kind: Leak, count: u64, device: &str) -> Attempts {
        let lab = Self::program("lab");
        let text = self.exec_ok(
            Ns::Egress,
            &[
                &lab.to_string_lossy(),
                "leak",
                "--kind",
                &kind.name(),
                "--count",
                &count.to_string(),
                "--device",
                device,
            ],
        );
        Attempts::parse(&text)
    }

    /// Proves that the observer would see a leak: sends every kind outside the tunnel while
    /// nothing forbids it, and panics unless each was counted. Returns how many packets were seen
    /// outside the tunnel, and counts from zero after that.
    #[track_caller]
    pub fn positive_control(&mut self) -> u64 {
        self.reset_observer();
        for kind in Leak::ALL {
            let before = self.counted_since_baseline(kind.class());
            let outside = self.counted_since_baseline(Class::Outside);
            let attempts = self.send_outside(kind, PROOF);
            assert_eq!(
                attempts.sent,
                PROOF,
                "positive control: {} was not let out: {:?}",
                kind.name(),
                attempts.errors
            );
            eventually(ARRIVAL, &format!("the observer counts {}", kind.name()), || {
                let seen = self.counted_since_baseline(kind.class()) - before;
                let seen_outside = self.counted_since_baseline(Class::Outside) - outside;
                if seen >= PROOF && seen_outside >= PROOF {
                    Ok(())
                } else {
                    Err(format!("{seen} of its class, {seen_outside} outside"))
                }
            });
        }
        let seen = self.observed_outside();
        self.await_quiet();
        self.reset_observer();
        seen
    }

    /// The world answers some of what was sent, on a busy machine late, and this host tells it then
    /// that nobody listens any more: outside, and nobody's leak. Other traffic may never end.
    fn await_quiet(&self) {
        let mut last = (self.observed_outside(), Instant::now());
        let give_up = last.1 + ARRIVAL;
        while last.1.elapsed() < QUIET && Instant::now() < give_up {
            thread::sleep(QUIET / 10);
            let seen = self.observed_outside();
            if seen != last.0 {
                last = (seen, Instant::now());
            }
        }
    }
}
