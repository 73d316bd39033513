//! The exemption from inspection in the world: the controller is the router's, the killswitch lets
//! nobody there who is not in `allow`, and whatever the controller says, the lock comes first.

use std::fs;
use std::time::Duration;

use lab::programs::EXPORTER;
use lab::{EgressConfig, Ns, Process, World, eventually};

const SOON: Duration = Duration::from_secs(30);
const PRESENT: &str = "vpn_egress_ids_exemption_present";
const LOST: &str = "VpnEgressIdsExemptionLost";
const KNOWN: &str = "vpn_egress_collector_success{collector=\"ids\"}";

/// A controller that was just set up: whatever was added to an earlier one is gone.
#[track_caller]
fn controller(world: &World) -> Process {
    let directory = world.scratch().display().to_string();
    let pem = world.scratch().join("controller.pem");
    let _ = fs::remove_file(&pem);
    let lab = World::program("lab").display().to_string();
    let line = [&lab, "controller", "--listen", "10.0.0.1:443", "--directory", &directory];
    let process = world.spawn(Ns::Router, "controller", &line);
    eventually(SOON, "the controller listens", || pem.is_file().then_some(()).ok_or(process.log()));
    let key = fs::read_to_string(world.scratch().join("controller.key")).expect("an API key");
    world.write_file("unifi.key", &key, 0o600);
    process
}

fn config(path_lines: &[&str], apply: &str) -> EgressConfig {
    let top = format!(
        "ids:\n  unifi:\n    url: https://10.0.0.1\n    api_key_file: unifi.key\n    \
         ca_file: controller.pem\n    poll_interval: 1s\n    apply: {apply}"
    );
    EgressConfig {
        path_lines: path_lines.iter().map(|&line| line.to_owned()).collect(),
        top_lines: vec![top],
        ..EgressConfig::quick()
    }
}

#[test]
fn the_exemption_is_made_after_the_lock_watched_and_never_in_its_way() {
    lab::inside("the_exemption_is_made_after_the_lock_watched_and_never_in_its_way", |world| {
        let mut running = controller(world);

        // Without a lock it is reached; the address is found by the route, not by the tunnel's.
        world.write_config(&config(&[], "by-hand"));
        let said = world.actuator(&["ids", "check"]);
        assert_eq!(said.exit, 2, "{said:?}");
        assert!(said.out.contains("absent: 10.0.0.2, direction src"), "{said:?}");
        let rendered = world.actuator_ok(&["ids", "render", "--for", "suricata"]);
        assert!(rendered.contains("Host: 10.0.0.2 (found by the route: "), "{rendered}");
        assert!(rendered.contains("by eth0 leaves with it"), "{rendered}");

        // With it, it is not, and the mend is told.
        let out = world.actuator_ok(&["converge"]);
        assert!(!out.contains("ids:"), "by hand is by hand: {out}");
        let said = world.actuator(&["ids", "check"]);
        assert_eq!(said.exit, 3, "{said:?}");
        assert!(said.err.contains("10.0.0.1 is in no path's `allow`"), "{said:?}");

        // Allowed, and made by converge.
        world.write_config(&config(&["allow: [10.0.0.1]"], "converge"));
        let out = world.actuator_ok(&["converge"]);
        assert!(out.contains("ids: added: 10.0.0.2, direction src"), "{out}");
        assert!(out.contains("ids: nothing else has changed"), "{out}");
        let _exporter = world.start_exporter();
        let _prometheus = world.start_prometheus_adapted(&[]);
        let shown = |present, known| {
            eventually(SOON, "the exporter shows the exemption", || {
                let seen = (world.metric(EXPORTER, PRESENT), world.metric(EXPORTER, KNOWN));
                if seen == (present, Some(known)) { Ok(()) } else { Err(format!("{seen:?}")) }
            });
        };
        shown(Some(1.0), 1.0);
        let seen = || world.query(PRESENT).first().map(|(_, value)| *value);
        eventually(SOON, "Prometheus has seen it", || seen() == Some(1.0));
        let said = world.actuator(&["converge", "--check"]);
        assert_eq!(said.exit, 0, "{said:?}");

        // Rebuilt: absent. Gone: unknown, which is not absent.
        running.stop();
        shown(None, 0.0);
        eventually(SOON, "Prometheus has nothing of it", || seen().is_none());
        assert!(!world.fires(LOST), "unknown is not absent");
        let mut rebuilt = controller(world);
        shown(Some(0.0), 1.0);
        eventually(SOON, "people are told", || world.fires(LOST));
        let said = world.actuator(&["converge", "--check"]);
        assert_eq!(said.exit, 2, "{said:?}");

        // A controller that gives no answer keeps no lock from being put on.
        rebuilt.stop();
        world.flush_ruleset();
        assert_ne!(world.actuator(&["validate"]).exit, 0, "the lock is off");
        let said = world.actuator(&["converge"]);
        assert_eq!(said.exit, 3, "{said:?}");
        assert!(said.err.contains("killswitch and watch loaded"), "{said:?}");
        assert!(said.err.contains("ids: unknown: "), "{said:?}");
        eventually(SOON, "the lock is on, and the path is up", || {
            let said = world.actuator(&["validate"]);
            if said.exit == 0 { Ok(()) } else { Err(format!("{said:?}")) }
        });
    });
}
