//! Uplinks judged by what the kernel said of them. Real routes: `tests/tests/uplinks.rs`.

use super::*;

/// eth0, eth1, ... by number; what is said of the gateway.
#[derive(Clone, Copy)]
enum Gateway {
    None,
    Lives(&'static str),
    Silent(&'static str),
}

use Gateway::{Lives, None as NoGateway, Silent};

const CARRIER: bool = true;
const CABLE_OUT: bool = false;

fn hop(eth: u32, works: bool, to_ipv6: bool, gateway: Gateway) -> Hop {
    let (address, silent) = match gateway {
        NoGateway => (None, false),
        Lives(address) => (Some(address), false),
        Silent(address) => (Some(address), true),
    };
    let gateway = address.map(|text| text.parse().expect("an address"));
    Hop {
        device: Device { name: format!("eth{eth}"), index: eth + 1 },
        works,
        to_ipv6,
        gateway,
        silent,
    }
}

fn v4(eth: u32, works: bool, gateway: Gateway) -> Hop {
    hop(eth, works, false, gateway)
}

#[test]
fn uplinks_are_judged_by_the_one_that_came_furthest_and_named() {
    const A: &str = "192.168.10.1";
    const B: &str = "192.168.10.2";
    let link_local = |gateway| hop(0, CARRIER, true, gateway);
    let table: [(&str, Vec<Hop>, Option<&str>); 13] = [
        ("no device", vec![], Some("none of the configured uplinks is there")),
        ("as it should be", vec![v4(0, CARRIER, Lives(A))], None),
        ("point to point", vec![v4(0, CARRIER, NoGateway)], None),
        ("the cable is out", vec![v4(0, CABLE_OUT, Lives(A))], Some("no carrier on eth0")),
        (
            "both cables are out",
            vec![v4(0, CABLE_OUT, Lives(A)), v4(1, CABLE_OUT, Lives(B))],
            Some("no carrier on eth0, eth1"),
        ),
        ("one cable of two", vec![v4(0, CABLE_OUT, Lives(A)), v4(1, CARRIER, Lives(B))], None),
        (
            "a dead router",
            vec![v4(0, CARRIER, Silent(A))],
            Some("no answer from gateway 192.168.10.1 on eth0"),
        ),
        ("one dead router of two", vec![v4(0, CARRIER, Silent(A)), v4(1, CARRIER, Lives(B))], None),
        (
            "a dead router and a cable",
            vec![v4(0, CARRIER, Silent(A)), v4(1, CABLE_OUT, Lives(B))],
            Some("no answer from gateway 192.168.10.1 on eth0"),
        ),
        (
            "two routers on one link",
            vec![v4(0, CARRIER, Silent(A)), v4(0, CARRIER, Lives(B))],
            None,
        ),
        (
            "two dead routers on one link",
            vec![v4(0, CARRIER, Silent(A)), v4(0, CARRIER, Silent(B))],
            Some("no answer from gateway 192.168.10.1 on eth0, gateway 192.168.10.2 on eth0"),
        ),
        (
            "of the other family nothing is known",
            vec![v4(0, CARRIER, Silent(A)), link_local(Lives("fe80::1"))],
            Some("no answer from gateway 192.168.10.1 on eth0"),
        ),
        ("only the other family has a route", vec![link_local(Silent("fe80::1"))], None),
    ];
    for (what, hops, down) in table {
        let verdict = judge(&hops, false);
        let expected = down.map_or(UplinkVerdict::Up, |why| UplinkVerdict::Down(why.to_owned()));
        assert_eq!(verdict, expected, "{what}");
    }
}

#[test]
fn devices_are_known_by_name_and_index() {
    let loopback = device("lo").expect("every host has a loopback device");
    assert_eq!(loopback.name, "lo");
    assert_eq!(device("no-such-device"), None);
}
