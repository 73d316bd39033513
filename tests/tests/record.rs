//! What is on record and what is said of it: status and its schema, an exact check, one writer per
//! namespace, state that cannot be believed, the dead man's switch, a thread that dies.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lab::programs::{ACTUATOR, EXPORTER, firing, kill, leak, tunnel_down};
use lab::{
    Direction, EgressConfig, Endpoint, Keepalive, Leak, Ns, World, eventually, inside, mistakes,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::quick());
    world.actuator_ok(&["converge"]);
}

fn stands(world: &World, standing: &str) {
    eventually(SOON, standing, || {
        let status = world.status();
        if status["standing"] == standing { Ok(()) } else { Err(status.to_string()) }
    });
}

/// The status as it is said, after it was compared with its schema.
fn described(world: &World) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/status.schema.json");
    let schema = fs::read_to_string(file).expect("the schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let status = serde_json::from_str(&world.actuator(&["status", "--json"]).out).expect("JSON");
    assert_eq!(mistakes(&schema, &status), Vec::<String>::new(), "{status}");
    status
}

#[test]
fn the_status_is_what_its_schema_says_and_one_screen_tells_why() {
    inside("the_status_is_what_its_schema_says_and_one_screen_tells_why", |world| {
        world.write_config(&EgressConfig::quick());
        assert_eq!(described(world)["paths"][0]["standing"], "unknown", "no state yet");
        locked(world);
        assert_eq!(described(world)["daemon"], false);
        let mut daemon = world.start_actuator();
        world.actuator_ok(&["pause", "--for", "10m"]);
        world.actuator_ok(&["status", "--probe"]);
        for _ in 0..50 {
            world.notify(&[tunnel_down("backup")]);
        }
        world.send_outside(Leak::Packet, 1);
        world.notify(&[leak()]);
        // The history outlives the daemon.
        kill(&mut daemon);
        let _daemon = world.start_actuator();
        let status = described(world);
        let path = &status["paths"][0];
        assert_eq!(path["standing"], "stopped");
        let told: Vec<String> = path["decisions"]
            .as_array()
            .expect("decisions")
            .iter()
            .map(|one| format!("{} {} {}", one["ask"], one["outcome"], one["count"]))
            .collect();
        let expected = [
            r#""converge" "converged" 1"#,
            r#""pause" "no automatic failover for 600 s; a leak still stops" 1"#,
            r#""failover" "stale_endpoint" 50"#,
            r#""hard-stop" "hard_stopped" 1"#,
        ];
        assert_eq!(told, expected);
        let screen = world.actuator(&["status"]).out;
        for part in [
            "path media: stopped",
            "hard stop   leak",
            "endpoint    primary (primary), chosen",
            "failover at primary -> stale_endpoint, 50 times",
        ] {
            assert!(screen.contains(part), "{part}: {screen}");
        }
        assert!(!screen.contains('\x1b'), "no colours for what is no terminal");

        world.actuator_ok(&["release", "--reason", "dealt with"]);
        world.actuator_ok(&["unlock", "--reason", "the provider moves"]);
        let status = described(world);
        assert_eq!(status["paths"][0]["unlocked"]["reason"], "the provider moves");
        assert_eq!(
            world.metric(ACTUATOR, "vpn_egress_actuator_unlocked{path=\"media\"}"),
            Some(1.0)
        );
        let line = world.terminal(&["status"], &[]);
        assert!(line.contains("\x1b[1;31mUNLOCKED\x1b[0m"), "{line}");
        let line = world.terminal(&["status"], &[("NO_COLOR", "1")]);
        assert!(line.contains("UNLOCKED") && !line.contains('\x1b'), "{line}");
        world.actuator_ok(&["converge"]);
        assert_eq!(described(world)["paths"][0]["unlocked"], Value::Null);

        for wrong in ["0s", "0", "1d", "x", "99999999999999999999h", "5000000h"] {
            let said = world.actuator(&["pause", "--for", wrong]);
            assert_eq!(said.exit, 64, "{wrong}: {said:?}");
            assert!(said.err.contains("for example 30m"), "{wrong}: {said:?}");
        }
    });
}

