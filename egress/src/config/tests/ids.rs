//! `ids`: what is understood, and each mistake with the words and the line it must be told in.

use super::{GOOD, PRIVATE, World};
use crate::config::ids::{Apply, Direction, Ids, Trust};

const UNIFI: &str = "\
ids:
  egress_address: 192.168.10.20
  unifi:
    url: https://192.168.10.1
    api_key_file: unifi.key
";

fn file(more: &str) -> String {
    format!("{GOOD}{UNIFI}{more}")
}

#[test]
fn what_is_left_out_has_its_default() {
    assert_eq!(World::new().load(GOOD).expect("no ids").ids, Ids::default());
    let world = World::new();
    let ids = world.load(file("")).expect("the key file is not needed to load").ids;
    assert_eq!(ids.egress_address, "192.168.10.20".parse().ok());
    let unifi = ids.unifi.expect("a controller");
    assert_eq!(unifi.address.to_string(), "192.168.10.1:443");
    assert_eq!((unifi.site.as_str(), unifi.server_name), ("default", None));
    assert_eq!(unifi.api_key_file, world.0.path().join("unifi.key"));
    assert_eq!(unifi.trust, Trust::System);
    assert_eq!((unifi.direction, unifi.apply), (Direction::Source, Apply::ByHand));
    assert_eq!(unifi.poll_interval.as_secs(), 900);
}

#[test]
fn everything_can_be_said() {
    let pin = ["AB"; 32].join(":");
    let more = format!(
        "    site: x_1-a\n    pin_sha256: '{pin}'\n    server_name: unifi.example.net\n    \
         direction: both\n    poll_interval: 1h\n    apply: converge\n"
    );
    let yaml = file(&more).replace("https://192.168.10.1", "https://[fd00::1]:11443/");
    let unifi = World::new().load(yaml).expect("a good config").ids.unifi.expect("a controller");
    assert_eq!(unifi.address.to_string(), "[fd00::1]:11443");
    assert_eq!(unifi.trust, Trust::Pin([0xab; 32]));
    assert_eq!(unifi.server_name.as_deref(), Some("unifi.example.net"));
    assert_eq!((unifi.direction, unifi.apply), (Direction::Both, Apply::Converge));
    let world = World::new();
    let unifi = world.load(file("    ca_file: ca.pem\n")).expect("a good config").ids.unifi;
    let authority = Trust::Authority(world.0.path().join("ca.pem"));
    assert_eq!(unifi.map(|unifi| unifi.trust), Some(authority));
}

#[test]
fn each_mistake_is_told_with_its_line_and_its_mend() {
    for (from, to, told) in [
        ("unifi:", "unify:", "egress.yml:27: ids: unknown key `unify` (did you mean `unifi`?)"),
        ("    api_key_file: unifi.key\n", "", "ids.unifi: the key `api_key_file` is missing"),
        (
            "https:",
            "http:",
            "egress.yml:28: ids.unifi.url: `http://192.168.10.1` is not known here",
        ),
        (
            "192.168.10.1\n",
            "unifi.lan\n",
            "the controller's address and, if it is not 443, its port",
        ),
        ("192.168.10.1\n", "192.168.10.1/../x\n", "ids.unifi.url"),
        ("192.168.10.1\n", "192.168.10.1:0\n", "ids.unifi.url"),
        ("192.168.10.1\n", "user:pass@192.168.10.1\n", "ids.unifi.url"),
        ("unifi.key", "unifi.key\n    site: ../x", "ids.unifi.site: `../x` is not known here"),
        (
            "unifi.key",
            "unifi.key\n    direction: dst",
            "`dst` is not known here; write `src` or `both`",
        ),
        ("unifi.key", "unifi.key\n    apply: always", "write `by-hand` or `converge`"),
        ("unifi.key", "unifi.key\n    insecure: true", "unknown key `insecure`"),
        ("unifi.key", "unifi.key\n    pin_sha256: abcd", "is no SHA-256 fingerprint"),
        ("unifi.key", "unifi.key\n    poll_interval: 0s", "a duration of zero"),
        ("192.168.10.20", "0.0.0.0", "write this host's address on the network"),
        ("192.168.10.20", "nas.lan", "egress.yml:26: ids.egress_address: `nas.lan` is a hostname"),
    ] {
        assert_eq!(UNIFI.matches(from).count(), 1, "ambiguous edit: {from}");
        let told_now = World::new().refusal(format!("{GOOD}{}", UNIFI.replace(from, to)));
        assert!(told_now.contains(told), "{to}: {told_now}");
    }
    let both = file(&format!("    ca_file: a\n    pin_sha256: '{}'\n", "+a".repeat(32)));
    let told = World::new().refusal(both);
    assert!(told.contains("`pin_sha256` cannot stand beside `ca_file`"), "{told}");
    let signs = file(&format!("    pin_sha256: '{}'\n", "+a".repeat(32)));
    assert!(World::new().refusal(signs).contains("is no SHA-256 fingerprint"));
    // The key itself in the place of its file's name.
    let key = UNIFI.replace("unifi.key", PRIVATE);
    assert!(World::new().refusal(format!("{GOOD}{key}")).contains("looks like a key"));
}
