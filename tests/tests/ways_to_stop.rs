//! A hard stop needs no `nft`: S3, and what is not done is not reported as done: S7.

use std::time::{Duration, Instant};

use lab::misbehaving::Misbehaviour;
use lab::programs::{ACTUATOR, leak, repair, tunnel_down};
use lab::{
    Class, EgressConfig, Endpoint, Exit, Keepalive, Leak, Ns, Workload, World, eventually, inside,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(30);
const ENGAGED: &str = "vpn_egress_actuator_hard_stop_engaged{path=\"media\"}";
const LATCHED: &str = "vpn_egress_actuator_latched{path=\"media\"}";

fn locked(world: &mut World) {
    world.shadow_programs();
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig::quick());
    assert!(world.positive_control() > 0);
    world.actuator_ok(&["converge"]);
}

fn cut_by(world: &World) -> String {
    world.status()["cut"]["by"].as_str().unwrap_or("nothing").to_owned()
}

fn cut_metric(world: &World, by: &str) -> Option<f64> {
    world.metric(ACTUATOR, &format!("vpn_egress_actuator_cut{{by=\"{by}\",path=\"media\"}}"))
}

fn log(world: &World) -> String {
    std::fs::read_to_string(world.scratch().join("actuator.log")).expect("a log")
}

/// Nothing of the workload passes, by the tunnel or outside it.
#[track_caller]
fn assert_nothing_passes(world: &mut World, workload: &Workload, when: &str) {
    world.reset_observer();
    let since = Instant::now();
    world.exec_ok(Ns::Egress, &["sleep", "2"]);
    assert_eq!(workload.answers_since(since).len(), 0, "{when}");
    assert_eq!(world.observed(Class::Tunnel), 0, "{when}");
    assert_eq!(world.observed_outside(), 0, "{when}: {:?}", world.observations());
}

#[track_caller]
fn release(world: &World, workload: &Workload) {
    eventually(SOON, "it is released", || {
        let said = world.actuator(&["release", "--reason", "a test"]);
        if said.exit == 0 { Ok(()) } else { Err(said) }
    });
    workload.wait_for_exit(Exit::A, SOON);
    assert_eq!(world.status()["standing"], "locked");
    assert_eq!(world.status()["live_endpoint"], "primary");
}

