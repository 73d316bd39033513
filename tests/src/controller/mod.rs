//! A stand-in for a UniFi controller: the documented shapes of its IPS setting over TLS, with a
//! certificate made at the start. It refuses what the real one refuses, and fails in each way that a
//! controller, or whatever is at its address, can. No UniFi hardware was used for it.

mod shape;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, KeyPair};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The only API key that it knows.
pub const API_KEY: &str = "stand-in-key-Zm9yIHRlc3Rz";

const SETTING: &str = "/proxy/network/api/s/default/get/setting/ips";
const SET: &str = "/proxy/network/api/s/default/set/setting/ips";

/// How it behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Well,
    /// 403: the key's owner may not.
    Forbidden,
    /// 429, with the seconds of `Retry-After`.
    TooMany(Option<u32>),
    /// 200 and a page.
    LoginForm,
    /// 302 to there.
    Redirect(String),
    /// No UniFi OS: nothing is under the prefix.
    Standalone,
    /// 200 and `data: []`.
    EmptyList,
    /// 200 and `meta.rc: error`, with this message.
    Error(String),
    /// A controller that starts.
    Starting,
    /// No answer.
    Silent,
    /// More than anybody should read.
    Huge,
    /// Half of the JSON.
    Truncated,
    /// A setting in another shape.
    Newer,
    /// Takes the write for the whole setting: what was not sent is lost.
    ReplacesAll,
    /// Says yes and keeps nothing.
    Forgets,
}

type Change = Box<dyn FnOnce(&mut Value) + Send>;

#[derive(Default)]
struct Inner {
    setting: Value,
    mode: Mode,
    /// What somebody else does when a write has arrived, and when one has been done.
    before_write: Vec<Change>,
    after_write: Vec<Change>,
    /// The same, once a setting was read so many times more.
    after_reads: Vec<(usize, Change)>,
    /// Method and body of each request that showed the right key, and each that did not.
    requests: Vec<(Method, Value)>,
    strangers: usize,
}

/// A running controller; it ends when dropped.
pub struct Controller {
    inner: Arc<Mutex<Inner>>,
    address: SocketAddr,
    certificate: CertifiedKey<KeyPair>,
    _runtime: Runtime,
}

