//! Files that exporter-toolkit's documentation allows, and files that it does not; and what of it
//! cannot be done here, which is refused and not ignored.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;

use super::WebConfig;

/// "test", at the lowest cost.
const HASH: &str = "$2y$04$XQdr5fdp39c6jMQU/m/I7.aOqFwAiyyQ9Zs0UDspNGPKdIxmKXqOa";

struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().expect("a directory") };
        for name in ["server", "other"] {
            let CertifiedKey { cert, signing_key } =
                generate_simple_self_signed([name.to_owned()]).expect("made");
            bench.write(&format!("{name}.crt"), &cert.pem());
            bench.write(&format!("{name}.key"), &signing_key.serialize_pem());
        }
        bench.write("empty.pem", "");
        bench.write("junk.pem", "junk");
        bench
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).expect("written");
    }

    fn load(&self, text: &str) -> Result<WebConfig, String> {
        self.write("web.yml", text);
        let loaded = WebConfig::load(&self.directory.path().join("web.yml"));
        loaded.map_err(|error| {
            let place = self.directory.path().display().to_string();
            error.to_string().replace(&format!("{place}/"), "")
        })
    }

    /// The text of a PEM file as the value of a YAML key.
    fn inline(&self, name: &str) -> String {
        let text = fs::read_to_string(self.directory.path().join(name)).expect("read");
        format!("|\n{}", text.lines().fold(String::new(), |all, line| all + "    " + line + "\n"))
    }
}

fn tls(more: &str) -> String {
    let more = more.lines().fold(String::new(), |all, line| all + "  " + line + "\n");
    format!("tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n{more}")
}

#[test]
fn what_the_documentation_allows_is_accepted() {
    let bench = Bench::new();
    let inline =
        |key: &str, file: &str| format!("tls_server_config:\n  {key}: {}", bench.inline(file));
    let good = [
        String::new(),
        "# nothing\n".to_owned(),
        "tls_server_config:\n".to_owned(),
        "tls_server_config:\n  cert_file: \"\"\n  key_file: \"\"\n".to_owned(),
        tls(""),
        inline("cert", "server.crt") + "  key: " + &bench.inline("server.key"),
        inline("cert", "server.crt") + "  key_file: server.key\n",
        tls("client_auth_type: NoClientCert"),
        tls("client_auth_type: RequestClientCert"),
        tls("client_auth_type: RequireAnyClientCert"),
        tls("client_auth_type: RequireClientCert"),
        tls("client_auth_type: VerifyClientCertIfGiven\nclient_ca_file: other.crt"),
        tls("client_auth_type: RequireAndVerifyClientCert\nclient_ca_file: other.crt"),
        tls("client_auth_type: RequireAndVerifyClientCert\n")
            + "  client_ca: "
            + &bench.inline("other.crt"),
        tls("client_auth_type: RequireAnyClientCert\nclient_allowed_sans: [a, 10.0.0.1, a@b]"),
        tls("min_version: TLS12\nmax_version: TLS13"),
        tls("min_version: TLS13"),
        tls("max_version: TLS12"),
        tls("cipher_suites: []\ncurve_preferences: []"),
        tls("cipher_suites:\n- TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n- TLS_AES_128_GCM_SHA256"),
        tls("prefer_server_cipher_suites: false\ncurve_preferences: [CurveP256, X25519]"),
        "http_server_config:\n  http2: true\n".to_owned(),
        "http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: deny\n    \
         X-Content-Type-Options: nosniff\n    Content-Security-Policy: default-src 'self'\n    \
         X-XSS-Protection: ''\n    Strict-Transport-Security: max-age=31536000\n"
            .to_owned(),
        format!("basic_auth_users:\n  alice: {HASH}\n  bob: {HASH}\n"),
        "basic_auth_users:\n".to_owned(),
        "rate_limit:\n  interval: 1s\n  burst: 20\n".to_owned(),
        "rate_limit:\n  interval: 0\n  burst: 0\n".to_owned(),
        "rate_limit:\n  interval: 1m30s\n  burst: 1\n".to_owned(),
    ];
    for text in good {
        if let Err(error) = bench.load(&text) {
            panic!("refused: {error}\n{text}");
        }
    }
}

