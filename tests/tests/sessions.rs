//! Management sessions that are older than the lock: they go on whichever end speaks first, and
//! nothing else comes along with them. S1, S7.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lab::addresses::{EGRESS, ROUTER};
use lab::{EgressConfig, Endpoint, Keepalive, Ns, Session, Tampering, World, eventually, inside};

const SOON: Duration = Duration::from_secs(20);
const SSH: u16 = 22;
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

/// As long as an administrator's command that prints nothing; the first converge is in it.
const SILENCE: Duration = Duration::from_secs(20);
/// Longer than any test: that end never speaks again.
const NEVER: Duration = Duration::from_secs(3600);

/// What tracks connections on a host that has a firewall of its own.
const TRACKING: &str = "table inet other { chain seen { type filter hook input priority 0; \
                        ct state established accept; }; }";

#[derive(Debug, Clone, Copy)]
enum Tracking {
    None,
    /// It begins while the session is open, and the host speaks first.
    Since,
    /// It saw the session begin.
    Always,
}

fn ready(world: &mut World) {
    world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    world.write_config(&EgressConfig {
        path_lines: vec![format!("management: [{ROUTER}]")],
        ..EgressConfig::quick()
    });
}

/// As before, for the next round.
fn unlocked(world: &World) {
    world.actuator_ok(&["unlock", "--reason", "test"]);
    world.nft(Ns::Egress, "add table inet other; delete table inet other");
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(EGRESS.into(), port)
}

fn begin(world: &mut World, tracking: Tracking, client: Duration) -> Session {
    if matches!(tracking, Tracking::Always) {
        world.nft(Ns::Egress, TRACKING);
    }
    let session = world.open_silent_session(Ns::Router, IpAddr::V4(ROUTER), at(SSH), client);
    // The one number that a silent service says may have been heard by now.
    eventually(SOON, "the session is open", || session.heard() > 0);
    if matches!(tracking, Tracking::Since) {
        world.nft(Ns::Egress, TRACKING);
    }
    session
}

#[test]
fn s7_a_session_goes_on_though_only_the_host_speaks() {
    inside("s7_a_session_goes_on_though_only_the_host_speaks", |world| {
        ready(world);
        for tracking in [Tracking::None, Tracking::Since, Tracking::Always] {
            let _sshd = world.listen(Ns::Egress, SSH);
            let mut session = begin(world, tracking, NEVER);
            // The host has spoken since the tracking began.
            assert!(session.goes_on());
            world.actuator_ok(&["converge"]);
            for _ in 0..5 {
                assert!(session.goes_on(), "{tracking:?}: {}", session.log());
            }
            // Nor do a flush and its repair end it.
            let actuator = world.start_actuator();
            world.tamper_with(Tampering::Flush);
            for _ in 0..5 {
                assert!(session.goes_on(), "{tracking:?}: {}", session.log());
            }
            drop(actuator);
            unlocked(world);
        }
    });
}

#[test]
fn s7_a_session_goes_on_though_only_the_client_speaks() {
    inside("s7_a_session_goes_on_though_only_the_client_speaks", |world| {
        ready(world);
        for tracking in [Tracking::None, Tracking::Since] {
            // It speaks once, and hears: the client would be reset if its words were refused.
            let _sshd = world.listen_silently(Ns::Egress, SSH, SILENCE);
            let session = begin(world, tracking, Duration::ZERO);
            let begun = Instant::now();
            world.actuator_ok(&["converge"]);
            let before = session.heard();
            eventually(2 * SILENCE, "the host speaks again", || session.heard() > before);
            assert!(begun.elapsed() < 2 * SILENCE);
            unlocked(world);
        }
    });
}

#[test]
fn s7_a_session_goes_on_after_a_command_that_says_nothing() {
    inside("s7_a_session_goes_on_after_a_command_that_says_nothing", |world| {
        ready(world);
        for tracking in [Tracking::None, Tracking::Since, Tracking::Always] {
            let _sshd = world.listen_silently(Ns::Egress, SSH, SILENCE);
            let session = begin(world, tracking, NEVER);
            let (before, begun) = (session.heard(), Instant::now());
            world.actuator_ok(&["converge"]);
            eventually(SILENCE + SOON, "the host speaks first", || session.heard() > before);
            // At once, and not when TCP has tried again.
            assert!(begun.elapsed() < SILENCE + Duration::from_secs(5), "{:?}", begun.elapsed());
            unlocked(world);
        }
    });
}

#[test]
fn s1_what_the_host_opened_itself_dies_with_the_lock() {
    inside("s1_what_the_host_opened_itself_dies_with_the_lock", |world| {
        ready(world);
        for tracking in [Tracking::None, Tracking::Since, Tracking::Always] {
            let address = format!("{STRANGER}/24");
            world.exec_ok(Ns::Router, &["ip", "address", "replace", &address, "dev", "lan"]);
            let _theirs = world.listen(Ns::Router, 9000);
            let _ours = world.listen(Ns::Egress, SSH);
            // To a management host, but from here; and from somebody who is not in the list.
            let towards = SocketAddr::new(ROUTER.into(), 9000);
            if matches!(tracking, Tracking::Always) {
                world.nft(Ns::Egress, TRACKING);
            }
            let mut own = world.open_session(Ns::Egress, IpAddr::V4(EGRESS), towards);
            let mut stranger = world.open_session(Ns::Router, IpAddr::V4(STRANGER), at(SSH));
            assert!(own.goes_on() && stranger.goes_on(), "before the lock");
            if matches!(tracking, Tracking::Since) {
                world.nft(Ns::Egress, TRACKING);
                assert!(own.goes_on() && stranger.goes_on());
            }
            world.actuator_ok(&["converge"]);
            // What is on its way to this host arrives, a window full; it is not acknowledged, so nothing
            // follows.
            eventually(SOON, "the host's own session ends", || !own.goes_on());
            assert!(!stranger.goes_on(), "{tracking:?}: {}", stranger.log());
            unlocked(world);
        }
    });
}
