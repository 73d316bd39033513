//! What an older version wrote loads for ever, and means the same: an upgrade neither loses the
//! choice nor lifts a stop, and no unchanged config looks edited after it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::config::Config;
use crate::firewall::Rules;
use crate::state::{Store, Timestamp};

/// As the first version wrote it, before anything was added.
const V1: &str = include_str!("fixtures/state-v1.json");

/// The config that it was converged from. Keys of RFC 7748, section 6.1, and a server's.
const CONFIG: &str = "\
paths:
  - name: media
    interface: wg0
    fwmark: 51820
    management: [192.168.10.5]
    allow_interfaces: [docker0]
    allow: [192.168.10.0/24]
    ntp: [192.0.2.123]
    endpoints:
      - name: primary
        address: 198.51.100.1:51820
        public_key: QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=
        private_key_file: key
      - name: backup
        address: 203.0.113.10:51820
        public_key: QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=
        private_key_file: key
";

#[test]
fn s5_s7_a_state_of_the_first_version_loads_and_means_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("mode");
        file
    };
    file("key", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=");
    let config = Config::load(&file("egress.yml", CONFIG)).expect("a config");
    let path = &config.paths[0];
    file("media.json", V1);
    let store = Store::new(directory.path());

    let state = store.read(&path.name).expect("loads");
    assert_eq!(state.active.as_str(), "backup");
    assert_eq!(state.latch.as_ref().map(|latch| latch.reason.as_str()), Some("leak"));
    assert_eq!(state.paused_until, Some(Timestamp(1_790_003_600)));
    assert_eq!(state.last_converge, Some(Timestamp(1_780_000_100)));
    assert_eq!(state.leak_baseline, 7);
    let intended = state.intended.clone().expect("a load");
    assert_eq!(intended.rules, Rules::of(path), "an unchanged config looks edited");
    // Nothing is known of its devices: the watch is attached again at the next look.
    assert_eq!(intended.coverage, crate::firewall::Coverage::default());

    // Written by this version and read again, it is the same still.
    store.write(&path.name, &state).expect("written");
    assert_eq!(store.read(&path.name).expect("read"), state);
}