/// Everything that a converge could change: rules, devices, routing, and all files of ours.
fn everything(world: &World) -> Vec<String> {
    let seen: [&[&str]; 5] = [
        &["nft", "-s", "list", "ruleset"],
        &["sh", "-c", "wg showconf wg0 | sha256sum"],
        &["ip", "-o", "link"],
        &["ip", "rule"],
        &["ip", "-6", "rule"],
    ];
    let run = |argv: &[&str]| {
        let output = world.run(Ns::Egress, argv);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut all: Vec<String> = seen.iter().map(|argv| run(argv)).collect();
    let scratch = world.scratch().display().to_string();
    let files = "find $1 -path $1/tmp -prune -o -name '*.log' -prune -o -type f \
                 -printf '%p %T@ %m\\n' -exec sha256sum {} \\;";
    all.push(world.exec_ok(Ns::Egress, &["sh", "-c", files, "sh", &scratch]));
    all.push(world.exec_ok(Ns::Egress, &["find", &scratch, "-type", "d", "-printf", "%p %T@\n"]));
    all
}

/// The same, without the record of when the converge was.
fn lasting(world: &World) -> (Vec<String>, Value) {
    let mut all = everything(world);
    all.truncate(5);
    let text = fs::read(world.state_file()).unwrap_or_default();
    let mut state: Value = serde_json::from_slice(&text).unwrap_or_default();
    if let Some(state) = state.as_object_mut() {
        state.remove("last_converge");
    }
    (all, state)
}

#[test]
fn a_check_foretells_exactly_and_changes_nothing() {
    inside("a_check_foretells_exactly_and_changes_nothing", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        let order = |order: &[Endpoint]| EgressConfig {
            endpoints: order.to_vec(),
            ..EgressConfig::quick()
        };
        let foretold = |world: &World, situation: &str, exit: i32, after: i32| {
            let before = everything(world);
            let check = world.actuator(&["converge", "--check"]);
            assert_eq!(everything(world), before, "{situation}: a check changes nothing");
            assert_eq!(check.exit, exit, "{situation}: {check:?}");
            let before = lasting(world);
            let run = world.actuator(&["converge", "--json"]);
            assert_eq!(run.exit, after, "{situation}: {run:?}");
            let said: Value = serde_json::from_str(&run.out).expect("JSON");
            assert_eq!(said["changed"], exit == 2, "{situation}: {run:?}");
            assert_eq!(lasting(world) != before, exit == 2, "{situation}: {run:?}");
        };
        let wg = |world: &World, more: &[&str]| {
            let key = world.server_public_key(Endpoint::A).to_owned();
            let argv: Vec<&str> = ["wg", "set", "wg0", "peer", &key]
                .into_iter()
                .chain(more.iter().copied())
                .collect();
            world.exec_ok(Ns::Egress, &argv);
        };

        foretold(world, "a fresh host", 2, 0);
        foretold(world, "converged", 0, 0);
        world.write_config(&EgressConfig {
            path_lines: vec!["allow: [10.0.0.128/25]".into()],
            ..EgressConfig::quick()
        });
        foretold(world, "an edited config", 2, 0);
        world.write_config(&EgressConfig::quick());
        foretold(world, "edited back", 2, 0);
        world.flush_ruleset();
        foretold(world, "flushed", 2, 0);
        world.delete_table("netdev", "vpn_egress_watch");
        foretold(world, "one wall removed", 2, 0);
        world.exec_ok(Ns::Egress, &["nft", "add", "chain", "inet", "vpn_egress", "foreign"]);
        foretold(world, "tampered with", 2, 0);
        wg(world, &["allowed-ips", "10.64.0.0/24"]);
        foretold(world, "other allowed addresses", 2, 0);
        wg(world, &["persistent-keepalive", "7"]);
        foretold(world, "another keepalive", 2, 0);
        world.exec_ok(Ns::Egress, &["wg", "set", "wg0", "fwmark", "off"]);
        foretold(world, "no mark", 2, 0);
        foretold(world, "brought back", 0, 0);
        world.actuator_ok(&["unlock", "--reason", "tried"]);
        foretold(world, "unlocked", 2, 0);

        // On a backup: with a primary that lives, and with one that is dead.
        world.write_config(&order(&[Endpoint::B, Endpoint::A]));
        world.actuator_ok(&["converge", "--force"]);
        world.write_config(&order(&[Endpoint::A, Endpoint::B]));
        world.blackhole(Endpoint::A, Direction::Both);
        foretold(world, "dead primary and an edited config: the walls change", 2, 3);
        foretold(world, "dead primary, and nothing else: refused", 3, 3);
        world.heal(Endpoint::A);
        foretold(world, "on a backup", 2, 0);

        let whole = fs::read(world.state_file()).expect("state");
        fs::write(world.state_file(), "{").expect("damaged");
        foretold(world, "damaged state", 3, 3);
        fs::write(world.state_file(), &whole).expect("mended");

        // The same by a daemon; its socket and lock are among the files that stay.
        let mut daemon = world.start_actuator();
        foretold(world, "converged, by the daemon", 0, 0);
        world.write_config(&EgressConfig { interval: "2s".into(), ..EgressConfig::quick() });
        let check = world.actuator(&["converge", "--check"]);
        assert_eq!(check.exit, 2, "the daemon's own settings: {check:?}");
        world.actuator_ok(&["converge"]);
        assert_eq!(world.actuator(&["converge", "--check"]).exit, 0);
        world.send_outside(Leak::Packet, 1);
        world.notify(&[leak()]);
        foretold(world, "stopped", 3, 3);

        // A daemon that a signal has stopped is named, and nothing is done beside it.
        daemon.kill(Signal::SIGSTOP);
        for refused in [&["converge"][..], &["converge", "--check"], &["release", "--reason", "x"]]
        {
            let said = world.actuator(refused);
            assert_eq!(said.exit, 3, "{refused:?}: {said:?}");
            assert!(said.err.contains(&format!("pid {}", daemon.pid())), "{said:?}");
        }
        let status = world.actuator(&["status"]);
        assert!(status.out.contains("path media: stopped"), "{status:?}");
        daemon.kill(Signal::SIGCONT);

        let other = world.write_file("other.yml", "paths: []\n", 0o644).display().to_string();
        let flag = format!("--config.file={other}");
        for asked in [&["status"][..], &["converge", "--check"], &["release", "--reason", "x"]] {
            let argv: Vec<&str> =
                std::iter::once(flag.as_str()).chain(asked.iter().copied()).collect();
            let said = world.actuator(&argv);
            assert_eq!(said.exit, 64, "{asked:?}: {said:?}");
            let told = said.out + &said.err;
            assert!(told.contains("egress.yml"), "{told}");
        }
    });
}