fn without_nft(how: Misbehaviour, name: &str) {
    inside(name, |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        assert_eq!(cut_by(world), "nothing");

        world.send_outside(Leak::Packet, 1);
        world.misbehaves_from("nft", how, 1);
        // Some notifications may come to a busy engine first; whatever is answered is true.
        let outcome = eventually(SOON, "the path is cut", || {
            let (status, outcomes) = world.notify_now(&[leak()]);
            (status == 200).then_some(outcomes)
        });
        let cut = ["hard_stopped", "already_stopped"];
        assert!(cut.contains(&outcome[0].as_str()), "{outcome:?}");
        assert_nothing_passes(world, &workload, "cut without nft");
        assert_eq!(cut_by(world), "peer");
        assert_eq!(cut_metric(world, "peer"), Some(1.0));
        assert_eq!(cut_metric(world, "nftables"), Some(0.0));
        assert_eq!(world.metric(ACTUATOR, LATCHED), Some(1.0));
        let status = world.status();
        assert_eq!(status["standing"], "stopped", "{status}");
        assert!(status["cut"]["since"].is_u64(), "{status}");
        let recorded = status["decisions"].to_string();
        assert!(recorded.contains("the tunnel's peer and key were taken off"), "{recorded}");
        for alert in [leak(), tunnel_down("primary")] {
            eventually(SOON, "it is stopped already", || {
                world.notify_now(std::slice::from_ref(&alert))
                    == (200, vec!["already_stopped".to_owned()])
            });
        }
        assert_nothing_passes(world, &workload, "while nft is tried again");
        assert_eq!(log(world).matches("enforced without nftables").count(), 0, "{}", log(world));

        // The rules are added when they can be; the tunnel comes back by a release only.
        world.behaves("nft");
        eventually(SOON, "the rules cut it, too", || cut_by(world) == "nftables");
        assert_nothing_passes(world, &workload, "cut by both");
        release(world, &workload);
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn s3_an_nft_that_fails_does_not_keep_a_leak_open() {
    without_nft(Misbehaviour::Fail, "s3_an_nft_that_fails_does_not_keep_a_leak_open");
}

#[test]
fn s3_an_nft_that_crashes_does_not_keep_a_leak_open() {
    without_nft(Misbehaviour::Crash, "s3_an_nft_that_crashes_does_not_keep_a_leak_open");
}

#[test]
fn s3_an_nft_that_lies_does_not_keep_a_leak_open() {
    without_nft(Misbehaviour::Lie, "s3_an_nft_that_lies_does_not_keep_a_leak_open");
}

#[test]
fn s3_an_nft_that_hangs_does_not_keep_a_leak_open() {
    without_nft(Misbehaviour::Hang, "s3_an_nft_that_hangs_does_not_keep_a_leak_open");
}

#[test]
fn s3_a_device_that_does_not_answer_is_set_down() {
    inside("s3_a_device_that_does_not_answer_is_set_down", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        world.send_outside(Leak::Packet, 1);
        world.misbehaves_from("nft", Misbehaviour::Fail, 1);
        if !world.signal_wireguard(Signal::SIGSTOP) {
            println!("the kernel's WireGuard does not hang: not shown here");
            return;
        }
        eventually(SOON, "the path is cut", || world.notify_now(&[leak()]).0 == 200);
        let is_up = |world: &World| {
            world.exec_ok(Ns::Egress, &["ip", "link", "show", "wg0"]).contains(",UP")
        };
        assert!(!is_up(world), "it was set down");
        world.signal_wireguard(Signal::SIGCONT);
        // The request to take the peer off may be carried out now.
        eventually(SOON, "that is seen", || ["link", "peer"].contains(&cut_by(world).as_str()));
        assert!(!is_up(world), "it stays down");
        assert_nothing_passes(world, &workload, "the device is down");
        world.behaves("nft");
        eventually(SOON, "the rules cut it, too", || cut_by(world) == "nftables");
        // The routes into a device that others brought up are theirs to restore.
        let said = world.actuator_ok(&["release", "--reason", "a test"]);
        assert!(said.contains("hard stop released"), "{said}");
        assert!(is_up(world), "a release sets it up again");
        assert_eq!(world.observed_outside(), 0, "{:?}", world.observations());
    });
}

#[test]
fn s7_a_stop_that_was_not_made_is_not_reported_as_made() {
    inside("s7_a_stop_that_was_not_made_is_not_reported_as_made", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        world.send_outside(Leak::Packet, 1);
        world.misbehaves_from("nft", Misbehaviour::Fail, 1);
        world.misbehaves_from("ip", Misbehaviour::Lie, 1);
        if !world.signal_wireguard(Signal::SIGSTOP) {
            println!("the kernel's WireGuard does not hang: not shown here");
            return;
        }
        for _ in 0..2 {
            let (status, outcomes) = world.notify_now(&[leak()]);
            assert_eq!(status, 503, "{outcomes:?}");
            assert!(!outcomes.contains(&"already_stopped".to_owned()), "{outcomes:?}");
        }
        eventually(SOON, "it is latched and not cut", || {
            let status = world.status();
            let says = status["standing"] == "latched" && status["latched"] == true;
            if says && status["cut"].is_null() { Ok(()) } else { Err(status.to_string()) }
        });
        assert_eq!(world.metric(ACTUATOR, LATCHED), Some(1.0));
        assert_eq!(world.metric(ACTUATOR, ENGAGED), Some(0.0));
        for by in ["nftables", "peer", "link", "absent"] {
            assert_eq!(cut_metric(world, by), Some(0.0), "{by}");
        }
        let screen = world.actuator(&["status"]).out;
        for part in ["LATCHED, NOT CUT", "latched     yes", "cut         NO"] {
            assert!(screen.contains(part), "{part}: {screen}");
        }
        let told = log(world).matches("NOT enforced").count();
        assert!(told <= 2, "one line for each change, not one a second: {}", log(world));
        assert_eq!(world.notify_now(&[repair()]).0, 503);

        // It is tried again until it is done.
        world.signal_wireguard(Signal::SIGCONT);
        world.behaves("ip");
        eventually(SOON, "it is cut", || world.status()["standing"] == "stopped");
        assert_nothing_passes(world, &workload, "cut at last");
        world.behaves("nft");
        eventually(SOON, "the rules cut it, too", || cut_by(world) == "nftables");
        release(world, &workload);
    });
}

#[test]
fn s7_a_stop_whose_rules_are_flushed_is_put_back() {
    inside("s7_a_stop_whose_rules_are_flushed_is_put_back", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        world.send_outside(Leak::Packet, 1);
        assert_eq!(world.notify(&[leak()]), (200, vec!["hard_stopped".into()]));
        // Chains and counters stay, and stop nothing.
        let rules = || {
            let listed =
                world.exec_ok(Ns::Egress, &["nft", "list", "table", "inet", "vpn_egress_stop"]);
            listed.matches("drop").count()
        };
        let before = rules();
        world.exec_ok(Ns::Egress, &["nft", "flush", "table", "inet", "vpn_egress_stop"]);
        eventually(SOON, "the rules are back", || (rules() == before).then_some(()));
    });
}

