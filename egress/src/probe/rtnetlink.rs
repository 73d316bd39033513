//! Questions to the kernel's routing over netlink: has a device a route to an address, and which
//! neighbours were asked for and did not answer? Reads only; needs no privilege.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_utils::Emitable as _;
use netlink_packet_utils::nla::{DefaultNla, Nla as _, NlasIterator};
use netlink_packet_utils::traits::Parseable as _;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

/// `linux/netlink.h`
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Length, type, flags, sequence, port.
const HEADER: usize = 16;
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
    let attributes = [
        DefaultNla::new(RTA_OIF, device.to_ne_bytes().to_vec()),
        DefaultNla::new(RTA_DST, octets.clone()),
    ];
    let mut body = [0; BODY];
    body[0] = family;
    body[1] = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
    body[8..].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
    let socket = ask(&request(RTM_GETROUTE, NLM_F_REQUEST, body, &attributes))?;
    let (reply, _) = socket.recv_from_full()?;
    let message = messages(&reply).next().ok_or_else(strange)?;
    match kind(message) {
        Some(RTM_NEWROUTE) => Ok(true),
        Some(NLMSG_ERROR) => match error(message)? {
            // None; or, the last three, one that says "prohibit", "blackhole" or "throw".
            Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::ESRCH
            | Errno::EACCES
            | Errno::EINVAL
            | Errno::EAGAIN => Ok(false),
            other => Err(other.into()),
        },
        _ => Err(strange()),
    }
}

/// Those that were asked for and did not answer.
pub fn silent_neighbours() -> io::Result<BTreeSet<Neighbour>> {
    let socket = ask(&request(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, [0; BODY], &[]))?;
    let mut silent = BTreeSet::new();
    loop {
        let (reply, _) = socket.recv_from_full()?;
        for message in messages(&reply) {
            match kind(message) {
                Some(NLMSG_DONE) => return Ok(silent),
                Some(NLMSG_ERROR) => return Err(error(message)?.into()),
                Some(RTM_NEWNEIGH) => silent.extend(silent_neighbour(message)),
                _ => {}
            }
        }
    }
}

fn silent_neighbour(message: &[u8]) -> Option<Neighbour> {
    let device = u32::from_ne_bytes(message.get(HEADER + 4..HEADER + 8)?.try_into().ok()?);
    let state = u16::from_ne_bytes(message.get(HEADER + 8..HEADER + 10)?.try_into().ok()?);
    if state & (NUD_INCOMPLETE | NUD_FAILED) == 0 {
        return None;
    }
    let attributes = NlasIterator::new(message.get(HEADER + BODY..)?);
    let address = attributes.map_while(Result::ok).find(|one| one.kind() == NDA_DST)?;
    let address = DefaultNla::parse(&address).ok()?;
    let mut octets = vec![0; address.value_len()];
    address.emit_value(&mut octets);
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

fn ask(request: &[u8]) -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(request, 0)?;
    // The kernel has answered by the time it took the request; so there is nothing to wait for.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

fn request(kind: u16, flags: u16, body: [u8; BODY], attributes: &[DefaultNla]) -> Vec<u8> {
    let mut message = vec![0; HEADER + BODY + attributes.buffer_len()];
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[0..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[HEADER..HEADER + BODY].copy_from_slice(&body);
    attributes.emit(&mut message[HEADER + BODY..]);
    message
}

/// The messages of one datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(0..4)?.try_into().ok()?) as usize;
        let message = datagram.get(..length).filter(|message| message.len() >= HEADER)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?))
}

fn error(message: &[u8]) -> io::Result<Errno> {
    let code = message.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
    Ok(Errno::from_raw(-i32::from_ne_bytes(code.ok_or_else(strange)?)))
}

fn strange() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "netlink: not understood")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A neighbour as the kernel tells it.
    fn told(address: IpAddr, state: u16) -> Vec<u8> {
        let (family, octets) = octets(address);
        let mut body = [0; BODY];
        body[0] = family;
        body[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        body[8..10].copy_from_slice(&state.to_ne_bytes());
        request(RTM_NEWNEIGH, 0, body, &[DefaultNla::new(NDA_DST, octets)])
    }

    #[test]
    fn a_neighbour_of_either_family_is_silent_by_its_state() {
        const REACHABLE: u16 = 0x02;
        const STALE: u16 = 0x04;
        const PROBE: u16 = 0x10;
        for address in ["192.168.10.1", "fe80::1"].map(|text| text.parse().expect("an address")) {
            let silent = Some(Neighbour { address, device: 7 });
            for state in [NUD_INCOMPLETE, NUD_FAILED] {
                assert_eq!(silent_neighbour(&told(address, state)), silent);
            }
            for state in [REACHABLE, STALE, PROBE] {
                assert_eq!(silent_neighbour(&told(address, state)), None, "{state}");
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
            messages(&noise).for_each(|message| {
                silent_neighbour(message);
            });
            silent_neighbour(&noise);
        }
    }
}
