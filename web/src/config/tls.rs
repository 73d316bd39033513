//! `tls_server_config`, made into what rustls goes by. What rustls cannot do is refused by name.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    NamedGroup, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
};

use super::Inputs;
use super::format::{ClientAuth, Tls, Version};
use super::verify::Verifier;

pub struct Built {
    pub config: ServerConfig,
    pub demands_certificate: bool,
}

/// `None`: no TLS is configured.
pub fn build(tls: &Tls, inputs: &mut Inputs) -> Result<Option<Built>, String> {
    let certificate = text_or_file("cert", tls.cert.as_ref(), tls.cert_file.as_ref(), inputs)?;
    let key = text_or_file("key", tls.key.as_ref(), tls.key_file.as_ref(), inputs)?;
    let authority =
        text_or_file("client_ca", tls.client_ca.as_ref(), tls.client_ca_file.as_ref(), inputs)?;
    let auth = tls.client_auth_type.unwrap_or_default();
    if certificate.is_none() && key.is_none() && authority.is_none() {
        return if tls.says_anything() {
            Err("tls_server_config: names no certificate; give cert_file and key_file".to_owned())
        } else {
            Ok(None)
        };
    }
    let missing =
        |what| format!("tls_server_config: {what} is missing; give {what}_file or {what}");
    let certificate = certificate.ok_or_else(|| missing("cert"))?;
    let key = key.ok_or_else(|| missing("key"))?;

    let provider = Arc::new(provider(tls)?);
    let verifier = verifier(tls, auth, authority.as_deref(), &provider)?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(tls)?)
        .map_err(|error| format!("tls_server_config: {error}; allow more versions or suites"))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(certificates("cert", &certificate)?, private_key(&key)?)
        .map_err(|error| {
            format!("tls_server_config: certificate and key cannot be used: {error}; they must belong together")
        })?;
    config.ignore_client_order = tls.prefer_server_cipher_suites.unwrap_or(true);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A session that is resumed is not asked for its certificate again, and takes memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Some(Built { config, demands_certificate: auth == ClientAuth::RequireAndVerify }))
}

impl Tls {
    /// Whether the section asks for something, as exporter-toolkit sees it or beyond.
    fn says_anything(&self) -> bool {
        self.client_auth_type.is_some() || self.client_allowed_sans.is_some()
    }
}

/// A PEM text that is given in one of two ways; an empty text counts as left out.
fn text_or_file(
    key: &str,
    text: Option<&String>,
    file: Option<&String>,
    inputs: &mut Inputs,
) -> Result<Option<Vec<u8>>, String> {
    let given = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    match (given(text), given(file)) {
        (Some(_), Some(_)) => Err(format!(
            "tls_server_config: {key} and {key}_file exclude each other; remove one of them"
        )),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(file)) => inputs
            .named(&file)
            .map(Some)
            .map_err(|problem| format!("tls_server_config.{key}_file: {problem}")),
        (None, None) => Ok(None),
    }
}

fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let none = || format!("tls_server_config.{key}: holds no PEM certificate; give one");
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(none)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    // The parser's own words are not passed on: they might quote.
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        "tls_server_config.key: holds no PEM private key; give an unencrypted one".to_owned()
    })
}

fn versions(tls: &Tls) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let least = tls.min_version.unwrap_or(Version::Tls12);
    let most = tls.max_version.unwrap_or(Version::Tls13);
    let all = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)];
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|(version, _)| (least..=most).contains(version))
        .map(|(_, version)| version)
        .collect();
    if chosen.is_empty() {
        return Err("tls_server_config: min_version is above max_version; swap them".to_owned());
    }
    Ok(chosen)
}

fn provider(tls: &Tls) -> Result<CryptoProvider, String> {
    let mut provider = ring::default_provider();
    if let Some(names) = tls.cipher_suites.as_ref().filter(|names| !names.is_empty()) {
        let all = provider.cipher_suites.clone();
        let named = names.iter().map(|name| suite(name, &all)).collect::<Result<Vec<_>, _>>()?;
        let is_13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
        // Those of TLS 1.3 cannot be chosen, in Go neither: all of them stay.
        provider.cipher_suites = all.into_iter().filter(is_13).collect();
        provider.cipher_suites.extend(named.into_iter().filter(|suite| !is_13(suite)));
    }
    if let Some(names) = tls.curve_preferences.as_ref().filter(|names| !names.is_empty()) {
        let all = provider.kx_groups.clone();
        provider.kx_groups =
            names.iter().map(|name| group(name, &all)).collect::<Result<_, _>>()?;
    }
    Ok(provider)
}

/// Go's names: those of TLS 1.3 are written as in the standard, as are the others.
fn suite(name: &str, all: &[SupportedCipherSuite]) -> Result<SupportedCipherSuite, String> {
    let go =
        |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1);
    all.iter().find(|suite| go(suite) == name).copied().ok_or_else(|| {
        let known: Vec<String> = all.iter().map(go).collect();
        let known = known.join(", ");
        format!("tls_server_config.cipher_suites: one is not spoken here; choose from {known}")
    })
}

fn group(
    name: &str,
    all: &[&'static dyn SupportedKxGroup],
) -> Result<&'static dyn SupportedKxGroup, String> {
    let wanted = match name {
        "X25519" => NamedGroup::X25519,
        "CurveP256" => NamedGroup::secp256r1,
        "CurveP384" => NamedGroup::secp384r1,
        _ => NamedGroup::Unknown(0),
    };
    all.iter().find(|group| group.name() == wanted).copied().ok_or_else(|| {
        "tls_server_config.curve_preferences: one is not spoken here (CurveP521 is not either); \
         choose from X25519, CurveP256, CurveP384"
            .to_owned()
    })
}

fn verifier(
    tls: &Tls,
    auth: ClientAuth,
    authority: Option<&[u8]>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let must = matches!(auth, ClientAuth::RequireAny | ClientAuth::RequireAndVerify);
    if tls.client_allowed_sans.is_some() && !must {
        return Err("tls_server_config: client_allowed_sans looks at nobody unless \
             client_auth_type is RequireAndVerifyClientCert or RequireAnyClientCert; set it"
            .to_owned());
    }
    let verified = matches!(auth, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify);
    let inner = match (authority, verified) {
        (Some(_), _) if auth == ClientAuth::No => {
            return Err("tls_server_config: client_ca is given and nobody is asked; \
                 set client_auth_type to RequireAndVerifyClientCert"
                .to_owned());
        }
        (None, true) => {
            return Err("tls_server_config: client_auth_type verifies certificates, and this \
                 program trusts no authority of the system; give client_ca_file"
                .to_owned());
        }
        (Some(pem), _) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca", pem)? {
                roots.add(certificate).map_err(|error| {
                    format!("tls_server_config.client_ca: is no authority: {error}; give another")
                })?;
            }
            let inner =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            let inner = inner.build().map_err(|error| {
                format!("tls_server_config.client_ca: cannot be used: {error}; give another")
            })?;
            verified.then_some(inner)
        }
        (None, false) => None,
    };
    if auth == ClientAuth::No {
        return Ok(None);
    }
    let names = tls.client_allowed_sans.clone();
    let algorithms = provider.signature_verification_algorithms;
    Ok(Some(Arc::new(Verifier { authority: inner, must, names, algorithms })))
}