/// Longer than any answer may take.
const HANGS: Duration = Duration::from_secs(10);
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn s7_pages_and_alerts_are_answered_while_an_act_waits() {
    inside("s7_pages_and_alerts_are_answered_while_an_act_waits", |world| {
        locked(world);
        let _actuator = world.start_actuator();
        let workload = world.start_workload();
        workload.wait_for_exit(Exit::A, SOON);
        // A repair, which an nft that does not answer holds up.
        world.misbehaves_from("nft", Misbehaviour::Hang, 1);
        world.flush_ruleset();
        let busy = |status: &serde_json::Value| {
            let waits = status["waiting"].as_array().is_some_and(|waits| !waits.is_empty());
            status["busy"].is_object() && waits
        };
        let whole = |world: &World| {
            let said = world.actuator(&["status", "--json"]);
            serde_json::from_str::<serde_json::Value>(&said.out).expect("JSON")
        };
        eventually(SOON, "status says what is waited for", || {
            let status = whole(world);
            if busy(&status) { Ok(()) } else { Err(status.to_string()) }
        });
        eventually(SOON, "a person reads it, too", || {
            let said = world.actuator(&["status"]).out;
            let says = said.contains("busy for") && said.contains("waiting for");
            if says { Ok(()) } else { Err(said) }
        });
        let started = Instant::now();
        let mut seen = 0;
        while started.elapsed() < HANGS {
            let asked = Instant::now();
            assert!(world.metric(ACTUATOR, "vpn_egress_actuator_busy_seconds").is_some());
            assert!(asked.elapsed() < ANSWERED_WITHIN, "/metrics: {:?}", asked.elapsed());
            let asked = Instant::now();
            let (status, outcomes) = world.notify_now(&[repair()]);
            assert!(asked.elapsed() < ANSWERED_WITHIN, "webhook: {:?}", asked.elapsed());
            assert!(status == 503 || status == 200, "{status} {outcomes:?}");
            let asked = Instant::now();
            seen += usize::from(busy(&whole(world)));
            assert!(asked.elapsed() < ANSWERED_WITHIN, "status: {:?}", asked.elapsed());
        }
        assert!(seen > 0, "the engine was busy meanwhile");
        world.behaves("nft");
    });
}

#[test]
fn s7_pages_and_alerts_are_answered_during_the_first_look() {
    inside("s7_pages_and_alerts_are_answered_during_the_first_look", |world| {
        locked(world);
        world.flush_ruleset();
        world.misbehaves_from("nft", Misbehaviour::Hang, 1);
        let started = Instant::now();
        let _actuator = world.spawn_actuator(&[]);
        let ask = |route: &str| world.http_get(&format!("{ACTUATOR}{route}"));
        eventually(SOON, "it answers", || ask("/-/healthy").is_ok_and(|said| said.status == 200));
        assert!(started.elapsed() < HANGS, "{:?}", started.elapsed());
        eventually(SOON, "status says what it does", || {
            world.actuator(&["status"]).out.contains("the first look")
        });
        for _ in 0..3 {
            let asked = Instant::now();
            let page = ask("/metrics").expect("a page");
            assert!(asked.elapsed() < ANSWERED_WITHIN, "/metrics: {:?}", asked.elapsed());
            assert_eq!(page.status, 200, "{}", page.body);
            assert!(page.body.contains("vpn_egress_actuator_busy_seconds"), "{}", page.body);
            let asked = Instant::now();
            let (status, outcomes) = world.notify_now(&[tunnel_down("primary")]);
            assert!(asked.elapsed() < ANSWERED_WITHIN, "webhook: {:?}", asked.elapsed());
            assert_eq!(status, 503, "{outcomes:?}");
            let asked = Instant::now();
            world.actuator(&["status"]);
            assert!(asked.elapsed() < ANSWERED_WITHIN, "status: {:?}", asked.elapsed());
            // Not ready before lock and latch are in force.
            assert_eq!(ask("/-/ready").expect("an answer").status, 503);
        }
        // A lock that cannot be put back is a hard stop.
        eventually(SOON * 2, "the first look ends", || {
            ask("/-/ready").is_ok_and(|said| said.status == 200)
        });
        assert_eq!(world.status()["standing"], "stopped");
    });
}
