//! That it is the controller: by an authority, or by its very certificate. There is no third way.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use egress::config::ids::Trust;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};

use crate::unknown::Unknown;

/// How to talk to the controller, and what certificate it showed where that was the wrong one.
pub struct Tls {
    pub config: Arc<ClientConfig>,
    seen: Arc<Mutex<Option<String>>>,
}

impl Tls {
    pub fn new(trust: &Trust) -> Result<Self, Unknown> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let seen = Arc::default();
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::System => authority(&provider, system()?)?,
            Trust::Authority(file) => authority(&provider, named(file)?)?,
            Trust::Pin(pin) => Arc::new(Pinned {
                pin: *pin,
                provider: Arc::clone(&provider),
                seen: Arc::clone(&seen),
            }),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Unknown::Tls(error.to_string()))?
            // "Dangerous" is any verifier of one's own; ours are the two above.
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config), seen })
    }

    /// What a handshake failed on.
    pub fn failure(&self, error: &std::io::Error) -> Unknown {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(seen) = seen {
            return Unknown::WrongPin { seen };
        }
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
        match cause {
            Some(Error::InvalidCertificate(problem)) => {
                Unknown::Untrusted { problem: in_words(problem) }
            }
            Some(other) => Unknown::Tls(other.to_string()),
            None => Unknown::Broken(error.to_string()),
        }
    }
}

fn in_words(problem: &CertificateError) -> String {
    match problem {
        CertificateError::UnknownIssuer => "signed by an authority that is not known".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired, or this host's clock is wrong".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name or address; `server_name` says which to expect".to_owned()
        }
        other => format!("{other:?}"),
    }
}

fn authority(
    provider: &Arc<CryptoProvider>,
    roots: RootCertStore,
) -> Result<Arc<WebPkiServerVerifier>, Unknown> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| Unknown::Tls(error.to_string()))
}

fn system() -> Result<RootCertStore, Unknown> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 { Err(Unknown::NoAuthorities) } else { Ok(roots) }
}

fn named(file: &Path) -> Result<RootCertStore, Unknown> {
    let wrong = |problem: String| Unknown::Authorities { file: file.to_owned(), problem };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
    for one in found {
        let one = one.map_err(|error| wrong(error.to_string()))?;
        roots.add(one).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("there is none in it".to_owned())) } else { Ok(roots) }
}

/// Takes one certificate and no other; who shows it must also prove to hold its key.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
    seen: Arc<Mutex<Option<String>>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fingerprint: [u8; 32] = Sha256::digest(shown).into();
        if fingerprint == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let text: Vec<String> = fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.join(":"));
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
