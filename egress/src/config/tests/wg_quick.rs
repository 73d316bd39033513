//! The provider's file, good and bad.

use ipnet::IpNet;
use proptest::prelude::*;

use crate::config::server::Server;
use crate::config::wg_quick::*;

// A key pair of RFC 7748, section 6.1: the private half, and the other side's public one.
const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PUBLIC: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

#[rustfmt::skip]
const MISTAKES: &[(&str, &str, Option<usize>, &str)] = &[
    ("192.0.2.1:51820", "vpn.example.com", Some(7), "is no address with a port"),
    ("192.0.2.1:51820", "vpn.example.com:0", Some(7), "is no address with a port"),
    ("Address = 10.0.0.2/32", "Address = 10.0.0.2/32\nMTU = 600", Some(4), "is no MTU; write bytes from 1280 to 65535"),
    ("Endpoint", "Endpiont", Some(7), "unknown key `Endpiont` (did you mean `Endpoint`?) in [Peer]"),
    ("Address", "Jc", Some(3), "unknown key `Jc` in [Interface]"),
    ("AllowedIPs", "PostUp", Some(8), "unknown key `PostUp` in [Peer]"),
    ("[Interface]", "", Some(2), "stands before any section"),
    ("[Interface]", "[Interfaces]", Some(1), "unknown section"),
    ("AllowedIPs = 0.0.0.0/0", "[Peer]", Some(8), "a second [Peer]"),
    ("Address = 10.0.0.2/32", "Address", Some(3), "is no `Key = value`"),
    ("Address = 10.0.0.2/32", "Address = 10.0.0.256", Some(3), "`10.0.0.256` is no network"),
    ("Address = 10.0.0.2/32", "Address =", Some(1), "[Interface] has no Address"),
    ("AllowedIPs = 0.0.0.0/0", "", Some(5), "[Peer] has no AllowedIPs"),
    ("Endpoint = 192.0.2.1:51820", "", Some(5), "[Peer] has no Endpoint"),
    ("Endpoint = 192.0.2.1:51820", "Endpoint = 192.0.2.1", Some(7), "is no address with a port"),
    ("AllowedIPs = 0.0.0.0/0", "Endpoint = 192.0.2.1:1", Some(8), "the key `Endpoint` is given twice"),
    ("AllowedIPs = 0.0.0.0/0", "PersistentKeepalive = off", Some(8), "keepalives are off"),
    ("AllowedIPs = 0.0.0.0/0", "PersistentKeepalive = 0", Some(8), "keepalives are off"),
    ("AllowedIPs = 0.0.0.0/0", "PersistentKeepalive = 99999", Some(8), "is no keepalive"),
    ("25LCo=", "25LC", Some(2), "not a WireGuard key"),
    ("PrivateKey = ", "", Some(2), "unknown key the text (not shown)"),
    ("PrivateKey = ", "Key ", Some(2), "unknown key the text (not shown)"),
    ("Address = 10.0.0.2/32", "Address = dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=", Some(3), "the text (not shown) is no network"),
];

fn good() -> String {
    format!(
        "[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.0.0.2/32\n\n\
         [Peer]\nPublicKey = {PUBLIC}\nEndpoint = 192.0.2.1:51820\nAllowedIPs = 0.0.0.0/0\n"
    )
}

#[test]
fn all_that_wg_quick_accepts_is_accepted() {
    let text = format!(
        "\u{feff}# from the provider\r\n[interface]\r\n\tprivatekey={PRIVATE} # mine\r\n\
         ADDRESS = 10.0.0.2/32,fd00::2/128\r\nAddress = 10.0.0.3\r\nDNS = 10.0.0.1\r\n\
         MTU=1420\nTable = off\nFwMark = 1\nListenPort = 2\nPreUp = a = b\nPostUp = x\n\
         PreDown = y\nPostDown = z\nSaveConfig = false\n[PEER]\nPublicKey = {PUBLIC}\n\
         PresharedKey = {PRIVATE}\nEndpoint = [2001:db8::1]:51820\nAllowedIPs = 0.0.0.0/0\n\
         AllowedIPs = ::/0, 10.9.8.7/8\nPersistentKeepalive = 15\n"
    );
    let found = parse(&text).expect("a good file");
    let shown = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&found.addresses), ["10.0.0.2/32", "fd00::2/128", "10.0.0.3/32"]);
    assert_eq!(shown(&found.allowed_ips), ["0.0.0.0/0", "::/0", "10.0.0.0/8"]);
    assert_eq!(found.endpoint, Server::parse("[2001:db8::1]:51820").expect("an address"));
    assert_eq!((found.mtu, found.dns.as_slice()), (Some(1420), &[[10, 0, 0, 1].into()][..]));
    assert_eq!(found.public_key.to_string(), PUBLIC);
    assert_eq!(found.keepalive, Some(15));
    assert!(found.preshared_key.is_some());
    assert!(!format!("{found:?}").contains(PRIVATE), "S10");
    assert_eq!(parse(&good()).expect("a good file").keepalive, None);
}

#[test]
fn each_mistake_is_told_with_its_line_and_its_mend() {
    for (from, to, line, want) in MISTAKES {
        let fault = parse(&good().replace(from, to)).expect_err(to);
        let message = fault.problem.to_string();
        assert!(message.contains(want), "{to}\n  want: {want}\n  got:  {message}");
        assert_eq!(fault.line, *line, "{to}: {message}");
        assert!(!message.contains(&PRIVATE[..20]), "S10: {message}");
    }
    for (text, want) in [("", "no [Interface]"), ("[Interface]", "no [Peer]")] {
        let fault = parse(text).expect_err(want);
        assert!(fault.line.is_none() && fault.problem.to_string().contains(want));
    }
}

proptest! {
    #[test]
    fn no_text_panics_the_parser(text in "(?s).{0,300}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_lines_panic_the_parser(lines in prop::collection::vec("(\\[?(Interface|Peer|[a-zé]{0,9})\\]?|(Address|AllowedIPs|Endpoint|PersistentKeepalive|PrivateKey) ?= ?[0-9a-fé.:/,\\[\\]]{0,12})", 0..12)) {
        let _ = parse(&lines.join("\n"));
    }
}
