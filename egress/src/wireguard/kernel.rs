//! The kernel's WireGuard, over generic netlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, SystemTime};

use super::{Device, Peer, some_key};
use crate::key::{PublicKey, SecretKey};
use crate::netlink::{Attributes, Connection, Message, Protocol, Request, not_understood};

/// `linux/genetlink.h`
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Command, version, reserved.
const HEADER: usize = 4;

/// `linux/wireguard.h`
const FAMILY: &str = "wireguard";
const VERSION: u8 = 1;
const WG_CMD_GET_DEVICE: u8 = 0;
const WGDEVICE_A_IFNAME: u16 = 2;
const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_FWMARK: u16 = 7;
const WGDEVICE_A_PEERS: u16 = 8;
const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_PRESHARED_KEY: u16 = 2;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_PERSISTENT_KEEPALIVE: u16 = 5;
const WGPEER_A_LAST_HANDSHAKE: u16 = 6;
const WGPEER_A_RX_BYTES: u16 = 7;
const WGPEER_A_TX_BYTES: u16 = 8;
const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Reads an interface. One that is not WireGuard is an error.
pub fn read(interface: &str) -> io::Result<Device> {
    let mut kernel = Connection::open(Protocol::Generic)?;
    let family = family(&mut kernel)?;
    let request = Request::new(family, &[WG_CMD_GET_DEVICE, VERSION, 0, 0])
        .text(WGDEVICE_A_IFNAME, interface);
    // Many peers come in several messages, and so do many addresses of one peer.
    let parts = kernel.dump(&request, |message| {
        message.attributes(HEADER).and_then(part).ok_or_else(not_understood)
    })?;
    Ok(joined(parts))
}

fn family(kernel: &mut Connection) -> io::Result<u16> {
    let request = Request::new(GENL_ID_CTRL, &[CTRL_CMD_GETFAMILY, 1, 0, 0])
        .text(CTRL_ATTR_FAMILY_NAME, FAMILY);
    kernel.ask(request, |reply: Message<'_>| {
        let id = reply.attributes(HEADER).and_then(|its| its.u16(CTRL_ATTR_FAMILY_ID));
        id.ok_or_else(not_understood)
    })
}

fn joined(parts: Vec<Device>) -> Device {
    let mut whole = Device::default();
    for part in parts {
        whole.public_key = whole.public_key.or(part.public_key);
        whole.fwmark = whole.fwmark.or(part.fwmark);
        whole.listen_port = whole.listen_port.or(part.listen_port);
        for peer in part.peers {
            match whole.peers.last_mut().filter(|last| last.public_key == peer.public_key) {
                Some(last) => last.allowed.extend(peer.allowed),
                None => whole.peers.push(peer),
            }
        }
    }
    whole
}

fn part(its: Attributes<'_>) -> Option<Device> {
    let key = its.get(WGDEVICE_A_PUBLIC_KEY).and_then(|key| some_key(key.try_into().ok()?));
    let peers = its.nested(WGDEVICE_A_PEERS).into_iter().flat_map(Attributes::iter);
    Some(Device {
        public_key: key.map(PublicKey::from_bytes),
        fwmark: its.u32(WGDEVICE_A_FWMARK).filter(|mark| *mark != 0),
        listen_port: its.u16(WGDEVICE_A_LISTEN_PORT),
        peers: peers.map(|(_, one)| peer(Attributes::new(one))).collect::<Option<_>>()?,
    })
}

fn peer(its: Attributes<'_>) -> Option<Peer> {
    let key = PublicKey::from_bytes(its.get(WGPEER_A_PUBLIC_KEY)?.try_into().ok()?);
    let preshared = its.get(WGPEER_A_PRESHARED_KEY).and_then(|key| some_key(key.try_into().ok()?));
    let allowed = its.nested(WGPEER_A_ALLOWEDIPS).into_iter().flat_map(Attributes::iter);
    Some(Peer {
        preshared_key: preshared.map(SecretKey::from_bytes),
        address: its.get(WGPEER_A_ENDPOINT).and_then(address),
        persistent_keepalive: its.u16(WGPEER_A_PERSISTENT_KEEPALIVE).unwrap_or(0),
        last_handshake: its.get(WGPEER_A_LAST_HANDSHAKE).and_then(time),
        received_bytes: its.u64(WGPEER_A_RX_BYTES).unwrap_or(0),
        sent_bytes: its.u64(WGPEER_A_TX_BYTES).unwrap_or(0),
        allowed: allowed.map(|(_, one)| net(Attributes::new(one))).collect::<Option<_>>()?,
        ..Peer::new(key)
    })
}