#[test]
fn a_second_daemon_for_the_same_rules_refuses_before_it_touches_them() {
    inside("a_second_daemon_for_the_same_rules_refuses_before_it_touches_them", |world| {
        locked(world);
        let daemon = world.start_actuator();
        let rules = world.exec_ok(Ns::Egress, &["nft", "-s", "list", "ruleset"]);
        let elsewhere = world.scratch().join("elsewhere").display().to_string();
        let state = format!("--state.directory={elsewhere}");
        for act in [&["serve"][..], &["converge"], &["unlock", "--reason", "x"]] {
            let argv: Vec<&str> =
                std::iter::once(state.as_str()).chain(act.iter().copied()).collect();
            let said = world.actuator(&argv);
            assert_eq!(said.exit, 3, "{act:?}: {said:?}");
            assert!(said.err.contains(&format!("pid {}", daemon.pid())), "{said:?}");
        }
        assert_eq!(world.exec_ok(Ns::Egress, &["nft", "-s", "list", "ruleset"]), rules);
        assert_eq!(world.status()["standing"], "locked");
    });
}

#[test]
fn s7_state_that_is_in_the_way_or_on_a_full_disk() {
    inside("s7_state_that_is_in_the_way_or_on_a_full_disk", |world| {
        assert!(world.positive_control() > 0);
        locked(world);
        world.reset_observer();
        let file = world.state_file();
        let at = file.display().to_string();
        let put: [(&str, &[&str]); 3] = [
            ("a named pipe", &["mkfifo", &at]),
            ("a directory", &["mkdir", &at]),
            ("everybody's", &["sh", "-c", "echo '{}' >$1; chmod 666 $1", "sh", &at]),
        ];
        for (what, argv) in put {
            fs::remove_file(&file).expect("removed");
            world.exec_ok(Ns::Egress, argv);
            let mut daemon = world.start_actuator();
            stands(world, "stopped");
            let said = world.actuator(&["converge"]);
            assert_eq!(said.exit, 3, "{what}: {said:?}");
            assert!(said.err.contains("actuator release --reason"), "{what}: {said:?}");
            world.actuator_ok(&["release", "--reason", what]);
            stands(world, "locked");
            kill(&mut daemon);
        }

        // A full disk: what tightens is done, and the kernel is the latch until state can be
        // written again.
        let directory = file.parent().expect("a directory").display().to_string();
        let kept = fs::read(&file).expect("state");
        mount(&["-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs", &directory]);
        fs::write(&file, &kept).expect("state");
        let mut daemon = world.start_actuator();
        let filler = file.with_file_name("filler");
        let full = fs::write(&filler, vec![0; 65_536]).expect_err("the disk is full");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        world.send_outside(Leak::Packet, 2);
        assert_eq!(world.notify_once(&[leak()]), (503, vec!["failed".to_owned()]));
        assert!(daemon.log().contains("free the disk or remount it"), "{}", daemon.log());
        for _ in 0..2 {
            let tables = world.exec_ok(Ns::Egress, &["nft", "list", "tables"]);
            assert!(tables.contains("vpn_egress_stop"), "{tables}");
            stands(world, "stopped");
            for kind in Leak::UNPRIVILEGED {
                world.send_outside(kind, 1);
            }
            assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
            // It starts on a full disk all the same, and keeps the stop.
            kill(&mut daemon);
            daemon = world.start_actuator();
        }
        fs::remove_file(&filler).expect("removed");
        world.actuator_ok(&["release", "--reason", "the disk was full"]);
        stands(world, "locked");
        kill(&mut daemon);

        // A disk that cannot be written: refused with the mend, the lock stays, and it can be seen.
        mount(&["-o", "remount,ro", &directory]);
        let rules = world.exec_ok(Ns::Egress, &["nft", "-s", "list", "ruleset"]);
        for refused in [&["serve"][..], &["converge"], &["unlock", "--reason", "x"]] {
            let said = world.actuator(refused);
            assert_eq!(said.exit, 3, "{refused:?}: {said:?}");
            assert!(said.err.contains("--state.directory"), "{refused:?}: {said:?}");
        }
        assert_eq!(world.exec_ok(Ns::Egress, &["nft", "-s", "list", "ruleset"]), rules);
        stands(world, "locked");
        assert_eq!(world.actuator(&["converge", "--check"]).exit, 0);
        mount(&["-o", "remount,rw", &directory]);

        // A pipe as the config or as the token is refused, and waits for nobody.
        world.exec_ok(Ns::Egress, &["mkfifo", &format!("{directory}/pipe")]);
        let pipe = format!("{directory}/pipe");
        let said = world.actuator(&[&format!("--config.file={pipe}"), "validate"]);
        assert_eq!(said.exit, 78, "{said:?}");
        let said = world.actuator(&["serve", &format!("--web.bearer-token-file={pipe}")]);
        assert_ne!(said.exit, 0, "{said:?}");
        assert!(said.err.contains("no regular file"), "{said:?}");
    });
}

