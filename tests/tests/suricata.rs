//! A real Suricata in the wire drops ciphertext by chance; `suppress` does not end that, and the
//! rules that `actuator ids render` prints do. Run by `make test` where Suricata is installed; where
//! it is not, that is said, and nothing here counts as passed.

use std::time::Duration;

use lab::addresses::{EGRESS, TUNNEL_CLIENT, TUNNEL_SERVER, WORLD};
use lab::{Inspected, Ns, World, eventually};

/// Of three bytes each, as different as they can be; a rule that is seen to work is worth more than
/// one that is probable, so there are many.
const PATTERNS: u64 = 16;
/// Enough for some sixty matches of one of the patterns.
const LOAD: u64 = 64 << 20;
/// A busy machine moves some megabytes a second.
const LOAD_TIME: Duration = Duration::from_secs(120);
/// A session that lost its packets is there again by then.
const SOON: Duration = Duration::from_secs(30);

/// Ethernet, IPv4 and UDP before the payload.
const HEADERS: u64 = 14 + 20 + 8;

fn drop_rules() -> String {
    let rule = |nth: u64| {
        let byte = 0x24 + nth * 13;
        format!(
            "drop udp any any -> any any (msg:\"three bytes\"; content:\"|{byte:02x} 7b {:02x}|\"; \
             sid:{}; rev:1;)\n",
            255 - byte,
            2_000_000 + nth
        )
    };
    (0..PATTERNS).map(rule).collect()
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Up,
    Down,
}

/// Sends `LOAD` bytes through the tunnel and says what Suricata made of them.
#[track_caller]
fn under_load(world: &World, rules: &str, threshold: &str, way: Way) -> Inspected {
    let suricata = world.start_suricata(rules, threshold);
    eventually(SOON, "the tunnel answers", || world.ping(Ns::Egress, &TUNNEL_SERVER.to_string()));
    assert_eq!(suricata.drops(), 0, "an idle tunnel is not dropped");
    let lab = World::program("lab").display().to_string();
    let (ns, target, device) = match way {
        Way::Up => (Ns::Egress, WORLD, "wire0"),
        Way::Down => (Ns::VpnA, TUNNEL_CLIENT, "wire1"),
    };
    let before = world.bytes_into_the_wire(device);
    let line = [lab.as_str(), "load", "--target", &format!("{target}:9")];
    let mut load = world.spawn(ns, "load", &line);
    eventually(LOAD_TIME, "the load went into the wire", || {
        let sent = world.bytes_into_the_wire(device) - before;
        if sent > LOAD { Ok(()) } else { Err(format!("{sent} bytes; {}", load.log())) }
    });
    load.stop();
    suricata.stop()
}

/// Positions at which random bytes match one of the patterns, by chance.
#[allow(clippy::cast_precision_loss)]
fn expected(seen: &Inspected) -> f64 {
    let payload = seen.bytes.saturating_sub(seen.packets * HEADERS);
    (payload * PATTERNS) as f64 / f64::from(1 << 24)
}

/// As many as chance gives: five standard deviations to both sides.
#[track_caller]
#[allow(clippy::cast_precision_loss)]
fn assert_by_chance(what: &str, count: u64, seen: &Inspected) {
    let (count, expected) = (count as f64, expected(seen));
    println!("{what}: {count} of {expected:.1} expected; {seen:?}");
    assert!(expected > 50.0, "{what}: too little went through: {seen:?}");
    let most = 5.0 * expected.sqrt();
    assert!((count - expected).abs() < most, "{what}: {count}, not about {expected}: {seen:?}");
}

#[test]
fn our_pass_rules_end_the_drops_of_a_real_suricata_and_suppress_does_not() {
    lab::inside("our_pass_rules_end_the_drops_of_a_real_suricata_and_suppress_does_not", |world| {
        world.open_the_wire();
        let drops = drop_rules();

        let seen = under_load(world, &drops, "", Way::Up);
        assert_by_chance("drop rules, blocked", seen.blocked, &seen);
        assert_by_chance("drop rules, alerts", seen.alerts, &seen);

        let suppress = format!("suppress gen_id 1, sig_id 0, track by_src, ip {EGRESS}\n");
        let seen = under_load(world, &drops, &suppress, Way::Up);
        assert_by_chance("suppressed, blocked all the same", seen.blocked, &seen);
        assert_eq!(seen.alerts, 0, "nobody hears of it: {seen:?}");
        // A packet may match twice.
        assert!(seen.suppressed >= seen.blocked, "{seen:?}");

        let seen = under_load(world, &drops, "", Way::Down);
        assert_by_chance("drop rules, answers blocked", seen.blocked, &seen);

        let host = EGRESS.to_string();
        let ours = world.actuator_ok(&["ids", "render", "--for", "suricata", "--host", &host]);
        for way in [Way::Up, Way::Down] {
            let seen = under_load(world, &format!("{drops}{ours}"), "", way);
            println!("our pass rules, {way:?}: {} blocked; {seen:?}", seen.blocked);
            assert!(expected(&seen) > 50.0, "{seen:?}");
            assert_eq!((seen.blocked, seen.alerts), (0, 0), "{seen:?}");
        }
    });
}
