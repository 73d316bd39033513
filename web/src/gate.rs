//! Who gets in: the rate limit, then basic authentication, or on one route its bearer token.
//! Certificates have been looked at before anything arrives here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use subtle::ConstantTimeEq as _;

use crate::config::{Rate, WebConfig};
use crate::live::Live;
use crate::password::{Passwords, Verdict};
use crate::server::{Answer, Request, answer};

/// Why a request got no further; the words are a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NoCredentials,
    WrongToken,
    WrongPassword,
    /// No certificate, or not one that is asked for: the connection ended before any request.
    Certificate,
    /// More requests than `rate_limit` allows.
    Rate,
    /// Too many passwords wait to be compared.
    Busy,
    /// The address is too long.
    Address,
}

impl Refusal {
    pub const ALL: [Self; 7] = [
        Self::NoCredentials,
        Self::WrongToken,
        Self::WrongPassword,
        Self::Certificate,
        Self::Rate,
        Self::Busy,
        Self::Address,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::WrongToken => "wrong_token",
            Self::WrongPassword => "wrong_password",
            Self::Certificate => "certificate",
            Self::Rate => "rate",
            Self::Busy => "busy",
            Self::Address => "address",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::NoCredentials | Self::WrongToken | Self::WrongPassword | Self::Certificate => {
                StatusCode::UNAUTHORIZED
            }
            Self::Rate => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Address => StatusCode::URI_TOO_LONG,
        }
    }
}

/// A route that asks for a token of its own, and then for no password: one header holds one.
pub struct Token {
    pub route: &'static str,
    pub secret: Vec<u8>,
}

pub struct Gate {
    pub live: Arc<Live>,
    passwords: Passwords,
    /// The route, and the tag of its token.
    token: Option<(&'static str, Vec<u8>)>,
    bucket: Mutex<Option<Bucket>>,
}

/// Whether somebody was let in on something that only they can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    Anybody,
    Proven,
}

impl Gate {
    pub fn new(live: Live, token: Option<Token>) -> Result<Self, String> {
        let passwords = Passwords::new().map_err(|_| "no random numbers can be had".to_owned())?;
        let token = token.map(|token| (token.route, passwords.tag(&[&token.secret])));
        Ok(Self { live: Arc::new(live), passwords, token, bucket: Mutex::new(None) })
    }

    pub async fn admit(&self, config: &WebConfig, request: &Request) -> Result<Admitted, Refusal> {
        if config.rate.is_some_and(|rate| !self.has_token_left(rate)) {
            return Err(Refusal::Rate);
        }
        let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        match &self.token {
            Some((route, tag)) if *route == request.uri().path() => {
                let token = given.and_then(|given| credentials(given, "bearer"));
                let token = token.ok_or(Refusal::NoCredentials)?;
                let right = bool::from(self.passwords.tag(&[token]).ct_eq(tag));
                if right { Ok(Admitted::Proven) } else { Err(Refusal::WrongToken) }
            }
            _ if config.users.is_empty() && config.demands_certificate => Ok(Admitted::Proven),
            _ if config.users.is_empty() => Ok(Admitted::Anybody),
            _ => self.password(config, given).await,
        }
    }

    async fn password(
        &self,
        config: &WebConfig,
        given: Option<&[u8]>,
    ) -> Result<Admitted, Refusal> {
        let given = given.and_then(|given| credentials(given, "basic"));
        let decoded = given.and_then(|given| STANDARD.decode(given).ok());
        let decoded = decoded.ok_or(Refusal::NoCredentials)?;
        let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Refusal::NoCredentials)?;
        // A name that is no text is nobody's, and costs as much.
        let user = std::str::from_utf8(&decoded[..colon]).unwrap_or_default();
        match self.passwords.compare(&config.users, user, &decoded[colon + 1..]).await {
            Verdict::Right => Ok(Admitted::Proven),
            Verdict::Wrong => Err(Refusal::WrongPassword),
            Verdict::Busy => Err(Refusal::Busy),
        }
    }

    /// What the client is told.
    pub fn refuse(&self, refusal: Refusal, request_path: &str) -> Answer {
        const TEXT: &str = "text/plain; charset=utf-8";
        let mut answer = answer(refusal.status(), TEXT, format!("{}\n", refusal.word()));
        if refusal.status() == StatusCode::UNAUTHORIZED {
            let by_token = self.token.as_ref().is_some_and(|(route, _)| *route == request_path);
            let scheme = if by_token { "Bearer" } else { "Basic" };
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        answer
    }

    fn has_token_left(&self, rate: Rate) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.get_or_insert_with(|| Bucket::full(rate)).take(rate, Instant::now())
    }
}

/// What follows the scheme, whose case does not matter.
fn credentials<'a>(given: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (word, rest) = given.split_at_checked(scheme.len())?;
    let rest = rest.strip_prefix(b" ")?;
    word.eq_ignore_ascii_case(scheme.as_bytes()).then(|| rest.trim_ascii())
}

/// As many requests as are left, and since when they are counted.
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate) -> Self {
        Self { left: f64::from(rate.burst), at: Instant::now() }
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let grown = now.duration_since(self.at).as_secs_f64() / rate.interval.as_secs_f64();
        self.left = (self.left + grown).min(f64::from(rate.burst));
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_one_each_interval() {
        let rate = Rate { interval: Duration::from_secs(1), burst: 2 };
        let mut bucket = Bucket::full(rate);
        let start = bucket.at;
        let take = |bucket: &mut Bucket, ms| bucket.take(rate, start + Duration::from_millis(ms));
        assert_eq!([0, 0, 0, 900].map(|ms| take(&mut bucket, ms)), [true, true, false, false]);
        assert_eq!([1000, 1000, 60_000].map(|ms| take(&mut bucket, ms)), [true, false, true]);
    }

    #[test]
    fn a_scheme_is_known_in_any_case_and_nothing_else_is_taken_for_it() {
        assert_eq!(credentials(b"Bearer abc", "bearer"), Some(&b"abc"[..]));
        assert_eq!(credentials(b"bEARER  abc ", "bearer"), Some(&b"abc"[..]));
        for other in [&b"Bearer"[..], b"Bearerabc", b"Basic abc", b"", b"\xff\xfe\xfd\xfc\xfb\xfa"]
        {
            assert_eq!(credentials(other, "bearer"), None);
        }
    }
}
