//! The lock is there before the network is: S1, S7. A boot is played by emptying the kernel.

use std::time::Duration;

use lab::addresses::UPLINK;
use lab::{
    EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, Process, Tampering, World, eventually,
    inside,
};

use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
const TUNNEL_SERVER: &str = "10.64.0.1";

fn locked(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::quick());
    assert!(world.positive_control() > 0);
    world.actuator_ok(&["converge"]);
}

#[track_caller]
fn assert_tight(world: &World, when: &str) {
    for kind in Leak::UNPRIVILEGED {
        world.send_outside(kind, 3);
    }
    assert_eq!(world.observed_outside(), 0, "{when}: {:?}", world.observations());
}

fn has_killswitch(world: &World) -> bool {
    has_table(world, "vpn_egress")
}

/// The boot's first rules, which refuse everything.
fn is_all_denied(world: &World) -> bool {
    has_table(world, "vpn_egress_boot")
}

fn has_table(world: &World, table: &str) -> bool {
    world.run(Ns::Egress, &["nft", "list", "table", "inet", table]).status.success()
}

/// `actuator killswitch load`, with `nft` replaced by a script in which `$REAL` is the real one.
fn boot_with(world: &World, nft: &str) -> Process {
    world.write_file("nft", &format!("#!/bin/sh\nREAL=/usr/sbin/nft\n{nft}\n"), 0o755);
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", world.scratch().display());
    let mut line = vec!["env".to_owned(), path];
    line.extend(world.program_line("actuator", &["killswitch", "load"]));
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    world.spawn(Ns::Egress, "boot", &line)
}

fn ends(process: &mut Process) {
    eventually(SOON, "the boot goes on", || !process.is_alive());
}

#[test]
fn s1_the_lock_is_there_before_the_uplink_has_an_address() {
    inside("s1_the_lock_is_there_before_the_uplink_has_an_address", |world| {
        locked(world);
        let state = std::fs::read(world.state_file()).expect("state");
        world.exec_ok(Ns::Egress, &["ip", "link", "set", UPLINK, "down"]);
        world.exec_ok(Ns::Egress, &["ip", "-4", "address", "flush", "dev", UPLINK]);
        world.tamper_with(Tampering::Flush);

        let said = world.actuator_ok(&["killswitch", "load"]);
        assert_eq!(said.trim(), "locked as converged");
        assert_eq!(std::fs::read(world.state_file()).expect("state"), state, "nothing is recorded");
        world.exec_ok(Ns::Egress, &["ip", "address", "add", "10.0.0.2/24", "dev", UPLINK]);
        world.exec_ok(Ns::Egress, &["ip", "link", "set", UPLINK, "up"]);
        world.exec_ok(Ns::Egress, &["ip", "route", "add", "default", "via", "10.0.0.1"]);
        assert_tight(world, "the uplink came up");

        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        eventually(SOON, "the watch covers it", || world.status()["uplinks"][0]["covered"] == true);
        assert_tight(world, "the daemon has started");
        // A leak by definition, which would stop a daemon that starts after it: so it comes last.
        world.send_outside(Leak::Packet, 3);
        assert_tight(world, "frames past the IP stack");
    });
}

#[test]
fn s7_a_config_that_became_unreadable_locks_as_converged_or_altogether() {
    inside("s7_a_config_that_became_unreadable_locks_as_converged_or_altogether", |world| {
        locked(world);
        let config = world.scratch().join("egress.yml");
        let good = std::fs::read(&config).expect("a config");
        let state = std::fs::read(world.state_file()).expect("state");
        std::fs::write(&config, "paths: [nonsense").expect("written");

        // As converged, by the state file alone.
        for command in [&["killswitch", "load"][..], &["serve"]] {
            world.tamper_with(Tampering::Flush);
            let said = world.actuator(command);
            assert_eq!(said.exit, 78, "{said:?}");
            assert!(said.err.contains("locked as converged"), "{said:?}");
            assert_tight(world, "as converged");
            assert!(world.ping(Ns::Egress, TUNNEL_SERVER), "the tunnel is permitted");
        }

        // Nobody knows what was converged: nothing is permitted, the tunnel neither.
        std::fs::write(world.state_file(), b"torn").expect("written");
        world.tamper_with(Tampering::Flush);
        let said = world.actuator(&["killswitch", "load"]);
        assert!(said.exit == 78 && said.err.contains("nothing is permitted"), "{said:?}");
        assert_tight(world, "blank");
        assert!(!world.ping(Ns::Egress, TUNNEL_SERVER), "the tunnel is not permitted");
        let said = world.actuator(&["status"]);
        assert!(said.exit == 78 && said.out.contains("the lock permits nothing"), "{said:?}");

        // What is loaded stays.
        std::fs::write(world.state_file(), &state).expect("written");
        let said = world.actuator(&["killswitch", "load"]);
        assert!(said.err.contains("the lock that is loaded stays"), "{said:?}");
        assert!(!world.ping(Ns::Egress, TUNNEL_SERVER));

        // The config is good again.
        std::fs::write(&config, good).expect("written");
        world.actuator_ok(&["converge"]);
        eventually(SOON, "the tunnel is permitted", || world.ping(Ns::Egress, TUNNEL_SERVER));
        assert_eq!(world.status()["standing"], "locked");
        assert_tight(world, "converged again");

        // A host that nobody ever converged is left alone.
        std::fs::remove_dir_all(world.scratch().join("state")).expect("removed");
        std::fs::write(&config, "paths: [nonsense").expect("written");
        world.tamper_with(Tampering::Flush);
        let said = world.actuator(&["killswitch", "load"]);
        assert!(said.exit == 78 && said.err.contains("never converged"), "{said:?}");
        assert!(!has_killswitch(world) && !is_all_denied(world));
    });
}

