//! Elements as the kernel sends them. Real ones: `tests/tests/leaked_flows.rs`.

use proptest::prelude::*;

use super::*;
use crate::netlink::Request;

const SOURCE: [u8; 4] = [10, 0, 0, 2];
const TARGET: [u8; 4] = [192, 0, 2, 80];
const MARK: u32 = 0x0100_0000;

/// The key of a flow to port 53: each field padded to four bytes.
fn key() -> Vec<u8> {
    [&MARK.to_ne_bytes()[..], &[17, 0, 0, 0], &SOURCE, &TARGET, &[0, 53, 0, 0]].concat()
}

fn sent(key: &[u8], milliseconds_left: u64) -> Request {
    Request::new(0, &[])
        .nested(NFTA_SET_ELEM_KEY, |inner| inner.bytes(NFTA_DATA_VALUE, key))
        .bytes(NFTA_SET_ELEM_EXPIRATION, &milliseconds_left.to_be_bytes())
}

fn read(request: &Request) -> Option<(Flow, Duration)> {
    element(Attributes::new(request.payload()), |key| flow(key, "ip", Ports::Has))
}

#[test]
fn a_flow_is_read_field_by_field() {
    let (flow, age) = read(&sent(&key(), 86_400_000 - 7_000)).expect("a flow");
    assert_eq!(age, Duration::from_secs(7));
    assert_eq!((flow.mark, flow.protocol, flow.port), (MARK, 17, Some(53)));
    assert_eq!(flow.to_string(), "udp from 10.0.0.2 to 192.0.2.80 port 53");
    let known = Flow {
        devices: vec!["eth0".to_owned(), "br0".to_owned()],
        users: vec![1000],
        macs: vec![MacAddress([2, 0, 0, 0, 0, 2])],
        ..flow
    };
    let said =
        "udp from 10.0.0.2 to 192.0.2.80 port 53 by eth0, br0 (user 1000, MAC 02:00:00:00:00:02)";
    assert_eq!(known.to_string(), said);
    for length in 0..key().len() - 2 {
        assert_eq!(read(&sent(&key()[..length], 0)), None, "{length}");
    }
}

#[test]
fn a_flow_is_its_paths_by_the_mark() {
    let scoped = Mark::bits(MARK);
    let values = Mark::masked(0x0200_0000, 0x0f00_0000).expect("a mark");
    let others = [scoped, values];
    for (mark, of_scoped, of_values, of_host) in [
        (0, false, false, true),
        (MARK, true, false, false),
        (MARK | 0xca6c, true, false, false),
        (0x0200_0000, false, true, false),
        (0x0400_0000, false, false, true),
    ] {
        assert_eq!(Whose::Marked(scoped).has(mark), of_scoped, "{mark:#x}");
        assert_eq!(Whose::Marked(values).has(mark), of_values, "{mark:#x}");
        assert_eq!(Whose::Unmarked(&others).has(mark), of_host, "{mark:#x}");
    }
    assert!(!Whose::Marked(Mark::default()).has(0), "no mark is nobody's");
}

#[test]
fn the_latest_are_kept_each_once() {
    let (flow, _) = read(&sent(&key(), 0)).expect("a flow");
    let seen = |port: u16, seconds: u64| Flow {
        port: Some(port),
        age: Duration::from_secs(seconds),
        ..flow.clone()
    };
    let mut all: Vec<Flow> = (0..40).map(|port| seen(port, 100 + u64::from(port))).collect();
    all.push(seen(7, 1));
    let latest = latest(all);
    assert_eq!(latest.len(), MOST);
    assert_eq!((latest[0].port, latest[0].age.as_secs()), (Some(7), 1));
    assert_eq!(latest.iter().filter(|one| one.port == Some(7)).count(), 1);
    assert!(latest.is_sorted_by_key(|one| one.age));
}

proptest! {
    #[test]
    fn noise_is_no_flow_and_makes_nothing_panic(noise in prop::collection::vec(any::<u8>(), 0..80)) {
        element(Attributes::new(&noise), |key| flow(key, "ip6", Ports::None));
        read(&sent(&noise, u64::MAX));
    }
}
