//! How a path and its endpoints are looked at: intervals, and the question that is put through the
//! tunnel.
//!
//! Must never resolve a name: a probe that needs DNS tells nothing where DNS is what failed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::cursor::Cursor;
use super::error::{ConfigError, Problem};
use super::read::choice;
use super::value;

pub(super) const HEALTH: &[&str] =
    &["interval", "handshake_stale_after", "settle", "standby_interval", "failover_to", "probe"];

/// Of a probe through the tunnel: the slowest links, and room for one lost packet's worth.
const DEFAULT_PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a resolver listens.
const DNS_PORT: u16 = 53;

/// How often a path is looked at, and what counts as silence. No duration is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Between two cycles.
    pub interval: Duration,
    /// A handshake older than this is no sign of life.
    pub handshake_stale_after: Duration,
    /// The grace after a start, a switch, a release and an uplink that came back.
    pub settle: Duration,
    /// Between two probes of an endpoint beside the tunnel, where the endpoint does not say.
    pub standby_interval: ProbeInterval,
    pub failover_to: FailoverTo,
    /// None: the handshake's age alone decides.
    pub probe: Option<TunnelProbe>,
}

/// How often an endpoint is asked beside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeInterval {
    Every(Duration),
    Off,
}

/// What an endpoint has to show before a path is switched to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverTo {
    /// A handshake (S9).
    Answering,
    /// Nothing: the next in the list is taken unasked.
    Next,
}

/// A probe through the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelProbe {
    pub question: Question,
    /// Shorter than the interval between two cycles.
    pub timeout: Duration,
}

/// What is asked of the far side of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// An echo.
    Icmp(IpAddr),
    /// A connection.
    Tcp(SocketAddr),
    /// The address of a name.
    Dns { resolver: SocketAddr, name: DnsName },
}

impl Question {
    /// Whom it is put to.
    pub fn target(&self) -> IpAddr {
        match self {
            Self::Icmp(target) => *target,
            Self::Tcp(target) => target.ip(),
            Self::Dns { resolver, .. } => resolver.ip(),
        }
    }
}

/// A name in the form that DNS sends: labels, each after its length, and a zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsName(Vec<u8>);

impl Default for Health {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            // REJECT_AFTER_TIME of the protocol: by then the session's keys are refused anyway.
            handshake_stale_after: Duration::from_secs(180),
            settle: Duration::from_secs(10),
            standby_interval: ProbeInterval::Every(Duration::from_secs(30)),
            failover_to: FailoverTo::Answering,
            probe: None,
        }
    }
}

impl DnsName {
    /// The longest label, and the longest name as it is sent (RFC 1035, section 2.3.4).
    const LABEL: usize = 63;
    const NAME: usize = 255;

    /// The root of all names.
    pub fn root() -> Self {
        Self(vec![0])
    }

    pub fn parse(text: &str) -> Option<Self> {
        let mut wire = Vec::new();
        for label in text.trim_end_matches('.').split('.').filter(|_| text != ".") {
            let narrow = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            if !(1..=Self::LABEL).contains(&label.len()) || !label.bytes().all(narrow) {
                return None;
            }
            wire.push(u8::try_from(label.len()).ok()?);
            wire.extend(label.bytes());
        }
        wire.push(0);
        (wire.len() <= Self::NAME).then_some(Self(wire))
    }

    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

pub(super) fn health(at: &Cursor<'_>) -> Result<Health, ConfigError> {
    let fields = at.fields(HEALTH)?;
    let duration = |key, otherwise| fields.read(key, otherwise, |at| at.value(value::duration));
    let usual = Health::default();
    let interval = duration("interval", usual.interval)?;
    Ok(Health {
        interval,
        handshake_stale_after: duration("handshake_stale_after", usual.handshake_stale_after)?,
        settle: duration("settle", usual.settle)?,
        standby_interval: fields.read("standby_interval", usual.standby_interval, every)?,
        failover_to: fields.read("failover_to", usual.failover_to, failover_to)?,
        probe: fields.read("probe", None, |at| probe(at, interval).map(Some))?,
    })
}

/// A duration, or `off`.
pub(super) fn every(at: &Cursor<'_>) -> Result<ProbeInterval, ConfigError> {
    if at.text()? == "off" {
        return Ok(ProbeInterval::Off);
    }
    at.value(value::duration).map(ProbeInterval::Every)
}

fn failover_to(at: &Cursor<'_>) -> Result<FailoverTo, ConfigError> {
    match at.text()? {
        "answering" => Ok(FailoverTo::Answering),
        "next" => Ok(FailoverTo::Next),
        other => Err(choice(at, other, "`answering` or `next`")),
    }
}

fn probe(at: &Cursor<'_>, interval: Duration) -> Result<TunnelProbe, ConfigError> {
    let fields = at.fields(&["kind", "target", "query", "timeout"])?;
    let timeout = fields.read("timeout", DEFAULT_PROBE_TIMEOUT, |at| at.value(value::duration))?;
    if timeout >= interval {
        let culprit = fields.get("timeout").unwrap_or_else(|| at.clone());
        return Err(culprit.error(Problem::ProbeTimeout(interval)));
    }
    let target = fields.need("target")?;
    let kind = fields.get("kind");
    let word = kind.as_ref().map_or(Ok("icmp"), Cursor::text)?;
    let question = match word {
        "icmp" => Question::Icmp(target.value(value::target)?),
        "tcp" => Question::Tcp(target.value(value::target_port)?),
        "dns" => Question::Dns {
            resolver: target.value(|text| value::target_or_port(text, DNS_PORT))?,
            name: fields.read("query", DnsName::root(), |at| at.value(value::dns_name))?,
        },
        other => {
            return Err(choice(kind.as_ref().unwrap_or(at), other, "`icmp`, `tcp` or `dns`"));
        }
    };
    match fields.get("query") {
        Some(query) if !matches!(question, Question::Dns { .. }) => {
            Err(query.error(Problem::QueryWithoutDns))
        }
        _ => Ok(TunnelProbe { question, timeout }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_as_dns_sends_it() {
        let wire = |text: &str| DnsName::parse(text).map(|name| name.wire().to_vec());
        assert_eq!(wire("."), Some(vec![0]));
        assert_eq!(wire("a.example"), Some(b"\x01a\x07example\0".to_vec()));
        assert_eq!(wire("a.example."), wire("a.example"));
        for wrong in ["", "..", "a..b", "a b", "\u{e4}.example", ".a", &"a".repeat(64)] {
            assert_eq!(wire(wrong), None, "{wrong}");
        }
        assert!(wire(&["a"; 127].join(".")).is_some());
        assert_eq!(wire(&["a"; 128].join(".")), None);
    }
}
