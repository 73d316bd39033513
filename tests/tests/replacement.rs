//! Rules are replaced under full load: nothing gets out, nothing that must pass is dropped: S1.
//! `figures --only replace` does it a thousand times.

use lab::{Endpoint, Keepalive, Ns, inside};

/// Packets per second of each kind that must not get out.
const RATE: u32 = 50;
const ROUNDS: u32 = 30;

/// A drop in the tunnel's way that is there for milliseconds: what a replacement with a gap is.
const GAP: &str = "table inet lab_gap {
    chain output { type filter hook output priority -1; oifname \"wg0\" drop; }
}";

#[test]
fn s1_rules_are_replaced_under_full_load_without_a_packet_out_or_one_dropped() {
    inside("s1_rules_are_replaced_under_full_load_without_a_packet_out_or_one_dropped", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        let mut load = world.start_load(RATE);
        // Both observers see what they are there for: what gets out while there is no lock...
        let open = world.replace_under_load(&mut load, 1, |world, _| {
            world.exec_ok(Ns::Egress, &["sleep", "0.5"]);
        });
        assert!(open.outside > 50, "the router sees what gets out: {open}");
        assert_eq!((open.dropped, open.broken), (0, 0), "{open}");

        world.converge_other_endpoints(0);
        let replaced = world.replace_under_load(&mut load, ROUNDS, |world, round| {
            world.converge_other_endpoints(round + 1);
        });
        println!("{replaced}");
        assert_eq!((replaced.outside, replaced.dropped), (0, 0), "{replaced}");
        assert_eq!((replaced.broken, replaced.counters_fell), (0, 0), "{replaced}");
        assert!(replaced.tried > 1000 && replaced.permitted > 1000, "{replaced}");

        // ... and what is dropped inside, where there is a gap.
        let shut = world.replace_under_load(&mut load, 5, |world, _| {
            world.nft(Ns::Egress, GAP);
            world.delete_table("inet", "lab_gap");
        });
        assert!(shut.dropped > 0, "a gap of milliseconds is seen: {shut}");
    });
}