/// Of each file: the line and key that the message names, and a word of its mend.
fn assert_refused(bench: &Bench, bad: &[(&str, &str, &str)]) {
    let mut wrong = String::new();
    for (text, place, mend) in bad {
        let Err(error) = bench.load(text) else {
            panic!("accepted:\n{text}");
        };
        if !error.starts_with(place) || !error.contains(mend) {
            let _ = writeln!(wrong, "wanted {place}...{mend}\nsaid   {error}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_it_does_not_allow_or_cannot_be_done_here_is_refused_with_place_and_mend() {
    let bench = Bench::new();
    let bad: &[(&str, &str, &str)] = &[
        ("a: [", "web.yml:2: ", "quotes"),
        ("tls_server_confg: {}", "web.yml:1: ", "tls_server_config"),
        ("basic_auth_users: {}\nmore: 1", "web.yml:2: ", "remove or correct it"),
        ("tls_server_config: 5", "web.yml:1: tls_server_config", "put that there"),
        (&tls("cert_fil: x"), "web.yml:4: tls_server_config", "unknown key cert_fil"),
        (&tls("cert: x"), "web.yml: tls_server_config: cert", "remove one"),
        ("tls_server_config: {cert_file: server.crt}", "web.yml: tls_server_config", "key_file"),
        ("tls_server_config: {key_file: server.key}", "web.yml: tls_server_config", "cert_file"),
        ("tls_server_config: {client_auth_type: NoClientCert}", "web.yml: tls_server", "cert_file"),
        (
            "tls_server_config: {cert_file: none.crt, key_file: server.key}",
            "web.yml: tls_server_config.cert_file: the file none.crt",
            "create it",
        ),
        (
            "tls_server_config: {cert_file: /, key_file: server.key}",
            "web.yml: tls_server_config.cert_file",
            "no regular file",
        ),
        (
            "tls_server_config: {cert_file: empty.pem, key_file: server.key}",
            "web.yml: tls_server_config.cert",
            "no PEM certificate",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: junk.pem}",
            "web.yml: tls_server_config.key",
            "no PEM private key",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: other.key}",
            "web.yml: tls_server_config",
            "belong together",
        ),
        (&tls("client_auth_type: Sometimes"), "web.yml:4: tls_server_config.client_auth", "one of"),
        (&tls("client_ca_file: other.crt"), "web.yml: tls_server_config: client_ca", "set client"),
        (
            &tls("client_auth_type: RequireAndVerifyClientCert"),
            "web.yml: tls_server_config: client_auth_type",
            "give client_ca_file",
        ),
        (
            &tls("client_auth_type: RequireAndVerifyClientCert\nclient_ca_file: junk.pem"),
            "web.yml: tls_server_config.client_ca",
            "no PEM certificate",
        ),
        (&tls("client_allowed_sans: [a]"), "web.yml: tls_server_config: client_allowed", "set it"),
        (
            &tls(
                "client_auth_type: VerifyClientCertIfGiven\nclient_ca_file: other.crt\nclient_allowed_sans: [a]",
            ),
            "web.yml: tls_server_config: client_allowed",
            "set it",
        ),
        (&tls("min_version: TLS11"), "web.yml:4: tls_server_config.min_version", "TLS12 or TLS13"),
        (&tls("max_version: SSL3"), "web.yml:4: tls_server_config.max_version", "TLS12 or TLS13"),
        (&tls("min_version: TLS13\nmax_version: TLS12"), "web.yml: tls_server_config", "swap"),
        (
            &tls("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"),
            "web.yml: tls_server_config.cipher_suites",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ),
        (
            &tls("curve_preferences: [CurveP521]"),
            "web.yml: tls_server_config.curve_preferences",
            "X25519",
        ),
    ];
    assert_refused(&bench, bad);
}

#[test]
fn so_is_what_is_wrong_with_the_rest_of_the_file() {
    let bench = Bench::new();
    let bad: &[(&str, &str, &str)] = &[
        ("http_server_config: {http2: 1}", "web.yml:1: http_server_config.http2", "a boolean"),
        (
            "http_server_config: {headers: {Server: x}}",
            "web.yml:1: http_server_config.h",
            "another",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: allow}}",
            "web.yml:1: http_server_config.headers",
            "deny or sameorigin",
        ),
        ("basic_auth_users:\n  alice: plain", "web.yml:2: basic_auth_users.alice", "htpasswd"),
        ("basic_auth_users: [alice]", "web.yml:1: basic_auth_users", "a mapping"),
        (&format!("basic_auth_users:\n  a: {HASH}\n  a: {HASH}"), "web.yml:", ""),
        (
            &format!("basic_auth_users:\n  a: {}", HASH.replace("$04$", "$31$")),
            "web.yml:2: basic_auth_users.a",
            "cost",
        ),
        ("rate_limit: {interval: 5, burst: 1}", "web.yml:1: rate_limit.interval", "100ms"),
        ("rate_limit: {interval: 1w, burst: 1}", "web.yml:1: rate_limit.interval", "100ms"),
        ("rate_limit: {interval: 1s}", "web.yml: rate_limit.burst", "at least 1"),
        ("rate_limit: {interval: 1s, burst: -1}", "web.yml:1: rate_limit.burst", "wants"),
    ];
    assert_refused(&bench, bad);
    let gone = WebConfig::load(Path::new("/nonexistent/web.yml")).err().expect("refused");
    assert!(gone.to_string().contains("--web.config.file"), "{gone}");
}

#[test]
fn s10_no_message_shows_what_may_be_a_secret() {
    const SECRET: &str = "hunter2-SECRET";
    let bench = Bench::new();
    bench.write("secret.pem", SECRET);
    for text in [
        SECRET.to_owned(),
        format!("{SECRET}: 1"),
        format!("basic_auth_users: {SECRET}"),
        format!("basic_auth_users: {{a: {SECRET}}}"),
        format!("basic_auth_users: {{a: [{SECRET}]}}"),
        format!("tls_server_config: {SECRET}"),
        format!("tls_server_config: {{key: [{SECRET}]}}"),
        format!("tls_server_config: {{{SECRET}: 1}}"),
        format!("tls_server_config: {{cert_file: server.crt, key: {SECRET}}}"),
        "tls_server_config: {cert_file: server.crt, key_file: secret.pem}".to_owned(),
        format!("tls_server_config: {{prefer_server_cipher_suites: {SECRET}}}"),
        format!("tls_server_config: {{client_auth_type: {SECRET}}}"),
        format!("rate_limit: {{interval: {SECRET}}}"),
        format!("rate_limit: {{burst: {SECRET}}}"),
        format!("http_server_config: {{headers: {{X-Frame-Options: {SECRET}}}}}"),
        format!("key: \"{SECRET}\n"),
        format!("key: !{SECRET} x"),
    ] {
        let error = bench.load(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(!error.contains("hunter2"), "{error}");
    }
}