#[test]
fn s1_a_boot_waits_for_a_slow_nft() {
    inside("s1_a_boot_waits_for_a_slow_nft", |world| {
        locked(world);
        world.tamper_with(Tampering::Flush);
        // A cold kernel: modules have to be loaded for the first transaction.
        let cold = world.scratch().join("warm").display().to_string();
        let slow = format!(
            "case \" $* \" in *\" -f \"*) [ -e {cold} ] || {{ : >{cold}; sleep 4; }};; esac\n\
             exec $REAL \"$@\""
        );
        let mut boot = boot_with(world, &slow);
        ends(&mut boot);
        assert!(boot.log().contains("locked as converged"), "{}", boot.log());
        assert!(has_killswitch(world) && !is_all_denied(world));
        assert_tight(world, "locked after the wait");
    });
}

#[test]
fn s1_everything_is_refused_until_the_lock_is_loaded() {
    inside("s1_everything_is_refused_until_the_lock_is_loaded", |world| {
        locked(world);
        world.tamper_with(Tampering::Flush);
        assert!(world.positive_control() > 0, "nothing is locked");
        let baseline = world.observed_outside();
        let good = world.scratch().join("good").display().to_string();
        // Refuses the real lock, as an nft does that does not know one of its expressions.
        let picky = format!(
            "rules=$(cat)\n[ -e {good} ] || case $rules in *\"table inet vpn_egress {{\"*)\n\
             echo 'Error: syntax error' >&2; exit 1;; esac\nprintf '%s\\n' \"$rules\" | $REAL \"$@\""
        );
        let mut boot = boot_with(world, &picky);
        eventually(SOON, "everything is refused", || is_all_denied(world));
        eventually(SOON, "it is said why", || boot.log().contains("Error: syntax error"));
        for kind in Leak::UNPRIVILEGED {
            world.send_outside(kind, 3);
        }
        assert_eq!(world.observed_outside(), baseline, "{:?}", world.observations());
        assert!(!world.ping(Ns::Egress, TUNNEL_SERVER), "the tunnel is not permitted yet");
        let log = boot.log();
        assert!(log.contains("everything but DHCP and neighbour discovery is refused"), "{log}");
        assert!(log.contains("actuator unlock --reason TEXT"), "{log}");
        assert!(boot.is_alive(), "it never gives up: {log}");

        world.write_file("good", "", 0o644);
        ends(&mut boot);
        assert!(has_killswitch(world) && !is_all_denied(world), "one went with the other");
        assert!(world.ping(Ns::Egress, TUNNEL_SERVER));

        // Not on a host whose lock a person took off meanwhile.
        world.tamper_with(Tampering::Flush);
        std::fs::remove_file(world.scratch().join("good")).expect("removed");
        let mut boot = boot_with(world, &picky);
        eventually(SOON, "everything is refused", || is_all_denied(world));
        world.actuator_ok(&["unlock", "--reason", "test"]);
        ends(&mut boot);
        assert!(!has_killswitch(world) && !is_all_denied(world));
    });
}

#[test]
fn s1_no_failure_of_nft_ends_the_wait_of_a_boot() {
    inside("s1_no_failure_of_nft_ends_the_wait_of_a_boot", |world| {
        locked(world);
        for (nft, said) in [
            ("exit 7", "exit status: 7 and printed no reason"),
            ("kill -SEGV $$", "killed by SIGSEGV"),
            ("kill -SEGV $$", "install nft >= 1.1.2"),
            ("sleep 600", "still running"),
        ] {
            world.tamper_with(Tampering::Flush);
            let mut boot = boot_with(world, nft);
            eventually(SOON, said, || boot.log().contains(said));
            assert!(boot.is_alive(), "{nft}: {}", boot.log());
            boot.kill(Signal::SIGKILL);
        }
        // It works again, with an nft that has something to say each time.
        let noise = "echo 'terminals database is inaccessible'; echo 'tput: no terminfo' >&2";
        let mut boot = boot_with(world, &format!("{noise}\nexec $REAL \"$@\""));
        ends(&mut boot);
        assert!(has_killswitch(world) && !is_all_denied(world));
    });
}

#[test]
fn s7_what_keeps_the_daemon_from_starting_does_not_keep_the_lock_off() {
    inside("s7_what_keeps_the_daemon_from_starting_does_not_keep_the_lock_off", |world| {
        locked(world);
        // Somebody else listens where the daemon would.
        world.tamper_with(Tampering::Flush);
        let taken = world.start_exporter();
        let said = world.actuator(&["serve", "--web.listen-address=127.0.0.1:9061"]);
        assert_eq!(said.exit, 3, "{said:?}");
        assert_tight(world, "the port is taken");
        drop(taken);

        // A state that is missing: stopped, from the boot on, and no state is made.
        std::fs::remove_file(world.state_file()).expect("removed");
        world.tamper_with(Tampering::Flush);
        let said = world.actuator_ok(&["killswitch", "load"]);
        assert!(said.contains("and stopped"), "{said}");
        assert_eq!(world.status()["standing"], "stopped");
        assert!(!world.state_file().exists());
        assert_tight(world, "stopped");
    });
}
