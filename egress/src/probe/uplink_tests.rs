//! Uplinks judged by tables as the kernel prints them.

use proptest::prelude::*;

use super::*;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 1);

/// `/proc/net/route` of a host with two uplinks and a tunnel of half-defaults.
fn ipv4_table() -> String {
    let gateway = u32::from_ne_bytes(GATEWAY.octets());
    let heading =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT  ";
    let half = u32::from_ne_bytes([128, 0, 0, 0]);
    [
        heading.to_owned(),
        format!("eth0\t00000000\t{gateway:08X}\t0003\t0\t0\t100\t00000000\t0\t0\t0   "),
        "ppp0\t00000000\t00000000\t0001\t0\t0\t200\t00000000\t0\t0\t0   ".to_owned(),
        format!("wg0\t00000000\t00000000\t0001\t0\t0\t0\t{half:08X}\t0\t0\t0   "),
        "*\t00000000\t00000000\t0201\t0\t0\t4294967295\t00000000\t0\t0\t0   ".to_owned(),
        "eth0\t000AA8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0   ".to_owned(),
    ]
    .join("\n")
}

const IPV6_TABLE: &str = "\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000064 00000002 00000000 00450003    wlan0
00000000000000000000000000000000 01 00000000000000000000000000000000 00 00000000000000000000000000000000 00000064 00000002 00000000 00000001      wg0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn silent(address: impl Into<IpAddr>, device: u32) -> BTreeSet<Neighbour> {
    BTreeSet::from([Neighbour { address: address.into(), device }])
}

fn down(why: &str) -> UplinkVerdict {
    UplinkVerdict::Down(why.to_owned())
}

/// Devices, those of them with a carrier, the silent neighbours, and the verdict.
type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a BTreeSet<Neighbour>, UplinkVerdict);

fn devices(names: &[&str]) -> Vec<Device> {
    names.iter().zip(1..).map(|(name, index)| Device { name: (*name).to_owned(), index }).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn ipv4_default_routes_are_read() {
    let found = ipv4_routes(&ipv4_table());
    let route =
        |device: &str, gateway| DefaultRoute { device: device.to_owned(), is_ipv6: false, gateway };
    let wanted = [route("eth0", Some(GATEWAY.into())), route("ppp0", None)];
    assert_eq!(found, wanted, "half-defaults, unreachable and subnet routes are none");
}

#[test]
fn ipv6_default_routes_are_read() {
    let gateway = Some(GATEWAY_V6.into());
    let wlan0 = DefaultRoute { device: "wlan0".to_owned(), is_ipv6: true, gateway };
    assert_eq!(ipv6_routes(IPV6_TABLE), [wlan0]);
}

#[test]
fn uplinks_are_judged_by_the_one_that_came_furthest_and_named() {
    let routes = ipv4_routes(&ipv4_table());
    let none = BTreeSet::new();
    // `devices` counts from 1.
    let dead = silent(GATEWAY, 1);
    let elsewhere = silent(GATEWAY, 2);
    let silence = || down("no answer from gateway 192.168.10.1 on eth0");
    let table: [Case; 9] = [
        (&[], &["eth0"], &none, down("no default route")),
        (&["eth0", "ppp0"], &["lo"], &none, down("no carrier on eth0, ppp0")),
        (&["eth0"], &["eth0"], &none, UplinkVerdict::Up),
        (&["eth0"], &["eth0"], &dead, silence()),
        (&["eth0"], &["eth0"], &elsewhere, UplinkVerdict::Up),
        (&["eth0", "ppp0"], &["eth0"], &dead, silence()),
        (&["eth0", "ppp0"], &["eth0", "ppp0"], &dead, UplinkVerdict::Up),
        (&["ppp0"], &["ppp0"], &silent(GATEWAY, 1), UplinkVerdict::Up),
        // By hand, without a default route: judged by its carrier.
        (&["eth7"], &["eth7"], &dead, UplinkVerdict::Up),
    ];
    for (given, carrier, silent, verdict) in table {
        assert_eq!(judge(&devices(given), &set(carrier), &routes, silent), verdict, "{given:?}");
    }
}

#[test]
fn an_ipv6_gateway_can_be_dead_too() {
    let routes = ipv6_routes(IPV6_TABLE);
    let judged = |silent: &BTreeSet<Neighbour>| {
        judge(&devices(&["wlan0"]), &set(&["wlan0"]), &routes, silent)
    };
    let dead = judged(&silent(GATEWAY_V6, 1));
    assert_eq!(dead, down("no answer from gateway fe80::1 on wlan0"));
    // The same link-local address is another router's on another link.
    assert_eq!(judged(&silent(GATEWAY_V6, 2)), UplinkVerdict::Up);
}

#[test]
fn one_gateway_that_may_live_is_enough() {
    let dead = ipv4_routes(&ipv4_table()).remove(0);
    let second = Some(Ipv4Addr::new(192, 168, 10, 2).into());
    let other = DefaultRoute { gateway: second, ..dead.clone() };
    let judged = |silent: &BTreeSet<Neighbour>| {
        judge(&devices(&["eth0"]), &set(&["eth0"]), &[dead.clone(), other.clone()], silent)
    };
    assert_eq!(judged(&silent(GATEWAY, 1)), UplinkVerdict::Up);
    let mut both = silent(GATEWAY, 1);
    both.extend(silent(Ipv4Addr::new(192, 168, 10, 2), 1));
    let why = "no answer from gateway 192.168.10.1 on eth0, gateway 192.168.10.2 on eth0";
    assert_eq!(judged(&both), down(why));
}

#[test]
fn this_host_can_be_asked() {
    let loopback = device("lo").expect("every host has a loopback device");
    assert_eq!(device("no-such-device"), None);
    let found = default_route_devices(&[]).expect("the tables of this host");
    assert!(!found.contains(&loopback));
    assert!(found.is_sorted());
    for name in found.iter().map(|device| device.name.as_str()) {
        let rest = default_route_devices(&[name]).expect("the tables of this host");
        assert!(rest.iter().all(|device| device.name != name), "{name} was left out");
    }
    for endpoint in [IpAddr::V4(GATEWAY), IpAddr::V6(GATEWAY_V6)] {
        let verdict = uplink(&[], endpoint).expect("the tables of this host");
        assert_eq!(verdict, down(NO_DEFAULT_ROUTE));
    }
}

proptest! {
    #[test]
    fn no_table_makes_the_parsers_panic(
        table in "(([ \\t0-9a-fA-Fx.:*]{0,12}|\\PC{0,6})[ \\t\\n]){0,40}"
    ) {
        ipv4_routes(&table);
        ipv6_routes(&table);
    }

    #[test]
    fn any_gateway_is_read_back(address in any::<[u8; 4]>().prop_filter("a gateway", |a| *a != [0; 4])) {
        let line = format!(
            "eth0 00000000 {:08X} 0003 0 0 0 00000000 0 0 0", u32::from_ne_bytes(address)
        );
        prop_assert_eq!(
            ipv4_routes(&line),
            [DefaultRoute {
                device: "eth0".to_owned(),
                is_ipv6: false,
                gateway: Some(Ipv4Addr::from(address).into()),
            }]
        );
    }
}
