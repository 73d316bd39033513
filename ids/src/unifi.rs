//! A UniFi controller's IPS setting, by the API of UniFi OS: read, one entry added, read again.
//!
//! The API knows no compare-and-swap. So the time between reading and writing is kept short and is
//! told, what is written is all of `suppression` as it was read with one entry more and nothing
//! else, and what is there afterwards is compared with what was there before.

use std::time::{Duration, Instant};

use egress::config::Config;
use egress::config::ids::{self as config, Unifi as Wanted};
use hyper::Method;
use hyper::body::Bytes;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::address::egress_addresses;
use crate::http::{Answer, Peer};
use crate::key;
use crate::setting::{Exemption, Setting, differences};
use crate::tls::Tls;
use crate::unknown::{Unknown, printable};

/// Where a UniFi OS console has its Network Application.
const PREFIX: &str = "/proxy/network";

/// Two that write at once each replace the other's entry once at most; a third try is luck.
const TRIES: u32 = 3;

/// The longest that another writer of this kind is between its reading and its writing. What it
/// read before we wrote, it has written by then.
const SETTLE: Duration = Duration::from_secs(2);

/// One controller, and this host's entry in it.
pub struct Unifi {
    wanted: Wanted,
    exemption: Exemption,
    allowed: bool,
    settle: Duration,
}

/// What `apply` did.
#[derive(Debug)]
pub enum Applied {
    /// It was there; nothing was sent.
    Present,
    Added {
        /// Between the reading and the writing: what others wrote in it is overwritten.
        window: Duration,
        /// What else is different from before; empty, or somebody else has written too.
        differences: Vec<String>,
    },
}

impl Unifi {
    /// As configured. Sends nothing.
    pub fn of(config: &Config) -> Result<Self, Unknown> {
        let wanted = config.ids.unifi.clone().ok_or(Unknown::NotConfigured)?;
        let found = egress_addresses(config)?;
        let [address] = found.addresses.as_slice() else {
            let all: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
            return Err(Unknown::Address(format!(
                "it has several ({}); write `ids.egress_address`",
                all.join(", ")
            )));
        };
        let exemption = Exemption { address: *address, direction: wanted.direction };
        let allowed = config.allows(wanted.address.ip());
        Ok(Self { wanted, exemption, allowed, settle: SETTLE })
    }

    /// With another time to wait for other writers.
    #[must_use]
    pub fn settling(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    pub fn exemption(&self) -> &Exemption {
        &self.exemption
    }

    /// Whether the exemption is there; with the setting as it was read.
    pub fn check(&self) -> Result<(bool, Setting), Unknown> {
        let session = Session::open(self)?;
        block_on(async {
            let setting = session.read().await?;
            Ok((setting.has(&self.exemption), setting))
        })
    }

    /// Adds the entry where it is missing.
    pub fn apply(&self) -> Result<Applied, Unknown> {
        let session = Session::open(self)?;
        block_on(async {
            for _ in 0..TRIES {
                let before = session.read().await?;
                if before.has(&self.exemption) {
                    return Ok(Applied::Present);
                }
                let read = Instant::now();
                session.write(&before.suppression_with(&self.exemption)).await?;
                let window = read.elapsed();
                // Once at once, so that what is reported is what we did; and once when every
                // writer that had read before us has written.
                let after = session.read().await?;
                let differences = differences(&before, &after, &self.exemption);
                tokio::time::sleep(self.settle).await;
                if after.has(&self.exemption) && session.read().await?.has(&self.exemption) {
                    return Ok(Applied::Added { window, differences });
                }
                tracing::warn!("the entry was overwritten by another writer; trying again");
            }
            Err(Unknown::NotKept(TRIES))
        })
    }
}

/// Async inside, blocking outside: both programs call this from a thread that may wait.
fn block_on<T>(what: impl Future<Output = Result<T, Unknown>>) -> Result<T, Unknown> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Unknown::Broken(error.to_string()))?.block_on(what)
}

/// What is needed to ask, read once.
struct Session<'a> {
    unifi: &'a Unifi,
    key: Zeroizing<String>,
    tls: Tls,
    name: ServerName<'static>,
}

impl<'a> Session<'a> {
    fn open(unifi: &'a Unifi) -> Result<Self, Unknown> {
        let config::Unifi { api_key_file, trust, server_name, address, .. } = &unifi.wanted;
        let name = match server_name {
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| Unknown::Tls(format!("{name} is no name for a certificate")))?,
            None => ServerName::IpAddress(address.ip().into()),
        };
        Ok(Self { unifi, key: key::read(api_key_file)?, tls: Tls::new(trust)?, name })
    }

    async fn read(&self) -> Result<Setting, Unknown> {
        let answer = self.ask(Method::GET, "get", Bytes::new()).await?;
        Setting::from_answer(&answer)
    }

    async fn write(&self, suppression: &Value) -> Result<(), Unknown> {
        // Nothing else is sent, so nothing else can be flipped.
        let body = json!({"key": "ips", "suppression": suppression}).to_string();
        self.ask(Method::PUT, "set", body.into()).await.map(drop)
    }

    async fn ask(&self, method: Method, verb: &str, body: Bytes) -> Result<Value, Unknown> {
        let path = format!("{PREFIX}/api/s/{}/{verb}/setting/ips", self.unifi.wanted.site);
        let peer = Peer {
            address: self.unifi.wanted.address,
            name: self.name.clone(),
            tls: &self.tls,
            key: &self.key,
            allowed: self.unifi.allowed,
        };
        let answer = peer.ask(method, &path, body).await?;
        understand(&answer, &path, &self.unifi.wanted)
    }
}

/// The JSON of an answer that says yes, or what else it says.
fn understand(answer: &Answer, path: &str, wanted: &Wanted) -> Result<Value, Unknown> {
    let status = answer.status.as_u16();
    let parsed: Result<Value, _> = serde_json::from_slice(&answer.body);
    let message = parsed.as_ref().ok().and_then(message);
    match status {
        200..=299 => {}
        300..=399 => {
            let to = answer.location.clone().unwrap_or_else(|| "nowhere".to_owned());
            return Err(Unknown::Redirect { status, to });
        }
        401 => return Err(Unknown::KeyRejected { status, file: wanted.api_key_file.clone() }),
        403 => return Err(Unknown::NotAllowed),
        404 => return Err(Unknown::NoSuchPath { path: path.to_owned() }),
        429 => return Err(Unknown::TooMany(answer.retry_after.clone())),
        500..=599 => return Err(Unknown::Failing { status }),
        _ => {
            let message = message.unwrap_or_else(|| "without a word".to_owned());
            return Err(Unknown::RefusedByController { status, message });
        }
    }
    let starts = answer.body.iter().find(|byte| !byte.is_ascii_whitespace());
    if answer.is_page || starts == Some(&b'<') {
        return Err(Unknown::Page);
    }
    let parsed = parsed.map_err(|error| Unknown::NoJson(error.to_string()))?;
    match parsed.pointer("/meta/rc").and_then(Value::as_str) {
        Some("ok") => Ok(parsed),
        Some("error") if message.as_deref() == Some("api.err.LoginRequired") => {
            Err(Unknown::KeyRejected { status, file: wanted.api_key_file.clone() })
        }
        Some("error") => {
            let message = message.unwrap_or_else(|| "without a word".to_owned());
            Err(Unknown::RefusedByController { status, message })
        }
        _ => Err(Unknown::Shape("no `meta.rc`".to_owned())),
    }
}

fn message(answer: &Value) -> Option<String> {
    answer.pointer("/meta/msg").and_then(Value::as_str).map(printable)
}