impl Controller {
    /// Listens on `address` with `setting`; its certificate is for that address.
    pub fn start(address: SocketAddr, setting: Value) -> io::Result<Self> {
        let certificate = rcgen::generate_simple_self_signed(vec![address.ip().to_string()])
            .map_err(io::Error::other)?;
        let acceptor = acceptor(&certificate)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        let inner = Arc::new(Mutex::new(Inner { setting, ..Inner::default() }));
        runtime.spawn(accept(listener, acceptor, Arc::clone(&inner)));
        Ok(Self { inner, address, certificate, _runtime: runtime })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn certificate_pem(&self) -> String {
        self.certificate.cert.pem()
    }

    pub fn certificate_der(&self) -> &[u8] {
        self.certificate.cert.der()
    }

    pub fn behave(&self, mode: Mode) {
        self.lock().mode = mode;
    }

    pub fn setting(&self) -> Value {
        self.lock().setting.clone()
    }

    pub fn set(&self, setting: Value) {
        self.lock().setting = setting;
    }

    /// Somebody else's change, in the moment between a client's reading and its writing.
    pub fn before_next_write(&self, change: impl FnOnce(&mut Value) + Send + 'static) {
        self.lock().before_write.push(Box::new(change));
    }

    /// The same, right after its writing.
    pub fn after_next_write(&self, change: impl FnOnce(&mut Value) + Send + 'static) {
        self.lock().after_write.push(Box::new(change));
    }

    /// The same, right after the `nth` reading from now.
    pub fn after_reading(&self, nth: usize, change: impl FnOnce(&mut Value) + Send + 'static) {
        self.lock().after_reads.push((nth, Box::new(change)));
    }

    /// The bodies that were written so far.
    pub fn writes(&self) -> Vec<Value> {
        let requests = self.lock().requests.clone();
        requests.into_iter().filter(|(method, _)| method == Method::PUT).map(|put| put.1).collect()
    }

    /// How many requests came with the right key.
    pub fn requests(&self) -> usize {
        self.lock().requests.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        locked(&self.inner)
    }
}

fn locked(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

fn acceptor(certificate: &CertifiedKey<KeyPair>) -> io::Result<TlsAcceptor> {
    let der = CertificateDer::from(certificate.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der())
        .map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![der], key)
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, inner: Arc<Mutex<Inner>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, acceptor.clone(), Arc::clone(&inner)));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, inner: Arc<Mutex<Inner>>) {
    // A client that does not trust the certificate leaves here: that is its right.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let inner = Arc::clone(&inner);
        async move { Ok::<_, Infallible>(answer(&inner, request).await) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(inner: &Mutex<Inner>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if head.headers.get("x-api-key").is_none_or(|key| key != API_KEY) {
        locked(inner).strangers += 1;
        let unauthorized = json!({"error": {"code": 401, "message": "Unauthorized"}});
        return reply(StatusCode::UNAUTHORIZED, &unauthorized);
    }
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mode = {
        let mut inner = locked(inner);
        inner.requests.push((head.method.clone(), body.clone()));
        inner.mode.clone()
    };
    if mode == Mode::Silent {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    if let Some(failure) = failure(&mode) {
        return failure;
    }
    let path = head.uri.path();
    let mut inner = locked(inner);
    match (&head.method, path) {
        (&Method::GET, SETTING) => {
            let answer = ok(&inner.setting);
            for (nth, change) in std::mem::take(&mut inner.after_reads) {
                match nth {
                    0 | 1 => change(&mut inner.setting),
                    _ => inner.after_reads.push((nth - 1, change)),
                }
            }
            answer
        }
        (&Method::PUT, SET) => {
            for change in std::mem::take(&mut inner.before_write) {
                change(&mut inner.setting);
            }
            let answer = match shape::merged(&inner.setting, &body, &mode) {
                Ok(setting) => {
                    inner.setting = setting;
                    ok(&inner.setting)
                }
                Err(message) => reply(StatusCode::BAD_REQUEST, &error(message)),
            };
            for change in std::mem::take(&mut inner.after_write) {
                change(&mut inner.setting);
            }
            answer
        }
        _ => reply(StatusCode::NOT_FOUND, &error("api.err.NotFound")),
    }
}

fn failure(mode: &Mode) -> Option<Response<Full<Bytes>>> {
    let page = |status, text: &str| {
        let mut page = Response::new(Full::new(Bytes::from(text.to_owned())));
        *page.status_mut() = status;
        page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        page
    };
    let header = |mut answer: Response<Full<Bytes>>, name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(name, value);
        }
        answer
    };
    Some(match mode {
        Mode::Well | Mode::Silent | Mode::ReplacesAll | Mode::Forgets => return None,
        Mode::Forbidden => reply(StatusCode::FORBIDDEN, &error("api.err.NoPermission")),
        Mode::TooMany(after) => {
            let answer = reply(StatusCode::TOO_MANY_REQUESTS, &error("api.err.RateLimited"));
            match after {
                Some(seconds) => header(answer, RETRY_AFTER, &seconds.to_string()),
                None => answer,
            }
        }
        Mode::LoginForm => page(StatusCode::OK, "<!doctype html><title>UniFi OS</title>"),
        Mode::Redirect(to) => header(page(StatusCode::FOUND, ""), LOCATION, to),
        Mode::Standalone => page(StatusCode::NOT_FOUND, "<h1>Not Found</h1>"),
        Mode::EmptyList => reply(StatusCode::OK, &json!({"meta": {"rc": "ok"}, "data": []})),
        Mode::Error(message) => reply(StatusCode::OK, &error(message)),
        Mode::Starting => page(StatusCode::BAD_GATEWAY, "<h1>Bad Gateway</h1>"),
        Mode::Huge => Response::new(Full::new(Bytes::from(vec![b' '; 6 * 1024 * 1024]))),
        Mode::Truncated => {
            Response::new(Full::new(Bytes::from_static(br#"{"meta":{"rc":"ok"},"data":[{"key""#)))
        }
        Mode::Newer => ok(&json!({"key": "ips", "intrusion": {"exclusions": []}})),
    })
}

fn error(message: &str) -> Value {
    json!({"meta": {"rc": "error", "msg": message}, "data": []})
}

fn ok(setting: &Value) -> Response<Full<Bytes>> {
    reply(StatusCode::OK, &json!({"meta": {"rc": "ok"}, "data": [setting]}))
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from(body.to_string())));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// A setting as a console that has been used has it.
pub fn used_setting() -> Value {
    json!({
        "_id": "65a1b2c3d4e5f60718293a4b", "site_id": "65a1b2c3d4e5f60718293a00", "key": "ips",
        "ips_mode": "ips", "advanced_filtering_preference": "manual",
        "enabled_networks": ["65a1b2c3d4e5f60718293a01"],
        "enabled_categories": ["emerging-exploit", "emerging-malware", "tor"],
        "honeypot": [{"ip_address": "192.168.10.250", "network_id": "65a1", "version": "v4"}],
        "honeypot_enabled": true, "memory_optimized": true, "restrict_torrents": true,
        "content_filtering_blocking_page_enabled": true,
        "suppression": {
            "alerts": [{"category": "emerging-dns", "gid": 1, "id": 2_027_758,
                "signature": "ET DNS Query for .cc TLD", "type": "track",
                "tracking": [{"direction": "dest", "mode": "subnet", "value": "192.168.20.0/24"}]}],
            "whitelist": [
                {"direction": "both", "mode": "ip", "value": "192.168.10.7"},
                {"direction": "src", "mode": "network", "value": "65a1b2c3d4e5f60718293a02"},
            ],
        },
        "something_of_a_later_release": {"deep": [1, 2.5, null, "x"]},
    })
}
