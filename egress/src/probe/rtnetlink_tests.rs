//! Messages as the kernel sends them, and questions to the kernel of this host.

use proptest::prelude::*;

use super::*;
use crate::netlink::messages;

const GATEWAY: [u8; 4] = [192, 168, 10, 1];
const GATEWAY_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const RTN_UNICAST: u8 = 1;

fn body(family: u8, kind: u8) -> [u8; BODY] {
    let mut body = [0; BODY];
    (body[0], body[7]) = (family, kind);
    body
}

fn route(family: u8) -> Request {
    Request::new(RTM_NEWROUTE, &body(family, RTN_UNICAST))
}

/// A nexthop of a multipath route.
fn hop(device: u32, kind: u16, gateway: &[u8]) -> Vec<u8> {
    let attributes = Request::new(0, &[]).bytes(kind, gateway);
    let attributes = attributes.payload();
    let length = u16::try_from(MULTIPATH_HEADER + attributes.len()).expect("short");
    [&length.to_ne_bytes()[..], &[0, 0], &device.to_ne_bytes(), attributes].concat()
}

fn first<T>(request: Request, read: impl Fn(&Message<'_>) -> T) -> T {
    let datagram = request.datagram();
    let message = messages(&datagram).next().expect("a message");
    read(&message)
}

fn by(hops: &[(u32, Option<&str>)]) -> Found {
    let hop = |(device, gateway): &(u32, Option<&str>)| NextHop {
        device: *device,
        gateway: gateway.map(|text| text.parse().expect("an address")),
    };
    Found::Route(Route::By(hops.iter().map(hop).collect()))
}

#[test]
fn every_form_of_a_route_is_read() {
    let one = |device: u32| route(AF_INET).bytes(RTA_OIF, &device.to_ne_bytes());
    let via_v6 = [&u16::from(AF_INET6).to_ne_bytes()[..], &GATEWAY_V6].concat();
    let several = [hop(2, RTA_GATEWAY, &GATEWAY), hop(3, RTA_VIA, &via_v6)].concat();
    let several_v6 = [hop(4, RTA_GATEWAY, &GATEWAY_V6), hop(5, RTA_GATEWAY, &GATEWAY_V6)].concat();
    for (request, found) in [
        (one(2).bytes(RTA_GATEWAY, &GATEWAY), by(&[(2, Some("192.168.10.1"))])),
        (one(7), by(&[(7, None)])),
        (one(3).bytes(RTA_VIA, &via_v6), by(&[(3, Some("fe80::1"))])),
        (
            route(AF_INET).bytes(RTA_MULTIPATH, &several),
            by(&[(2, Some("192.168.10.1")), (3, Some("fe80::1"))]),
        ),
        (
            route(AF_INET6).bytes(RTA_MULTIPATH, &several_v6),
            by(&[(4, Some("fe80::1")), (5, Some("fe80::1"))]),
        ),
        // Of a nexthop object the kernel shows the members too, unless it was told not to.
        (one(2).bytes(RTA_NH_ID, &9_u32.to_ne_bytes()), by(&[(2, None)])),
        (route(AF_INET).bytes(RTA_NH_ID, &9_u32.to_ne_bytes()), Found::Object(9)),
        (route(AF_INET), Found::Route(Route::Nowhere)),
        (Request::new(RTM_NEWROUTE, &body(AF_INET, RTN_LOCAL)), Found::Route(Route::Local)),
    ] {
        assert_eq!(first(request.clone(), read_route).expect("a route"), found, "{request:?}");
    }
    let torn = route(AF_INET).bytes(RTA_MULTIPATH, &several[..several.len() - 1]);
    assert!(first(torn, read_route).is_err(), "a torn route is no shorter route");
}

#[test]
fn a_nexthop_object_is_one_device_or_a_group() {
    let object = || Request::new(RTM_NEWNEXTHOP, &[0; NEXTHOP_BODY]);
    let one = object().bytes(NHA_OIF, &2_u32.to_ne_bytes()).bytes(NHA_GATEWAY, &GATEWAY_V6);
    let hop = NextHop { device: 2, gateway: address(&GATEWAY_V6) };
    assert_eq!(first(one, read_nexthop).expect("one"), Some(Object::One(hop)));
    let entry = |id: u32| [id.to_ne_bytes(), [0; 4]].concat();
    let group = object().bytes(NHA_GROUP, &[entry(4), entry(5)].concat());
    assert_eq!(first(group, read_nexthop).expect("a group"), Some(Object::Group(vec![4, 5])));
    assert_eq!(first(object(), read_nexthop).expect("a blackhole"), None);
}

#[test]
fn a_device_works_where_it_is_up_and_has_a_carrier() {
    for (flags, works) in [(IFF_UP | IFF_RUNNING, true), (IFF_UP, false), (IFF_RUNNING, false)] {
        let mut body = [0; LINK_BODY];
        body[8..12].copy_from_slice(&flags.to_ne_bytes());
        let link = Request::new(RTM_NEWLINK, &body).text(IFLA_IFNAME, "eth0");
        let name = "eth0".to_owned();
        assert_eq!(first(link, read_link).expect("a device"), Link { name, works }, "{flags:#x}");
    }
}

#[test]
fn a_gateway_is_silent_by_the_state_of_its_neighbour() {
    const REACHABLE: u16 = 0x02;
    const STALE: u16 = 0x04;
    const PROBE: u16 = 0x10;
    let states = [
        (NUD_INCOMPLETE, true),
        (NUD_FAILED, true),
        (REACHABLE, false),
        (STALE, false),
        (PROBE, false),
    ];
    for (state, silent) in states {
        let mut body = [0; BODY];
        body[8..10].copy_from_slice(&state.to_ne_bytes());
        let neighbour = Request::new(RTM_NEWNEIGH, &body);
        assert_eq!(first(neighbour, read_silence).expect("a state"), silent, "{state:#x}");
    }
}

#[test]
fn the_kernel_of_this_host_can_be_asked() {
    let mut kernel = Kernel::open().expect("a socket");
    let lo = nix::net::if_::if_nametoindex("lo").expect("every host has a loopback device");
    let at_home = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert!(kernel.has_route(at_home, lo).expect("an answer"));
    // TEST-NET-3: for a device without a route to it the kernel would make one up.
    assert!(!kernel.has_route([203, 0, 113, 1].into(), lo).expect("an answer"));
    assert!(!kernel.has_route("2001:db8::1".parse().expect("an address"), lo).expect("an answer"));
    let itself = SocketAddr::new(at_home, 51820);
    assert_eq!(kernel.route(itself, 0xca6c).expect("an answer"), Route::Local);
    assert_eq!(kernel.link(lo).expect("an answer").expect("a device").name, "lo");
    assert_eq!(kernel.link(u32::MAX >> 1).expect("an answer"), None);
    assert!(!kernel.is_silent(lo, [203, 0, 113, 1].into()).expect("an answer"));
    assert_eq!(kernel.nexthops(4_000_000_000).expect("an answer"), []);
}

proptest! {
    #[test]
    fn noise_makes_nothing_panic(noise in prop::collection::vec(any::<u8>(), 0..100), kind in 16_u16..110) {
        for message in messages(&noise) {
            read_route(&message).ok();
        }
        let _ = multipath(&noise);
        let framed = Request::new(kind, &noise).datagram();
        for message in messages(&framed) {
            read_route(&message).ok();
            read_nexthop(&message).ok();
            read_link(&message).ok();
            read_silence(&message).ok();
        }
    }
}
