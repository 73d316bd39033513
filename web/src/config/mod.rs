//! `--web.config.file`, in exporter-toolkit's format: read whole, checked whole, certificates too.
//!
//! Must never ignore what it cannot do, and never quote a value: one may be a key or a hash (S10).

mod error;
mod format;
#[cfg(test)]
mod tests;
mod tls;
mod verify;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use ring::digest::{Context, Digest, SHA256};
use rustls::ServerConfig;

pub use error::WebConfigError;

/// Any honest file is far smaller, certificates included.
const MOST: u64 = 1024 * 1024;

/// What holds for every connection and request; without a file, nothing is asked of anyone.
#[derive(Default)]
pub struct WebConfig {
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether nobody gets in without a certificate of the configured authority.
    pub demands_certificate: bool,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub users: Users,
    pub rate: Option<Rate>,
    /// Of everything that was read, to tell whether anything has changed.
    digest: Vec<u8>,
}

/// Bcrypt hashes by user name. No Debug on purpose.
#[derive(Default)]
pub struct Users(BTreeMap<String, String>);

/// A token bucket: so many requests at once, and one more after each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub interval: Duration,
    pub burst: u32,
}

impl Users {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn hash(&self, user: &str) -> Option<&str> {
        self.0.get(user).map(String::as_str)
    }

    /// A hash to compare with for a user that is not known: it costs what a known one's does.
    pub fn decoy(&self) -> Option<&str> {
        self.0.values().max_by_key(|hash| format::cost(hash)).map(String::as_str)
    }
}

impl WebConfig {
    /// Reads and checks the file and every file that it names.
    pub fn load(file: &Path) -> Result<Self, WebConfigError> {
        let mut inputs = Inputs::new(file);
        let bytes = inputs.read(file).map_err(|why| {
            let mend = "write it, let this program read it, or correct --web.config.file";
            WebConfigError::new(file, format!("cannot be read: {why}; {mend}"))
        })?;
        let text = String::from_utf8(bytes)
            .map_err(|_| WebConfigError::new(file, "is not UTF-8 text; save it as such"))?;
        format::grammar(&text).map_err(|error| WebConfigError::grammar(file, &error))?;
        let format = format::parse(&text).map_err(|error| WebConfigError::value(file, &error))?;
        let refused = |problem: String| WebConfigError::new(file, problem);
        let http = format.http_server_config.unwrap_or_default();
        // HTTP/2 may be allowed, but no client depends on it: by ALPN both sides agree on HTTP/1.1.
        let _ = http.http2;
        let tls = format.tls_server_config.unwrap_or_default();
        let tls = tls::build(&tls, &mut inputs).map_err(refused)?;
        let rate = format.rate_limit.unwrap_or_default().rate().map_err(refused)?;
        Ok(Self {
            demands_certificate: tls.as_ref().is_some_and(|tls| tls.demands_certificate),
            tls: tls.map(|tls| Arc::new(tls.config)),
            headers: http.headers.unwrap_or_default().0,
            users: Users(format.basic_auth_users.unwrap_or_default().0),
            rate,
            digest: inputs.digest().as_ref().to_vec(),
        })
    }

    /// Whether somebody who has nothing is kept out.
    pub fn demands_credentials(&self) -> bool {
        self.demands_certificate || !self.users.is_empty()
    }

    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// The files that make up a configuration.
struct Inputs {
    directory: PathBuf,
    digest: Context,
}

impl Inputs {
    fn new(file: &Path) -> Self {
        let directory = file.parent().unwrap_or(Path::new("")).to_owned();
        Self { directory, digest: Context::new(&SHA256) }
    }

    /// A relative name is meant from the configuration's directory, as for exporter-toolkit.
    fn named(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let file = self.directory.join(name);
        self.read(&file).map_err(|why| {
            let mend = "create it, correct the name, or let this program read it";
            format!("the file {} cannot be read: {why}; {mend}", file.display())
        })
    }

    fn read(&mut self, file: &Path) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let opened = File::open(file).map_err(|error| error.to_string())?;
        let regular = opened.metadata().is_ok_and(|metadata| metadata.is_file());
        if !regular {
            return Err("it is no regular file".to_owned());
        }
        opened.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() as u64 > MOST {
            return Err(format!("it has more than {MOST} bytes"));
        }
        self.digest.update(&bytes.len().to_be_bytes());
        self.digest.update(&bytes);
        Ok(bytes)
    }

    fn digest(self) -> Digest {
        self.digest.finish()
    }
}