fn net(its: Attributes<'_>) -> Option<(IpAddr, u8)> {
    Some((ip(its.get(WGALLOWEDIP_A_IPADDR)?)?, its.u8(WGALLOWEDIP_A_CIDR_MASK)?))
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}

/// A `sockaddr`.
fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match family {
        AF_INET => match ip(bytes.get(4..8)?)? {
            IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, port).into()),
            IpAddr::V6(_) => None,
        },
        AF_INET6 => match ip(bytes.get(8..24)?)? {
            IpAddr::V6(ip) => {
                let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
                Some(SocketAddrV6::new(ip, port, 0, scope).into())
            }
            IpAddr::V4(_) => None,
        },
        _ => None,
    }
}

/// A `timespec`; zero is never.
fn time(bytes: &[u8]) -> Option<SystemTime> {
    let seconds = i64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    let nanoseconds = i64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    let seconds = u64::try_from(seconds).ok()?;
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    if (seconds, nanoseconds) == (0, 0) {
        return None;
    }
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes(fill: impl FnOnce(Request) -> Request) -> Vec<u8> {
        fill(Request::new(0, &[])).payload().to_vec()
    }

    fn sent(peer: u8, net: [u8; 4]) -> Vec<u8> {
        let mut address = AF_INET.to_ne_bytes().to_vec();
        address.extend(51820_u16.to_be_bytes());
        address.extend([203, 0, 113, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
        let handshake = [1_700_000_000_i64.to_ne_bytes(), 5_i64.to_ne_bytes()].concat();
        attributes(|device| {
            device
                .bytes(WGDEVICE_A_PUBLIC_KEY, &[7; 32])
                .bytes(WGDEVICE_A_FWMARK, &0xca6c_u32.to_ne_bytes())
                .nested(WGDEVICE_A_PEERS, |peers| {
                    peers.nested(0, |its| {
                        its.bytes(WGPEER_A_PUBLIC_KEY, &[peer; 32])
                            .bytes(WGPEER_A_PRESHARED_KEY, &[0; 32])
                            .bytes(WGPEER_A_ENDPOINT, &address)
                            .bytes(WGPEER_A_LAST_HANDSHAKE, &handshake)
                            .bytes(WGPEER_A_RX_BYTES, &9_u64.to_ne_bytes())
                            .nested(WGPEER_A_ALLOWEDIPS, |all| {
                                all.nested(0, |one| {
                                    one.bytes(WGALLOWEDIP_A_IPADDR, &net)
                                        .bytes(WGALLOWEDIP_A_CIDR_MASK, &[8])
                                })
                            })
                    })
                })
        })
    }

    #[test]
    fn a_device_is_read_and_what_comes_in_parts_is_joined() {
        let parts = [sent(1, [10, 0, 0, 0]), sent(1, [11, 0, 0, 0]), sent(2, [12, 0, 0, 0])];
        let parts = parts.iter().map(|bytes| part(Attributes::new(bytes)).expect("a device"));
        let device = joined(parts.collect());
        assert_eq!(device.public_key, Some(PublicKey::from_bytes([7; 32])));
        assert_eq!(device.fwmark, Some(0xca6c));
        let [first, second] = device.peers.as_slice() else { panic!("{device:?}") };
        assert_eq!(first.allowed.len(), 2);
        assert_eq!(second.allowed.len(), 1);
        assert_eq!(first.address, Some("203.0.113.10:51820".parse().expect("an address")));
        assert_eq!((first.received_bytes, first.preshared_key.clone()), (9, None));
        let since = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        assert_eq!(first.last_handshake, Some(since));
    }

    #[test]
    fn a_handshake_at_zero_is_none() {
        assert_eq!(time(&[0; 16]), None);
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            part(Attributes::new(&noise));
            peer(Attributes::new(&noise));
            address(&noise);
            time(&noise);
        }
    }
}
