//! TLS and client certificates as the web configuration asks for them, over real connections.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::Ipv4Addr;

use common::{Authority, Client, Files, Issued, dns, eventually, get, start};
use rcgen::SanType;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    /// By another authority.
    Strange,
    /// By ours, with a name that is not asked for.
    Ours,
    /// By ours, named as is asked for.
    Named,
}

#[tokio::test]
async fn each_client_authentication_type_lets_in_whom_the_documentation_says() {
    use Shown::{Named, Nothing, Ours, Strange};
    let (ours, strange) = (Authority::new(), Authority::new());
    let files = Files::new();
    files.write("ca.crt", ours.pem());
    files.write_issued("server", &ours.issue(&[dns("server")]));
    let own = |shown: Shown| -> Option<Issued> {
        match shown {
            Nothing => None,
            Strange => Some(strange.issue(&[dns("prometheus")])),
            Ours => Some(ours.issue(&[dns("other"), dns("xprometheus")])),
            Named => Some(ours.issue(&[dns("other"), dns("prometheus")])),
        }
    };
    let ca = "client_ca_file: ca.crt";
    let sans = "client_allowed_sans: [prometheus]";
    let cases: [(&str, &[&str], &[Shown]); 7] = [
        ("NoClientCert", &[], &[Nothing, Strange, Ours, Named]),
        ("RequestClientCert", &[], &[Nothing, Strange, Ours, Named]),
        ("RequireAnyClientCert", &[], &[Strange, Ours, Named]),
        ("RequireAnyClientCert", &[sans], &[Strange, Named]),
        ("VerifyClientCertIfGiven", &[ca], &[Nothing, Ours, Named]),
        ("RequireAndVerifyClientCert", &[ca], &[Ours, Named]),
        ("RequireAndVerifyClientCert", &[ca, sans], &[Named]),
    ];
    for (auth, more, good) in cases {
        let more = more.iter().fold(String::new(), |all, line| format!("{all}  {line}\n"));
        let text = format!(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  \
             client_auth_type: {auth}\n{more}"
        );
        let site = start(Some(files.write("web.yml", &text)), None).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for shown in [Nothing, Strange, Ours, Named] {
                let client = Client::new(own(shown).as_ref(), &[version]);
                let said = client.ask(site.address, &get("/", "")).await;
                let is_in = said.as_ref().is_ok_and(|(status, _)| *status == 200);
                assert_eq!(is_in, good.contains(&shown), "{auth} {more} {shown:?}: {said:?}");
            }
        }
        let refused = site.refused.lock().unwrap().len();
        assert_eq!(refused, 2 * (4 - good.len()), "each one turned away is told of");
    }
}

#[tokio::test]
async fn a_name_is_a_dns_name_an_address_a_mail_address_or_a_uri() {
    let ours = Authority::new();
    let files = Files::new();
    files.write("ca.crt", ours.pem());
    files.write_issued("server", &ours.issue(&[dns("server")]));
    let names = [
        ("a.example", dns("a.example")),
        ("192.0.2.7", SanType::IpAddress(Ipv4Addr::new(192, 0, 2, 7).into())),
        ("2001:db8::7", SanType::IpAddress("2001:db8::7".parse().unwrap())),
        ("me@a.example", SanType::Rfc822Name("me@a.example".try_into().unwrap())),
        ("spiffe://a/b", SanType::URI("spiffe://a/b".try_into().unwrap())),
    ];
    for (nth, (name, _)) in names.iter().enumerate() {
        let text = format!(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  \
             client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n  \
             client_allowed_sans: ['{name}']\n"
        );
        let site = start(Some(files.write("web.yml", &text)), None).await;
        for (other, (_, san)) in names.iter().enumerate() {
            let own = ours.issue(std::slice::from_ref(san));
            let client = Client::new(Some(&own), rustls::DEFAULT_VERSIONS);
            let said = client.ask(site.address, &get("/", "")).await;
            assert_eq!(said.is_ok(), nth == other, "{name} {other}: {said:?}");
        }
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_served_and_a_bad_file_leaves_the_last_good_one() {
    const TEXT: &str = "tls_server_config: {cert_file: server.crt, key_file: server.key}";
    let ours = Authority::new();
    let files = Files::new();
    let [first, second, third] = [(); 3].map(|()| ours.issue(&[dns("server")]));
    files.write_issued("server", &first);
    let site = start(Some(files.write("web.yml", TEXT)), None).await;
    let client = Client::any();
    let shows = async |issued: &Issued| {
        let said = client.ask(site.address, &get("/", "")).await;
        assert_eq!(said.as_ref().map(|(status, _)| *status), Ok(200), "{said:?}");
        client.saw(issued)
    };
    assert!(shows(&first).await);
    files.write_issued("server", &second);
    eventually("the second certificate is served", || shows(&second)).await;

    // A renewal under way: certificate and key do not belong together. Then it is whole.
    files.write("server.crt", &third.certificate);
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert!(shows(&second).await && shows(&second).await);
    files.write("server.key", &third.key);
    eventually("the third certificate is served", || shows(&third)).await;

    // TLS does not end because somebody emptied the file.
    files.write("web.yml", "");
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert!(shows(&third).await && shows(&third).await);
}

#[tokio::test]
async fn versions_and_suites_are_those_that_are_configured() {
    let ours = Authority::new();
    let files = Files::new();
    files.write_issued("server", &ours.issue(&[dns("server")]));
    let tls = "cert_file: server.crt, key_file: server.key";
    let text = format!("tls_server_config: {{{tls}, min_version: TLS13}}");
    let site = start(Some(files.write("web.yml", &text)), None).await;
    let ask = |version| Client::new(None, &[version]);
    let old = ask(&rustls::version::TLS12).ask(site.address, &get("/", "")).await;
    let new = ask(&rustls::version::TLS13).ask(site.address, &get("/", "")).await;
    assert!(old.is_err() && new.is_ok(), "{old:?} {new:?}");

    // The server's key is of the elliptic kind: a suite for RSA alone serves nobody by TLS 1.2.
    let suites = "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]";
    let text = format!("tls_server_config: {{{tls}, max_version: TLS12, {suites}}}");
    let site = start(Some(files.write("web.yml", &text)), None).await;
    let said = ask(&rustls::version::TLS12).ask(site.address, &get("/", "")).await;
    assert!(said.is_err(), "{said:?}");
    let text = text.replace("ECDHE_RSA", "ECDHE_ECDSA");
    let site = start(Some(files.write("web.yml", &text)), None).await;
    let said = ask(&rustls::version::TLS12).ask(site.address, &get("/", "")).await;
    assert!(said.is_ok(), "{said:?}");
}
