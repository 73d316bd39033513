//! Questions to the kernel's routing over netlink: has a device a route to an address, and which
//! neighbours were asked for and did not answer? Reads only; needs no privilege.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use crate::netlink::{Connection, Message, Protocol, Request, not_understood};

/// What follows it is as long for routes as for neighbours.
const BODY: usize = 12;

/// `linux/rtnetlink.h` and `neighbour.h`
const RTM_GETROUTE: u16 = 26;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWNEIGH: u16 = 28;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// The route itself and not what is made of it: for IPv4 the kernel would make up one where a device
/// is named and none is there.
const RTM_F_FIB_MATCH: u32 = 0x2000;
const NDA_DST: u16 = 1;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    pub address: IpAddr,
    /// The index of the device.
    pub device: u32,
}

/// Whether an unmarked packet to `target` that has to leave by this device has a route.
pub fn has_route(target: IpAddr, device: u32) -> io::Result<bool> {
    let (family, octets) = octets(target);
    let mut body = [0; BODY];
    body[0] = family;
    body[1] = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
    body[8..].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
    let request = Request::new(RTM_GETROUTE, &body)
        .bytes(RTA_OIF, &device.to_ne_bytes())
        .bytes(RTA_DST, &octets);
    let found = Connection::open(Protocol::Route)?.ask(request, |reply| {
        if reply.kind == RTM_NEWROUTE { Ok(()) } else { Err(not_understood()) }
    });
    match found {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            // None; or, the last three, one that says "prohibit", "blackhole" or "throw".
            Some(
                Errno::ENETUNREACH
                | Errno::EHOSTUNREACH
                | Errno::ESRCH
                | Errno::EACCES
                | Errno::EINVAL
                | Errno::EAGAIN,
            ) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Those that were asked for and did not answer.
pub fn silent_neighbours() -> io::Result<BTreeSet<Neighbour>> {
    let request = Request::new(RTM_GETNEIGH, &[0; BODY]);
    let found = Connection::open(Protocol::Route)?
        .dump(&request, |message| Ok(silent_neighbour(&message)))?;
    Ok(found.into_iter().flatten().collect())
}

fn silent_neighbour(message: &Message<'_>) -> Option<Neighbour> {
    if message.kind != RTM_NEWNEIGH {
        return None;
    }
    let device = u32::from_ne_bytes(message.payload.get(4..8)?.try_into().ok()?);
    let state = u16::from_ne_bytes(message.payload.get(8..10)?.try_into().ok()?);
    if state & (NUD_INCOMPLETE | NUD_FAILED) == 0 {
        return None;
    }
    let octets = message.attributes(BODY)?.get(NDA_DST)?;
    let address = match octets.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
    };
    Some(Neighbour { address, device })
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::messages;

    /// A neighbour as the kernel sends it.
    fn sent(address: IpAddr, state: u16) -> Vec<u8> {
        let (family, octets) = octets(address);
        let mut body = [0; BODY];
        body[0] = family;
        body[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        body[8..10].copy_from_slice(&state.to_ne_bytes());
        Request::new(RTM_NEWNEIGH, &body).bytes(NDA_DST, &octets).datagram()
    }

    fn read(datagram: &[u8]) -> Option<Neighbour> {
        messages(datagram).find_map(|message| silent_neighbour(&message))
    }

    #[test]
    fn a_neighbour_of_either_family_is_silent_by_its_state() {
        const REACHABLE: u16 = 0x02;
        const STALE: u16 = 0x04;
        const PROBE: u16 = 0x10;
        for address in ["192.168.10.1", "fe80::1"].map(|text| text.parse().expect("an address")) {
            let silent = Some(Neighbour { address, device: 7 });
            for state in [NUD_INCOMPLETE, NUD_FAILED] {
                assert_eq!(read(&sent(address, state)), silent);
            }
            for state in [REACHABLE, STALE, PROBE] {
                assert_eq!(read(&sent(address, state)), None, "{state}");
            }
        }
    }

    #[test]
    fn the_kernel_of_this_host_can_be_asked() {
        let lo = nix::net::if_::if_nametoindex("lo").expect("every host has a loopback device");
        let at_home = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(has_route(at_home, lo).expect("an answer"));
        // TEST-NET-3: for a device without a route to it the kernel would make one up.
        assert!(!has_route([203, 0, 113, 1].into(), lo).expect("an answer"));
        assert!(!has_route("2001:db8::1".parse().expect("an address"), lo).expect("an answer"));
        silent_neighbours().expect("the neighbours of this host");
    }

    proptest! {
        #[test]
        fn noise_makes_nothing_panic(noise in prop::collection::vec(any::<u8>(), 0..100)) {
            read(&noise);
        }
    }
}
