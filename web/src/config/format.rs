//! What may stand in the file, key by key. Every key of exporter-toolkit's documentation is here.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::Rate;

/// A comparison at this cost takes tens of seconds; above it no client waits.
const HIGHEST_COST: u32 = 18;

/// A pass that looks at no value: what it complains of is grammar.
pub fn grammar(text: &str) -> Result<(), serde_yaml::Error> {
    serde_yaml::from_str::<IgnoredAny>(text).map(|_| ())
}

pub fn parse(text: &str) -> Result<Format, serde_yaml::Error> {
    Ok(serde_yaml::from_str::<Option<Format>>(text)?.unwrap_or_default())
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Format {
    pub tls_server_config: Option<Tls>,
    pub http_server_config: Option<Http>,
    pub basic_auth_users: Option<Hashes>,
    pub rate_limit: Option<RateLimit>,
}

/// No Debug on purpose: `key` is a secret.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub cert: Option<String>,
    pub key: Option<String>,
    pub client_ca: Option<String>,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    pub client_ca_file: Option<String>,
    pub client_auth_type: Option<ClientAuth>,
    pub client_allowed_sans: Option<Vec<String>>,
    pub min_version: Option<Version>,
    pub max_version: Option<Version>,
    pub cipher_suites: Option<Vec<String>>,
    pub prefer_server_cipher_suites: Option<bool>,
    pub curve_preferences: Option<Vec<String>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    #[default]
    No,
    Request,
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Tls12,
    Tls13,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub http2: Option<bool>,
    pub headers: Option<Headers>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    interval: Option<Interval>,
    burst: Option<u32>,
}

impl RateLimit {
    pub fn rate(&self) -> Result<Option<Rate>, String> {
        let interval = self.interval.as_ref().map_or(Duration::ZERO, |interval| interval.0);
        match (interval, self.burst.unwrap_or(0)) {
            (Duration::ZERO, _) => Ok(None),
            (_, 0) => Err("rate_limit.burst: with 0 no request is ever answered; \
                 give at least 1, or set interval to 0 to switch the limit off"
                .to_owned()),
            (interval, burst) => Ok(Some(Rate { interval, burst })),
        }
    }
}

/// Reads a text that means something. What is wrong with it is told where the parser is, so that
/// the message has its line.
fn text<'de, T, D: Deserializer<'de>>(
    deserializer: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Text(parse))
}

struct Text<T>(fn(&str) -> Result<T, String>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.0)(&number.to_string()).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for ClientAuth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |text| match text {
            "" | "NoClientCert" => Ok(Self::No),
            "RequestClientCert" => Ok(Self::Request),
            "RequireAnyClientCert" | "RequireClientCert" => Ok(Self::RequireAny),
            "VerifyClientCertIfGiven" => Ok(Self::VerifyIfGiven),
            "RequireAndVerifyClientCert" => Ok(Self::RequireAndVerify),
            _ => Err("is none of NoClientCert, RequestClientCert, RequireAnyClientCert, \
                 VerifyClientCertIfGiven, RequireAndVerifyClientCert; write one of them"
                .to_owned()),
        })
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |text| match text {
            "TLS12" => Ok(Self::Tls12),
            "TLS13" => Ok(Self::Tls13),
            "TLS10" | "TLS11" => Err("TLS 1.0 and 1.1 are not spoken here, they are broken; \
                 write TLS12 or TLS13"
                .to_owned()),
            _ => Err("is no TLS version; write TLS12 or TLS13".to_owned()),
        })
    }
}

/// A bcrypt hash.
struct Hash(String);

/// The cost of a hash; `None` is no hash.
pub fn cost(hash: &str) -> Option<u32> {
    bcrypt::HashParts::from_str(hash).ok().map(|parts| parts.get_cost())
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |hash| match cost(hash) {
            Some(4..=HIGHEST_COST) => Ok(Self(hash.to_owned())),
            Some(cost) => Err(format!(
                "has a bcrypt cost of {cost}; make one from 4 to {HIGHEST_COST}, 10 is usual: \
                 htpasswd -nBC 10 \"\""
            )),
            None => {
                Err("is no bcrypt hash; make one with: htpasswd -nBC 10 \"\" | tr -d ':\\n'"
                    .to_owned())
            }
        })
    }
}

/// Hashes by user. Refuses a user that is there twice.
#[derive(Default)]
pub struct Hashes(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Hashes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for Hashes {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of users to bcrypt hashes")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some((user, hash)) = map.next_entry::<String, Hash>()? {
            if self.0.insert(user, hash.0).is_some() {
                return Err(A::Error::custom("a user is there twice; remove one of them"));
            }
        }
        Ok(self)
    }
}

/// Headers that may be added to answers, with the values that the documentation lists.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-XSS-Protection", &[]),
    ("Strict-Transport-Security", &[]),
];

#[derive(Default)]
pub struct Headers(pub Vec<(HeaderName, HeaderValue)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for Headers {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of headers to texts")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            let Some((name, values)) = HEADERS.into_iter().find(|(known, _)| *known == name) else {
                let known = HEADERS.map(|(name, _)| name).join(", ");
                return Err(A::Error::custom(format!(
                    "names another header than {known}; remove it"
                )));
            };
            let allowed = values.is_empty() || values.contains(&value.as_str());
            let parsed = (HeaderName::try_from(name), HeaderValue::try_from(value.as_str()));
            let (Ok(key), Ok(parsed), true) = (parsed.0, parsed.1, allowed) else {
                let wanted =
                    if values.is_empty() { "one line of text" } else { &values.join(" or ") };
                return Err(A::Error::custom(format!("{name} wants {wanted}; put that there")));
            };
            if self.0.iter().any(|(earlier, _)| *earlier == key) {
                return Err(A::Error::custom(format!("{name} is there twice; remove one")));
            }
            self.0.push((key, parsed));
        }
        // Blank means unset.
        self.0.retain(|(_, value)| !value.is_empty());
        Ok(self)
    }
}

/// A duration as Go writes it, such as `1s` or `1m30s`; or 0.
struct Interval(Duration);

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |text| {
            let mend = "is no duration; write a number and its unit, such as 100ms or 1s";
            duration(text).map(Self).ok_or_else(|| mend.to_owned())
        })
    }
}

fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ns" => Duration::from_nanos(1),
            "us" | "\u{b5}s" => Duration::from_micros(1),
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        rest = &rest[unit..];
        sum = sum.checked_add(one.checked_mul(number)?)?;
    }
    (!text.is_empty()).then_some(sum)
}
