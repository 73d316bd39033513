//! Passwords, the token, headers, the rate limit, and what is no proper request.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Files, basic, eventually, get, hash, plain, start};

#[tokio::test]
async fn with_users_everything_asks_for_a_password() {
    let files = Files::new();
    let text = format!(
        "basic_auth_users:\n  alice: {}\n  bob: {}\nhttp_server_config:\n  headers:\n    \
         X-Frame-Options: deny\n",
        hash("wonder"),
        hash("builder")
    );
    let site = start(Some(files.write("web.yml", &text)), None).await;
    let cases = [
        (basic("alice", "wonder"), 200),
        (basic("alice", "wonder"), 200),
        (basic("bob", "builder"), 200),
        (basic("alice", "builder"), 401),
        (basic("alice", ""), 401),
        (basic("", ""), 401),
        (basic("mallory", "wonder"), 401),
        (basic("mallory", "builder"), 401),
        ("Authorization: Bearer wonder\r\n".to_owned(), 401),
        ("Authorization: Basic !\r\n".to_owned(), 401),
        (String::new(), 401),
    ];
    for path in ["/", "/metrics", "/-/healthy"] {
        for (header, status) in &cases {
            let (said, text) = plain(site.address, &get(path, header)).await.unwrap();
            assert_eq!(said, *status, "{header}: {text}");
            assert!(text.contains("x-frame-options: deny"), "{text}");
            assert_eq!(text.contains("www-authenticate: Basic"), said == 401, "{text}");
            assert_eq!(text.contains("here"), said == 200, "{text}");
        }
    }
    let refused = site.refused.lock().unwrap().clone();
    let count = |word| refused.iter().filter(|(refusal, _)| *refusal == word).count();
    assert_eq!((count("wrong_password"), count("no_credentials")), (15, 9), "{refused:?}");

    // A user who was removed, and a password that was changed, though both were right once.
    files.write("web.yml", &format!("basic_auth_users: {{alice: '{}'}}", hash("changed")));
    eventually("the changed file is in force", async || {
        let bob = plain(site.address, &get("/", &basic("bob", "builder"))).await.unwrap().0;
        let alice = plain(site.address, &get("/", &basic("alice", "wonder"))).await.unwrap().0;
        (bob, alice) == (401, 401)
    })
    .await;
    assert_eq!(plain(site.address, &get("/", &basic("alice", "changed"))).await.unwrap().0, 200);
}

#[tokio::test]
async fn the_token_guards_its_route_and_passwords_the_rest() {
    let files = Files::new();
    let text = format!("basic_auth_users: {{alice: '{}'}}", hash("wonder"));
    let site = start(Some(files.write("web.yml", &text)), Some("s3cret")).await;
    let token = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (path, header, status) in [
        ("/body", token("s3cret"), 200),
        ("/body", token("s3cret2"), 401),
        ("/body", token(""), 401),
        ("/body", basic("alice", "wonder"), 401),
        ("/body", String::new(), 401),
        ("/metrics", basic("alice", "wonder"), 200),
        ("/metrics", token("s3cret"), 401),
    ] {
        let said = plain(site.address, &get(path, &header)).await.unwrap();
        assert_eq!(said.0, status, "{path} {header}: {said:?}");
    }
    let refused = site.refused.lock().unwrap().clone();
    let words: Vec<&str> = refused.iter().map(|(word, _)| *word).collect();
    let wanted =
        ["wrong_token", "no_credentials", "no_credentials", "no_credentials", "no_credentials"];
    assert_eq!(words, wanted, "{refused:?}");
}

#[tokio::test]
async fn requests_beyond_the_rate_are_turned_away() {
    let files = Files::new();
    let config = files.write("web.yml", "rate_limit: {interval: 1h, burst: 2}");
    let site = start(Some(config), None).await;
    for status in [200, 200, 429, 429] {
        assert_eq!(plain(site.address, &get("/", "")).await.unwrap().0, status);
    }
}

#[tokio::test]
async fn what_is_too_long_or_no_http_is_answered_as_such() {
    let site = start(None, None).await;
    let body = |length: usize| {
        let head = "POST /body HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
        format!("{head}content-length: {length}\r\n\r\n{}", "x".repeat(length))
    };
    for (request, status, says) in [
        (get("/", ""), 200, "here"),
        (get(&format!("/{}", "a".repeat(5000)), ""), 414, "address"),
        (get("/", &format!("X-Long: {}\r\n", "a".repeat(20_000))), 431, ""),
        ("nonsense\r\n\r\n".to_owned(), 400, ""),
        (body(7), 200, "\r\n\r\n7"),
        (body(web::body::SMALL), 200, "\r\n\r\n16384"),
        (body(1024 * 1024), 200, "\r\n\r\n1048576"),
        (body(1024 * 1024 + 1), 400, "TooLarge"),
    ] {
        let said = plain(site.address, &request).await.unwrap();
        let shown = &said.1[..said.1.len().min(300)];
        assert!(said.0 == status && said.1.contains(says), "{status} {says}: {shown}");
    }
}
