//! A site on loopback, its certificates made here and now, and a client that can show one.
#![allow(clippy::unwrap_used, dead_code)]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use web::{Gate, Live, Refusal, Site, Token};

/// Long enough for a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `secret`, at the lowest cost.
pub fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}

/// An authority, and what it has issued.
pub struct Authority(Issuer<'static, KeyPair>, String);

pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    pub fn pem(&self) -> &str {
        &self.1
    }

    pub fn issue(&self, names: &[SanType]) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// A directory with a web configuration, certificates beside it.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.path().join(name);
        // Replaced whole, as a certificate's renewal does.
        let fresh = self.0.path().join("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, &file).unwrap();
        file
    }

    pub fn write_issued(&self, name: &str, issued: &Issued) {
        self.write(&format!("{name}.key"), &issued.key);
        self.write(&format!("{name}.crt"), &issued.certificate);
    }
}

pub struct Running {
    pub address: SocketAddr,
    pub refused: Arc<Mutex<Vec<(&'static str, String)>>>,
}

/// Serves until the test's runtime ends: `/body` answers with the length of what it is sent.
pub async fn start(config: Option<PathBuf>, token: Option<&str>) -> Running {
    let token = token.map(|token| Token { route: "/body", secret: token.as_bytes().to_vec() });
    let live = Live::load(config, Box::new(|_| Ok(()))).unwrap_or_else(|error| panic!("{error}"));
    let gate = Gate::new(live, token).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let refused = Arc::default();
    let noted: Arc<Mutex<Vec<_>>> = Arc::clone(&refused);
    let note = move |refusal: Refusal, path: &str| {
        noted.lock().unwrap().push((refusal.word(), path.to_owned()));
    };
    let handler = |request: web::Request| async {
        if request.uri().path() != "/body" {
            return web::answer(StatusCode::OK, "text/plain", "here\n");
        }
        match web::body::read(request, 1024 * 1024).await {
            Ok(body) => web::answer(StatusCode::OK, "text/plain", body.len().to_string()),
            Err(error) => web::answer(StatusCode::BAD_REQUEST, "text/plain", format!("{error:?}")),
        }
    };
    tokio::spawn(web::serve(vec![listener], Site::new(gate, handler, note)));
    Running { address, refused }
}

/// Status and whole text of an answer to one request.
pub type Said = Result<(u16, String), String>;

pub async fn plain(address: SocketAddr, request: &str) -> Said {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    exchange(stream, request).await
}

pub fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")
}

pub fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let both = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {both}\r\n")
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Said {
    let mut bytes = Vec::new();
    let done = async {
        stream.write_all(request.as_bytes()).await?;
        // TLS: a server that refuses a certificate says so only now.
        let read = stream.read_to_end(&mut bytes).await;
        if bytes.is_empty() { read.map(|_| ()) } else { Ok(()) }
    };
    match tokio::time::timeout(PATIENCE, done).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer in time".to_owned()),
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.map(|status| (status, text.clone())).ok_or_else(|| format!("no answer: {text:?}"))
}

/// A client that notes the server's certificate and shows its own, if any.
pub struct Client {
    config: Arc<ClientConfig>,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Client {
    pub fn new(
        own: Option<&Issued>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let seen = Arc::default();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Noting(Arc::clone(&seen))));
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let certificate =
                    CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        Self { config: Arc::new(config), seen }
    }

    pub fn any() -> Self {
        Self::new(None, rustls::DEFAULT_VERSIONS)
    }

    pub async fn ask(&self, address: SocketAddr, request: &str) -> Said {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let name = ServerName::try_from("server").unwrap();
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        exchange(stream, request).await
    }

    /// Whether the server showed this certificate last.
    pub fn saw(&self, issued: &Issued) -> bool {
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        *self.seen.lock().unwrap() == certificate.as_ref()
    }
}

/// Trusts anybody, and notes whom.
#[derive(Debug)]
struct Noting(Arc<Mutex<Vec<u8>>>);

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().unwrap() = certificate.as_ref().to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Asks until `done` says so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
