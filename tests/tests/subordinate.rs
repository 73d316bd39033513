//! A user may take on subordinate ids, and is locked in with them.

use std::process::Command;

use lab::addresses::{ECHO_HOLE, WORLD_HOLE};
use lab::{EgressConfig, Endpoint, Keepalive, Leak, Sender, World, inside_with_users};

/// What useradd(8) gives the first user.
const FIRST: u32 = 100_000;
const LAST: u32 = 165_535;

/// What the host reads instead of its own file.
fn give(world: &World, file: &str, text: &str) {
    let name = file.trim_start_matches('/').replace('/', "-");
    world.write_file(&name, text, 0o644);
    let own = world.scratch().join(name);
    let mounted = Command::new("mount").arg("--bind").arg(own).arg(file).status();
    assert!(mounted.is_ok_and(|status| status.success()), "{file} can be replaced");
}

fn outside(world: &mut World, uid: u32) -> u64 {
    world.reset_observer();
    let target = ECHO_HOLE.to_string();
    world.send_as(Sender::User(uid), Leak::Udp4, 3, &["--target", &target]);
    world.observed(Leak::Udp4.class())
}

#[test]
fn s1_a_user_is_locked_in_with_the_subordinate_ids() {
    inside_with_users("s1_a_user_is_locked_in_with_the_subordinate_ids", |world| {
        if !world.has_users() {
            return;
        }
        give(world, "/etc/passwd", "root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n");
        give(world, "/etc/subuid", "alice:100000:65536\n");
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.route_outside(WORLD_HOLE);
        let locked = [1000, FIRST, FIRST + 7, LAST];
        for uid in locked {
            assert!(outside(world, uid) >= 3, "{uid} is seen before the lock");
        }
        let config = |users: &str| EgressConfig {
            workload: format!("{{users: [{users}]}}"),
            ..EgressConfig::quick()
        };
        world.write_config(&config("alice"));
        let said = world.actuator_ok(&["converge"]);
        assert!(!said.contains("subordinate"), "{said:?}");
        for uid in locked {
            assert_eq!(outside(world, uid), 0, "{uid}: {:?}", world.observations());
        }
        for uid in [FIRST - 1, LAST + 1] {
            assert!(outside(world, uid) >= 3, "{uid} is nobody's");
        }

        // By number the user alone is meant, and what is left out is said.
        world.write_config(&config("1000"));
        for command in ["converge", "validate"] {
            let said = world.actuator(&[command]);
            let want = "subordinate ids \"100000-165535\" (/etc/subuid), which are not locked in";
            assert!(said.out.contains(want), "{command}: {said:?}");
        }
        world.write_config(&config("1000, '100000-165535'"));
        let said = world.actuator_ok(&["converge"]);
        assert!(!said.contains("subordinate"), "{said:?}");
        assert_eq!(outside(world, FIRST), 0, "{:?}", world.observations());
    });
}