fn mount(arguments: &[&str]) {
    let done = std::process::Command::new("mount").args(arguments).status();
    assert!(done.is_ok_and(|status| status.success()), "mount {arguments:?}");
}

#[test]
fn a_watchdog_that_stays_away_is_told_and_can_stop_the_path() {
    inside("a_watchdog_that_stays_away_is_told_and_can_stop_the_path", |world| {
        const SILENT: &str = "vpn_egress_actuator_heartbeat_silent";
        locked(world);
        let with =
            |line: &str| EgressConfig { top_lines: vec![line.to_owned()], ..EgressConfig::quick() };
        let heartbeat = firing(&[("action", "heartbeat")]);
        world.write_config(&with("watchdog: {silent_after: 3s}"));
        let daemon = world.start_actuator();
        eventually(SOON, "the silence is told", || world.metric(ACTUATOR, SILENT) == Some(1.0));
        assert_eq!(world.actuator(&["status"]).exit, 3);
        assert!(world.actuator(&["status"]).out.contains("watchdog silent for"));
        assert_eq!(world.status()["standing"], "locked", "off by default");
        // The metric is of the moment, the log of the daemon's next look.
        let told = || daemon.log().matches("the watchdog is silent").count();
        eventually(SOON, "it is in the log", || told() == 1);
        world.notify(std::slice::from_ref(&heartbeat));
        assert_eq!(world.metric(ACTUATOR, SILENT), Some(0.0));
        eventually(SOON, "the next silence is told too", || told() == 2);

        world.write_config(&with("watchdog: {silent_after: 4s, when_silent: hard-stop}"));
        world.notify(std::slice::from_ref(&heartbeat));
        world.actuator_ok(&["converge"]);
        // For as long as it comes, nothing is stopped: events, until well past the bound.
        let until = std::time::Instant::now() + Duration::from_secs(8);
        while std::time::Instant::now() < until {
            world.notify(std::slice::from_ref(&heartbeat));
            assert_eq!(world.status()["standing"], "locked");
        }
        stands(world, "stopped");
        assert_eq!(world.status()["stop"]["reason"], "the watchdog is silent");
        // Once per silence: who releases it knows of it.
        world.actuator_ok(&["release", "--reason", "Prometheus is rebuilt"]);
        world.exec_ok(Ns::Egress, &["sleep", "3"]);
        assert_eq!(world.status()["standing"], "locked");
        assert!(world.metric(EXPORTER, "up").is_none(), "no exporter takes part in this");
    });
}

#[test]
fn a_thread_that_dies_takes_the_daemon_with_it() {
    inside("a_thread_that_dies_takes_the_daemon_with_it", |world| {
        locked(world);
        for thread in ["care", "cycle"] {
            let mut daemon = world.start_actuator();
            world.write_file("fault", &format!("panic {thread}"), 0o644);
            let ended = daemon.wait(SOON).expect("it ends");
            assert_eq!(ended.code(), Some(3), "{thread}");
            fs::remove_file(world.scratch().join("fault")).expect("disarmed");
            let rules = world.exec_ok(Ns::Egress, &["nft", "list", "tables"]);
            assert!(rules.contains("inet vpn_egress"), "the lock stays: {rules}");
        }
    });
}
